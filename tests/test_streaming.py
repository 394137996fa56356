"""Streams: the batch answer from rows that come one at a time, for some of many series or all."""

import numpy as np
import pytest
import torch

from ctlssl import TimeSeries
from ctlssl.streaming import kept
from examples import streaming
from tests.contracts import generator
from tests.streaming_cases import (
    CASES,
    MODELS,
    NAN,
    D,
    S,
    ask,
    assert_same,
    batch_answer,
    built_of,
    ends,
    feed,
    held_bytes,
    model,
    records,
    same_bits,
)


@pytest.mark.parametrize("case", MODELS)
def test_a_stream_gives_the_batch_answer(case, policy=None):
    built, static = built_of(case)
    series = records(case, static=static)
    rate = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64)
    stream = built.stream(4, rate=rate, static=series.static, **(policy or {}))
    feed(stream, series)
    queries = ends(series)
    expected = batch_answer(built, series, queries, rate)
    assert_same(ask(stream, queries), expected, 1e-9 if "ode" in case else 1e-11)
    assert ask(stream, queries).state is None


@pytest.mark.parametrize("case", CASES)
def test_a_stream_with_a_window_gives_the_batch_answer(case):
    test_a_stream_gives_the_batch_answer(case, {"late": "replay", "window": 5.0})


def test_a_prediction_is_there_after_every_row():
    built, series = model(), records("every row")
    stream = built.stream(4)
    for k in range(series.length):
        so_far = TimeSeries(series.values, series.times, series.observed, series.lengths.clamp(max=k))
        queries = torch.where(so_far.in_length, so_far.times, -60.0).amax(1, keepdim=True) + 0.7
        assert_same(stream.predict(queries), batch_answer(built, so_far, queries))
        feed(stream, series, [k])


def test_a_forecast_has_the_shape_of_its_times():
    stream = model().stream(4)
    stream.observe(1.0, torch.ones(4, D))
    one, each, several = stream.predict(2.0), stream.predict([2.0] * 4), stream.predict([[2.0, NAN]] * 4)
    assert one.mean.shape == one.scale.shape == each.mean.shape == (4, D)
    assert several.mean.shape == (4, 2, D)
    assert_same(one, each, 0.0)
    assert torch.equal(one.mean, several.mean[:, 0])
    assert torch.equal(several.mean[:, 1], torch.zeros(4, D)) and torch.equal(several.scale[:, 1], torch.ones(4, D))
    assert stream.predict(torch.empty(4, 0)).mean.shape == (4, 0, D)
    assert stream.predict(2.0, series=[3, 1]).mean.shape == (2, D)


def test_before_the_first_row_the_answer_is_that_of_an_empty_series():
    empty = TimeSeries(
        torch.zeros(2, 0, D).double(), torch.zeros(2, 0), torch.zeros(2, 0, D) > 0, torch.zeros(2).long()
    )
    for kind in ("forecasting", "classification"):
        built = model(kind)
        stream = built.stream(2)
        assert torch.isnan(stream.last_time).all()
        assert_same(ask(stream, torch.ones(2, 1).double()), batch_answer(built, empty, torch.ones(2, 1).double()))


class TestSomeOfMany:
    def test_some_streams_move_and_no_bit_of_the_others_does(self):
        built, stream = model(), model().stream(6)
        stream.observe(torch.arange(6.0), torch.randn(6, D))
        before = stream.state
        stream.observe([7.0, 9.0], torch.randn(2, D), series=[4, 1])
        after, others = stream.state, [0, 2, 3, 5]
        assert same_bits(after.select(others), before.select(others))
        assert after.seen.time.tolist() == [0.0, 9.0, 2.0, 3.0, 7.0, 5.0]
        assert built.problem == stream.model.problem

    @pytest.mark.parametrize("policy", [{}, {"late": "replay", "window": 5.0}], ids=["refuse", "replay"])
    def test_it_does_not_matter_who_moves_together(self, policy):
        built, series = model(layers=2), records("together")
        alone, by_numbers, by_flags = (built.stream(4, **policy) for _ in range(3))
        rng = generator("who")
        feed(alone, series)
        for k in range(series.length):
            inside = series.in_length[:, k]
            for group in np.array_split(rng.permutation(inside.nonzero()[:, 0].numpy()), 2):
                by_numbers.observe(series.times[group, k], series.values[group, k], series.observed[group, k], group)
            for flags in (inside & (torch.arange(4) < 2), inside & (torch.arange(4) >= 2)):
                by_flags.observe(series.times[flags, k], series.values[flags, k], series.observed[flags, k], flags)
        queries = ends(series)
        for stream in (by_numbers, by_flags):
            assert_same(stream.predict(queries), alone.predict(queries), 1e-13)

    def test_one_stream_takes_one_row_without_an_axis(self):
        single, several = model().stream(), model().stream(3)
        single.observe(1.0, [1.0, NAN, 2.0])
        several.observe(1.0, [1.0, NAN, 2.0], series=2)
        assert_same(single.predict(4.0), several.predict(4.0, series=2), 1e-13)
        assert several.last_time.isnan().tolist() == [True, True, False]

    def test_a_row_with_nothing_in_it_is_no_row(self):
        stream = model().stream(2)
        stream.observe(1.0, torch.ones(2, D))
        before = stream.state
        stream.observe(9.0, torch.full((2, D), NAN))
        stream.observe(0.5, torch.ones(2, D), torch.zeros(2, D, dtype=torch.bool))  # not late either
        stream.observe([NAN, NAN], torch.ones(2, D))
        stream.observe([], torch.ones(0, D), series=[])
        assert same_bits(stream.state, before)

    def test_what_was_not_observed_is_never_read(self):
        one, other = model().stream(2), model().stream(2)
        flags = torch.tensor([[True, False, True], [False, True, False]])
        values = torch.randn(2, D)
        one.observe(1.0, values, flags)
        other.observe(1.0, torch.where(flags, values, torch.tensor([NAN, torch.inf, 1e30])), flags)
        assert same_bits(one.state, other.state)

    def test_reset_starts_a_series_anew(self):
        for policy in ({}, {"late": "replay", "window": 5.0}):
            built, series = model(static=S), records("reset", batch=3, static=S)
            stream, fresh = (built.stream(3, static=series.static, **policy) for _ in range(2))
            feed(stream, series)
            rest = stream.state.select([0, 2])
            stream.reset(1, static=series.static[1])
            assert same_bits(stream.state.select([1]), fresh.state.select([1]))
            assert same_bits(stream.state.select([0, 2]), rest)
            stream.observe(-999.0, torch.ones(1, D), series=1)
            fresh.observe(-999.0, torch.ones(1, D), series=1)
            assert_same(stream.predict(0.0, series=1), fresh.predict(0.0, series=1), 0.0)
            stream.reset(static=series.static)
            assert stream.last_time.isnan().all()


