"""Laws of sampling: which rows are kept, what the clock says of them, and what would mend it."""

import numpy as np
import pytest
import torch

from ctlssl import synthetic
from ctlssl.examples import Examples
from ctlssl.packed_series import PackedSeries
from ctlssl.sampling import CHANGES, RATES, change_sampling, jitter, keep_rows, stretch
from ctlssl.series import TimeSeries
from ctlssl.tasks import prepare
from tests.contracts import generator


def examples(lengths, queries=None, static=None):
    """Series whose values are 100 times the number of the series plus the row, at the squares of 1, 2, ..."""
    longest = max(lengths)
    times = torch.arange(1, longest + 1, dtype=torch.float64).square().repeat(len(lengths), 1)
    values = 100.0 * torch.arange(len(lengths))[:, None, None] + torch.arange(longest)[None, :, None]
    observed = torch.ones_like(values, dtype=torch.bool)
    observed[:, 1::3] = False
    series = TimeSeries(values, times, observed, torch.tensor(lengths), static)
    asked = None if queries is None else torch.tensor(queries, dtype=torch.float64)
    return Examples(series, np.arange(len(lengths)), torch.zeros(len(lengths), dtype=torch.int64), asked)


def rows(series):
    """Of each series its rows as (time, value, whether observed)."""
    series = series.to_series() if isinstance(series, PackedSeries) else series
    parts = series.times, series.values[..., 0], series.observed[..., 0]
    return [
        list(zip(*(part[b, :length].tolist() for part in parts), strict=True))
        for b, length in enumerate(series.lengths.tolist())
    ]


LENGTHS = [17, 1, 0, 40, 8]


class TestRows:
    def test_kept_rows_by_hand(self):
        given = examples([3, 0, 2, 1], static=torch.ones(4, 2)).series
        keep = torch.tensor([[True, False, True], [True, True, True], [False, False, True], [True, True, True]])
        found = keep_rows(given, keep)
        before = rows(given)
        assert rows(found) == [[before[0][0], before[0][2]], [], [before[2][0]], before[3]]
        assert found.length == 2 and found.static is given.static

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("change", RATES)
    def test_a_rate_is_every_so_manyth_row(self, change, packed):
        given = examples(LENGTHS)
        expected = [own[:: round(8 / RATES[change])] for own in rows(given.series)]
        if packed:
            given = Examples(PackedSeries.from_series(given.series), given.ids, given.labels)
        found = change_sampling(given, change, base=8)
        assert rows(found.examples.series) == expected and (found.rate == 1).all()
        assert isinstance(found.examples.series, PackedSeries) == packed
        assert found.examples.labels is given.labels

    @pytest.mark.parametrize(("change", "share"), [("drop30", 0.7), ("drop50", 0.5), ("drop70", 0.3), ("bursts", 0.5)])
    def test_the_share_that_stays(self, change, share):
        given = examples([2000] * 50)
        found = change_sampling(given, change, seed=3)
        lengths = found.examples.series.lengths.double() / 2000
        # runs of mean length 8 make neighbours alike: the variance of a share is 8 times larger than without
        error = np.sqrt(share * (1 - share) * (8 if change == "bursts" else 1) / 2000)
        assert abs(lengths.mean() - share) < 4 * error / np.sqrt(50) and 0.5 * error < lengths.std() < 1.5 * error
        pairs = zip(rows(found.examples.series), rows(given.series), strict=True)
        assert all(set(own) <= set(before) for own, before in pairs)
        assert (found.rate == 1).all()

    def test_bursts_are_runs_of_eight(self):
        found = change_sampling(examples([4000] * 20), "bursts", seed=1).examples.series
        kept = torch.sqrt(found.times[:, : int(found.lengths.min())]).round()  # (B, l), numbers of rows
        ends = (kept.diff(dim=1) > 1).double().mean()
        assert 1 / ends == pytest.approx(8, rel=0.06)
        independent = change_sampling(examples([4000] * 20), "drop50", seed=1).examples.series
        kept = torch.sqrt(independent.times[:, : int(independent.lengths.min())]).round()
        assert 1 / (kept.diff(dim=1) > 1).double().mean() == pytest.approx(2, rel=0.06)

    def test_seeds(self):
        given = examples([30] * 4)
        for change in ("drop50", "bursts", "jitter", "drift"):
            first, again, other = (change_sampling(given, change, seed).examples.series for seed in (1, 1, 2))
            assert rows(first) == rows(again) != rows(other)


