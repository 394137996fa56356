"""Comparisons of toys: what comes back, that it repeats, and that every model gets the same."""

import json

import numpy as np
import pytest
import torch

from ctlssl import comparison
from ctlssl.baselines import BASELINES
from ctlssl.comparison import compare, plan, running, work
from ctlssl.contract import Prediction
from ctlssl.models import MODELS
from ctlssl.report import verdict
from ctlssl.tasks import TASKS, Split, Task
from ctlssl.training import Training, evaluate, fit
from tests import toys

QUICK = Training(epochs=2, batch_size=16)
SOURCES = {"toy/label": ("classification", toys.classification), "toy/forecast": ("forecasting", toys.forecasting)}


def toy_task(name):
    """A task whose examples are made up where they are needed."""
    return Task(name, "toy", SOURCES[name][0], "made up", 1.0, lambda ds: None)


def toy_split(task, seed=0, ds=None):
    """Three parts of made-up examples."""
    problem, examples = SOURCES[task.name][1](seed)
    parts = [examples.select(slice(start, None, 3)) for start in range(3)]
    return Split(*parts, problem, None)


@pytest.fixture(autouse=True)
def toy_data(monkeypatch):
    """Splits of toys where the comparison asks for those of a task."""
    monkeypatch.setattr(running, "prepare", toy_split)


def run(**options):
    """A comparison of two toy models on both toy tasks."""
    settings = {
        "task": [toy_task(name) for name in SOURCES],
        "models": {"plain": toys.Affine, "dropping": lambda problem, width: toys.Affine(problem, dropout=0.5)},
        "seeds": 2,
        "training": QUICK,
        "progress": False,
        "references": False,
        "lengths": (),
    }
    return compare(**settings | options)


def test_what_comes_back():
    results = run()
    assert dict(results.sizes) == {"task": 2, "model": 2, "seed": 2, "part": 3, "epoch": 2}
    assert results.task.values.tolist() == list(SOURCES)
    assert results.kind.values.tolist() == ["classification", "forecasting"]
    assert results.model.values.tolist() == ["plain", "dropping"]
    assert set(results.family.values.tolist()) == {"neural"}
    assert results.series.sel(task="toy/label").values.tolist() == [32, 32, 32]
    for metric in ("auroc", "auprc", "log_loss", "accuracy"):
        assert results[metric].sel(task="toy/label").notnull().all()
        assert results[metric].sel(task="toy/forecast").isnull().all()
    for metric in ("rmse", "mae"):
        assert results[metric].sel(task="toy/forecast").notnull().all()
    assert (results.epochs == 2).all() and (results.train_seconds >= results.seconds_per_epoch).all()
    assert (results.evaluations_per_epoch == 6).sel(task="toy/label").all()  # two batches of three evaluations
    assert results.parameters.sel(task="toy/label", model="plain").values.tolist() == [8, 8]
    assert json.loads(results.attrs["training"])["epochs"] == 2
    assert results.attrs["width"] == 32


def test_the_same_again_but_for_the_time():
    first, second = run(), run()
    for name in ("auroc", "log_loss", "rmse", "mae", "epochs", "parameters"):
        assert np.array_equal(first[name].values, second[name].values, equal_nan=True)


def test_a_model_is_not_moved_by_the_company_it_keeps():
    alone = run(models={"dropping": lambda problem, width: toys.Affine(problem, dropout=0.5)}, seeds=[1])
    together = run()
    assert alone["log_loss"].sel(model="dropping", seed=1).equals(together["log_loss"].sel(model="dropping", seed=1))


def test_the_numbers_are_those_of_fit_and_evaluate():
    split = toy_split(toy_task("toy/forecast"), 1)
    torch.manual_seed(1)
    model = toys.Affine(split.problem)
    fit(model, split.train, split.valid, Training(epochs=2, batch_size=16, seed=1))
    assert run()["rmse"].sel(task="toy/forecast", model="plain", seed=1).item() == evaluate(model, split.test)["rmse"]


def test_the_test_part_is_read_once_and_the_models_take_turns(monkeypatch):
    read = []

    def watched(model, examples):
        read.append((model.name, len(examples)))
        return evaluate(model, examples)

    def named(name):
        def build(problem, width):
            model = toys.Affine(problem)
            model.name = name
            return model

        return build

    monkeypatch.setattr(work, "evaluate", watched)
    run(models={name: named(name) for name in "abc"}, seeds=3, task=toy_task("toy/label"))
    assert [name for name, _ in read] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_a_model_that_diverges_counts_as_missing():
    class Broken(toys.Affine):
        def forward(self, series, query_times=None, state=None, rate=1.0):
            logits = super().forward(series).logits
            return Prediction(logits=logits * (torch.inf if len(logits) > 2 else 1.0))

    with pytest.warns(UserWarning, match="toy/label, seed 0: broken failed and counts as missing: epoch 1, step 1"):
        results = run(models={"plain": toys.Affine, "broken": Broken}, task=toy_task("toy/label"), seeds=1)
    assert results["auroc"].sel(model="broken").isnull().all()
    assert results["auroc"].sel(model="plain").notnull().all()


