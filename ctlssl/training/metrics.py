"""How good predictions are: scikit-learn's metrics under the names that evaluate and compare report."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left, bisect_right, insort

import numpy as np

__all__ = [
    "HIGHER_IS_BETTER",
    "MAIN_METRIC",
    "classification_metrics",
    "concordance",
    "regression_metrics",
    "survival_metrics",
]

HIGHER_IS_BETTER = {
    "auroc": True,
    "auprc": True,
    "log_loss": False,
    "accuracy": True,
    "macro_f1": True,
    "rmse": False,
    "mae": False,
    "concordance": True,
}
MAIN_METRIC = {  # what a ranking is by
    "classification": "auroc",
    "regression": "rmse",
    "forecasting": "rmse",
    "survival": "concordance",
    "labelling": "auroc",
}


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


def concordance(times: np.ndarray, events: np.ndarray, risks: np.ndarray) -> float:
    """Harrell's C: of the pairs whose order in time is known, the share in which the earlier event has the higher risk.

    A pair is known where the earlier time is of an event; of equal times, where one is of an event and the other of
    the end of observation. Equal risks count half.

    Args:
        times: (B,) of the event or of the end of observation.
        events: (B,) bool, whether the event happened.
        risks: (B,), higher for an earlier event.

    Returns:
        0 to 1; NaN, with a warning, where no pair is known.

    Raises:
        FloatingPointError: a risk that is not finite.

    References:
        Harrell, Califf, Pryor, Lee, Rosati (1982), Evaluating the yield of medical tests.

    Example:
        >>> concordance(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]), np.array([0.9, 0.1, 0.5]))
        1.0
    """
    _check_finite(risks, "risk")
    later: list[float] = []  # risks of those who were there longer, sorted
    known = agreed = 0.0
    order = np.lexsort((events, -times))  # from the last time back; of equal times the end of observation first
    for group in np.split(order, np.flatnonzero(np.diff(times[order])) + 1):
        happened = group[events[group].astype(bool)]
        for risk in risks[group[~events[group].astype(bool)]].tolist():
            insort(later, risk)
        for risk in risks[happened].tolist():
            below, upto = bisect_left(later, risk), bisect_right(later, risk)
            agreed += below + 0.5 * (upto - below)
            known += len(later)
        for risk in risks[happened].tolist():
            insort(later, risk)
    if not known:
        warnings.warn("No two series whose events can be put in order: the concordance is NaN.", stacklevel=2)
        return math.nan
    return agreed / known


def survival_metrics(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Concordance, and the mean negative log likelihood of a series, over intervals of time.

    The risk is minus the expected number of intervals that are survived.

    Args:
        labels: (B, 2) integers: the interval, and whether the event happened in it, as the loss `hazards` reads them.
        logits: (B, K) of the hazards.

    Raises:
        ValueError: there is no series.
        FloatingPointError: a prediction is not finite.

    Example:
        >>> survival_metrics(np.array([[0, 1], [1, 0]]), np.array([[2.0, 2.0], [-2.0, -2.0]]))["concordance"]
        1.0
    """
    _check_finite(logits, "logit")
    interval, event = labels[:, :1].astype(np.int64), labels[:, 1:] > 0  # (B, 1)
    place = np.arange(logits.shape[1])
    steps = np.logaddexp(0.0, logits)  # (B, K): -log(1 - h)
    survival = np.exp(-np.cumsum(steps, axis=1))  # (B, K)
    lost = np.where((place < interval) | ((place == interval) & ~event), steps, 0.0)
    lost = lost + np.where((place == interval) & event, np.logaddexp(0.0, -logits), 0.0)
    known = interval[:, 0] >= 0
    return {
        "concordance": concordance(interval[:, 0], event[:, 0], -survival.sum(axis=1)),
        "log_loss": float(lost[known].sum(axis=1).mean()) if known.any() else math.nan,
    }


def _check_finite(predicted: np.ndarray, name: str) -> None:
    if not predicted.size:
        raise ValueError(f"There is nothing to score: no {name} was given.")
    bad = np.argwhere(~np.isfinite(predicted))
    if len(bad):
        where, value = tuple(bad[0].tolist()), predicted[tuple(bad[0])]
        raise FloatingPointError(f"{name} {where} is {value}; train with a smaller learning_rate.")
