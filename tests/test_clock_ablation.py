"""The clock ablation: what each clock leaves of the times, what is trained on what, and what is said of it."""

import io
import os

import matplotlib.image
import numpy as np
import pytest
import torch
import xarray
from rich.console import Console
from typer.testing import CliRunner

from ctlssl import clock_ablation as module
from ctlssl import synthetic
from ctlssl.cli import app
from ctlssl.clock_ablation import clock_ablation
from ctlssl.clock_report import ablation_markdown, ablation_tables, ablation_verdict, plot_ablation
from ctlssl.clocks import CLOCKS, with_clock
from ctlssl.contract import Prediction, Problem
from ctlssl.examples import Examples
from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries
from ctlssl.tasks import Split, Task, prepare
from ctlssl.training import Training, evaluate, fit
from tests import toys

NAN = float("nan")


def split_of(times, queries=None, packed=False):
    """Three equal parts of the series with given times."""
    lengths = torch.tensor([len(part) for part in times])
    padded = torch.zeros(len(times), int(lengths.max()), dtype=torch.float64)
    for b, part in enumerate(times):
        padded[b, : len(part)] = torch.tensor(part, dtype=torch.float64)
    values = torch.arange(padded.numel()).view(*padded.shape, 1).float()
    series = TimeSeries(values, padded, torch.ones_like(values, dtype=torch.bool), lengths)
    series = PackedSeries.from_series(series) if packed else series
    asked = None if queries is None else torch.tensor(queries, dtype=torch.float64)
    examples = Examples(series, np.arange(len(times)), torch.zeros(len(times), dtype=torch.int64), asked)
    problem = Problem("classification", 1, 2, time_scale=2.0, first_gap=2.0, horizon=50.0)
    return Split(examples, examples, examples, problem, None)


def times_of(split, part="test"):
    """The times of each series, as lists."""
    series = getattr(split, part).series
    series = series.to_series() if isinstance(series, PackedSeries) else series
    return [series.times[b, :length].tolist() for b, length in enumerate(series.lengths.tolist())]


TIMES = [[1.0, 2.0, 5.0, 5.0, 11.0], [3.0], [], [0.0, 4.0]]


class TestClocks:
    @pytest.mark.parametrize("packed", [False, True])
    def test_by_hand(self, packed):
        split = split_of(TIMES, packed=packed)
        assert with_clock(split, "true") is split
        assert times_of(with_clock(split, "equal")) == [[1.0, 3.5, 6.0, 8.5, 11.0], [3.0], [], [0.0, 4.0]]
        none = with_clock(split, "none")
        assert times_of(none) == [[0.0, 2.0, 4.0, 6.0, 8.0], [0.0], [], [0.0, 2.0]]
        assert none.problem == Problem("classification", 1, 2, time_scale=2.0, first_gap=2.0, horizon=10.0)
        assert with_clock(split, "equal").problem == split.problem

    def test_shuffled_keeps_the_gaps_the_start_and_the_end(self):
        draw = np.random.default_rng(0)
        times = [np.cumsum(draw.exponential(size=n)).tolist() for n in (40, 3, 2, 1, 17)]
        split = split_of(times)
        found, again = (times_of(with_clock(split, "shuffled", seed=4)) for _ in range(2))
        assert found == again != times_of(with_clock(split, "shuffled", seed=5))
        assert found != times_of(with_clock(split, "shuffled", seed=4), "train")
        for before, after in zip(times, found, strict=True):
            assert (after[0], after[-1]) == (before[0], before[-1])
            np.testing.assert_allclose(np.sort(np.diff(after)), np.sort(np.diff(before)), atol=1e-9)
        assert found[0] != times[0]

    def test_every_order_of_the_gaps_is_as_likely(self):
        counts = {}
        split = split_of([[0.0, 1.0, 3.0, 7.0]] * 3000)
        for times in times_of(with_clock(split, "shuffled", seed=1)):
            counts[tuple(np.diff(times))] = counts.get(tuple(np.diff(times)), 0) + 1
        assert len(counts) == 6 and all(abs(count - 500) < 80 for count in counts.values())

    def test_queries_keep_their_place(self):
        queries = [[0.0, 1.5, 3.5, 8.0, 20.0], [2.0, 3.0, 7.0, NAN, NAN], [9.0, NAN, NAN, NAN, NAN], [NAN] * 5]
        split = split_of(TIMES, queries)
        equal = with_clock(split, "equal").test.query_times
        # between the second and third row halfway, between the fourth and last one halfway
        assert equal[0].tolist() == [0.0, 2.25, 4.75, 9.75, 20.0]
        assert equal[1, :3].tolist() == [2.0, 3.0, 7.0] and equal[2, 0] == 9.0
        none = with_clock(split, "none").test.query_times
        assert none[0].tolist() == [-2.0, 1.0, 3.0, 7.0, 10.0]
        assert none[1, :3].tolist() == [-2.0, 2.0, 2.0] and none[2, 0] == 0.0
        assert torch.equal(none.isnan(), split.test.query_times.isnan()) and none[3].isnan().all()

    def test_nothing_but_times_is_changed(self):
        split = prepare("spirals/forecast", 1, synthetic.spirals.generate(series=20))
        kept = split.test.series.times.clone(), split.test.query_times.clone()
        for clock in CLOCKS:
            told = with_clock(split, clock)
            for part in ("train", "valid", "test"):
                before, after = getattr(split, part), getattr(told, part)
                assert torch.equal(before.series.values.nan_to_num(), after.series.values.nan_to_num())
                assert torch.equal(before.targets.nan_to_num(), after.targets.nan_to_num())
                last = after.series.times.masked_fill(~after.series.in_length, -torch.inf).amax(1, keepdim=True)
                assert ((after.query_times > last) | after.query_times.isnan()).all()
        assert torch.equal(split.test.series.times, kept[0])
        assert torch.equal(split.test.query_times.nan_to_num(), kept[1].nan_to_num())

    def test_an_unknown_clock(self):
        with pytest.raises(ValueError, match="clock 'sun' is unknown; it is one of true, shuffled, equal, none"):
            with_clock(split_of(TIMES), "sun")


