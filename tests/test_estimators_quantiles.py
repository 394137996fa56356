"""Forecasts as quantiles: of a law that is not symmetric, and intervals that cover whatever the quantiles say."""

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl.estimators.quantile_intervals import QuantileConformal
from ctlssl.tables import from_arrays
from tests.contracts import generator


def skewed(series, seed, rows=20):
    """Independent exponential values at irregular times: nothing to foresee but their law, which is not symmetric."""
    draw = np.random.default_rng(seed)
    times = [np.cumsum(draw.exponential(0.5, rows)) for _ in range(series)]
    return from_arrays(times, [draw.exponential(1.0, (rows, 1)) for _ in times], variables=["wait"], unit="h")


@pytest.fixture(scope="module")
def forecaster():
    return ctlssl.LSSLForecaster(width=12, ahead=3.0, epochs=25, bins=3, distribution="quantiles").fit(skewed(250, 0))


class TestForecasts:
    def test_the_median_and_the_ends_are_those_of_the_law(self, forecaster):
        found = forecaster.predict_interval(skewed(200, 1), [0.5, 2.0], coverage=0.9).mean(["series", "variable"])
        np.testing.assert_allclose(found["mean"], np.log(2), rtol=0.15)
        np.testing.assert_allclose(found["low"], -np.log(0.95), atol=0.03)
        np.testing.assert_allclose(found["high"], -np.log(0.05), rtol=0.15)

    @pytest.mark.parametrize("coverage", [0.5, 0.7, 0.9])
    def test_intervals_cover_in_every_bin_of_gaps(self, forecaster, coverage):
        table = forecaster.coverage(skewed(300, 2), coverage=coverage)
        spread = 3 * np.sqrt(coverage * (1 - coverage) / (table["targets"] / 3))
        assert len(table) == 3
        assert ((table["coverage"] - coverage).abs() <= np.maximum(0.02, spread)).all(), table

    def test_ends_and_median_stand_in_order(self, forecaster):
        found = forecaster.predict_interval(skewed(50, 3), [0.1, 1.0, 3.0])
        assert (found["low"] < found["mean"]).all() and (found["mean"] < found["high"]).all()
        assert forecaster.predict(skewed(50, 3), [0.1, 1.0, 3.0]).equals(found["mean"])

    def test_it_is_kept(self, forecaster, tmp_path):
        forecaster.save(tmp_path / "f")
        again = ctlssl.LSSLForecaster.load(tmp_path / "f")
        ds = skewed(5, 4)
        assert again.predict_interval(ds, [1.0], 0.8).equals(forecaster.predict_interval(ds, [1.0], 0.8))


def test_what_is_refused():
    with pytest.raises(ValueError, match="distribution is 'cauchy'"):
        ctlssl.LSSLForecaster(distribution="cauchy").fit(skewed(10, 5))
    with pytest.raises(ValueError, match="rise"):
        ctlssl.LSSLForecaster(distribution="quantiles", quantiles=(0.5, 0.1)).fit(skewed(10, 5))


@pytest.mark.parametrize("wrong", [0.0, 0.8, -0.8])
def test_intervals_cover_however_wrong_the_quantiles_are(wrong):
    """Exchangeable targets, quantiles too wide or too narrow: coverage c and at most 1 / (n + 1) more, on the mean."""
    rng, levels = generator("conformal", wrong), np.array([0.05, 0.5, 0.95])
    inside = []
    for _ in range(400):
        x = rng.normal(size=100)
        targets = x + rng.normal(size=100)
        quantiles = x[:, None] + np.array([-1.645 - wrong, 0.0, 1.645 + wrong])
        calibrated = QuantileConformal(levels, quantiles[:99], targets[:99], np.ones(99), bins=1)
        low, high = calibrated.ends(quantiles[99:], np.ones(1), 0.8)
        inside.append(low[0] <= targets[99] <= high[0])
    assert abs(np.mean(inside) - 0.8) < 3 * np.sqrt(0.8 * 0.2 / 400) + 0.01


def test_the_margin_by_hand():
    levels, quantiles = np.array([0.1, 0.9]), np.tile([[-1.0, 1.0]], (9, 1))
    calibrated = QuantileConformal(levels, quantiles, np.arange(9.0), np.ones(9), bins=1)
    low, high = calibrated.ends(np.array([[0.0, 4.0]]), np.ones(1), 0.8)
    assert (low[0], high[0]) == (-6.0, 10.0)  # the 8th of max(-1 - y, y - 1) = -1, 0, ..., 7
    low, high = calibrated.ends(np.array([[0.0, 4.0]]), np.ones(1), 0.4)  # levels 0.3 and 0.7: quantiles 1 and 3
    assert (low[0], high[0]) == (-1.5, 5.5)  # of the calibrated -0.5 and 0.5; the 4th of y - 0.5 is 2.5


def test_quantiles_are_trained_and_scored_as_any_numbers():
    draw = np.random.default_rng(6)
    ds = from_arrays([np.arange(3.0)] * 200, list(draw.normal(size=(200, 3, 1))))
    series = ctlssl.to_series(ds)
    labels = torch.from_numpy(draw.exponential(1.0, (200, 1))).float()
    problem = ctlssl.Problem("regression", 1, 1, quantiles=(0.1, 0.5, 0.9))
    model = ctlssl.LSSLModel(problem, width=8)
    examples = ctlssl.Examples(series, np.arange(200), labels=labels)
    ctlssl.fit(model, examples, training=ctlssl.Training(epochs=40, learning_rate=0.03, batch_size=64))
    found = ctlssl.predict(model, examples)
    np.testing.assert_allclose(found.quantiles.mean(0)[0].numpy(), np.quantile(labels, [0.1, 0.5, 0.9]), atol=0.3)
    assert found.scale is None and set(ctlssl.evaluate(model, examples)) == {"rmse", "mae"}
