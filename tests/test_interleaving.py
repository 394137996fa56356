"""Rows in the order of time against a slow reading of the definitions, one series and one row at a time."""

import math

import pytest
import torch

from ctlssl.encoders import Encoder
from ctlssl.interleaving import interleave, last_true
from tests.members import PROBLEMS, batch

FIRST = 0.75
SEEDS = [pytest.param(seed, id=f"seed{seed}") for seed in range(4)]


def slow_rows(series, asked, b, first=FIRST):
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
        row["dt"] = row["time"] - last if last is not None else first if row["seen"] else 0.0
        last = row["time"] if row["seen"] else last
    return rows


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


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_go_on_from_earlier_ones(seed):
    series, asked = batch(seed=seed)
    seen = Encoder(PROBLEMS["forecasting"], width=4)(series, asked, 1.0).seen
    later = type(series)(series.values, series.times + 1000, series.observed, series.lengths, series.static)
    rows, alone = interleave(later, asked + 1000, FIRST, seen), interleave(later, asked + 1000, FIRST)
    for b in range(5):
        earlier = [row for row in slow_rows(series, asked, b) if row["seen"]]
        for k, row in enumerate(slow_rows(later, asked + 1000, b)):
            first = not any(before["seen"] for before in slow_rows(later, asked + 1000, b)[:k])
            expected = row["time"] - earlier[-1]["time"] if first and earlier else row["dt"]
            assert rows.dt[b, k].item() == expected
        assert seen.started[b] == bool(earlier)
        assert not earlier or [seen.start[b], seen.time[b]] == [earlier[0]["time"], earlier[-1]["time"]]
    assert torch.equal(rows.times, alone.times) and torch.equal(rows.is_query, alone.is_query)


@pytest.mark.parametrize("seed", SEEDS)
def test_backward(seed):
    series, asked = batch(seed=seed)
    rows = interleave(series, asked, FIRST)
    behind = rows.backward(FIRST, time_scale=0.5)
    for b in range(5):
        expected, n = slow_rows(series, asked, b), int(rows.lengths[b])
        assert behind.place[b].tolist() == [*range(n - 1, -1, -1), *range(n, rows.times.shape[1])]
        for k, row in enumerate(expected):
            after = [later["time"] for later in expected[k + 1 :] if later["seen"]]
            gap = after[0] - row["time"] if after else FIRST if row["seen"] else 0.0
            assert behind.dt[b, n - 1 - k].item() == gap / 0.5
            assert behind.is_query[b, n - 1 - k].item() == (not row["seen"])
        assert not behind.dt[b, n:].any() and not behind.is_query[b, n:].any()


@pytest.mark.parametrize("queries", [0, 1, 4])
def test_observations_and_queries_apart(queries):
    series, asked = batch()
    rows, shapes = interleave(series, asked[:, :queries], FIRST), []
    features = torch.randn(*rows.times.shape, 2)

    def change(part):
        shapes.append(tuple(part.shape))
        return 2 * part[..., :1]

    assert torch.equal(rows.apart(change, features), 2 * features[..., :1])
    assert shapes == [(5, 7, 2), (5, queries, 2)][: 1 + (queries > 0)]


def test_no_rows_at_all_are_one_row_of_padding():
    series, asked = batch(lengths=(0, 0))
    for queries in (None, asked[:, :0]):
        rows = interleave(series, queries)
        assert rows.times.shape == (2, 1) and not rows.inside.any() and rows.query_position.shape == (2, 0)
        assert not rows.compact().inside.any()


def test_the_last_true():
    flags = torch.tensor([[False, True, False, True], [False, False, False, False]])
    assert last_true(flags, dim=1).tolist() == [[-1, 1, 1, 3], [-1, -1, -1, -1]]
