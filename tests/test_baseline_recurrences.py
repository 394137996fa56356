"""The recurrent baselines against their papers' equations in numpy, one series and one row at a time."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import expit as sigmoid

from ctlssl.baselines import GRUD
from ctlssl.baselines.walking import walk
from ctlssl.contract import Problem
from ctlssl.series import TimeSeries
from tests.contracts import generator
from tests.members import CHANNELS, MEMBERS, PROBLEMS, Member, answer, batch, close
from tests.test_baselines import truth

W = 8
RATE = 1.5


def weights(model):
    """The parameters and buffers by name, as numpy arrays."""
    return {name: part.detach().numpy() for name, part in model.state_dict().items()}


def affine(p, name, x):
    """A linear map of a model."""
    return p[f"{name}.weight"] @ x + p.get(f"{name}.bias", 0.0)


def gru_d_states(p, problem, series, asked, b, rate):
    """The hidden states at the observations and at the queries of a series, from its own times, flags and values."""
    D = problem.channels
    times, values = series.times[b].tolist(), series.values[b].numpy()
    seen_in = series.observed[b].numpy()
    rows = [k for k in range(int(series.lengths[b])) if seen_in[k].any()]

    def advance(h, time, m, x, last, last_time, start):
        since = np.array([time - (start if t is None else t) for t in last_time]) * rate / problem.time_scale
        kept = np.exp(-np.maximum(0, p["input_decay"] * since + p["input_decay_bias"]))
        previous = np.where([t is None for t in last_time], p["mean"], last)
        x = np.where(m, x, kept * previous + (1 - kept) * p["mean"])
        h = np.exp(-np.maximum(0, affine(p, "hidden_decay", since))) * h
        read = affine(p, "reads", np.concatenate([x, m.astype(float)]))
        gates = p["gates.weight"] @ h
        z, r = sigmoid(read[:W] + gates[:W]), sigmoid(read[W : 2 * W] + gates[W:])
        return (1 - z) * h + z * np.tanh(read[2 * W :] + p["candidate.weight"] @ (r * h))

    def run(until):
        """The states at the observations up to a time, and what is remembered there."""
        h, last, last_time, states = np.zeros(W), np.zeros(D), [None] * D, []
        for k in rows:
            if times[k] > until:
                break
            h = advance(h, times[k], seen_in[k], values[k], last, last_time, times[rows[0]])
            states.append(h)
            last = np.where(seen_in[k], values[k], last)
            last_time = [times[k] if seen_in[k, d] else last_time[d] for d in range(D)]
        return h, last, last_time, states

    at_queries = []
    for time in asked[b].tolist():
        h, last, last_time, states = run(time)
        start = times[rows[0]] if states else time
        at_queries.append(advance(h, time, np.zeros(D, bool), np.zeros(D), last, last_time, start))
    return run(np.inf)[3], at_queries


@pytest.mark.parametrize("kind", ["classification", "forecasting"])
@pytest.mark.parametrize("means", [None, [0.5, -1.0, 2.0]])
def test_gru_d(kind, means):
    model = Member(GRUD, {"means": means}).model(kind, torch.float64)
    series, asked = batch(lengths=(9, 1, 4), dtype=torch.float64)
    asked = asked.nan_to_num(nan=101.0)
    series.observed[1, 0] = True
    encoded, _ = model._encode(series, asked, RATE, None)
    found = answer(model(series, asked, rate=RATE))
    for b in range(3):
        states, at_queries = gru_d_states(weights(model), model.problem, series, asked, b, RATE)
        alone, _ = model._encode(series.select([b]), asked[[b]], RATE, None)
        features, queries = (torch.from_numpy(np.stack(part))[None] for part in (states, at_queries))
        inside = torch.ones(1, len(states), dtype=torch.bool)
        assert close(found[b : b + 1], answer(model.head(alone, features, inside, queries)), 1e-12)
    assert encoded.features.shape[-1] == 3 * CHANNELS


def test_gru_d_reads_the_time_since_each_channel_was_last_seen_before_the_row():
    """By hand: a channel seen now has its age from before; one never seen has the age of the series."""
    problem = Problem("forecasting", channels=3, outputs=3, time_scale=0.5, horizon=10.0)
    times = torch.tensor([[1e9, 1e9 + 1e-3, 1e9 + 2.0, 1e9 + 5.0]], dtype=torch.float64)
    seen = torch.tensor([[[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]], dtype=torch.bool)
    series = TimeSeries(torch.arange(12.0).view(1, 4, 3), times, seen, torch.tensor([4]))
    model = GRUD(problem, width=4)
    asked = torch.tensor([[1e9 + 5.0, 1e9 + 6.0]], dtype=torch.float64)
    _, inputs = model._encode(series, asked, 2.0, None)
    tiny = float(np.float64(1e9 + 1e-3) - 1e9)
    expected = [[0, 0, 0], [tiny, tiny, tiny], [2, 2 - tiny, 2], [3, 5 - tiny, 5], [0, 0, 5], [1, 1, 6]]
    assert torch.allclose(inputs[0, :, 6:], 2.0 / 0.5 * torch.tensor(expected), rtol=1e-6, atol=0)
    assert inputs[0, :, :3].tolist() == [[0, 0, 0], [0, 4, 0], [6, 4, 0], [9, 10, 0], [9, 10, 0], [9, 10, 0]]


def test_gru_d_in_chunks_remembers_when_each_channel_was_seen():
    model = MEMBERS["gru_d"].model("forecasting", torch.float64)
    series, _ = batch(lengths=(9, 6), dtype=torch.float64)
    asked = torch.full((2, 1), 1e4, dtype=torch.float64)
    whole = model(series, asked)
    parts = (series.values, series.times, series.observed)
    first, rest = ([part[:, rows] for part in parts] for rows in (slice(4), slice(4, None)))
    state = model(TimeSeries(*first, torch.tensor([4, 4]), series.static), torch.full_like(asked, torch.nan)).state
    assert close(
        model(TimeSeries(*rest, series.lengths - 4, series.static), asked, state=state).mean, whole.mean, 1e-12
    )


def test_decays_of_gru_d_start_alive():
    model = GRUD(PROBLEMS["classification"], width=4, dropout=0.0)
    series, _ = batch(lengths=(7, 5))
    answer(model(series)).square().sum().backward()
    for name in ("input_decay", "hidden_decay.weight"):
        assert (model.get_parameter(name).grad != 0).any(), name


def test_means_of_gru_d_are_one_a_channel():
    with pytest.raises(ValueError, match="2 numbers for 3 channels"):
        GRUD(PROBLEMS["classification"], means=[0.0, 1.0])


def advance_gru(p, x, h):
    """torch's unit: reset after the product."""
    i, g = p["unit.weight_ih"] @ x + p["unit.bias_ih"], p["unit.weight_hh"] @ h + p["unit.bias_hh"]
    r, z = sigmoid(i[:W] + g[:W]), sigmoid(i[W : 2 * W] + g[W : 2 * W])
    return (1 - z) * np.tanh(i[2 * W :] + r * g[2 * W :]) + z * h