class TestClocks:
    def test_jitter_moves_inner_stamps_and_keeps_the_order_of_the_rows(self):
        draw = generator("jitter")
        times = np.cumsum(draw.exponential(size=(1, 20_000)), axis=1)
        values = torch.arange(20_000.0).view(1, -1, 1)
        observed = torch.ones_like(values, dtype=torch.bool)
        given = TimeSeries(values, torch.from_numpy(times), observed, torch.tensor([20_000]))
        small, large = jitter(given, 1e-3, seed=5), jitter(given, 0.5, seed=5)
        moved = (small.times - given.times)[0, 1:-1] / given.times.diff(dim=1).mean()
        assert moved.std() == pytest.approx(1e-3, rel=0.03) and abs(moved.mean()) < 3e-5
        for told in (small, large):
            assert torch.equal(told.values, given.values) and (told.times.diff(dim=1) >= 0).all()
            assert told.times[0, 0] == given.times[0, 0] and told.times[0, -1] == given.times[0, -1]

    def test_a_stretched_clock_by_hand(self):
        given = examples([3, 0, 1], queries=[[0.0, 20.0], [2.0, float("nan")], [1.0, 3.0]])
        found = stretch(given, torch.tensor([2.0, 3.0, 5.0]))
        assert found.series.times[0].tolist() == [1.0, 7.0, 17.0] and found.series.times[2, 0] == 1.0
        assert found.query_times[0].tolist() == [-1.0, 39.0]
        assert found.query_times[1, 0] == 6.0 and found.query_times[1, 1].isnan()
        assert found.query_times[2].tolist() == [1.0, 11.0]

    @pytest.mark.parametrize("change", ["drift", "unit60", "unit1/60"])
    def test_the_rate_mends_the_clock(self, change):
        given = examples([30, 2, 1, 0] * 50)
        found = change_sampling(given, change, seed=7)
        mended = stretch(found.examples, found.rate).series
        torch.testing.assert_close(mended.times, given.series.times, rtol=1e-12, atol=1e-12)
        told = found.examples.series.times[:, 1] - found.examples.series.times[:, 0]
        if change == "drift":
            factors = (told / 3.0).log()
            assert factors.std() == pytest.approx(0.3, rel=0.2) and abs(factors.mean()) < 0.1
        else:
            torch.testing.assert_close(told, torch.full_like(told, 3.0 * {"unit60": 60, "unit1/60": 1 / 60}[change]))

    def test_nothing_but_rows_and_times_is_changed(self):
        part = prepare("spirals/forecast", 1, synthetic.spirals.generate(series=20)).test
        kept = part.series.times.clone(), part.query_times.clone()
        for change in CHANGES:
            if RATES.get(change, 1.0) <= 1:
                found = change_sampling(part, change, seed=2).examples
                assert torch.equal(found.targets.nan_to_num(), part.targets.nan_to_num())
                assert (found.series.lengths > 0).all() and found.series.lengths.le(part.series.lengths).all()
                last = found.series.times.masked_fill(~found.series.in_length, -torch.inf).amax(1, keepdim=True)
                assert ((found.query_times > last) | found.query_times.isnan()).all(), change
        assert torch.equal(part.series.times, kept[0])
        assert torch.equal(part.query_times.nan_to_num(), kept[1].nan_to_num())


def test_what_does_not_exist():
    with pytest.raises(ValueError, match="change 'x3' is unknown; it is one of x8, x4"):
        change_sampling(examples([2]), "x3")
    with pytest.raises(ValueError, match="x4 of every 2th row is no whole number of rows"):
        change_sampling(examples([2]), "x4", base=2)
