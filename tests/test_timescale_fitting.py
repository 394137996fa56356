"""The rate that is found for a clock that is off: of models that know the truth in closed form, and of trained ones."""

import math

import numpy as np
import pytest
import torch

from ctlssl import synthetic
from ctlssl.baselines import BASELINES
from ctlssl.contract import Model, Prediction, Problem
from ctlssl.examples import Examples
from ctlssl.models import LSSLModel
from ctlssl.sampling import stretch
from ctlssl.series import TimeSeries
from ctlssl.tasks import prepare
from ctlssl.timescale_fitting import _own_rates, fit_step_sizes, fit_timescale
from ctlssl.training import Training, evaluate, fit, predict
from tests import toys
from tests.contracts import generator

OMEGA, DECAY = 2.0, 0.1


class Oscillator(Model):
    """x(t) = x_1 e^{-decay r (t - t_1)} cos(omega r (t - t_1)) after the first row, the exact truth at rate r = 1.

    As a classifier it is the surer that a series is its own, class 0, the better it fits.
    """

    def __init__(self, problem, width=1):
        super().__init__(problem)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def _at(self, series, times, rate):
        passed = (times - series.times[:, :1]) * torch.as_tensor(rate, dtype=torch.float64).reshape(-1, 1)  # (B, Q)
        return series.values[:, :1, 0] * torch.exp(-DECAY * passed) * torch.cos(OMEGA * passed)

    def forward(self, series, query_times=None, state=None, rate=1.0):
        if self.problem.kind == "forecasting":
            mean = torch.nan_to_num(self._at(series, query_times, rate)).unsqueeze(-1)  # (B, Q, 1)
            return Prediction(mean=mean, scale=torch.ones_like(mean))
        error = (self._at(series, series.times, rate) - series.values[..., 0]).square()  # (B, L)
        error = error.masked_fill(~series.in_length, 0.0).mean(dim=1)  # (B,)
        return Prediction(logits=torch.stack([6 / (1 + 20 * error), torch.zeros_like(error)], dim=1))


def oscillations(*key, series=24, rows=30, factor=1.0):
    """Exact values of the oscillator at random times, told by a clock that runs `factor` times as fast."""
    draw = generator("oscillations", *key)
    times = torch.from_numpy(np.cumsum(draw.exponential(0.3, (series, rows)), axis=1))  # (B, L)
    passed, amplitude = times - times[:, :1], torch.from_numpy(draw.uniform(0.5, 1.5, (series, 1)))
    values = (amplitude * torch.exp(-DECAY * passed) * torch.cos(OMEGA * passed)).unsqueeze(-1)  # (B, L, 1)
    seen = torch.ones_like(values, dtype=torch.bool)
    known = TimeSeries(values[:, :20], times[:, :20], seen[:, :20], torch.full((series,), 20))
    examples = Examples(
        known,
        np.arange(series),
        labels=torch.zeros(series, dtype=torch.int64),
        query_times=times[:, 20:],
        targets=values[:, 20:],
        target_observed=seen[:, 20:],
    )
    return stretch(examples, factor)


FORECAST = Problem("forecasting", channels=1, outputs=1)
CLASSES = Problem("classification", channels=1, outputs=2)


class TestTruth:
    @pytest.mark.parametrize("factor", [1 / 60, 1 / 3, 1.0, 1.7, 3.0, 60.0])
    @pytest.mark.parametrize("criterion", ["loss", "self"])
    @pytest.mark.parametrize("problem", [FORECAST, CLASSES], ids=["forecast", "classes"])
    def test_the_factor_is_found(self, problem, criterion, factor):
        found = fit_timescale(Oscillator(problem), oscillations(factor, factor=factor), criterion=criterion)
        assert found.rate == pytest.approx(1 / factor, rel=2e-3)
        low, high = found.interval
        assert low < found.rate < high and high / low < 1.5
        assert found.after <= found.before and (factor == 1.0 or found.after < found.before - 0.01)
        assert len(found.grid) == len(found.curve) == 57 and (np.diff(found.grid) > 0).all()

    @pytest.mark.parametrize("criterion", ["loss", "self"])
    def test_a_rate_of_ones_own_for_each_series(self, criterion):
        draw = generator("own rates")
        factors = torch.from_numpy(np.exp(0.2 * draw.standard_normal(24)))
        given = oscillations("own", factor=factors)
        found = fit_timescale(Oscillator(CLASSES), given, between=(1 / 3, 3.0), criterion=criterion, spread=2.0)
        assert found.rate.shape == (24,) and found.rate.dtype == torch.float64
        off = (found.rate * factors).log().abs()
        assert off.median() < 0.02 and off.quantile(0.9) < 0.1, off  # the grid has eight points an octave
        shared = fit_timescale(Oscillator(CLASSES), given, between=(1 / 3, 3.0), criterion=criterion)
        assert found.after < shared.after and shared.shared == shared.rate

    def test_the_middle_of_the_rates_of_series(self):
        draw = generator("middle")
        factors = torch.from_numpy(3 * np.exp(0.3 * draw.standard_normal(24)))
        found = fit_timescale(Oscillator(FORECAST), oscillations("middle", factor=factors), spread=0.3)
        assert found.shared == pytest.approx(1 / 3, rel=0.2)
        low, high = found.interval
        assert low < found.shared < high and len(found.grid) == 113

    def test_a_narrow_prior_holds_the_rates_together(self):
        given = oscillations("prior", factor=torch.linspace(0.7, 1.4, 24, dtype=torch.float64))
        wide, narrow = (
            fit_timescale(Oscillator(CLASSES), given, (1 / 3, 3.0), spread=spread).rate.log().std()
            for spread in (1.0, 0.01)
        )
        assert narrow < 0.1 * wide

    def test_nothing_outside_the_range_is_found(self):
        found = fit_timescale(Oscillator(FORECAST), oscillations("range"), between=(1.2, 3.0))
        assert 1.2 <= found.rate <= 3.0 and found.before < 1e-3 < found.after

    def test_the_loss_is_that_of_evaluation(self):
        model, given = Oscillator(FORECAST), oscillations("evaluation", factor=2.0)
        found = fit_timescale(model, given, between=(0.25, 1.0))
        for rate, loss in [(1.0, found.before), (0.5, found.curve[4])]:
            rmse = evaluate(model, given, rate=rate)["rmse"]
            assert loss == pytest.approx(rmse**2 + 0.5 * rmse**2, rel=1e-6)  # the scale is 1