def rnn_decay(p, h, x, gap):
    """One row."""
    return advance_gru(p, x, np.exp(-np.exp(p["log_rate"]) * gap) * h)


def cfc(p, h, x, gap):
    """One row; a backbone of one layer or two."""
    z = 1.7159 * np.tanh(2 / 3 * (affine(p, "reads", x) + p["recurs.weight"] @ h))
    if "deeper.0.weight" in p:
        z = 1.7159 * np.tanh(2 / 3 * affine(p, "deeper.0", z))
    g, f, speed, shift = np.split(affine(p, "out", z), 4)
    s = sigmoid(speed * gap + shift)
    return (1 - s) * np.tanh(g) + s * np.tanh(f)


def ltc(p, h, x, gap, unfolds=6):
    """One row, by the paper's fused steps."""
    d = gap / unfolds
    for _ in range(unfolds):
        f = np.exp(p["log_conductance"]) * sigmoid(p["field.weight"] @ h + affine(p, "reads", x))
        h = (h + d * f * p["level"]) / (1 + d * (np.exp(-p["log_tau"]) + f))
    return h


@pytest.mark.parametrize("kind", ["classification", "forecasting"])
@pytest.mark.parametrize(
    ("name", "options", "advance"),
    [("rnn_decay", {}, rnn_decay), ("cfc", {}, cfc), ("cfc", {"depth": 2}, cfc), ("ltc", {}, ltc)],
)
def test_in_numpy(name, options, advance, kind):
    model = Member(MEMBERS[name].build, options).model(kind, torch.float64)
    p = weights(model)
    series, asked = batch(lengths=(6, 1, 4), dtype=torch.float64)
    asked = asked.nan_to_num(nan=101.0)
    series.observed[1, 0] = True

    def steps(model, encoded, committed, before, queries):
        x, gaps, states, h = encoded.features[0].numpy(), encoded.gaps[0].tolist(), {}, np.zeros(W)
        for k in committed:
            states[k] = h = advance(p, h, x[k], gaps[k])
        at = [
            advance(p, states[seen[-1]] if seen else np.zeros(W), x[q], gaps[q])
            for q, seen in zip(queries, before, strict=True)
        ]
        return [torch.from_numpy(h) for h in states.values()], [torch.from_numpy(h) for h in at]

    found = answer(model(series, asked))
    for b in range(3):
        assert close(found[b : b + 1], truth(model, series, asked, b, steps), 1e-12)


