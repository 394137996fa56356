"""Forecasts and filled gaps: against the law that made the data, and intervals that hold in every bin of gaps."""

import numpy as np
import pytest

import ctlssl
from ctlssl.estimators.cutting import cut_records
from ctlssl.estimators.intervals import GapConformal
from ctlssl.schema import channels, select_series
from ctlssl.tables import from_arrays


def walks(series, seed, rows=30, rate=0.7):
    """Ornstein-Uhlenbeck records: x' = -rate x + noise of stationary variance 1, at irregular times."""
    draw = np.random.default_rng(seed)
    times, values = [], []
    for _ in range(series):
        t = np.cumsum(draw.exponential(0.5, rows))
        x = [draw.normal()]
        for gap in np.diff(t):
            keep = np.exp(-rate * gap)
            x.append(keep * x[-1] + np.sqrt(1 - keep**2) * draw.normal())
        times.append(t)
        values.append(50 + 10 * np.array(x))
    return from_arrays(times, values, variables=["level"], unit="h")


@pytest.fixture(scope="module")
def forecaster():
    return ctlssl.LSSLForecaster(width=16, ahead=3.0, epochs=25, bins=4).fit(walks(400, 0))


class TestForecasts:
    def test_they_are_near_the_best_there_are(self, forecaster):
        ds = walks(300, 1)
        ahead = np.array([0.25, 1.0, 3.0])
        found = forecaster.predict_interval(ds, ahead, coverage=0.9)
        last = ds["level"].values[np.cumsum(ds["row_size"].values) - 1]
        keep = np.exp(-0.7 * ahead)
        best = 50 + keep * (last[:, None] - 50)  # (B, Q)
        off = (found["mean"].values[..., 0] - best) / 10
        assert np.sqrt((off**2).mean(0)).max() < 0.2
        width = (found["high"] - found["low"]).values[..., 0].mean(0) / 10
        exact = 2 * 1.645 * np.sqrt(1 - keep**2)
        assert (np.diff(width) > 0).all()
        np.testing.assert_allclose(width, exact, rtol=0.2)
        np.testing.assert_array_equal(
            found["time"].values[:, 0], ds["time"].values[np.cumsum(ds["row_size"]) - 1] + 0.25
        )

    def test_intervals_cover_in_every_bin_of_gaps(self, forecaster):
        table = forecaster.coverage(walks(400, 2), coverage=0.9)
        assert len(table) == 4 and table["longest_gap"].is_monotonic_increasing
        # targets of a record hang together; three of them count as one at least
        spread = 3 * np.sqrt(0.9 * 0.1 / (table["targets"] / 3))
        assert ((table["coverage"] - 0.9).abs() <= np.maximum(0.02, spread)).all(), table
        assert table["crps"].is_monotonic_increasing and table["width"].is_monotonic_increasing

    def test_score_is_the_share_of_the_variance(self, forecaster):
        assert 0.2 < forecaster.score(walks(200, 3)) < 0.8

    def test_it_is_kept(self, forecaster, tmp_path):
        forecaster.save(tmp_path / "f")
        again = ctlssl.LSSLForecaster.load(tmp_path / "f")
        ds = walks(5, 4)
        assert again.predict_interval(ds, [1.0]).equals(forecaster.predict_interval(ds, [1.0]))

    def test_what_is_refused(self, forecaster):
        ds = walks(5, 5)
        for at in ([], [-1.0], [np.nan], 3.0):
            with pytest.raises(ValueError, match="times after the last row"):
                forecaster.predict(ds, at)
        with pytest.raises(ValueError, match="known names dose"):
            ctlssl.LSSLForecaster(known=("dose",)).fit(ds)
        with pytest.raises(ValueError, match="no record has a value within"):
            ctlssl.LSSLForecaster().fit(from_arrays([[0.0], [1.0]], [[1.0], [2.0]]))
        with pytest.raises(ValueError, match="needs 99999 calibrated forecasts"):
            forecaster.predict_interval(ds, [1.0], coverage=0.99999)
        plain = ctlssl.LSSLForecaster(epochs=1, calibration=0.0).fit(walks(20, 6))
        with pytest.raises(ValueError, match="calibration was 0"):
            plain.predict_interval(ds, [1.0])