class Timekeeper(toys.Affine):
    """Reads the gap before the second row, and nothing else."""

    def forward(self, series, query_times=None, state=None, rate=1.0):
        gap = (series.times[:, 1:2] - series.times[:, :1]).float()  # (B, 1)
        return Prediction(logits=self.linear(self.dropout(gap)))


class Blind(toys.Affine):
    """Reads the first value."""


@pytest.fixture
def told(monkeypatch):
    """A task whose label is whether the first gap is long, where the ablation asks for it."""

    def split(task, seed=0, ds=None):
        draw = np.random.default_rng(seed)
        gaps = draw.uniform(0, 2, (300, 9))
        gaps[:, 0] = np.where(np.arange(300) % 2, 3.0, 1.0)
        made = split_of(np.cumsum(np.concatenate([np.zeros((300, 1)), gaps], axis=1), axis=1).tolist())
        examples = Examples(made.train.series, made.train.ids, torch.arange(300) % 2)
        values = torch.from_numpy(draw.standard_normal((300, 10, 1))).float()
        series = TimeSeries(values, examples.series.times, examples.series.observed, examples.series.lengths)
        examples = Examples(series, examples.ids, examples.labels)
        parts = [examples.select(torch.arange(start, start + 100)) for start in (0, 100, 200)]
        return Split(*parts, made.problem, None)

    monkeypatch.setattr(module, "prepare", split)
    return split


TASK = Task("toy/gap", "toy", "classification", "made up", 1.0, lambda ds: None)
QUICK = Training(epochs=30, learning_rate=0.1)


def ablation(**options):
    """Two toy models on the toy task."""
    settings = {"task": TASK, "models": {"keeper": Timekeeper, "blind": Blind}, "seeds": 2, "training": QUICK}
    return clock_ablation(**settings | {"progress": False} | options)


