"""Estimators in the manner of scikit-learn, whose samples are irregular records: fit, predict, and nothing to write."""

from ctlssl.estimators.base import SeriesEstimator
from ctlssl.estimators.classifier import LSSLClassifier
from ctlssl.estimators.forecaster import LSSLForecaster
from ctlssl.estimators.imputer import LSSLImputer
from ctlssl.estimators.intervals import GapConformal
from ctlssl.estimators.labeler import LSSLLabeler
from ctlssl.estimators.quantile_intervals import QuantileConformal
from ctlssl.estimators.records import Records
from ctlssl.estimators.regressor import LSSLRegressor
from ctlssl.estimators.survival import LSSLSurvival

__all__ = [
    "GapConformal",
    "LSSLClassifier",
    "LSSLForecaster",
    "LSSLImputer",
    "LSSLLabeler",
    "LSSLRegressor",
    "LSSLSurvival",
    "QuantileConformal",
    "Records",
    "SeriesEstimator",
]
