"""Each objective hides exactly what it asks: against a plain loop over cells, and by what models answer."""

import math

import numpy as np
import pytest
import torch

from ctlssl.models import LSSLModel
from ctlssl.packed_series import PackedSeries
from ctlssl.pretraining import OBJECTIVES, ask
from ctlssl.series import TimeSeries
from ctlssl.training import predict
from tests.contracts import generator, same_bits
from tests.members import MEMBERS, PROBLEMS, STATIC


def ragged(rng, batch=12, longest=9, channels=3):
    """Series of 0 to 9 rows, some at one time, some with nothing observed; every observed value is unlike any other."""
    lengths = np.concatenate([[0, 1, 2, 3], rng.integers(0, longest + 1, batch - 4)])
    times = np.cumsum(rng.integers(0, 3, (batch, longest)) * 0.25, axis=1)  # ties in a third of the gaps
    observed = rng.random((batch, longest, channels)) < 0.6
    values = np.where(observed, rng.permutation(batch * longest * channels).reshape(observed.shape) + 1.0, np.nan)
    static = rng.standard_normal((batch, STATIC))
    return TimeSeries(*map(torch.from_numpy, (values, times, observed, lengths, static)))


def cells(series):
    """Of every series, its observed cells as a set of (time, channel, value)."""
    found = []
    for b in range(series.batch):
        found.append(set())
        for k in range(int(series.lengths[b])):
            for d in range(series.channels):
                if series.observed[b, k, d]:
                    found[-1].add((float(series.times[b, k]), d, float(series.values[b, k, d])))
    return found


def asked(examples):
    """Of every series, the cells that are asked, likewise."""
    found = []
    for b in range(len(examples)):
        found.append(set())
        for q in range(examples.query_times.shape[1]):
            wanted = examples.target_observed[b, q]
            assert bool(wanted.any()) == bool(torch.isfinite(examples.query_times[b, q]))
            for d in wanted.nonzero().flatten().tolist():
                found[-1].add((float(examples.query_times[b, q]), d, float(examples.targets[b, q, d])))
    return found


def draws(name, count=30):
    """Random series, and what is made of them."""
    rng = generator("objectives", name)
    for i in range(count):
        series = ragged(rng)
        yield series, ask(name, series, torch.Generator().manual_seed(i))


@pytest.mark.parametrize("name", ["forecasting", "interpolation", "infilling"])
def test_what_is_asked_is_what_is_hidden(name):
    for series, examples in draws(name):
        for whole, shown, hidden in zip(cells(series), cells(examples.series), asked(examples), strict=True):
            assert shown | hidden == whole and not shown & hidden
        kept = examples.series
        assert (
            torch.isnan(kept.values[~kept.observed]).all()
            and torch.isnan(examples.targets[~examples.target_observed]).all()
        )
        assert bool(kept.observed.any(-1)[kept.in_length].all())  # no row is left of what is hidden


def test_forecasts_are_of_all_that_is_later():
    asks = 0
    for series, examples in draws("forecasting"):
        for whole, shown, hidden in zip(cells(series), cells(examples.series), asked(examples), strict=True):
            times = {time for time, _, _ in whole}
            assert bool(hidden) == (len(times) > 1)
            if hidden:
                asks += 1
                assert max(time for time, _, _ in shown) < min(time for time, _, _ in hidden)
    assert asks > 100


@pytest.mark.parametrize("name", ["interpolation", "infilling"])
def test_hidden_values_lie_between_others(name):
    asks = 0
    for series, examples in draws(name):
        for whole, shown, hidden in zip(cells(series), cells(examples.series), asked(examples), strict=True):
            times = {time for time, _, _ in whole}
            assert bool(hidden) == (len(times) > 2)
            if hidden:
                asks += 1
                assert {min(times), max(times)} <= {time for time, _, _ in shown}
                assert all(min(times) < time < max(times) for time, _, _ in hidden)
    assert asks > 100


def test_interpolation_hides_whole_rows():
    for series, examples in draws("interpolation"):
        whole = cells(series)
        for b, hidden in enumerate(asked(examples)):
            for k in range(int(series.lengths[b])):
                row = {(float(series.times[b, k]), d, float(series.values[b, k, d])) for d in range(3)}
                row &= whole[b]
                assert row <= hidden or not row & hidden


def test_a_block_is_a_stretch_of_time_in_some_channels():
    partial = 0
    for _, examples in draws("infilling"):
        for shown, hidden in zip(cells(examples.series), asked(examples), strict=True):
            if not hidden:
                continue
            channels = {d for _, d, _ in hidden}
            first, last = min(time for time, _, _ in hidden), max(time for time, _, _ in hidden)
            assert not [cell for cell in shown if cell[1] in channels and first < cell[0] < last]
            partial += bool([cell for cell in shown if first <= cell[0] <= last])
    assert partial > 50


