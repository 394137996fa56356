"""Batches of which rows are left out: what stays, what is still asked, and fits that go on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctlssl.examples import Examples
from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries
from ctlssl.training import Checkpoints, Training, fit
from ctlssl.training.thinning import thinned
from tests.test_checkpoints import SETTINGS, Crash, build, crashing_after, examples, outcome, untouched


def asked_at_every_row(series=400, rows=30, seed=0):
    """Series of up to so many rows, whose values tell where they came from, with a query just after each row."""
    print(f"seed {seed}")
    draw = torch.Generator().manual_seed(seed)
    times = torch.rand(series, rows, generator=draw, dtype=torch.float64).cumsum(1)
    lengths = torch.randint(0, rows + 1, (series,), generator=draw)
    values = torch.arange(series * rows, dtype=torch.float32).view(series, rows, 1)
    given = TimeSeries(values, times, torch.ones(series, rows, 1, dtype=torch.bool), lengths)
    queries = torch.where(given.in_length, times + 1e-3, torch.nan)
    queries[:, :1] -= 1.0  # one before all rows
    return Examples(
        given,
        np.arange(series),
        query_times=queries,
        targets=values,
        target_observed=given.in_length.unsqueeze(-1),
    )


def test_rows_stay_as_they_are_and_the_first_questions_go():
    before = asked_at_every_row()
    after = thinned(before, 0.8, np.random.default_rng(1))
    for b, length in enumerate(before.series.lengths.tolist()):
        rows = after.series.values[b, : after.series.lengths[b], 0] - 30 * b
        kept = rows.long().tolist()
        assert kept == sorted(set(kept)) and (len(kept) > 0) == (length > 0) and all(k < length for k in kept)
        assert torch.equal(after.series.times[b, : len(kept)], before.series.times[b, kept])
        for q in range(30):
            there = q < length and (q == 0 or q >= kept[0])
            assert bool(after.query_times[b, q].isnan()) != there
            assert bool(after.target_observed[b, q]) == there
            assert not there or after.query_times[b, q] == before.query_times[b, q]


def test_shares_are_spread_evenly():
    """Of many long series: left out between 0 and the largest share, a half of it on average, each as likely."""
    series, rows = 2000, 200
    times = torch.arange(float(rows)).expand(series, rows)
    seen = torch.ones(series, rows, 1, dtype=torch.bool)
    given = Examples(TimeSeries(seen.float(), times, seen, torch.full((series,), rows)), np.arange(series))
    left_out = 1 - thinned(given, 0.6, np.random.default_rng(2)).series.lengths.numpy() / rows
    assert abs(left_out.mean() - 0.3) < 0.01
    assert abs(np.quantile(left_out, 0.25) - 0.15) < 0.02 and abs(np.quantile(left_out, 0.75) - 0.45) < 0.02
    assert left_out.max() < 0.75


def test_labels_at_queries_go_with_them():
    given = asked_at_every_row(series=50)
    labels = torch.where(given.series.in_length, 1, -1)
    after = thinned(replace(given, targets=labels, target_observed=None), 0.8, np.random.default_rng(3))
    assert torch.equal(after.targets >= 0, ~after.query_times.isnan())


def test_packed_series_lose_the_same_rows():
    given = asked_at_every_row(series=20)
    padded = thinned(given, 0.5, np.random.default_rng(4))
    packed = thinned(replace(given, series=PackedSeries.from_series(given.series)), 0.5, np.random.default_rng(4))
    wanted = PackedSeries.from_series(padded.series)
    for name in ("values", "times", "observed", "lengths"):
        assert torch.equal(getattr(packed.series, name), getattr(wanted, name))
    assert torch.equal(packed.query_times.nan_to_num(), padded.query_times.nan_to_num())


def test_nothing_is_drawn_for_a_share_of_0():
    given = asked_at_every_row(series=3)
    assert thinned(given, 0.0, np.random.default_rng(5)) is given
    assert untouched(training=replace(SETTINGS, thin=0.0)) == untouched()


@pytest.mark.parametrize("kind", ["classification", "forecasting"])
def test_a_fit_goes_on_with_the_same_rows(tmp_path, kind):
    """From a checkpoint after any of its steps; and a pass does not leave out what the one before did."""
    thin = replace(SETTINGS, thin=0.6)
    expected, data = untouched(kind=kind, training=thin), examples(kind)
    assert expected != untouched(kind=kind)
    for writes in (2, 3, 6, 9):
        folder = tmp_path / str(writes)
        with pytest.raises(Crash):
            fit(build(kind=kind), data, data, thin, checkpoints=crashing_after(writes)(folder))
        model = build(kind=kind)
        assert outcome(model, fit(model, data, data, thin, checkpoints=Checkpoints(folder))) == expected
    with pytest.raises(ValueError, match="training.thin"):
        fit(build(kind=kind), data, data, SETTINGS, checkpoints=Checkpoints(folder))


def test_every_step_leaves_out_other_rows():
    """One series, one batch a pass: lengths met in training differ, those in validation do not."""
    met = {True: [], False: []}
    model, data = build(dropout=0.0), examples().select([0])
    model.register_forward_pre_hook(lambda module, given: met[module.training].append(int(given[0].lengths[0])))
    fit(model, data, data, Training(epochs=12, patience=12, thin=0.9))
    whole = int(data.series.lengths[0])
    assert set(met[False]) == {whole} and len(set(met[True])) > 1 and max(met[True]) <= whole
