"""mTAN and the transformer against their equations in numpy, one series, one time and one head at a time."""

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from ctlssl.baselines import MTAN, Transformer
from ctlssl.encoders import readings
from ctlssl.series import TimeSeries
from tests.members import CHANNELS, PROBLEMS, Member, answer, batch, close
from tests.test_baseline_recurrences import advance_gru, affine, weights

W, RATE = 8, 1.5


def cases():
    """Ragged series with queries, one of which comes before everything; one series goes far beyond the horizon."""
    series, asked = batch(lengths=(9, 1, 6), dtype=torch.float64)
    series.observed[1, 0] = True
    times = series.times.clone()
    times[2, 3:] += 500.0
    asked = asked.nan_to_num(nan=101.0)
    asked[2, 3] = times[2, 5] + 1.0
    asked[0, 3] = times[0, 4]
    return TimeSeries(series.values, times, series.observed, series.lengths, series.static), asked


def observations(series, asked, b, unit):
    """Times since the first observation in a unit, flags and values of the rows with something in them; queries."""
    rows = [k for k in range(int(series.lengths[b])) if series.observed[b, k].any()]
    times = series.times[b, rows].numpy()
    since = (times - times[0]) * RATE / unit
    queries = np.maximum(asked[b].numpy() - times[0], 0.0) * RATE / unit
    before = [int((times <= time).sum()) for time in asked[b].numpy()]
    return since, series.observed[b, rows].numpy(), series.values[b, rows].numpy(), queries, before


def embed(p, t):
    """The embedding of one time in horizons."""
    t = t if t <= 1 else 1 + np.log(t)
    angles = p["time.speed"] * t + p["time.phase"]
    return np.concatenate([angles[:1], np.sin(angles[1:])])


def attend(p, name, heads, t, key_times, values, seen):
    """The mean of each channel (K, D) over the keys where it was seen, by softmax; 0 where there are none."""
    E, found = len(p["time.speed"]), []
    q = affine(p, f"{name}.query", embed(p, t)).reshape(heads, -1)
    keys = [affine(p, f"{name}.key", embed(p, s)).reshape(heads, -1) for s in key_times]
    for h in range(heads):
        for d in range(values.shape[1]):
            there = [k for k in range(len(keys)) if seen[k, d]]
            scores = np.array([q[h] @ keys[k][h] / np.sqrt(E / heads) for k in there])
            found.append(softmax(scores) @ values[there, d] if there else 0.0)
    return np.array(found)


def mtan_by_hand(model, series, asked, b, heads):
    """The states at the reference points, and what a query reads."""
    p = weights(model)
    causal = model.problem.asks_queries
    since, seen, values, queries, before = observations(series, asked, b, model.problem.horizon)
    points = np.linspace(0.0, 1.0, model.references)

    def interpolate(t, count):
        read = attend(p, "attention", heads, t, since[:count], values[:count], seen[:count])
        return affine(p, "values", np.concatenate([read, seen[:count].any(axis=0)]))

    def unit(h, x):
        named = {f"unit.{part.removesuffix('_l0')}": p[f"unit.{part}"] for part, _ in model.unit.named_parameters()}
        return advance_gru(named, x, h)

    h, states = np.zeros(W), []
    for t in points:
        states.append(h := unit(h, interpolate(t, int((since <= t).sum()) if causal else len(since))))
    read = []
    for t, count in zip(queries, before, strict=True) if causal else ():
        passed = int((points <= t).sum()) if count else 0
        read.append(unit(states[passed - 1] if passed else np.zeros(W), interpolate(t, count)))
    return np.stack(states), np.stack(read) if read else np.zeros((0, W))


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("heads", [1, 2])
def test_mtan(kind, heads):
    model = Member(MTAN, {"references": 7, "heads": heads, "embedding": 6}).model(kind, torch.float64)
    series, asked = cases()
    found = answer(model(series, asked, rate=RATE))
    for b in range(3):
        states, read = (torch.from_numpy(part)[None] for part in mtan_by_hand(model, series, asked, b, heads))
        encoded = alone(model, series, asked, b)
        everything = torch.ones(states.shape[:2], dtype=torch.bool)
        assert close(found[b : b + 1], answer(model.head(encoded, states, everything, read)), 1e-12)


def alone(model, series, asked, b):
    """What the head reads of a series beside features."""
    unseen = torch.zeros(CHANNELS, dtype=torch.float64)
    return readings(model.problem, series.select([b]), asked[[b]], RATE, None, unseen)