class TestManyRowsAtOnce:
    @pytest.mark.parametrize("policy", [{}, {"late": "replay", "window": 5.0}], ids=["refuse", "replay"])
    def test_a_history_is_many_rows(self, policy):
        built, series = model("classification", static=S, layers=2), records("history", static=S)
        stream, single = (built.stream(4, static=series.static, **policy) for _ in range(2))
        feed(single, series)
        stream.extend(series.select([0, 2, 3]), series=[0, 2, 3])
        stream.extend(series.select([1]), series=1)
        assert_same(stream.predict(), single.predict())
        later = TimeSeries(series.values, series.times + 1e3, series.observed, series.lengths)
        stream.extend(later)
        feed(single, later)
        assert_same(stream.predict(), single.predict())

    def test_a_late_history_is_replayed(self):
        built = model(layers=2)
        times = torch.arange(12.0).double().expand(2, 12)
        series = TimeSeries(torch.randn(2, 12, D).double(), times, torch.ones(2, 12, D) > 0, torch.tensor([12, 12]))
        stream = built.stream(2, late="replay", window=20.0)
        odd, even = slice(1, None, 2), slice(0, None, 2)
        for part in (odd, even):
            cut = [part_of[:, part] for part_of in (series.values, series.times, series.observed)]
            stream.extend(TimeSeries(*cut, torch.tensor([6, 6])))
        queries = torch.full((2, 1), 13.0, dtype=torch.float64)
        assert_same(stream.predict(queries), batch_answer(built, series, queries))

    def test_a_history_of_others_is_refused(self):
        series = records("others", static=S)
        stream = model(static=S).stream(4, static=series.static)
        with pytest.raises(ValueError, match="rows hold 2 series of 3 channels; give 4 of 3"):
            stream.extend(series.select([0, 1]))
        with pytest.raises(ValueError, match="static covariates that are not those of the streams"):
            stream.extend(series.select([1, 0, 2, 3]))


class TestTheModelIsLeftAlone:
    def test_dropout_is_off_and_the_mode_is_kept(self):
        built = model(dropout=0.9)
        built.train()
        built.head.eval()
        modes = [module.training for module in built.modules()]
        stream = built.stream(2)
        stream.observe(1.0, torch.ones(2, D))
        first, second = stream.predict(2.0), stream.predict(2.0)
        assert torch.equal(first.mean, second.mean) and not first.mean.requires_grad
        assert [module.training for module in built.modules()] == modes

    def test_memory_of_the_caller_is_not_shared(self):
        stream, times = model().stream(2), torch.tensor([1.0, 2.0], dtype=torch.float64)
        values, flags = torch.randn(2, D).double(), torch.ones(2, D) > 0
        static = torch.zeros(2, S).double()
        stream.observe(times, values, flags)
        other = model(static=S).stream(2, static=static)
        before = [stream.state, other._reader.static.clone()]
        for tensor in (times, values, static):
            tensor.fill_(99.0)
        flags.fill_(False)
        assert same_bits(stream.state, before[0]) and torch.equal(other._reader.static, before[1])
        stream.state.seen.time.fill_(7.0)
        assert stream.last_time.tolist() == [1.0, 2.0]

    def test_single_precision_is_close_to_double(self):
        series = records("float32")
        double, single = model(), model(dtype=torch.float32)
        double.load_state_dict({name: weight.double() for name, weight in single.state_dict().items()})
        stream = single.stream(4)
        feed(stream, series)
        assert_same(stream.predict(ends(series)), batch_answer(double, series, ends(series)), 1e-4)


@pytest.mark.parametrize("policy", [{}, {"late": "replay", "window": 5.0}], ids=["refuse", "replay"])
def test_memory_does_not_grow(policy, monkeypatch):
    monkeypatch.setattr(kept, "FEWEST_KEPT", 16)
    stream, sizes = model("classification", layers=2).stream(3, **policy), []
    for k in range(40):
        stream.observe(float(k), torch.ones(3, D))
        stream.observe(k + 0.5, torch.ones(1, D), series=[k % 3])
        rows = torch.arange(100.0).double().expand(3, 100) * 0.004 + k + 0.5
        if k % 20 == 10:
            stream.extend(TimeSeries(torch.ones(3, 100, D), rows, torch.ones(3, 100, D) > 0, torch.full((3,), 100)))
        sizes.append(held_bytes(stream))
    assert sizes[-1] <= max(sizes[:30])


def test_the_example():
    found = streaming.main(epochs=1)
    assert found["difference"] < 1e-4 and found["late"] > 10 and found["restored"] == 1