def test_a_solver_that_gives_up_counts_as_missing_and_what_no_model_can_train_is_raised():
    class GivesUp(toys.Affine):
        def forward(self, series, query_times=None, state=None, rate=1.0):
            if series.batch > 2:
                raise ValueError("dopri5 gave up")
            return super().forward(series)

    with pytest.warns(UserWarning, match="weary failed and counts as missing: dopri5 gave up"):
        results = run(models={"weary": GivesUp}, task=toy_task("toy/label"), seeds=1)
    assert results.failure.item() == "dopri5 gave up" and results.sizes["epoch"] == 0
    assert "toy/label: no neural model finished.\nMissing: toy/label, seed 0, weary: dopri5 gave up" in verdict(results)
    with pytest.raises(ValueError, match="keeps no state from one chunk to the next"):
        run(models={"plain": toys.Affine}, training=Training(chunk=1))


def test_the_global_random_state_and_the_threads_are_left_as_found():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    results = run(seeds=1, threads=threads + 1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads and results.attrs["threads"] == threads + 1


def test_references_stand_beside_the_models():
    results = run(references=True, seeds=1)
    assert results.family.to_series().to_dict() | {"linear": "reference", "last_value": "reference"} == (
        results.family.to_series().to_dict()
    )
    assert results["auroc"].sel(task="toy/label", model="linear").item() > 0.9
    assert results["rmse"].sel(task="toy/forecast", model="last_value").notnull().all()
    assert results["rmse"].sel(model="linear").isnull().all()
    assert results["epochs"].sel(model=["linear", "last_value"]).isnull().all()


def test_costs_as_records_grow():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    results = run(seeds=1, lengths=(2, 8), references=True)
    assert torch.equal(state, torch.get_rng_state())
    assert results.pass_seconds.dims == ("model", "length") and results.length.values.tolist() == [2, 8]
    assert (results.pass_seconds.sel(model=["plain", "dropping"]) > 0).all()
    assert results.pass_seconds.sel(model="linear").isnull().all()


class TestPlan:
    def test_defaults(self):
        planned = plan()
        assert list(planned.tasks) == [name for name in TASKS if name.startswith("covid19/")]
        assert tuple(planned.models) == comparison.DEFAULT_MODELS
        assert planned.seeds == (0, 1, 2) and planned.fits == 2 * 4 * 3
        assert planned.training == Training()

    def test_quick(self):
        planned = plan(quick=True)
        assert planned.seeds == (0,) and planned.training.epochs == -(-Training().epochs // 6)

    def test_all_models(self):
        assert set(plan(models="all").models) == {**MODELS, **BASELINES}.keys()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"models": {}},
            {"seeds": "12"},
            {"seeds": 2.5},
            {"width": 0},
            {"threads": 1.5},
            {"lengths": (16, 0)},
        ],
    )
    def test_numbers_that_cannot_be_are_refused_before_anything_is_trained(self, wrong):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))[:-1]}|No model"):
            plan(**wrong)

    @pytest.mark.parametrize("task", ["death", "covid19/death", ["death"], TASKS["covid19/death"]])
    def test_ways_to_name_a_task(self, task):
        assert list(plan(task=task).tasks) == ["covid19/death"]

    def test_seeds_by_number(self):
        assert plan(seeds=[7, 3]).seeds == (7, 3)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"dataset": "nowhere"}, "data set 'nowhere' has no task; those with tasks are asas, covid19"),
            ({"task": "birth"}, "task 'birth' is unknown; covid19 has death, forecast"),
            ({"task": []}, "No task was asked for; covid19 has death, forecast"),
            (
                {"models": ["lssl", "lstm"]},
                "model 'lstm' is unknown; there are lssl, .*gru, ode_rnn, neural_cde, .*or all",
            ),
            ({"models": []}, "No model was asked for; there are lssl"),
            ({"seeds": 0}, "seeds is 0; give a number from 1 on"),
            ({"seeds": [1, 1]}, r"seeds is \[1, 1\]"),
            ({"threads": 0}, "threads is 0"),
            ({"dataset": toys.comparison(), "task": "death"}, "A Dataset of your own needs a Task of your own"),
        ],
    )
    def test_names_that_do_not_exist(self, options, message):
        with pytest.raises(ValueError, match=message):
            plan(**options)