def test_weights_of_mtan_stay_sums_where_they_are_far_apart():
    """A channel whose only observations score far below those of the others is read all the same."""
    model = Member(MTAN, {"references": 4}).model("classification")
    with torch.no_grad():
        model.attention.query.weight.mul_(200.0)
    series, _ = batch(lengths=(40, 30))
    values = series.values.clone().requires_grad_()
    series = TimeSeries(values, series.times, series.observed, series.lengths, series.static)
    found = answer(model(series))
    found.square().sum().backward()
    assert found.isfinite().all() and values.grad.isfinite().all()
    exact = Member(MTAN, {"references": 4}).model("classification", torch.float64)
    exact.load_state_dict(model.state_dict())
    assert close(found.double(), answer(exact(series.to(dtype=torch.float64))), 1e-4)


@pytest.mark.parametrize(
    ("options", "words"), [({"references": 1}, "references is 1"), ({"heads": 3}, "3 heads cannot share")]
)
def test_doors_of_mtan(options, words):
    with pytest.raises(ValueError, match=words):
        MTAN(PROBLEMS["classification"], **options)


def layer_norm(p, name, x):
    """Over the features of one token."""
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def transformer_by_hand(model, encoded, series, asked, b, heads):
    """The tokens after the last norm: of the observations and of the queries."""
    p, problem = weights(model), model.problem
    since, _, _, queries, before = observations(series, asked, b, problem.time_scale)
    features = encoded.features[0].detach().numpy()

    def token(row, t):
        angles = np.exp(p["log_speed"]) * t
        return features[row] + affine(p, "time", np.concatenate([np.sin(angles), np.cos(angles)]))

    rows = encoded.rows.committed[0].nonzero().squeeze(1).tolist()
    tokens = [p["start"]] + [token(row, t) for row, t in zip(rows, since, strict=True)]
    forecasts = problem.asks_queries
    asked_rows = encoded.rows.query_position[0].tolist()
    at = [token(row, t) for row, t in zip(asked_rows, queries, strict=True)] if forecasts else []

    def block(i, x, others):
        name, split = f"blocks.{i}", lambda y: y.reshape(heads, -1)
        q = split(affine(p, f"{name}.query", layer_norm(p, f"{name}.norm", x)))
        pairs = [np.split(affine(p, f"{name}.key_value", layer_norm(p, f"{name}.norm", y)), 2) for y in others]
        found = []
        for h in range(heads):
            scores = np.array([q[h] @ split(key)[h] for key, _ in pairs]) / np.sqrt(q.shape[1])
            found.append(softmax(scores) @ np.stack([split(value)[h] for _, value in pairs]))
        x = x + affine(p, f"{name}.out", np.concatenate(found))
        y = affine(p, f"{name}.perceptron.0", layer_norm(p, f"{name}.second_norm", x))
        return x + affine(p, f"{name}.perceptron.3", y * (1 + erf(y / np.sqrt(2))) / 2)

    for i in range(len(model.blocks)):
        at = [block(i, x, tokens[: count + 1]) for x, count in zip(at, before, strict=False)]
        tokens = [block(i, x, tokens[: k + 1] if forecasts else tokens) for k, x in enumerate(tokens)]
    return [layer_norm(p, "norm", x) for x in tokens[1:]], [layer_norm(p, "norm", x) for x in at]


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("heads", [2, 3])
def test_transformer(kind, heads):
    model = Member(Transformer, {"heads": heads}).model(kind, torch.float64)
    series, asked = cases()
    found = answer(model(series, asked, rate=RATE))
    for b in range(3):
        encoded = model.encoder(series.select([b]), asked[[b]], RATE)
        tokens, at = transformer_by_hand(model, encoded, series, asked, b, heads)
        features = torch.from_numpy(np.stack(tokens))[None]
        queries = torch.from_numpy(np.stack(at))[None] if at else features[:, :0]
        inside = torch.ones(1, len(tokens), dtype=torch.bool)
        assert close(found[b : b + 1], answer(model.head(encoded, features, inside, queries)), 1e-12)


def test_any_width_has_its_heads():
    series, asked = batch(lengths=(4, 2))
    for width in (5, 7, 30):
        model = Transformer(PROBLEMS["forecasting"], width=width)
        assert answer(model(series, asked)).isfinite().all()


@pytest.mark.parametrize("name", ["layers", "heads"])
def test_doors_of_the_transformer(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Transformer(PROBLEMS["classification"], **{name: 0})
