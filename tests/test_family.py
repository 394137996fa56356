"""What every layer of the family keeps: the clock contract, its linear form, packed series, models, streams, doors."""

import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.layers import FAMILY, as_recurrence
from ctlssl.models import LayerModel
from ctlssl.streaming import Stream
from ctlssl.testing import check_clock
from ctlssl.views import State
from tests.contracts import generator, layer_batch
from tests.family import CASES, EVERY_CASE
from tests.members import CHANNELS, STATIC, answer, batch


def test_every_layer_is_under_contract():
    assert {case.layer for case in CASES.values()} == set(FAMILY)


@pytest.mark.parametrize("case", EVERY_CASE)
def test_clock(case):
    layer = case.build()
    report = check_clock(layer, cases=1)
    assert set(report.not_applicable) == {10} | case.not_applicable
    assert case.not_applicable <= {6} or case.why and case.why in " ".join(type(layer).__doc__.split())


@pytest.mark.parametrize("case", EVERY_CASE)
def test_written_as_a_linear_recurrence(case):
    layer, (u, dt) = case.build().double(), layer_batch(generator("linear form", case), 2, 7)
    _, state = layer(u, dt)
    for before in (None, State(*(part.detach() for part in state))):
        expected, _ = layer(u, dt, state=before, rate=0.5)
        form = as_recurrence(layer, u, dt, state=before, rate=0.5)
        assert (form.run(u) - expected).abs().max() <= 1e-12 * max(1.0, expected.abs().max().item())
        assert form.transition.shape == (2, 7, form.size, form.size) and form.start.shape == (2, form.size)


@pytest.mark.parametrize("case", EVERY_CASE)
def test_packed(case):
    layer, (u, dt) = case.build(), layer_batch(generator("packed", case), 3, 6, dtype=torch.float32)
    lengths = torch.tensor([6, 0, 4])
    inside = torch.arange(6) < lengths[:, None]
    y, state = layer(u, dt, lengths)
    found, after = layer.packed(u[inside], dt[inside], lengths)
    assert torch.allclose(found, y[inside], atol=1e-6)
    assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in zip(after, state, strict=True))


@pytest.mark.parametrize("case", EVERY_CASE)
def test_queries_in_longer_series_change_no_bit(case):
    """A function that rounds a number by its place in memory shows here: queries move every number along."""
    rng, layer = generator("long", case), case.build(channels=5, state_size=6)
    u, dt = layer_batch(rng, 1, 160, channels=5, dtype=torch.float32)
    dt = 0.1 * dt
    asked = torch.from_numpy(rng.random((1, 160)) < 0.3)
    with torch.no_grad():
        y, state = layer(3 * u, dt, is_query=asked)
        plain, after = layer(3 * u[:, ~asked[0]], dt[:, ~asked[0]])
    assert torch.equal(y[:, ~asked[0]], plain) and all(map(torch.equal, state, after))


@pytest.mark.parametrize("case", EVERY_CASE)
def test_peek_several_times_and_hold(case):
    layer, (u, dt) = case.build(), layer_batch(generator("peek", case), 2, 5, dtype=torch.float32)
    _, state = layer(u, dt)
    times = torch.tensor([[0.1, 2.0, 0.5]]).expand(2, 3)
    several = layer.peek(state, times)
    for q in range(3):
        one = layer.peek(state, times[:, q], u[:, -1])
        assert torch.allclose(several[:, q], one, atol=1e-6)


@pytest.mark.parametrize("case", EVERY_CASE)
def test_doors(case):
    layer, u = case.build(), torch.randn(2, 4, 3)
    for given, said in (
        ({"u": u[..., :2]}, r"u needs shape \(batch, length, 3\)"),
        ({"dt": -torch.ones(2, 4)}, "series 0, position 0: gap -1.0"),
        ({"state": State(torch.zeros(2, 1), torch.zeros(2, 3))}, "state needs x"),
        ({"lengths": torch.tensor([5, 1])}, "length 5 is not between 0 and 4"),
        ({"view": "sideways"}, "has the views auto, recurrence"),
    ):
        with pytest.raises(ValueError, match=said):
            layer(**{"u": u} | given)
    with pytest.raises(ValueError, match="state"):
        layer.step(u[:, 0], 1.0, None)
    for wrong in ({"channels": 0}, {"state_size": 0}, {"step_range": (1.0, 0.1)}):
        with pytest.raises(ValueError, match="at least 1|step_range"):
            case.build(**wrong)
    assert "3, 4" in layer.extra_repr()


@pytest.mark.parametrize("name", FAMILY)
def test_model(name):
    """A stack of the layers keeps the clock too, and its streams go on from bytes."""
    torch.default_generator.manual_seed(3)
    problem = Problem("forecasting", CHANNELS, CHANNELS, STATIC, time_scale=0.5, first_gap=0.75, horizon=24.0)
    model = LayerModel(problem, width=6, layer=name, options={"state_size": 4}).eval()
    report = check_clock(model, cases=1, length=5)
    assert set(report.not_applicable) == {6}
    stream = model.stream(batch=2, static=torch.zeros(2, STATIC))
    stream.observe([1.0, 2.0], torch.randn(2, CHANNELS))
    again = Stream.load(model, stream.save())
    assert torch.equal(again.predict(3.0).mean, stream.predict(3.0).mean)
    series, asked = batch()
    assert answer(model(series, asked)).isfinite().all()


def test_model_doors():
    with pytest.raises(ValueError, match="no layer 'none'"):
        LayerModel(Problem("regression", 2, 1), layer="none")