class TestAblation:
    def test_a_model_that_reads_the_clock_and_one_that_does_not(self, told):
        results = ablation()
        assert dict(results.sizes) == {"task": 1, "model": 2, "training": 2, "clock": 4, "seed": 2}
        auroc = results["auroc"].sel(task="toy/gap")
        keeper, blind = auroc.sel(model="keeper"), auroc.sel(model="blind")
        assert (keeper.sel(clock="true") == 1).all()
        assert (keeper.sel(clock="shuffled") < 0.75).all() and (keeper.sel(clock="none") == 0.5).all()
        assert (keeper.sel(clock="equal", training="retrained") > 0.55).all()  # a longer series has a longer mean gap
        assert (blind.sel(training="true times") == blind.sel(training="true times", clock="true")).all()
        assert results["rmse"].isnull().all() and results["epochs"].notnull().all()
        first, second = ablation_verdict(results).splitlines()
        assert first.startswith("toy/gap: keeper is better for true times (auroc 1.000 ± 0.000); retrained, it changes")
        assert "-0.500 ± 0.000 with no time" in first and "it reads them: tested otherwise, it changes by -0." in first
        assert second.startswith("toy/gap: blind is not seen to be better for true times")
        assert "it is not seen to read them: tested otherwise, it changes by +0.000 ± 0.000 with gaps" in second

    def test_the_numbers_are_those_of_fit_and_evaluate(self, told):
        results = ablation(seeds=[1])
        split = told(TASK, 1)
        for clock in ("true", "equal"):
            shown = with_clock(split, clock, 1)
            torch.manual_seed(1)
            model = Timekeeper(shown.problem)
            fit(model, shown.train, shown.valid, Training(epochs=30, learning_rate=0.1, seed=1))
            row = results["log_loss"].sel(task="toy/gap", model="keeper", seed=1)
            assert row.sel(training="retrained", clock=clock) == evaluate(model, shown.test)["log_loss"]
            if clock == "true":
                for tested in CLOCKS:
                    expected = evaluate(model, with_clock(split, tested, 1).test)["log_loss"]
                    assert row.sel(training="true times", clock=tested) == expected

    def test_the_same_again_and_nothing_left_behind(self, told):
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        first, second = ablation(seeds=1, threads=threads + 1), ablation(seeds=1)
        assert first["log_loss"].equals(second["log_loss"])
        assert torch.equal(state, torch.get_rng_state()) and torch.get_num_threads() == threads

    def test_a_model_that_diverges_counts_as_missing(self, told):
        class Broken(Timekeeper):
            def forward(self, series, query_times=None, state=None, rate=1.0):
                logits = super().forward(series).logits
                return Prediction(logits=logits * (1.0 if (series.times[:, 0] > 0).any() else NAN))

        with pytest.warns(UserWarning, match="toy/gap, seed 0: broken, none clock failed and counts as missing"):
            results = ablation(models={"broken": Broken}, seeds=1)
        assert results["auroc"].isnull().all()
        assert ablation_verdict(results) == "toy/gap: broken did not finish with true times."
        plot_ablation(results)

    def test_a_run_that_was_killed_goes_on(self, told, tmp_path, monkeypatch):
        whole, trained = ablation(seeds=2), []

        def fit_or_die(model, *rest):
            if len(trained) == 3:
                raise KeyboardInterrupt
            trained.append(model)
            return fit(model, *rest)

        monkeypatch.setattr(module, "fit", fit_or_die)
        with pytest.raises(KeyboardInterrupt):
            ablation(seeds=2, out=tmp_path / "cells")
        assert len(list((tmp_path / "cells").glob("*.json"))) == 3
        again = []
        monkeypatch.setattr(module, "fit", lambda *given: (again.append(given), fit(*given))[1])
        results = ablation(seeds=2, out=tmp_path / "cells")
        assert len(again) == 2 * len(CLOCKS) * results.sizes["model"] - 3
        xarray.testing.assert_equal(results.drop_vars("train_seconds"), whole.drop_vars("train_seconds"))

    def test_one_seed_has_no_spread(self, told):
        results = ablation(seeds=1)
        assert "±" not in ablation_verdict(results)
        console = Console(width=160, file=io.StringIO(), record=True)
        for table in ablation_tables(results):
            console.print(table)
        text = console.export_text()
        assert "toy/gap: test auroc by clock, 1 seed" in text and "true times" in text and "shuffled" in text

    def test_some_of_the_clocks_and_the_metric_of_the_task(self, told):
        results = ablation(seeds=1, clocks=("true", "equal"))
        assert results.clock.values.tolist() == ["true", "equal"] and results["auroc"].notnull().all()
        assert results.metric.values.tolist() == ["auroc"]
        assert "with equal gaps" in ablation_verdict(results) and "shuffled" not in ablation_verdict(results)
        assert "| true | equal |" in ablation_markdown(results)
        by_accuracy = results.assign_coords(metric=("task", ["accuracy"]))
        assert "test accuracy by clock" in ablation_markdown(by_accuracy)

    @pytest.mark.parametrize("clocks", [("equal",), ("true", "true"), ("true", "sundial"), ()])
    def test_clocks_that_cannot_be(self, told, clocks):
        with pytest.raises(ValueError, match="give true, and any others of true, shuffled, equal, none, once each"):
            ablation(seeds=1, clocks=clocks)

    def test_unknown_names(self):
        with pytest.raises(ValueError, match="model 'lstm' is unknown"):
            clock_ablation(models="lstm")


def test_markdown_and_picture(told, tmp_path):
    results = ablation(models={"a|b": Timekeeper}, seeds=1)
    text = ablation_markdown(results)
    assert "### toy/gap: test auroc by clock, 1 seed" in text
    assert "| model | trained with | true | shuffled | equal | none |\n| --- | --- | ---: |" in text
    assert "| a\\|b | this clock | 1.000 |" in text and "|  | true times | 1.000 |" in text
    plot_ablation(results).savefig(tmp_path / "clock.png")
    assert (tmp_path / "clock.png").stat().st_size > 5_000


def test_from_the_command_line(tmp_path):
    arguments = ["clock", "ornstein_uhlenbeck", "--models", "gru", "--seeds", "1", "--epochs", "1", "--width", "4"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "ornstein_uhlenbeck/forecast: test rmse by clock, 1 seed" in done.output and "Saved" in done.output
    assert sorted(os.listdir(tmp_path / "out")) == ["cells", "clock.md", "clock.nc", "clock.png"]
    results = xarray.load_dataset(tmp_path / "out" / "clock.nc")
    assert results["rmse"].notnull().all() and results.clock.values.tolist() == list(CLOCKS)
    assert matplotlib.image.imread(tmp_path / "out" / "clock.png").shape[0] > 100


def test_the_command_refuses_in_one_line(tmp_path):
    done = CliRunner().invoke(app, ["clock", "oscillators", "--task", "amplitude", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and done.stderr.startswith("Error: task 'amplitude' is unknown; oscillators has frequ")
    assert not (tmp_path / "out").exists()


def test_every_option_is_explained():
    done = CliRunner().invoke(app, ["clock", "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    for option in ("task", "models", "seeds", "epochs", "patience", "width", "clocks", "quick", "threads", "out"):
        (line,) = [line for line in done.output.splitlines() if f"--{option}" in line.split()[:4]]
        assert len(line.split()) > 6, line
