"""Equal budgets of parameters and of tuning, peak memory, and paired differences, each against a count by hand."""

import itertools
import json
import sys

import numpy as np
import pytest
import scipy.stats
import torch
import xarray

from ctlssl.comparison import TUNING, paired_differences, plan, work
from ctlssl.comparison.differences import bootstrap_interval
from ctlssl.comparison.memory import peak_bytes
from ctlssl.model_names import models_by_name
from ctlssl.report import cost_tables, markdown, summary, verdict
from ctlssl.tasks import prepare
from ctlssl.training import Training, evaluate, fit
from tests import toys
from tests.comparison_worker import comparison, task
from tests.toys import comparison as made_up

GRID = {"learning_rate": (1e-3, 1e-1), "dropout": (0.1, 0.6)}


def dropping(problem, width, dropout=0.5):
    """A toy that has the option of the grid."""
    return toys.Affine(problem, dropout=dropout)


def test_the_grid_is_tried_on_the_validation_part_and_the_best_read_once_on_the_test_part(monkeypatch):
    read = []
    monkeypatch.setattr(work, "evaluate", lambda model, examples: read.append(1) or evaluate(model, examples))
    results = comparison(None, models={"dropping": dropping}, tune=GRID, reference=None)
    assert len(read) == 2  # one a seed
    for seed in (0, 1):
        split, tried = prepare(task(), seed, xarray.Dataset()), {}
        for rate, dropout in itertools.product(*GRID.values()):
            torch.manual_seed(seed)
            model = dropping(split.problem, 1, dropout)
            training = Training(epochs=2, batch_size=16, learning_rate=rate, seed=seed)
            tried[rate, dropout] = min(fit(model, split.train, split.valid, training).valid_loss), model
        best = min(tried, key=lambda setting: tried[setting][0])
        row = results.sel(task="toy/label", model="dropping", seed=seed)
        assert json.loads(row.settings.item()) == dict(zip(GRID, best, strict=True))
        assert row.log_loss.item() == evaluate(tried[best][1], split.test)["log_loss"]
        assert row.valid_loss.values.min() == tried[best][0]
        assert row.tuning_seconds.item() > row.train_seconds.item()


def test_every_model_comes_within_a_tenth_of_the_budget():
    names = ["lssl", "gru", "ode_rnn:method=euler:steps=1"]
    budgets = {"parameters": 2000, "tune": False, "reference": "gru", "seeds": 1}
    results = comparison(None, models=names, training=Training(epochs=1), **budgets)
    problem = prepare(task(), 0, xarray.Dataset()).problem
    for name, factory in models_by_name(names).items():
        row = results.sel(task="toy/label", model=name, seed=0)
        model = factory(problem, width=int(row.width))
        assert row.parameters.item() == sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        )
        assert abs(row.parameters.item() - 2000) <= 200
    assert results.attrs["parameters"] == 2000 and "width" not in results.attrs
    assert f"lssl {results.width.sel(model='lssl').item():.0f}; gru" in verdict(results)
    with pytest.raises(ValueError, match="gru comes within 10 % of 20 parameters at no width"):
        comparison(None, models="gru", parameters=20, tune=False, reference=None)


class TestPlan:
    def test_the_default_grid(self):
        planned = plan(tune=True)
        assert planned.grid == TUNING and len(planned.settings) == 6
        assert planned.fits == 2 * 4 * 3 * (6 + 1)
        assert planned.settings[:2] == [
            {"learning_rate": 1e-3, "dropout": 0.2},
            {"learning_rate": 1e-3, "dropout": 0.5},
        ]
        assert plan().settings == [{}] and plan().reference == "lssl"
        assert plan(models="gru").reference is None and plan(reference="boosting").reference == "boosting"

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"tune": {"learning_rate": []}}, r"tune\['learning_rate'\] is \(\)"),
            ({"tune": {"learning_rate": [-1.0]}}, "learning_rate is -1.0; it must be"),
            (
                {"tune": {"depth": [1]}},
                "tune asks for 'depth', which is no option of 'lssl' .*dropout.* nor of Training",
            ),
            ({"models": {"a": toys.series}, "tune": True}, "no option of 'a' "),
            ({"parameters": 0}, "parameters is 0"),
            ({"reference": "lstm"}, "reference 'lstm' is not compared; there are lssl, "),
        ],
    )
    def test_what_cannot_be(self, options, message):
        with pytest.raises(ValueError, match=message):
            plan(**options)


class TestPeak:
    def test_what_a_call_takes_beyond_what_was_there(self):
        kept = torch.zeros(2**24)  # 64 MB that are no part of it
        torch.zeros(2**25)  # 128 MB that were given back before
        megabytes = peak_bytes(lambda: (torch.zeros(2**23) + 1).sum()) / 2**20  # 32 MB, and 32 of the sum
        assert sys.platform != "linux" or 60 <= megabytes <= 80
        assert kept.sum() == 0

    def test_without_a_mark_to_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ctlssl.comparison.memory._CLEAR", tmp_path / "no" / "such")
        called = []
        assert np.isnan(peak_bytes(lambda: called.append(1))) and called == [1]


