"""Late rows: refused by name, or put where they belong; any course of events against a ledger of all rows."""

import numpy as np
import pytest
import torch

from ctlssl import Stream, TimeSeries
from ctlssl.streaming import kept
from tests.contracts import generator
from tests.streaming_cases import (
    CASES,
    NAN,
    D,
    ask,
    assert_same,
    batch_answer,
    built_of,
    feed,
    model,
    records,
    same_bits,
)


def shuffled(rng, count, window):
    """An order of arrival of rows at times 0, 1, 2, ... in which none comes more than `window` late."""
    return np.argsort(np.arange(count) + rng.uniform(0, window, count)).tolist()


class TestLate:
    def test_refused_by_name_and_nobody_moved(self):
        stream = model().stream(3)
        stream.observe([1.0, 2.0, 3.5], torch.ones(3, D))
        before = stream.state
        with pytest.raises(
            ValueError, match=r"stream 2: an observation at time 3.0 is before 3.5, the last observation"
        ):
            stream.observe(3.0, torch.ones(3, D))
        with pytest.raises(ValueError, match="stream 1: .* So it is with 1 streams more"):
            stream.observe([1.5, 3.0], torch.ones(2, D), series=[1, 2])
        assert same_bits(stream.state, before)
        stream.observe([4.0, 4.0, NAN], torch.ones(3, D))  # the remedy
        assert stream.last_time.tolist() == [4.0, 4.0, 3.5]

    def test_a_query_that_has_passed_is_refused(self):
        stream = model().stream(3)
        stream.observe([1.0, 2.0, 3.0], torch.ones(3, D))
        with pytest.raises(ValueError, match="stream 2: a query at time 2.5 is before 3.0, the last observation"):
            stream.predict([[2.5, 9.0]] * 3)
        assert torch.isfinite(stream.predict([2.5, 2.5, NAN]).mean).all()

    @pytest.mark.parametrize("case", CASES)
    def test_replay_gives_the_answer_of_the_right_order(self, case, monkeypatch):
        monkeypatch.setattr(kept, "FEWEST_KEPT", 8)  # rows are put away many times in this test
        built, static = built_of(case)
        rng, length, window = generator(f"late {case}"), 40, 6
        series = records(case, batch=3, longest=length, static=static)
        times = torch.arange(float(length), dtype=torch.float64).expand(3, length)
        series = TimeSeries(series.values, times, series.observed, torch.full((3,), length), series.static)
        stream = built.stream(3, static=series.static, late="replay", window=float(window))
        orders = [shuffled(rng, length, window) for _ in range(3)]
        assert any(order != sorted(order) for order in orders)
        for rows in zip(*orders, strict=True):
            at = torch.arange(3), torch.tensor(rows)
            stream.observe(series.times[at], series.values[at], series.observed[at])
        queries = torch.full((3, 1), length + 2.5, dtype=torch.float64)
        tolerance = 1e-9 if "ode" in case else 1e-11
        assert_same(ask(stream, queries), batch_answer(built, series, queries), tolerance)

    def test_only_the_window_is_kept(self, monkeypatch):
        monkeypatch.setattr(kept, "FEWEST_KEPT", 32)
        stream = model().stream(2, late="replay", window=10.0)
        rng, sizes = generator("window"), []
        for k in range(80):
            stream.observe([k + rng.uniform(-3, 0), k + 0.0], torch.ones(2, D))
            sizes.append(len(stream._replay.kept))
        assert max(sizes[40:]) <= 2 * (2 * 14) + 2

    def test_older_than_the_window_is_refused(self):
        stream = model().stream(2, late="replay", window=4.0)
        stream.observe([10.0, 20.0], torch.ones(2, D))
        stream.observe(16.0, torch.ones(D), series=1)  # the start of the window belongs to it
        before = stream.state
        with pytest.raises(
            ValueError, match=r"stream 1: an observation at time 15.5 is before 16.0, the start of its win"
        ):
            stream.observe(15.5, torch.ones(2, D))
        assert same_bits(stream.state, before) and len(stream._replay.kept) == 3

    def test_rows_of_one_time_are_read_as_they_came(self):
        built = model(layers=2)
        stream = built.stream(1, late="replay", window=5.0)
        values = torch.randn(4, D).double()
        for k, time in enumerate([1.0, 3.0, 1.0, 1.0]):
            stream.observe(time, values[k])
        order, times = [0, 2, 3, 1], torch.tensor([[1.0, 1.0, 1.0, 3.0]]).double()
        series = TimeSeries(values[order][None], times, torch.ones(1, 4, D) > 0, torch.tensor([4]))
        queries = torch.tensor([[4.0]]).double()
        assert_same(stream.predict(queries), batch_answer(built, series, queries))

    def test_a_question_about_the_window_knows_nothing_of_what_came_after(self):
        built, series = model(layers=2), records("past", batch=5)
        series = TimeSeries(series.values, series.times, series.observed, torch.full((5,), series.length))
        stream = built.stream(5, late="replay", window=1e3)
        feed(stream, series)
        rng = generator("asked")
        middle = torch.from_numpy(rng.uniform(0, 1, (5, 4))) * (series.times[:, -1:] - series.times[:, :1])
        queries = series.times[:, :1] + middle
        queries[2] = series.times[2, -1] + torch.arange(4)
        queries[3, 1:3] = torch.nan
        expected = batch_answer(built, series, queries)
        assert_same(stream.predict(queries), expected)
        some = torch.tensor([4, 2, 0])
        found = stream.predict(queries[some], series=some)
        assert (found.mean - expected.mean[some]).abs().max() <= 1e-11 * expected.mean.abs().max()
        with pytest.raises(ValueError, match="stream 0: a query at time .* the start of its window"):
            stream.predict(-2e3)

    def test_what_fails_on_the_way_changes_nothing(self, monkeypatch):
        stream = model().stream(2, late="replay", window=5.0)
        stream.observe(3.0, torch.ones(2, D))
        before, rows = stream.state, len(stream._replay.kept)
        stream._reader.run = lambda *given: (_ for _ in ()).throw(ValueError("grew without bound"))
        with pytest.raises(ValueError, match="without bound"):
            stream.observe([2.0, 4.0], torch.ones(2, D))
        assert same_bits(stream.state, before) and len(stream._replay.kept) == rows