def test_many_unfolds_of_ltc_solve_its_equation():
    model = MEMBERS["ltc"].model("classification", torch.float64)
    p, draw = weights(model), generator("liquid time constants")
    h, x, gap = draw.standard_normal(W), draw.standard_normal(W), 3.0

    def slope(t, h):
        f = np.exp(p["log_conductance"]) * sigmoid(p["field.weight"] @ h + affine(p, "reads", x))
        return -(np.exp(-p["log_tau"]) + f) * h + f * p["level"]

    exact = solve_ivp(slope, (0.0, gap), h, rtol=1e-11, atol=1e-11, method="DOP853").y[:, -1]
    errors = []
    row = torch.from_numpy(np.append(x, gap))[None, None]
    for unfolds in (64, 128):
        model.unfolds = unfolds
        found = model._step(torch.from_numpy(h)[None], model._prepare(row)[0])[0].detach().numpy()
        errors.append(np.abs(found - exact).max())
    assert errors[0] < 2e-2 and errors[0] / errors[1] == pytest.approx(2, rel=0.1)  # of order 1


def test_ltc_stays_between_its_levels_at_any_gap():
    model = MEMBERS["ltc"].model("classification")
    largest = model.level.abs().max()
    rows = model._prepare(torch.cat([torch.randn(50, W), torch.logspace(-9, 9, 50).unsqueeze(1)], dim=1))
    found = model._step((2 * torch.rand(50, W) - 1) * largest, rows)
    assert (found.abs() <= largest * (1 + 1e-6)).all()


@pytest.mark.parametrize(("name", "option"), [("ltc", "unfolds"), ("cfc", "depth")])
def test_doors(name, option):
    with pytest.raises(ValueError, match=f"{option} is 0"):
        MEMBERS[name].build(PROBLEMS["classification"], **{option: 0})


def test_walk_takes_each_series_by_itself():
    draw = generator("walk")
    rows, start = (torch.from_numpy(draw.standard_normal(size)) for size in ((6, 5, 2), (6, 2)))
    counts = torch.tensor([2, 5, 0, 3, 5, 1])
    sizes = []

    def step(hidden, row):
        sizes.append(len(row))
        return 0.5 * hidden + row

    found = walk(step, start, counts, rows)
    assert sizes == [5, 4, 3, 2, 2]  # a series that ended costs nothing
    for b, count in enumerate(counts.tolist()):
        hidden = start[b]
        for k in range(5):
            hidden = 0.5 * hidden + rows[b, k] if k < count else torch.zeros_like(hidden)
            assert torch.equal(found[b, k], hidden)
