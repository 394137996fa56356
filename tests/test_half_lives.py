"""Half-lives of layers and models: closed forms, the impulse response, and the data's own unit."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import ctlssl
from ctlssl.contract import Problem
from ctlssl.half_lives import timescales
from ctlssl.layers import LSSL
from ctlssl.models import LSSLModel


def test_closed_forms():
    """Of LegS the eigenvalues are -1 to -N, times the step of each channel."""
    torch.set_default_dtype(torch.float64)  # of a LegS rounded to float32 the eigenvalues differ by 1e-5
    try:
        for structure in ("dense", "quasiseparable"):
            layer = LSSL(3, 6, structure=structure, measure="legs", step_range=(0.01, 1.0))
            expected = math.log(2) / (layer.log_step.detach().exp()[:, None] * torch.arange(6, 0, -1.0))
            assert torch.allclose(layer.timescales(), expected, rtol=1e-10)
    finally:
        torch.set_default_dtype(torch.float32)
    shared = LSSL(3, 6, structure="dense", step_size="per_layer").timescales()
    assert shared.shape == (3, 6) and torch.equal(shared[0], shared[2])
    assert not shared.requires_grad and shared.dtype == torch.float64


@pytest.mark.parametrize(("options", "groups"), [({}, 2), ({"multi_input": True}, 1), ({"step_size": "gated"}, 2)])
def test_a_mode_halves_in_its_half_life(options, groups):
    """The slowest mode is what is left of an impulse after a long time: it halves from T to T + half-life."""
    layer = LSSL(
        2, 4, structure="diagonal", measure="real", method="impulse", step_range=(0.1, 0.3), **options
    ).double()
    half_lives = layer.timescales()
    assert half_lives.shape == (groups, 4)
    system = layer._formed()
    for g in range(groups):
        slow = half_lives[g, -1].item()
        far = system.impulse_response(torch.tensor([60 * slow, 61 * slow], dtype=torch.float64))[:, g]  # (2, O, I)
        assert torch.allclose(far[1] / far[0], torch.full_like(far[0], 0.5), rtol=1e-6)


def test_what_never_decays():
    layer = LSSL(1, 4, structure="diagonal", measure="lin")
    layer._matrix_class = lambda: None
    layer._matrix_class.from_free = lambda free: ctlssl.Diagonal(0 * free["log_decay"], free["frequency"])
    assert torch.isinf(layer.timescales()).all()


def test_a_model_in_the_unit_of_its_data():
    """The same model of hours and of minutes remembers as long, and starts between the gap and the horizon."""
    found = []
    for unit in (1.0, 60.0):
        problem = Problem("classification", channels=2, outputs=2, time_scale=0.5 * unit, horizon=48.0 * unit)
        torch.manual_seed(2)
        found.append(timescales(LSSLModel(problem, layers=2, state_size=8)) / unit)
    assert np.allclose(found[0].half_life, found[1].half_life, rtol=1e-6)
    values = found[0].half_life.values
    assert values.max() == pytest.approx(math.log(2) * 48.0, rel=0.01) and values.min() >= 0.5 * math.log(2) * 0.99
    model = LSSLModel(Problem("classification", channels=2, outputs=2, time_scale=3.0))
    clock = model.blocks[0].layer.timescales().numpy()
    assert np.array_equal(timescales(model).half_life.values[0], 3.0 * clock)
    assert np.array_equal(timescales(model, time_scale=1.0).half_life.values[0], clock)


def test_layers_of_any_module_by_name():
    module = nn.Sequential(LSSL(2, 4), nn.GELU(), LSSL(3, 6, structure="dense"), ctlssl.EventLSSL(3, 8))
    found = timescales(module)
    assert found.layer.values.tolist() == ["0", "2", "3"] and found.half_life.shape == (3, 3, 8)
    assert np.isfinite(found.half_life.values).sum(axis=(1, 2)).tolist() == [2 * 4, 3 * 6, 8]
    assert timescales(LSSL(2, 4)).layer.values.tolist() == ["layer"]
    assert ctlssl.timescales is timescales


def test_what_has_none_is_refused():
    with pytest.raises(ValueError, match="no linear state-space layer"):
        timescales(nn.Linear(2, 2))
    for wrong in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="time_scale"):
            timescales(LSSL(2, 4), time_scale=wrong)


def test_a_model_starts_where_the_gaps_say():
    """Step sizes of a model from the gaps of its training data: half-lives within the data's own times."""
    times = torch.rand(6, 30, dtype=torch.float64).cumsum(1) * 8
    seen = torch.ones(6, 30, 2, dtype=torch.bool)
    series = ctlssl.TimeSeries(torch.zeros(6, 30, 2), times, seen, torch.full((6,), 30))
    problem = Problem("classification", channels=2, outputs=2, time_scale=4.0)
    low, high = ctlssl.step_range_from_gaps(series, time_scale=problem.time_scale)
    model = LSSLModel(problem, state_size=8, step_range=(low, high))
    steps = model.blocks[0].layer.log_step.detach().exp()
    assert (steps.min().item(), steps.max().item()) == (pytest.approx(low), pytest.approx(high))
    span = (times[:, -1] - times[:, 0]).sort().values[2].item()
    assert model.timescales().half_life.max().item() == pytest.approx(math.log(2) * span, rel=1e-3)


