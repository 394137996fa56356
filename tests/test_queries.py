"""Queries at any time through deep and bidirectional models: exact, differentiable, and without a trace."""

import copy
from dataclasses import replace

import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.models import LSSLModel
from ctlssl.series import TimeSeries
from tests.members import MEMBERS, PROBLEMS, answer, batch, close, gradients, same_bits

DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64")]
SHAPES = [
    pytest.param({"layers": 3}, id="deep"),
    pytest.param({"layers": 2, "bidirectional": True, "method": "foh"}, id="bidirectional"),
    pytest.param({"layers": 2, "structure": "quasiseparable", "method": "bilinear", "multi_input": False}, id="paper"),
    pytest.param({"structure": "dplr", "method": "bilinear", "bidirectional": True}, id="dplr-both-ways"),
]


def stack(options, kind="forecasting", dtype=torch.float64, width=8):
    """A model away from its start, ready to predict."""
    torch.default_generator.manual_seed(11)
    model = LSSLModel(PROBLEMS[kind], width=width, **{"state_size": 6, **options}).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def at_observations(model, series, asked):
    """The features after the last block at every row where something was observed, (n, W)."""
    kept = {}
    hooks = [
        model.encoder.register_forward_hook(lambda _, inputs, encoded: kept.update(rows=encoded.rows)),
        model.norm.register_forward_hook(lambda _, inputs, hidden: kept.update(hidden=hidden)),
    ]
    model(series, asked)
    for hook in hooks:
        hook.remove()
    return kept["hidden"][kept["rows"].committed]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("width", [7, 32])
def test_observations_are_the_same_to_the_last_bit(options, dtype, width):
    model = stack(options, dtype=dtype, width=width)
    for lengths in ((7, 1, 4, 0, 5), (1,), (40, 33)):
        series, asked = batch(lengths, queries=9, dtype=dtype)
        expected = at_observations(model, series, asked[:, :0])
        for queries in (asked, asked[:, :1], asked.flip(1)[:, :4]):
            assert same_bits(at_observations(model, series, queries), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["lssl", "gru", "ode_rnn", "gru_d", "rnn_decay", "cfc", "ltc", "s5"])
def test_a_state_keeps_no_trace_of_a_query(name, dtype):
    model, (series, asked) = MEMBERS[name].model("forecasting", dtype), batch(queries=9, dtype=dtype)
    expected = model(series, asked[:, :0]).state.tensors()
    for queries in (asked, asked[:, 3:4]):
        assert same_bits(model(series, queries).state.tensors(), expected)


@pytest.mark.parametrize("options", SHAPES)
def test_every_series_has_queries_of_its_own(options):
    model, (series, asked) = stack(options), batch(dtype=torch.float64)
    counts = torch.tensor([4, 0, 2, 3, 1])
    some = torch.where(torch.arange(4) < counts[:, None], asked.nan_to_num(101.0), torch.nan)
    together = answer(model(series, some))
    for b, count in enumerate(counts.tolist()):
        alone = answer(model(series.select([b]), some[[b], :count]))
        assert alone.shape[1] == count
        assert not count or close(together[b : b + 1, :count], alone, 1e-13)


@pytest.mark.parametrize("options", SHAPES)
def test_gradients_in_query_times(options):
    """Before, between and after the observations, beyond the horizon, and some absent."""
    model, (series, asked) = stack(options), batch((5, 2, 0), dtype=torch.float64)
    asked = torch.cat([asked, 100 + torch.tensor([[0.3], [50.0], [1.0]]).double()], dim=1) + 1e-3  # at no observation
    present = ~asked.isnan()
    assert (asked < series.times[:, :1]).any() and (asked > series.times.amax()).any()

    def forecast(times):
        return answer(model(series, torch.full_like(asked, torch.nan).masked_scatter(present, times)))

    chosen = asked[present].requires_grad_()
    assert torch.autograd.gradcheck(forecast, (chosen,), eps=1e-6, atol=1e-7, rtol=1e-6)
    (gradient,) = torch.autograd.grad(forecast(chosen).sum(), chosen)
    assert gradient.isfinite().all() and gradient.any()


def test_gradients_in_query_times_from_a_state():
    model, (series, asked) = stack({"layers": 2}), batch((5, 2, 0), dtype=torch.float64)
    state = model(series, asked).state
    later = series.times.amax() + torch.tensor([[0.5, 3.0], [1.0, 40.0], [0.1, 0.2]]).double().requires_grad_()
    nothing = series.select([0, 1, 2])
    nothing = TimeSeries(nothing.values[:, :0], nothing.times[:, :0], nothing.observed[:, :0], torch.zeros(3).long(),
                         nothing.static)  # fmt: skip
    assert torch.autograd.gradcheck(lambda at: answer(model(nothing, at, state=state)), (later,), atol=1e-7, rtol=1e-6)