class TestWhatIsShown:
    def test_a_record_cut_by_hand(self):
        ds = from_arrays(
            [[0.0, 1.0, 2.0, 3.0, 9.0]],
            [[[1.0, np.nan], [np.nan, 5.0], [2.0, np.nan], [3.0, 6.0], [4.0, np.nan]]],
            variables=["level", "dose"],
        )
        examples = cut_records(ds, ("level", "dose"), ("dose",), 4.0, 10, np.random.RandomState(0))
        seen = [
            [(t, *row.tolist()) for t, row in zip(e.series.times[0].tolist(), e.series.values[0], strict=True)]
            for e in (examples.select([k]) for k in range(len(examples)))
        ]
        # cuts at 0, 2 (rows with a level that are not the last); after 3 nothing comes within 4
        assert [len(rows) for rows in seen] == [3, 4]
        assert [row[0] for row in seen[0]] == [0.0, 1.0, 3.0]
        assert examples.series.observed[0].tolist()[:3] == [[True, False], [False, True], [False, True]]
        asked = [e[~e.isnan()].tolist() for e in examples.query_times]
        assert asked == [[2.0, 3.0], [3.0]]
        assert examples.target_observed[0].tolist() == [[True, False], [True, False]]

    def test_doses_that_are_planned_are_read(self):
        draw = np.random.default_rng(9)
        dose = draw.choice([0.0, 4.0], 200)
        times = [np.array([0.0, 1.0, 2.0])] * 200
        start = draw.normal(2.0, 2.0, 200)
        values = [
            np.array([[s, np.nan], [np.nan, d], [d + draw.normal(0, 0.1), np.nan]])
            for s, d in zip(start, dose, strict=True)
        ]
        ds = from_arrays(times, values, variables=["level", "dose"])
        forecaster = ctlssl.LSSLForecaster(width=16, ahead=3.0, known=("dose",), calibration=0.0, learning_rate=0.01)
        forecaster.fit(select_series(ds, slice(0, 150)))
        new = select_series(ds, slice(150, 200))
        new["level"][2::3] = np.nan  # what is to be forecast
        found = forecaster.predict(new, [2.0]).sel(variable="level").values[:, 0]
        assert np.corrcoef(found, dose[150:])[0, 1] > 0.95


class TestIntervals:
    def test_ranks_by_hand(self):
        deviations, gaps = np.array([3.0, 1.0, 2.0, 9.0, 8.0, 7.0]), np.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0])
        found = GapConformal.fit(deviations, gaps, bins=2)
        assert [part.tolist() for part in found.deviations] == [[1.0, 2.0, 3.0], [7.0, 8.0, 9.0]]
        # ceil(4 * .5) = 2, ceil(4 * .75) = 3
        np.testing.assert_array_equal(found.factor(np.array([0.0, 1.0, 9.0]), 0.5), [2.0, 2.0, 8.0])
        np.testing.assert_array_equal(found.factor(np.array([1.0, 5.0]), 0.75), [3.0, 9.0])
        with pytest.raises(ValueError, match="needs 4 calibrated"):
            found.factor(np.array([1.0]), 0.8)
        for wrong in (0.0, 1.0):
            with pytest.raises(ValueError, match="coverage is"):
                found.factor(np.array([1.0]), wrong)
        with pytest.raises(ValueError, match="nothing|no forecast"):
            GapConformal.fit(np.empty(0), np.empty(0), 2)

    def test_equal_gaps_are_one_bin(self):
        assert len(GapConformal.fit(np.arange(10.0), np.ones(10), bins=4).deviations) == 1


class TestImputer:
    def test_it_fills_between_as_the_law_of_the_data_says(self):
        ds, new = walks(300, 10), walks(100, 11)
        imputer = ctlssl.LSSLImputer(width=16, epochs=25).fit(ds)
        draw = np.random.default_rng(12)
        hidden = draw.random(new.sizes["obs"]) < 0.3
        holes = new.copy(deep=True)
        holes["level"][hidden] = np.nan
        filled = imputer.transform(holes)
        np.testing.assert_array_equal(filled["level"].values[~hidden], new["level"].values[~hidden])
        error = (filled["level"] - new["level"]).values[hidden] / 10
        carried = last_seen(holes)[hidden]
        behind = (carried - new["level"].values[hidden]) / 10
        assert np.sqrt((error**2).mean()) < 0.8 * np.sqrt(np.nanmean(behind**2))
        assert imputer.score(new) > 0.4

    def test_channels_that_were_lacking_are_added(self):
        ds = from_arrays([[0.0, 1.0]] * 20, [np.full((2, 2), float(k)) for k in range(20)])
        filled = ctlssl.LSSLImputer(width=8, epochs=1).fit(ds).transform(ds.drop_vars("x1"))
        assert channels(filled) == ("x0", "x1") and bool(filled["x1"].notnull().all())

    def test_what_is_refused(self):
        ds = from_arrays([[0.0]], [[np.nan]])
        with pytest.raises(ValueError, match="nothing was observed"):
            ctlssl.LSSLImputer().fit(ds)
        with pytest.raises(ValueError, match="hidden is a share"):
            ctlssl.LSSLImputer(hidden=1.0).fit(ds)


def last_seen(ds):
    """The last value before each row, of each series by itself."""
    owner = np.repeat(np.arange(ds.sizes["series"]), ds["row_size"].values)
    return ds["level"].to_series().groupby(owner).ffill().values
