"""The adaptation suite: what is trained and tested on what, what is kept, and what is said of it."""

import os

import matplotlib.image
import numpy as np
import pytest
import torch
import xarray
from rich.console import Console
from typer.testing import CliRunner

from ctlssl import adaptation as module
from ctlssl import synthetic
from ctlssl.adaptation import WAYS, adaptation, chosen_changes
from ctlssl.adaptation_report import adaptation_markdown, adaptation_tables, adaptation_verdict, plot_adaptation
from ctlssl.cli import app
from ctlssl.contract import Prediction
from ctlssl.models import LSSLModel
from ctlssl.sampling import CHANGES, change_sampling
from ctlssl.tasks import TASKS, prepare
from ctlssl.timescale_fitting import fit_timescale
from ctlssl.training import Training, evaluate, fit
from tests import toys

DATA = synthetic.spirals.generate(series=40, seed=3)
QUICK = Training(epochs=2, batch_size=8)
TASK = TASKS["spirals/direction"]


class Span(toys.Affine):
    """Reads how long a series lasts, by its clock and the rate."""

    def forward(self, series, query_times=None, state=None, rate=1.0):
        last = series.times.masked_fill(~series.in_length, 0.0).amax(dim=1)  # (B,)
        span = (last - series.times[:, 0]) * torch.as_tensor(rate, dtype=torch.float64)
        return Prediction(logits=self.linear(span.float()[:, None].expand(-1, self.problem.channels)))


def suite(**options):
    """Two small models on few spirals."""
    models = {"lssl": LSSLModel, "span": Span}
    settings = {"task": TASK, "models": models, "seeds": 1, "training": QUICK, "width": 4, "shots": 4}
    return adaptation(DATA, **settings | {"progress": False} | options)


def test_the_numbers_are_those_of_fit_and_evaluate():
    results = suite(changes=["x1/2", "drift"], seeds=[1])
    split = prepare(TASK, 1, DATA)
    torch.manual_seed(1)
    model = LSSLModel(split.problem, width=4)
    fit(model, split.train, split.valid, Training(epochs=2, batch_size=8, seed=1))
    row = results.sel(task=TASK.name, model="lssl", seed=1)
    few = split.valid.select(np.sort(np.random.default_rng(1).permutation(len(split.valid))[:4]))
    for change in ("x1/2", "drift"):
        told = change_sampling(split.test, change, seed=3)
        losses = row["log_loss"].sel(change=change)
        assert losses.sel(way="zero-shot") == evaluate(model, told.examples)["log_loss"]
        assert losses.sel(way="known rate") == evaluate(model, told.examples, rate=told.rate)["log_loss"]
        found = fit_timescale(model, change_sampling(few, change, seed=2).examples)
        assert losses.sel(way="fitted rate") == evaluate(model, told.examples, rate=found.rate)["log_loss"]
        assert row["found_rate"].sel(change=change) == found.rate
        assert row["known_rate"].sel(change=change) == told.rate.mean()
    assert results["log_loss"].sel(model="lssl").notnull().all() and results["rmse"].isnull().all()
    assert results["log_loss"].sel(model="span", way="step sizes").isnull().all()  # it has none


def test_the_base_rate():
    results = suite(changes=["x1", "x2"], ways=["zero-shot"], models={"lssl": LSSLModel}, base=2)
    split = prepare(TASK, 0, DATA)
    slower = [change_sampling(part, "x1", base=2).examples for part in (split.train, split.valid, split.test)]
    scale = 2 * split.problem.time_scale
    problem = module.replace(split.problem, time_scale=scale, first_gap=scale)
    torch.manual_seed(0)
    model = LSSLModel(problem, width=4)
    fit(model, *slower[:2], QUICK)
    row = results["log_loss"].sel(task=TASK.name, model="lssl", seed=0, way="zero-shot")
    assert row.sel(change="x1") == evaluate(model, slower[2])["log_loss"]
    assert row.sel(change="x2") == evaluate(model, split.test)["log_loss"]


def test_a_clock_in_another_unit_and_a_model_that_reads_nothing_else():
    results = suite(changes=["x1", "unit60", "unit1/60"], models={"span": Span}, training=Training(epochs=5))
    losses = results["log_loss"].sel(task=TASK.name, model="span", seed=0)
    np.testing.assert_allclose(losses.sel(way="known rate"), float(losses.sel(change="x1", way="zero-shot")), rtol=1e-4)
    assert (losses.sel(change="unit60", way="zero-shot") != losses.sel(change="x1", way="zero-shot")).all()
    np.testing.assert_allclose(results.known_rate.values.ravel(), [1, 1 / 60, 60])


