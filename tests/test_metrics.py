"""The metrics against values that can be worked out by hand."""

import math
import warnings

import numpy as np
import pytest
import torch

from ctlssl.training.losses import hazards
from ctlssl.training.metrics import classification_metrics, concordance, regression_metrics, survival_metrics
from tests.contracts import generator


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


def harrell(times, events, risks):
    """Every pair, one by one."""
    known = agreed = 0.0
    for i in range(len(times)):
        for j in range(len(times)):
            if events[i] and (times[i] < times[j] or (times[i] == times[j] and not events[j])):
                known += 1
                agreed += 1.0 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0.0
    return agreed / known


@pytest.mark.parametrize("ties", [None, 12])
def test_concordance_counts_every_pair(ties):
    rng = generator("concordance", ties)
    for _ in range(20):
        size = int(rng.integers(5, 80))
        times, risks = rng.exponential(size=size), rng.normal(size=size)
        if ties:
            times, risks = rng.integers(0, ties, size).astype(float), rng.integers(0, 5, size).astype(float)
        events = rng.random(size) < 0.6
        events[np.argmin(times)] = True
        times[np.argmax(times)] += 1
        assert concordance(times, events, risks) == pytest.approx(harrell(times, events, risks), abs=1e-12)


def test_concordance_of_no_pair_is_undefined():
    with pytest.warns(UserWarning, match="concordance is NaN"):
        assert math.isnan(concordance(np.array([1.0, 2.0]), np.array([False, True]), np.array([0.0, 1.0])))
    with pytest.raises(FloatingPointError, match="risk"):
        concordance(np.array([1.0]), np.array([True]), np.array([np.nan]))


def test_survival_is_scored_by_order_and_likelihood():
    rng = generator("survival")
    logits = rng.normal(size=(50, 6))
    labels = np.stack([rng.integers(0, 6, 50), rng.integers(0, 2, 50)], axis=1)
    labels[:3] = -1, 0
    found = survival_metrics(labels, logits)
    curves = np.cumprod(1 - 1 / (1 + np.exp(-logits)), axis=1)
    assert found["concordance"] == pytest.approx(harrell(labels[:, 0], labels[:, 1] > 0, -curves.sum(1)))
    terms = hazards(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found["log_loss"] == pytest.approx(float(terms.total.sum() / terms.count.sum()))