class TestTrained:
    @pytest.fixture
    def spirals(self):
        return prepare("spirals/forecast", 0, synthetic.spirals.generate(series=150, noise=0.02))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["lssl", "s5", "gru", "mtan"])
    def test_of_a_wrong_unit(self, spirals, name):
        torch.manual_seed(0)
        build = LSSLModel if name == "lssl" else BASELINES[name]
        model = build(spirals.problem, width=16, dropout=0.0)
        fit(model, spirals.train, spirals.valid, Training(epochs=60, patience=60))
        true = fit_timescale(model, spirals.valid).rate
        assert true == pytest.approx(1.0, rel=0.25)
        for factor in (60.0, 1 / 60, 3.0):
            found = fit_timescale(model, stretch(spirals.valid, factor))
            # the gap before the first row is a convention, and not stretched
            assert found.rate * factor == pytest.approx(true, rel=0.1), name
            assert found.after < found.before

    def test_step_sizes_alone_learn(self, spirals):
        torch.manual_seed(0)
        model = LSSLModel(spirals.problem, width=8, dropout=0.0)
        fit(model, spirals.train, None, Training(epochs=10))
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        needed = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        told = stretch(spirals.valid, 3.0)
        worse = evaluate(model, told)["rmse"]
        history = fit_step_sizes(model, told)
        assert evaluate(model, told)["rmse"] < worse and len(history.train_loss) == 60
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert changed == {"blocks.0.layer.log_step"}
        assert needed == {name: parameter.requires_grad for name, parameter in model.named_parameters()}

    def test_a_model_without_step_sizes(self):
        problem, examples = toys.classification(0)
        with pytest.raises(ValueError, match="Affine has no layer with a step size; fit_timescale finds a rate"):
            fit_step_sizes(toys.Affine(problem), examples)


class TestPredictions:
    def test_a_rate_for_each_series_goes_with_it(self):
        model, given = Oscillator(FORECAST), oscillations("order")
        lengths = torch.arange(24) % 7 + 1  # batches are made by length
        given = Examples(
            TimeSeries(given.series.values, given.series.times, given.series.observed, lengths),
            given.ids,
            query_times=given.query_times,
        )
        rates = torch.linspace(0.5, 2.0, 24, dtype=torch.float64)
        together = predict(model, given, batch_size=5, rate=rates)
        for b in range(24):
            alone = predict(model, given.select([b]), rate=float(rates[b]))
            torch.testing.assert_close(together.mean[b : b + 1], alone.mean)
        with pytest.raises(ValueError, match=r"rate has shape \(3,\); give a number or one a series, \(24,\)"):
            predict(model, given, rate=torch.ones(3))

    def test_chunks_and_rates(self):
        split = prepare("spirals/direction", 0, synthetic.spirals.generate(series=20))
        torch.manual_seed(0)
        model = LSSLModel(split.problem, width=4)
        rates = torch.linspace(0.5, 2.0, len(split.test), dtype=torch.float64)
        whole, pieces = (predict(model, split.test, 2, chunk, rates).logits for chunk in (None, 7))
        torch.testing.assert_close(whole, pieces, rtol=1e-4, atol=1e-5)


def test_what_is_refused():
    model, given = Oscillator(CLASSES), oscillations("refused")
    for between in [(1.0, 1.0), (0.0, 2.0), (1.0, math.inf)]:
        with pytest.raises(ValueError, match="need 0 < low < high"):
            fit_timescale(model, given, between)
    with pytest.raises(ValueError, match="criterion 'luck' is unknown; it is loss or self"):
        fit_timescale(model, given, criterion="luck")
    curves = LSSLModel(Problem("survival", *given.series.values.shape[2:], outputs=3), width=4)
    with pytest.raises(ValueError, match="does not know how sure an answer of survival is"):
        fit_timescale(curves, Examples(given.series, given.ids), criterion="self")
    with pytest.raises(ValueError, match="the series have no answers, which criterion='loss' reads"):
        fit_timescale(model, Examples(given.series, given.ids))
    with pytest.raises(ValueError, match="there is no series whose clock"):
        fit_timescale(model, given.select([]))
    problem, examples = toys.regression(0)
    with pytest.raises(ValueError, match="tells no spread of its targets"):
        fit_timescale(toys.Affine(problem, dtype=torch.float64), examples, criterion="self")


def test_a_neighbour_at_which_the_model_overflows_makes_no_nan():
    grid = np.geomspace(0.5, 2.0, 3)
    found = _own_rates(grid, np.array([[np.inf, 2.0, np.inf], [1.0, 1.0, np.inf], [2.0, 2.0, np.inf]]))
    assert np.isfinite(found).all() and found[1] == pytest.approx(1.0)
