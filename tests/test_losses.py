"""The losses against hand computation, and that what is not observed does not exist."""

import math

import pytest
import torch

from ctlssl.training.losses import cross_entropy, gaussian, mean_loss

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
