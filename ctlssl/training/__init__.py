"""Training: fit, predict and evaluate any model of the contract."""

from ctlssl.training.fitting import History, Progress, evaluate, fit, predict, score
from ctlssl.training.optimization import Training

__all__ = ["History", "Progress", "Training", "evaluate", "fit", "predict", "score"]
