"""The losses against hand computation, and that what is not observed does not exist."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ctlssl.contract import Prediction, Problem
from ctlssl.training.losses import cross_entropy, gaussian, hazards, labels_at_queries, loss_of, mean_loss, pinball
from tests.contracts import generator

FILLERS = [pytest.param(value, id=str(value)) for value in (0.0, 1e30, math.nan, math.inf)]


def test_gaussian_by_hand():
    mean = torch.tensor([[1.0, 2.0], [0.0, 5.0]], dtype=torch.float64)
    scale = torch.tensor([[0.5, 1.0], [2.0, 1.0]], dtype=torch.float64)
    targets = torch.tensor([[1.5, 0.0], [3.0, -1.0]], dtype=torch.float64)
    observed = torch.tensor([[True, True], [True, False]])
    terms = gaussian(mean, scale, targets, observed)
    first = 0.5**2 + 0.5 * (0.5 / 0.5) ** 2 + math.log(0.5) + 2.0**2 + 0.5 * 2.0**2
    second = 3.0**2 + 0.5 * (3.0 / 2.0) ** 2 + math.log(2.0)
    torch.testing.assert_close(terms.total, torch.tensor([first, second], dtype=torch.float64))
    assert terms.count.tolist() == [2, 1]
    assert mean_loss(terms).item() == pytest.approx((first + second) / 3)


def test_the_scale_does_not_move_the_mean():
    mean = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([[0.1]], dtype=torch.float64, requires_grad=True)
    mean_loss(gaussian(mean, scale, torch.tensor([[3.0]]), torch.tensor([[True]]))).backward()
    assert mean.grad.item() == pytest.approx(2 * (1.0 - 3.0))
    assert scale.grad.item() == pytest.approx(-(2.0**2) / 0.1**3 + 1 / 0.1)


@pytest.mark.parametrize("filler", FILLERS)
def test_content_that_was_not_observed_changes_no_bit(filler):
    observed = torch.tensor([[True, False, True]])
    results = []
    for content in (0.0, filler):
        inputs = [torch.tensor([[0.3, content, -0.2]]), torch.tensor([[0.9, content, 0.4]])]
        mean, scale = (part.requires_grad_() for part in inputs)
        terms = gaussian(mean, scale, torch.tensor([[1.0, content, 0.0]]), observed)
        mean_loss(terms).backward()
        results.append((terms.total.detach(), terms.count, mean.grad, scale.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_no_target_at_all_is_zero_loss_and_zero_gradient():
    mean = torch.tensor([[1.0, math.nan]], requires_grad=True)
    loss = mean_loss(gaussian(mean, None, torch.full((1, 2), math.nan), torch.zeros(1, 2, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0
    assert mean.grad.tolist() == [[0.0, 0.0]]


def test_cross_entropy_by_hand():
    terms = cross_entropy(torch.tensor([[0.0, math.log(3.0)], [1.0, 1.0]]), torch.tensor([1, 0]))
    torch.testing.assert_close(terms.total, torch.tensor([math.log(4 / 3), math.log(2.0)]))
    assert mean_loss(terms).item() == pytest.approx((math.log(4 / 3) + math.log(2.0)) / 2)


def test_hazards_are_the_likelihood_of_the_interval():
    """Against probabilities that are multiplied one by one."""
    rng = generator("hazards")
    logits = rng.normal(size=(40, 5)) * 3
    labels = np.stack([rng.integers(0, 5, 40), rng.integers(0, 2, 40)], axis=1)
    found = hazards(torch.from_numpy(logits), torch.from_numpy(labels))
    h = 1 / (1 + np.exp(-logits))
    for b, (interval, event) in enumerate(labels):
        likelihood = 1.0
        for k in range(interval):
            likelihood *= 1 - h[b, k]
        likelihood *= h[b, interval] if event else 1 - h[b, interval]
        assert found.total[b].item() == pytest.approx(-math.log(likelihood), rel=1e-10)
    assert (found.count == 1).all()
    total = sum(
        hazards(torch.from_numpy(logits[:1]), torch.tensor([[k, 1]])).total.neg().exp().item() for k in range(5)
    )
    assert total + np.prod(1 - h[0]) == pytest.approx(1.0)  # the event comes in one of the intervals, or never


def test_hazards_that_are_certain_stay_finite():
    logits = torch.tensor([[300.0, -300.0]], requires_grad=True)
    terms = hazards(logits, torch.tensor([[1, 1]]))
    terms.total.sum().backward()
    assert terms.total.item() == 600.0 and logits.grad.tolist() == [[1.0, -1.0]]


def test_who_survived_no_interval_counts_nothing():
    logits = torch.full((1, 3), math.nan, requires_grad=True)
    terms = hazards(logits, torch.tensor([[-1, 0]]))
    mean_loss(terms).backward()
    assert terms.count.tolist() == [0] and terms.total.tolist() == [0] and logits.grad.tolist() == [[0.0] * 3]


def test_labels_at_queries_by_hand():
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.nan, math.inf]], [[1.0, 1.0], [0.0, 0.0]]], requires_grad=True)
    terms = labels_at_queries(logits, torch.tensor([[1, -1], [0, 1]]))
    torch.testing.assert_close(terms.total, torch.tensor([math.log(4 / 3), 2 * math.log(2.0)]))
    assert terms.count.tolist() == [1, 2]
    mean_loss(terms).backward()
    assert logits.grad.isfinite().all() and (logits.grad[0, 1] == 0).all()


@pytest.mark.parametrize("filler", FILLERS)
def test_pinball_reads_nothing_that_was_not_observed(filler):
    quantiles = torch.tensor([[[0.0, 1.0], [filler, filler]]], requires_grad=True)
    terms = pinball(quantiles, (0.25, 0.75), torch.tensor([[2.0, filler]]), torch.tensor([[True, False]]))
    mean_loss(terms).backward()
    assert terms.total.item() == pytest.approx(0.25 * 2 + 0.75 * 1) and terms.count.item() == 1
    assert quantiles.grad.flatten().tolist() == [-0.25, -0.75, 0.0, 0.0]


def test_the_minimum_of_the_pinball_loss_is_at_the_quantiles():
    targets = torch.from_numpy(norm.ppf((np.arange(4000) + 0.5) / 4000)).unsqueeze(0)  # (1, n)
    levels = (0.1, 0.5, 0.95)
    seen = torch.ones_like(targets, dtype=torch.bool)

    def loss(values):
        return mean_loss(pinball(torch.tensor(values).expand(1, 4000, 3), levels, targets, seen)).item()

    best = norm.ppf(levels)
    assert all(loss(best) < loss(best + step) for step in 0.05 * np.concatenate([np.eye(3), -np.eye(3)]))


def test_many_levels_are_the_continuous_ranked_probability_score():
    levels = (np.arange(2000) + 0.5) / 2000
    exact = 0.7 * (2 * norm.cdf(0.7) - 1) + 2 * norm.pdf(0.7) - 1 / math.sqrt(math.pi)
    seen, quantiles = torch.ones(1, 1, dtype=torch.bool), torch.from_numpy(norm.ppf(levels)).view(1, 1, -1)
    found = pinball(quantiles, levels.tolist(), torch.tensor([[0.7]], dtype=torch.float64), seen)
    assert found.total.item() == pytest.approx(exact, abs=1e-4)


def test_the_loss_of_a_problem_with_quantiles_is_theirs():
    problem = Problem("regression", 1, 1, quantiles=(0.5,))
    batch = type("Batch", (), {"labels": torch.tensor([[3.0], [math.nan]]), "weights": torch.tensor([2.0, 1.0])})
    prediction = Prediction(mean=torch.zeros(2, 1), quantiles=torch.zeros(2, 1, 1))
    terms = loss_of(problem)(prediction, batch)
    assert terms.total.tolist() == [6.0, 0.0] and terms.count.tolist() == [2.0, 0.0]
