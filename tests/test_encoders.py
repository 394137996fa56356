"""Rows and their features against a slow reading of the definitions, one series, one row and one channel at a time."""

import math

import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.encoders import Encoder, interleave, last_true
from ctlssl.series import TimeSeries
from tests.members import batch, gradients, same_bits

FIRST = 0.75
SEEDS = [pytest.param(seed, id=f"seed{seed}") for seed in range(4)]


def slow_rows(series, asked, b):
    """The rows of one series as dictionaries, in the order of time."""
    rows = []
    for k in range(int(series.lengths[b])):
        seen = {d: float(series.values[b, k, d]) for d in range(series.channels) if series.observed[b, k, d]}
        rows.append({"time": float(series.times[b, k]), "seen": seen, "query": None})
    for q, time in enumerate(asked[b].tolist()):
        if not math.isnan(time):
            rows.append({"time": time, "seen": {}, "query": q})
    rows.sort(key=lambda row: (row["time"], row["query"] is not None))
    last = None
    for row in rows:
        row["dt"] = row["time"] - last if last is not None else FIRST if row["seen"] else 0.0
        last = row["time"] if row["seen"] else last
    return rows


def slow_features(rows, unseen, problem, rate):
    """The features of the rows of one series, before the linear map."""

    def clock(time):
        return math.log1p(rate * time / problem.time_scale) / math.log1p(problem.horizon / problem.time_scale)

    value, when, start, features = dict(enumerate(unseen)), {}, None, []
    for row in rows:
        start = row["time"] if start is None and row["seen"] else start
        value |= row["seen"]
        when |= dict.fromkeys(row["seen"], row["time"])
        elapsed = 0.0 if start is None else row["time"] - start
        ages = [min(1.0, clock(row["time"] - when[d])) if d in when else 1.0 for d in value]
        spans = rate * elapsed / problem.horizon
        clocks = [clock(row["dt"]), clock(elapsed), spans / (1 + spans)]
        features.append([*value.values(), *(float(d in row["seen"]) for d in value), *ages, *clocks])
    return features


@pytest.mark.parametrize("seed", SEEDS)
def test_interleave(seed):
    series, asked = batch(seed=seed)
    asked[0, 0], asked[2, 2] = series.times[0, 3], series.times[2, 0]  # queries at the time of an observation
    rows = interleave(series, asked, FIRST)
    assert rows.values.shape == (5, 7 + 4, 3) and rows.times.dtype == rows.dt.dtype == torch.float64
    for b in range(5):
        expected = slow_rows(series, asked, b)
        n = int(rows.lengths[b])
        assert n == len(expected)
        assert rows.times[b, :n].tolist() == [row["time"] for row in expected]
        assert rows.dt[b, :n].tolist() == [row["dt"] for row in expected]
        assert rows.is_query[b, :n].tolist() == [not row["seen"] for row in expected]
        assert rows.committed[b, :n].tolist() == [bool(row["seen"]) for row in expected]
        for k, row in enumerate(expected):
            assert rows.observed[b, k].tolist() == [d in row["seen"] for d in range(3)]
            assert rows.values[b, k].tolist() == [row["seen"].get(d, 0.0) for d in range(3)]
            if row["query"] is not None:
                assert rows.query_position[b, row["query"]] == k
        assert not rows.observed[b, n:].any() and not rows.is_query[b, n:].any() and not rows.inside[b, n:].any()
        assert not rows.dt[b, n:].any() and not rows.times[b, n:].any()
    assert torch.equal(rows.query_present, ~asked.isnan())


@pytest.mark.parametrize("seed", SEEDS)
def test_compact(seed):
    series, asked = batch(seed=seed)
    committed = interleave(series, asked, FIRST).compact()
    for b in range(5):
        expected = slow_rows(series, asked, b)
        places = [k for k, row in enumerate(expected) if row["seen"]]
        assert committed.counts[b] == len(places)
        assert committed.position[b][committed.inside[b]].tolist() == places
        for k, row in enumerate(expected):
            if row["query"] is not None:
                assert committed.before_query[b, row["query"]] == sum(place < k for place in places) - 1


@pytest.mark.parametrize("rate", [1.0, 2.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_features(seed, rate):
    series, asked = batch(seed=seed, dtype=torch.float64)
    problem = Problem("forecasting", 3, 3, 2, time_scale=0.5, first_gap=FIRST, horizon=24.0)
    encoder = Encoder(problem, width=12).double()
    with torch.no_grad():
        encoder.unseen.copy_(torch.tensor([0.5, -1.0, 2.0]))
        encoder.linear.weight.copy_(torch.eye(12))
        encoder.linear.bias.zero_()
    encoded = encoder(series, asked, rate)
    for b in range(5):
        expected = slow_features(slow_rows(series, asked, b), [0.5, -1.0, 2.0], problem, rate)
        n = len(expected)
        truth = torch.tensor(expected, dtype=torch.float64).view(n, 12)
        torch.testing.assert_close(encoded.features[b, :n], truth, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(encoded.filled[b, :n], truth[:, :3], rtol=0, atol=0)
    torch.testing.assert_close(encoded.gaps, encoded.rows.dt / 0.5)


def test_queries_are_read_only_where_a_forecast_is_asked():
    series, asked = batch()
    encoder = Encoder(Problem("classification", 3, 2), width=4)
    assert encoder(series, asked, 1.0).rows.times.shape == (5, 7)


def test_no_rows_at_all_are_one_row_of_padding():
    series, asked = batch(lengths=(0, 0))
    for queries in (None, asked[:, :0]):
        rows = interleave(series, queries)
        assert rows.times.shape == (2, 1) and not rows.inside.any() and rows.query_position.shape == (2, 0)
        assert not rows.compact().inside.any()


def test_a_value_before_it_was_first_seen_is_learned():
    values, times = torch.tensor([[[torch.nan, 1.0], [3.0, torch.nan]]]), torch.tensor([[0.0, 1.0]])
    series = TimeSeries(values, times, ~values.isnan(), torch.tensor([2]))
    encoder = Encoder(Problem("classification", 2, 2), width=4)
    found = gradients(encoder, encoder(series, None, 1.0).filled[0, :, 0].sum())
    assert found["unseen"].tolist() == [1.0, 0.0]  # read once, in the first row


@pytest.mark.parametrize("filler", [1e30, float("nan"), float("inf")])
def test_what_was_not_observed_changes_no_bit(filler):
    series, asked = batch()
    hidden = ~(series.observed & series.in_length.unsqueeze(-1))
    values = torch.where(hidden, filler, series.values)
    other = TimeSeries(values, series.times, series.observed, series.lengths, series.static)
    encoder = Encoder(Problem("forecasting", 3, 3, 2), width=4)
    one, two = encoder(series, asked, 1.0), encoder(other, asked, 1.0)
    assert same_bits(one.features, two.features) and same_bits(one.filled, two.filled)
    assert same_bits(gradients(encoder, one.features.sum()), gradients(encoder, two.features.sum()))


def test_the_last_true():
    flags = torch.tensor([[False, True, False, True], [False, False, False, False]])
    assert last_true(flags, dim=1).tolist() == [[-1, 1, 1, 3], [-1, -1, -1, -1]]