def test_copies_are_of_what_is_shown_and_still_stands():
    asks = 0
    for series, examples in draws("copying"):
        assert cells(examples.series) == cells(series)
        for b, (whole, copied) in enumerate(zip(cells(series), asked(examples), strict=True)):
            assert copied <= whole and bool(copied) == bool(whole)
            asks += len(copied)
            rows = [k for k in range(int(series.lengths[b])) if series.observed[b, k].any()]
            for time, d, value in copied:
                final = max(k for k in rows if float(series.times[b, k]) == time)
                assert float(series.values[b, final, d]) == value
    assert asks > 300


def test_the_wait_is_to_the_next_event():
    asks = 0
    for series, examples in draws("next_event"):
        assert examples.targets.shape == (12, 1, 1)
        for b, (whole, shown) in enumerate(zip(cells(series), cells(examples.series), strict=True)):
            times = sorted({time for time, _, _ in whole})
            assert bool(examples.target_observed[b]) == (len(times) > 1)
            if len(times) > 1:
                asks += 1
                at = float(examples.query_times[b, 0])
                assert shown == {cell for cell in whole if cell[0] <= at} and at in times[:-1]
                wait = min(time for time in times if time > at) - at
                assert float(examples.targets[b, 0, 0]) == pytest.approx(math.log(wait), rel=1e-12, abs=1e-12)
    assert asks > 100


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_same_seed_asks_the_same(name):
    series = ragged(generator("seeds", name), batch=40)
    parts = []
    for seed in (3, 3, 4):
        examples = ask(name, series, torch.Generator().manual_seed(seed))
        parts.append((examples.series.times, examples.query_times, examples.targets))
    assert all(same_bits(ours, theirs) for ours, theirs in zip(parts[0], parts[1], strict=True))
    shapes = [part.shape for part in parts[0]] == [part.shape for part in parts[2]]
    assert not (shapes and all(same_bits(*pair) for pair in zip(parts[0], parts[2], strict=True)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_series_of_no_rows_are_not_asked(name):
    rng = generator("empty", name)
    for series in (ragged(rng).select([0]), ragged(rng).select([0, 0])):
        assert series.length == 0
        examples = ask(name, series, torch.Generator().manual_seed(0))
        assert not examples.target_observed.any() and not torch.isfinite(examples.query_times).any()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["forecasting", "interpolation", "infilling", "next_event"])
def test_hidden_values_change_no_bit_of_an_answer(name, bidirectional):
    series = ragged(generator("hidden", name), batch=20)
    torch.manual_seed(0)
    model = LSSLModel(PROBLEMS["forecasting"], width=8, bidirectional=bidirectional)
    first = ask(name, series, torch.Generator().manual_seed(1))
    if name == "next_event":  # what comes after the query
        after = series.times > torch.nan_to_num(first.query_times, nan=math.inf)
        hidden = series.observed & after.unsqueeze(-1)
    else:
        values = {value for part in asked(first) for _, _, value in part}
        hidden = torch.tensor([float(value) in values for value in series.values.flatten()]).view(series.values.shape)
    assert hidden.any()
    other = TimeSeries(
        values=torch.where(hidden, -1e3 * series.values, series.values),
        times=series.times,
        observed=series.observed,
        lengths=series.lengths,
        static=series.static,
    )
    second = ask(name, other, torch.Generator().manual_seed(1))
    if name != "next_event":
        assert not same_bits(first.targets, second.targets)
    ours, theirs = (predict(model, examples) for examples in (first, second))
    assert same_bits(ours.mean, theirs.mean) and same_bits(ours.scale, theirs.scale)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("member", ["lssl", "gru", "ode_rnn", "neural_cde"])
def test_every_member_answers_every_objective(member, name):
    examples = ask(name, ragged(generator("members", name)), torch.Generator().manual_seed(0))
    answer = predict(MEMBERS[member].model("forecasting", torch.float64), examples)
    assert torch.isfinite(answer.mean).all() and (answer.scale > 0).all()


def test_doors():
    series = ragged(generator("doors"))
    with pytest.raises(ValueError, match="objective 'forecast' is unknown; choose from forecasting"):
        ask("forecast", series, torch.Generator())
    with pytest.raises(TypeError, match="PackedSeries; pass its to_series"):
        ask("forecasting", PackedSeries.from_series(series), torch.Generator())
