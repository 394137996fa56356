"""The mixture by hand: gains, their running mean, weights with a floor, draws."""

import math

import pytest
import torch

from ctlssl.pretraining import Mixture

NAMES = ("a", "b", "c")


def test_weights_are_equal_until_something_was_gained():
    mixture = Mixture(NAMES)
    assert mixture.weights == (1 / 3,) * 3
    assert mixture.after([4.0, 1.0, 2.0]).weights == (1 / 3,) * 3
    assert mixture.after([4.0, 1.0, 2.0]).after([4.0, 1.5, 2.0]).weights == (1 / 3,) * 3


def test_weights_by_hand():
    mixture = Mixture(NAMES, floor=0.1, memory=0.75).after([0.9, 1.0, 0.8]).after([0.7, 1.2, 0.4])
    assert mixture.progress == pytest.approx((0.05, -0.05, 0.1))  # a quarter of the falls .2, -.2 and .4
    assert mixture.weights == pytest.approx((0.1 + 0.7 / 3, 0.1, 0.1 + 0.7 * 2 / 3))
    mixture = mixture.after([0.7, 0.7, 0.4])
    # the fall of .5 of the second: -.0375 + .125
    assert mixture.progress == pytest.approx((0.0375, 0.0875, 0.075))
    assert mixture.weights == pytest.approx(
        (0.1 + 0.7 * 0.0375 / 0.2, 0.1 + 0.7 * 0.0875 / 0.2, 0.1 + 0.7 * 0.075 / 0.2)
    )
    assert sum(mixture.weights) == pytest.approx(1)


def test_what_is_still_being_learned_is_drawn_more_often():
    mixture = Mixture(NAMES, floor=0.05)
    losses = [1.0, 1.0, 1.0]
    for _ in range(20):
        mixture = mixture.after(losses)
        losses = [0.9 * losses[0], losses[1], 0.3 * losses[2]]
    slow, none, quick = mixture.weights
    assert slow > 0.85 and none == pytest.approx(0.05) and quick < 0.1


def test_noise_is_no_progress():
    mixture = Mixture(("a", "b"), floor=0.0, memory=0.9).after([0.5, 1.0])
    for step in range(1, 30):
        mixture = mixture.after([0.5 + 0.02 * (step % 2), 1.0 - 0.01 * step])
    assert mixture.weights[1] > 0.85


def test_draws_follow_the_weights_and_the_seed():
    mixture = Mixture(NAMES, floor=0.1, memory=0.0).after([1.0, 1.0, 1.0]).after([0.4, 0.9, 1.0])
    runs = []
    for seed in (0, 0, 1):
        draw = torch.Generator().manual_seed(seed)
        runs.append([mixture.draw(draw) for _ in range(4000)])
    assert runs[0] == runs[1] != runs[2]
    for name, weight in zip(NAMES, mixture.weights, strict=True):
        spread = math.sqrt(weight * (1 - weight) / 4000)
        assert abs(runs[0].count(name) / 4000 - weight) < 5 * spread
    assert mixture.weights == pytest.approx((0.7, 0.2, 0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "one objective or more"),
        ((("a", "a"),), "each named once"),
        ((NAMES, 0.4), "floor is 0.4; the least weight of 3 objectives lies in 0 to 1 / 3"),
        ((NAMES, -0.1), "floor is -0.1"),
        ((NAMES, 0.1, 1.0), "memory is 1.0"),
    ],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixture(*arguments)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_losses_that_cannot_be(loss):
    with pytest.raises(ValueError, match="the held-out loss of 'b' is"):
        Mixture(NAMES).after([1.0, loss, 1.0])
    with pytest.raises(ValueError, match="2 losses for 3 objectives"):
        Mixture(NAMES).after([1.0, 1.0])