def reversed_batch(series):
    """Every series turned around within its length, at times counted from 0 backwards."""
    place = (series.lengths[:, None] - 1 - torch.arange(series.length)).clamp(min=0)  # (B, L)
    wide = place[..., None].expand(-1, -1, series.channels)
    times = torch.where(series.in_length, -series.times.gather(1, place), 0.0)
    return TimeSeries(
        series.values.gather(1, wide), times, series.observed.gather(1, wide), series.lengths, series.static
    )


def test_both_ways_is_a_sum_of_two_layers():
    """One block whose input is kept from knowing the past: turned around, the two layers change places."""
    model, (series, asked) = stack({"bidirectional": True}), batch(dtype=torch.float64)
    asked = asked + 1 / 128  # at no observation, where the order of the two would matter
    with torch.no_grad():  # of the features only what is seen in the row itself remains
        model.encoder.linear.weight[:, :3] = 0
        model.encoder.linear.weight[:, 6:] = 0
        for part in model.head.body:
            if isinstance(part, torch.nn.Linear):
                part.weight *= 3
    turned = copy.deepcopy(model)
    block = turned.blocks[0]
    block.layer, block.backward_layer = block.backward_layer, block.layer
    series = replace(series, observed=series.observed & (series.observed.any(-1, keepdim=True)))
    hidden = at_observations(model, series, asked)
    mirrored = reversed_batch(series)
    found = at_observations(turned, mirrored, -asked)
    counts = (series.observed & series.in_length[..., None]).any(-1).sum(1).tolist()
    back = torch.cat([part.flip(0) for part in found.split(counts)])
    assert close(back, hidden, 1e-12)


def test_smoothing_at_any_time():
    """Before the first observation, between, and after the last, against the two layers alone with gaps by hand."""
    model = stack({"bidirectional": True})
    times = torch.tensor([[10.0, 12.0, 15.0]]).double()
    values = torch.randn(1, 3, 3, dtype=torch.float64)
    series = TimeSeries(values, times, values.isfinite(), torch.tensor([3]), torch.zeros(1, 2, dtype=torch.float64))
    for at, ahead, behind in ((4.0, [], [0, 1, 2]), (13.5, [0, 1], [2]), (20.0, [0, 1, 2], [])):
        asked = torch.tensor([[at]]).double()
        encoded, block = model.encoder(series, asked, 1.0), model.blocks[0]
        row = int(encoded.rows.query_position)
        u = block.norm(encoded.features)
        rows = [k for k in range(4) if k != row]
        u_at, u_seen = u[:, row], u[:, rows]
        scale, first = model.problem.time_scale, model.problem.first_gap
        y = 0.0
        for layer, order in ((block.layer, ahead), (block.backward_layer, behind[::-1])):
            state, last = layer.initial_state(1), None
            for k in order:
                gap = first if last is None else abs(times[0, k].item() - last)
                _, state = layer.step(u_seen[:, k], gap / scale, state)
                last = times[0, k].item()
            y = y + layer.peek(state, 0.0 if last is None else abs(at - last) / scale, u_at)
        hidden = model.norm(encoded.features[:, row] + block.mix(y))
        expected = model.head.answer(encoded, None, hidden[:, None])
        assert close(answer(model(series, asked)), answer(expected), 1e-12)


@pytest.mark.parametrize("kind", list(PROBLEMS))
def test_both_ways_on_ragged_series(kind):
    model, (series, asked) = stack({"layers": 2, "bidirectional": True}, kind), batch(dtype=torch.float64)
    prediction = model(series, asked, rate=1.5)
    for b in range(series.batch):
        alone = answer(model(series.select([b]), asked[[b]], rate=1.5))
        assert close(answer(prediction)[b : b + 1], alone, 1e-13)
    found = gradients(model.train(), answer(model(series, asked)).square().sum())
    assert not [name for name, gradient in found.items() if gradient is None or not gradient.any()]


def test_a_later_observation_changes_a_smoothed_answer_only():
    series, asked = batch((6,), dtype=torch.float64)
    asked = series.times[:, 2:3] + 1 / 128
    later = series.times > asked
    series = replace(series, observed=torch.ones_like(series.observed))
    changed = replace(series, values=torch.where(later[..., None], series.values + 1, series.values))
    for both, differs in ((False, False), (True, True)):
        model = stack({"bidirectional": both})
        assert close(answer(model(changed, asked)), answer(model(series, asked)), 1e-9) is not differs


def test_both_ways_there_is_no_state():
    model, (series, asked) = stack({"bidirectional": True}), batch(dtype=torch.float64)
    assert model(series, asked).state is None
    causal = stack({})
    state = causal(series, asked).state
    for call in (lambda: model(series, asked, state=state), lambda: model.initial_state(1), lambda: model.stream()):
        with pytest.raises(ValueError, match="bidirectional"):
            call()


def test_one_answer_a_series_reads_no_query():
    problem = Problem("regression", 3, 1, 2)
    model, (series, asked) = LSSLModel(problem, width=8).eval(), batch()
    assert same_bits(answer(model(series, asked)), answer(model(series)))
