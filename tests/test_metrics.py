"""The metrics against values that can be worked out by hand."""

import math
import warnings

import numpy as np
import pytest

from ctlssl.training.metrics import classification_metrics, regression_metrics


def test_two_classes_by_hand():
    labels = np.array([1, 0, 1, 0])
    positive = np.array([0.9, 0.8, 0.7, 0.1])
    scores = classification_metrics(labels, np.stack([1 - positive, positive], axis=1))
    assert scores["auroc"] == pytest.approx(3 / 4)  # three of the four pairs are in order
    assert scores["auprc"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert scores["accuracy"] == pytest.approx(3 / 4)
    assert scores["log_loss"] == pytest.approx(-np.log([0.9, 0.2, 0.7, 0.9]).mean())


def test_three_classes_are_a_mean_over_classes():
    labels = np.array([0, 1, 2, 0])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.4, 0.2, 0.4]])
    scores = classification_metrics(labels, probabilities)
    pairs = [(3 / 4), 1.0, (0.5 / 3)]  # class against the rest: pairs in order, ties count half
    assert scores["auroc"] == pytest.approx(np.mean(pairs))
    # taken are 0, 1, 0 and 0 (the first of two alike): of class 0 both, and one in vain; class 1 rightly; never class 2
    assert scores["macro_f1"] == pytest.approx((2 * 2 / (3 + 2) + 1 + 0) / 3)


def test_one_class_is_undefined_with_one_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = classification_metrics(np.array([1, 1]), np.array([[0.4, 0.6], [0.1, 0.9]]))
    assert [str(warning.message) for warning in caught] == ["No series of class [0] among 2: auroc and auprc are NaN."]
    assert math.isnan(scores["auroc"]) and math.isnan(scores["auprc"])
    assert scores["accuracy"] == 1.0 and scores["log_loss"] == pytest.approx(-np.log([0.6, 0.9]).mean())


def test_regression_by_hand():
    scores = regression_metrics(np.array([0.0, 0.0, 4.0]), np.array([1.0, -2.0, 4.0]))
    assert scores == {"rmse": pytest.approx(math.sqrt(5 / 3)), "mae": pytest.approx(1.0)}


def test_nothing_or_not_finite_is_an_error():
    with pytest.raises(ValueError, match="nothing to score"):
        regression_metrics(np.zeros(0), np.zeros(0))
    with pytest.raises(FloatingPointError, match=r"prediction \(1,\) is nan"):
        regression_metrics(np.zeros(2), np.array([0.0, np.nan]))