class TestDifferences:
    def test_by_hand(self):
        differences = paired_differences(made_up(), "lssl")
        death = differences.sel(task="toy/death")
        # gru - lssl: -0.01, -0.02, -0.01; of three seeds the interval is from the least to the greatest
        assert death.difference.sel(model="gru").item() == pytest.approx(-0.04 / 3)
        assert death.difference_low.sel(model="gru").item() == pytest.approx(-0.02)
        assert death.difference_high.sel(model="gru").item() == pytest.approx(-0.01)
        assert (death.difference.sel(model="lssl"), death.paired_seeds.sel(model="gru")) == (0, 3)
        forecast = differences.sel(task="toy/forecast")
        assert forecast.difference.sel(model="last_value").item() == pytest.approx(0.1)  # 0.10, 0.10, 0.10
        assert np.isnan(forecast.difference.sel(model="boosting")) and forecast.paired_seeds.sel(model="boosting") == 0

    def test_a_seed_that_one_of_the_two_has_not_finished_is_left_out(self):
        results = made_up()
        results["auroc"].loc[{"task": "toy/death", "model": "gru", "seed": 1}] = np.nan
        row = paired_differences(results, "lssl").sel(task="toy/death", model="gru")
        assert row.difference.item() == pytest.approx(-0.01) and row.paired_seeds.item() == 2

    def test_an_interval_against_all_resamples_that_there_are(self):
        values = np.array([0.3, -0.1, 0.8, 0.05, 0.4])
        means = np.sort([np.mean(chosen) for chosen in itertools.product(values, repeat=5)])  # 3125, equally likely
        low, high = bootstrap_interval(values)
        for found, tail in ((low, 0.025), (high, 0.975)):
            assert np.quantile(means, tail - 0.006) <= found <= np.quantile(means, tail + 0.006)
        theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000).confidence_interval
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03)

    def test_few_values(self):
        assert bootstrap_interval(np.array([2.0, np.nan, 5.0])) == (2.0, 5.0)
        assert np.isnan(bootstrap_interval(np.array([2.0, np.nan]))).all()

    def test_a_model_that_was_not_compared(self):
        with pytest.raises(ValueError, match="reference 'lstm' was not compared; there are lssl, gru"):
            paired_differences(made_up(), "lstm")


class TestReport:
    def results(self):
        paired = made_up().merge(paired_differences(made_up(), "lssl"))
        failure = np.full((2, 5, 3), "", dtype="U40")
        failure[0, 2, 1] = "epoch 1, step 1: the loss is not finite"
        paired["failure"] = (("task", "model", "seed"), failure)
        return paired.assign_attrs(reference="lssl")

    def test_differences_stand_in_the_table_and_what_they_say_below(self):
        header, rows, _ = summary(self.results(), "toy/death")
        assert header[2] == "auroc - lssl [95 %]"
        assert [row[2] for row in rows[:2]] == ["-", "-0.013 [-0.020, -0.010]"]
        text = verdict(self.results())
        assert "of 3 seeds it is the least and the greatest difference: they cover the mean in 3 cases of 4." in text
        assert "not of other records" in text and "not of other records" in markdown(self.results())

    def test_failures_are_told_with_their_reason(self):
        assert "Missing: toy/death, seed 1, ode_rnn: epoch 1, step 1: the loss is not finite" in verdict(self.results())

    def test_the_grid_and_what_was_chosen(self):
        results = self.results().assign_attrs(tuning=json.dumps({"learning_rate": [0.1, 0.2], "dropout": [0.5]}))
        chosen = np.full((2, 5, 3), json.dumps({"learning_rate": 0.1, "dropout": 0.5}), dtype="U60")
        chosen[:, 0, 0] = json.dumps({"learning_rate": 0.2, "dropout": 0.5})
        results["settings"] = (("task", "model", "seed"), chosen)
        text = verdict(results)
        assert "Every model tried learning_rate 0.1, 0.2 x dropout 0.5 (2 fits) on every split" in text
        assert "lssl 0.1 and 0.5 (4), 0.2 and 0.5 (2); gru 0.1 and 0.5 (6)" in text

    def test_costs(self):
        numbers = (("model", "length"), np.array([[0.5, 1.0], [1.0, 4.0]]), {"long_name": "pass"})
        models = {"model": ["a", "b"], "length": [8, 16]}
        evaluations = (("model", "length"), np.array([[0, 0], [32.0, 64.0]]))
        values = {"seconds": numbers, "evaluations": evaluations, "parameters": ("model", [10, 11])}
        costs = xarray.Dataset(values, models)
        seconds, times, solver = cost_tables(costs, costs.seconds / costs.seconds.sel(model="a", drop=True), "a")
        assert [list(column.cells) for column in seconds.columns][2:] == [["0.5000", "1.0000"], ["1.0000", "4.0000"]]
        assert [list(column.cells) for column in times.columns][1:] == [["10", "11"], ["1.0", "2.0"], ["1.0", "4.0"]]
        assert [list(column.cells) for column in solver.columns][2:] == [["0", "32"], ["0", "64"]]