@pytest.mark.parametrize("step_size", ["gated", "without_gap", {"per": "layer", "rate": False}])
def test_models_take_step_sizes(step_size):
    problem = Problem("classification", channels=2, outputs=2)
    model = LSSLModel(problem, width=8, step_size=step_size, dropout=0.0)
    series = ctlssl.TimeSeries(
        torch.randn(2, 5, 2),
        torch.rand(2, 5, dtype=torch.float64).cumsum(1),
        torch.ones(2, 5, 2, dtype=torch.bool),
        torch.tensor([5, 3]),
    )
    together = model(series).logits
    assert torch.allclose(model(series.select([1])).logits, together[1:], atol=1e-5)
    together.sum().backward()
    assert model.blocks[0].layer.log_step.grad.any()
    assert model.timescales().half_life.shape[0] == 1


def test_layers_and_models_of_events():
    """Of A alone: outputs of a layer's own, as an `EventModel` has them, make no difference."""
    one, other = (ctlssl.EventLSSL(3, 8, outputs, measure="lin", step_range=(0.1, 0.1)) for outputs in (None, 5))
    expected = torch.full((1, 8), math.log(2) / 0.05, dtype=torch.float64)
    for layer in (one, other):
        assert torch.allclose(layer.timescales(), expected, rtol=1e-6) and not layer.timescales().requires_grad
    problem = Problem("regression", channels=2, outputs=1, time_scale=3.0, horizon=48.0)
    model = ctlssl.EventModel(problem, width=8, state_size=4)
    found = model.timescales()
    assert found.layer.values.tolist() == ["layer"] and found.unit.values.tolist() == ["the unit of the data's times"]
    assert np.array_equal(found.half_life.values[0], 3.0 * model.layer.timescales().numpy())


def test_without_the_gap_a_half_life_is_a_number_of_rows():
    layer = LSSL(1, 4, structure="diagonal", measure="real", method="zoh", step_size="without_gap").double()
    found = timescales(nn.ModuleList([layer, LSSL(1, 4)]), time_scale=24.0)
    assert found.unit.values.tolist() == ["rows", "the unit of the data's times"]
    assert found.half_life.attrs["units"] == "rows or the unit of the data's times"
    # The slowest state halves in that many rows of no input, whatever the time between them.
    rows, start = found.half_life.values[0, 0, -1], torch.ones(1, 1, 4, dtype=torch.float64)
    for dt in (1e-3, 1e3):
        _, state = layer(torch.zeros(1, 1, 1).double(), dt, state=ctlssl.State(start, torch.zeros(1, 1).double()))
        assert state.x.max().item() == pytest.approx(2 ** (-1 / rows), rel=1e-9)
