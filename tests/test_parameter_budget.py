"""The width for a budget of parameters, against counting at every width."""

import pytest
import torch

from ctlssl.baselines import BASELINES
from ctlssl.contract import Problem
from ctlssl.models import MODELS
from ctlssl.parameter_budget import count_parameters, width_for

PROBLEM = Problem("forecasting", channels=3, outputs=3, static=1)
NAMES = ("lssl", "gru", "ode_rnn", "neural_cde")


def squares(problem, width):
    """A module of 100 width^2 parameters, one of them not trained, which wants an even width."""
    if width % 2:
        raise ValueError("an even width is needed")
    model = torch.nn.Module()
    model.trained = torch.nn.Parameter(torch.zeros(100 * width**2))
    model.fixed = torch.nn.Parameter(torch.zeros(7), requires_grad=False)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_no_width_comes_nearer(name):
    factory = {**MODELS, **BASELINES}[name]
    counts = {width: count_parameters(factory(PROBLEM, width=width)) for width in range(2, 61)}
    for budget in (3000, 5500, 9000):
        nearest = min(counts, key=lambda width: abs(counts[width] - budget))
        assert width_for(factory, PROBLEM, budget) == nearest
        assert abs(counts[nearest] - budget) <= 0.1 * budget


def test_widths_that_a_model_refuses_are_passed_over():
    assert [width_for(squares, PROBLEM, 100 * width**2) for width in (2, 4, 34, 36)] == [2, 4, 34, 36]
    assert width_for(squares, PROBLEM, 100 * 34**2 + 6000) == 34
    assert width_for(squares, PROBLEM, 100 * 36**2 - 5000) == 36


def test_a_budget_that_no_width_comes_near_names_the_nearest():
    with pytest.raises(ValueError, match="squares comes .* 800 parameters at no width: it has 400 at width 2, 1600 at"):
        width_for(squares, PROBLEM, 800, "squares")
    with pytest.raises(ValueError, match="it has 400 at width 2"):
        width_for(squares, PROBLEM, 10)
    with pytest.raises(ValueError, match="parameters is 0"):
        width_for(squares, PROBLEM, 0)


def test_the_words_of_a_model_that_refuses_every_width():
    def stubborn(problem, width):
        raise ValueError("no width pleases me")

    with pytest.raises(ValueError, match="no width pleases me"):
        width_for(stubborn, PROBLEM, 1000)


def test_the_global_random_state_is_left_as_found():
    before = torch.get_rng_state()
    width_for(BASELINES["gru"], PROBLEM, 3000)
    assert torch.equal(before, torch.get_rng_state())
