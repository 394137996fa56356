"""How good predictions are: scikit-learn's metrics under the names that evaluate and compare report."""

from __future__ import annotations

import math
import warnings

import numpy as np

__all__ = ["HIGHER_IS_BETTER", "MAIN_METRIC", "classification_metrics", "regression_metrics"]

HIGHER_IS_BETTER = {
    "auroc": True,
    "auprc": True,
    "log_loss": False,
    "accuracy": True,
    "macro_f1": True,
    "rmse": False,
    "mae": False,
}
MAIN_METRIC = {"classification": "auroc", "regression": "rmse", "forecasting": "rmse"}  # what a ranking is by


def classification_metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve, average precision, log loss, accuracy and the mean F1 of the classes.

    With more than two classes the areas are means over classes, each against the rest. Where a class is absent from
    ``labels`` the areas are undefined: NaN, with one warning. For accuracy and F1 the likeliest class is taken; the F1
    of a class that is neither there nor taken is 0.

    Args:
        labels: (B,) integers in 0..K-1.
        probabilities: (B, K), rows that sum to 1.

    Raises:
        ValueError: there is no series.
        FloatingPointError: a probability is not finite.

    Example:
        >>> scores = classification_metrics(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]))
        >>> scores["auroc"], round(scores["accuracy"], 3)
        (1.0, 0.667)
    """
    from sklearn import metrics

    _check_finite(probabilities, "probability")
    classes = np.arange(probabilities.shape[1])
    scores = {
        "auroc": math.nan,
        "auprc": math.nan,
        "log_loss": float(metrics.log_loss(labels, probabilities, labels=classes)),
        "accuracy": float(metrics.accuracy_score(labels, probabilities.argmax(1))),
        "macro_f1": float(
            metrics.f1_score(labels, probabilities.argmax(1), labels=classes, average="macro", zero_division=0.0)
        ),
    }
    absent = sorted(set(classes.tolist()) - set(np.unique(labels).tolist()))
    if absent:
        warnings.warn(f"No series of class {absent} among {len(labels)}: auroc and auprc are NaN.", stacklevel=2)
        return scores
    if len(classes) == 2:
        truth, score = labels == 1, probabilities[:, 1]  # (B,), (B,)
    else:
        truth, score = labels[:, None] == classes, probabilities  # (B, K), (B, K)
    scores["auroc"] = float(metrics.roc_auc_score(truth, score, average="macro"))
    scores["auprc"] = float(metrics.average_precision_score(truth, score, average="macro"))
    return scores


def regression_metrics(targets: np.ndarray, means: np.ndarray) -> dict[str, float]:
    """Root mean squared error and mean absolute error, pooled over all targets given.

    Args:
        targets: (T,) observed targets, in the units of the examples (normal scores of the training part).
        means: (T,) predictions of them.

    Raises:
        ValueError: there is no target.
        FloatingPointError: a prediction is not finite.

    Example:
        >>> regression_metrics(np.array([0.0, 2.0]), np.array([0.0, 0.0]))["mae"]
        1.0
    """
    from sklearn import metrics

    _check_finite(means, "prediction")
    return {
        "rmse": float(metrics.root_mean_squared_error(targets, means)),
        "mae": float(metrics.mean_absolute_error(targets, means)),
    }


def _check_finite(predicted: np.ndarray, name: str) -> None:
    if not predicted.size:
        raise ValueError(f"There is nothing to score: no {name} was given.")
    bad = np.argwhere(~np.isfinite(predicted))
    if len(bad):
        where, value = tuple(bad[0].tolist()), predicted[tuple(bad[0])]
        raise FloatingPointError(f"{name} {where} is {value}; train with a smaller learning_rate.")