def test_a_run_that_was_killed_goes_on(tmp_path, monkeypatch):
    asked = {"changes": ["x1", "unit60"], "ways": ["zero-shot", "fitted rate"], "seeds": 2, "out": tmp_path / "cells"}
    whole = suite(**asked | {"out": None})
    trained = []

    def fit_or_die(model, *rest):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(model)
        return fit(model, *rest)

    monkeypatch.setattr(module, "fit", fit_or_die)
    with pytest.raises(KeyboardInterrupt):
        suite(**asked)
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2
    trained[:] = [None] * 3  # two are left
    monkeypatch.setattr(module, "fit", lambda *given: (trained.append(given), fit(*given))[1])
    results = suite(**asked)
    assert len(trained) == 5
    xarray.testing.assert_equal(results.drop_vars("train_seconds"), whole.drop_vars("train_seconds"))
    suite(**asked)
    assert len(trained) == 5


def test_a_model_that_diverges_counts_as_missing():
    class Broken(Span):
        def forward(self, series, query_times=None, state=None, rate=1.0):
            logits = super().forward(series).logits
            return Prediction(logits=logits * float("nan") if self.training else logits)

    with pytest.warns(UserWarning, match="spirals/direction, seed 0: broken failed and counts as missing"):
        results = suite(models={"broken": Broken}, changes=["x1", "unit60"])
    assert results["auroc"].isnull().all()
    assert adaptation_verdict(results) == "spirals/direction: broken did not finish."
    plot_adaptation(results)


def test_tables_words_and_a_picture(tmp_path):
    results = suite(changes=["x1", "x1/2", "unit60"], ways=["zero-shot", "fitted rate"], seeds=2)
    console = Console(width=160, record=True, file=open(os.devnull, "w", encoding="utf8"))
    for table in adaptation_tables(results):
        console.print(table)
    told = console.export_text()
    assert "spirals/direction: test auroc by change, 2 seeds" in told and "unit60" in told and "fitted rate" in told
    text = adaptation_markdown(results, "accuracy")
    assert (
        "| model | helped by | x1 | x1/2 | unit60 |\n| --- | --- | ---: | ---: | ---: |\n| lssl | zero-shot |" in text
    )
    (said,) = [line for line in adaptation_verdict(results).splitlines() if ": lssl has" in line]
    mean = float(results.auroc.sel(model="lssl", change="x1", way="zero-shot").mean())
    assert f"lssl has auroc {mean:.3f} ± " in said and "under x1/2" in said and "where 0.0167 is true" in said
    plot_adaptation(results).savefig(tmp_path / "adapt.png")
    assert matplotlib.image.imread(tmp_path / "adapt.png").shape[0] > 100
    with pytest.raises(ValueError, match="metric 'beauty' is unknown; there are auroc"):
        adaptation_markdown(results, "beauty")


def test_what_can_be_asked():
    assert chosen_changes(base=8).names == CHANGES and chosen_changes().ways == WAYS
    assert "x2" not in chosen_changes().names and "x2" in chosen_changes(base=2).names
    for given, words in [
        ({"changes": ["x2"]}, "change 'x2' is unknown at base 1; there are x1, x1/2"),
        ({"changes": []}, "No change was asked for"),
        ({"ways": ["prayer"]}, "way 'prayer' is unknown at base 1; there are zero-shot, known rate"),
        ({"base": 0}, "base is 0; give a whole number from 1 on"),
        ({"shots": True}, "shots is True"),
    ]:
        with pytest.raises(ValueError, match=words):
            chosen_changes(**given)


def test_from_the_command_line(tmp_path):
    arguments = ["adapt", "ornstein_uhlenbeck", "--models", "gru", "--seeds", "1", "--epochs", "1", "--width", "4"]
    asked = ["--changes", "x1,drop50", "--ways", "zero-shot", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, *asked])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "ornstein_uhlenbeck/forecast: test rmse by change, 1 seed" in words and "Saved" in words
    assert sorted(os.listdir(tmp_path / "out")) == ["adapt.md", "adapt.nc", "adapt.png", "cells"]
    results = xarray.load_dataset(tmp_path / "out" / "adapt.nc")
    assert results["rmse"].notnull().all() and results.change.values.tolist() == ["x1", "drop50"]


def test_the_command_refuses_in_one_line(tmp_path):
    done = CliRunner().invoke(app, ["adapt", "spirals", "--changes", "x9", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and done.stderr.startswith("Error: change 'x9' is unknown at base 1; there are x1")
    assert not (tmp_path / "out").exists()


def test_every_option_is_explained():
    done = CliRunner().invoke(app, ["adapt", "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    for option in ("task", "models", "changes", "ways", "base", "shots", "metric", "seeds", "epochs", "width", "out"):
        (line,) = [line for line in done.output.splitlines() if f"--{option}" in line.split()[:4]]
        assert len(line.split()) > 6, line