class Ledger:
    """What a ward would write down: every row of every stream, from which the batch answer is made anew."""

    def __init__(self, batch):
        self.rows = [[] for _ in range(batch)]

    def add(self, stream, time, values, flags):
        self.rows[stream].append((time, values, flags))

    def last(self, stream):
        return max((row[0] for row in self.rows[stream]), default=-np.inf)

    def series(self):
        longest = max(map(len, self.rows))
        values, times = torch.zeros(len(self.rows), longest, D).double(), torch.zeros(len(self.rows), longest).double()
        observed = torch.zeros_like(values, dtype=torch.bool)
        for b, rows in enumerate(self.rows):
            for k, (time, seen, flags) in enumerate(sorted(rows, key=lambda row: row[0])):  # stable: as they came
                times[b, k], values[b, k], observed[b, k] = time, seen, flags
        return TimeSeries(values, times, observed, torch.tensor(list(map(len, self.rows))))


@pytest.mark.parametrize("seed", range(3))
def test_any_course_of_events_ends_in_the_batch_answer(seed, monkeypatch):
    """Some streams move, late or not, others wait, are reset, saved and restored; the ledger says what is right."""
    monkeypatch.setattr(kept, "FEWEST_KEPT", 8)
    rng, window, batch = generator("events", seed), 4.0, 5
    built = model(("classification", "forecasting")[seed % 2], layers=2, method=("zoh", "foh", "impulse")[seed])
    stream, ledger, clock = built.stream(batch, late="replay", window=window), Ledger(batch), 0.0
    for _ in range(40):
        clock += rng.exponential(0.5)
        moved = rng.permutation(batch)[: rng.integers(1, batch + 1)]
        earliest = np.array([max(ledger.last(b) - window, clock - 9) for b in moved])
        times = np.where(rng.random(len(moved)) < 0.3, earliest + rng.random(len(moved)) * (clock - earliest), clock)
        values, flags = rng.normal(size=(len(moved), D)), rng.random((len(moved), D)) < 0.6
        stream.observe(times, values, flags, series=moved)
        for row, b in enumerate(moved):
            if flags[row].any():
                ledger.add(b, times[row], torch.from_numpy(values[row]), torch.from_numpy(flags[row]))
        if rng.random() < 0.1:
            stream.reset(int(moved[0]))
            ledger.rows[moved[0]] = []
        if rng.random() < 0.2:
            stream = Stream.load(built, stream.save())
        if rng.random() < 0.3:
            queries = torch.full((batch, 1), clock + 1.0, dtype=torch.float64)
            assert_same(ask(stream, queries), batch_answer(built, ledger.series(), queries))


@pytest.mark.parametrize("policy", [{}, {"late": "replay", "window": 5.0}], ids=["refuse", "replay"])
@pytest.mark.parametrize("early", [3.0, -100.0])
def test_a_history_may_hold_early_rows_in_which_nothing_was_observed(policy, early):
    stream, expected = (model(layers=2).stream(2, **policy) for _ in range(2))
    times = torch.tensor([[early, 9.0, 9.5, 10.0], [8.5, 9.0, 11.0, 12.0]], dtype=torch.float64)
    values, seen = torch.randn(2, 4, D).double(), torch.ones(2, 4, D, dtype=torch.bool)
    seen[0, [0, 2]], seen[1, 3] = False, False
    values[~seen] = torch.nan
    for one in (stream, expected):
        one.observe(8.0, torch.ones(2, D))
    stream.extend(TimeSeries(values, times, seen, torch.tensor([4, 4])))
    for k in range(4):
        expected.observe(times[:, k], values[:, k])
    assert stream.last_time.tolist() == [10.0, 11.0]
    torch.testing.assert_close(stream.predict(13.0).mean, expected.predict(13.0).mean, rtol=1e-11, atol=1e-13)
    if policy:
        for one in (stream, expected):
            one.observe(8.7, torch.ones(2, D))
        torch.testing.assert_close(stream.predict(13.0).mean, expected.predict(13.0).mean, rtol=1e-11, atol=1e-13)
