"""A question put to one's own files: what is seen, what is asked, who is left out, and what is refused."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from ctlssl import load_dataset, save_dataset, to_long
from ctlssl.commands.answers import _task_of
from ctlssl.questions.covid19 import covid19_death
from ctlssl.runs import RunSettings, TableTask
from ctlssl.schema import channels, static
from ctlssl.target_scale import TargetScale
from ctlssl.tasks import prepare

NAN = math.nan
RECORDS = pd.DataFrame(
    [("a", 0.0, "x", 1.0), ("a", 2.0, "y", 2.0), ("b", 1.0, "x", 3.0), ("c", 9.0, "x", 4.0), ("d", 1.0, "y", 5.0)],
    columns=["id", "time", "variable", "value"],
)
OUTCOMES = pd.DataFrame(
    {"id": list("abcd"), "died": [1, 0, 1, NAN], "age": [50, 60, 70, 80], "sex": list("fmfm"), "stay": [9.0, 1.5, 9, 9]}
)


@pytest.fixture
def files(tmp_path):
    """The two tables as files, and a task on them with more said of it."""
    RECORDS.to_csv(tmp_path / "records.csv", index=False)
    OUTCOMES.to_csv(tmp_path / "outcomes.csv", index=False)

    def task(**more):
        paths = {"records": str(tmp_path / "records.csv"), "labels": str(tmp_path / "outcomes.csv")}
        return TableTask(**(paths | {"label": "died"} | more))

    return task


def examples(task):
    loaded = task.load()
    return loaded, loaded.task.build(loaded.ds)


def test_it_is_the_bundled_task_when_put_to_the_same_records(tmp_path):
    """Ids, rows, flags, labels and covariates of covid19/death, from two CSV files."""
    ds = load_dataset("covid19")
    to_long(ds).to_csv(tmp_path / "records.csv", index=False)
    columns = {name: ds[name].values for name in ("outcome", "age", "gender", "discharge")}
    pd.DataFrame({"id": ds["series"].values} | columns).sample(frac=1, random_state=0).to_csv(
        tmp_path / "outcomes.csv", index=False
    )
    task = TableTask(
        str(tmp_path / "records.csv"),
        labels=str(tmp_path / "outcomes.csv"),
        label="outcome",
        static=("age", "gender"),
        landmark=24.0,
        end="discharge",
    )
    loaded, found = examples(task)
    expected = covid19_death(ds)
    assert loaded.task.kind == "classification" and found.ids.tolist() == expected.ids.tolist()
    order = [found.variables.index(name) for name in expected.variables]
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.series.times, expected.series.times)
    assert torch.equal(found.series.observed[..., order], expected.series.observed)
    assert torch.equal(found.series.static, expected.series.static)
    of_names = TableTask(**task.to_dict() | {"labels": None, "records": str(save_dataset(ds, tmp_path / "c.nc"))})
    assert torch.equal(examples(of_names)[1].labels, expected.labels)


def test_who_is_left_out_and_why(files):
    loaded, found = examples(files(landmark=2.0, end="stay", static=["age", "sex"]))
    assert found.ids.tolist() == ["a"]  # b ended before, c begins later, of d there is no outcome
    assert loaded.notes == ("1 of 4 series have no outcome and are left out.",)
    assert static(loaded.ds) == ("age", "sex=f", "sex=m") and loaded.categories == {"sex": ("f", "m")}
    assert found.series.static.tolist() == [[50.0, 1.0, 0.0]] and loaded.classes == ("0", "1")
    assert examples(files())[1].ids.tolist() == ["a", "b", "c"]


def test_labels_in_the_records_and_series_without_records(tmp_path):
    wide = pd.DataFrame({"id": [7, 7, 8], "time": [0, 1, 0], "x": [1.0, NAN, 2.0], "group": ["u", "u", "v"]})
    wide.to_csv(tmp_path / "wide.csv", index=False)
    loaded, found = examples(TableTask(str(tmp_path / "wide.csv"), wide=True, label="group"))
    assert (loaded.classes, found.labels.tolist(), channels(loaded.ds)) == (("u", "v"), [0, 1], ("x",))


def test_what_labels_seem_to_be(files):
    assert examples(files())[0].task.kind == "classification"
    assert examples(files(label="sex"))[0].classes == ("f", "m")
    loaded, found = examples(files(label="stay"))
    assert loaded.task.kind == "regression" and found.labels.flatten().tolist() == [9.0, 1.5, 9.0, 9.0]
    assert examples(files(label=["stay", "age"]))[1].labels.shape == (4, 2)
    assert examples(files(kind="regression"))[0].task.kind == "regression"


def test_forecasts_of_later_values(files):
    loaded, found = examples(files(label=(), landmark=0.5))
    assert loaded.task.kind == "forecasting" and found.ids.tolist() == ["a"]
    assert found.query_times.tolist() == [[2.0]] and found.target_observed.tolist() == [[[False, True]]]
    assert not len(examples(files(label=(), landmark=0.5, until=1.5))[1])


def test_settings_are_plain_values_and_come_back(files):
    task = files(limits={"x": (0, 10)}, static=["age"], landmark=2)
    settings = RunSettings(task)
    assert RunSettings.from_dict(settings.to_dict()) == settings
    assert isinstance(settings.to_dict()["task"], dict) and RunSettings(task.to_dict()) == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": ()}, "what is to be predicted"),
        ({"label": (), "kind": "classification"}, "classification needs a label"),
        ({"kind": "forecasting"}, "leave label out"),
        ({"kind": "guessing"}, "kind 'guessing' is unknown"),
        ({"landmark": math.inf}, "landmark is inf"),
        ({"landmark": "noon"}, "landmark is 'noon'"),
        ({"until": 3.0}, "until is 3.0"),
        ({"limits": {"x": (1,)}}, "limits are"),
        ({"kind": "classification", "label": ("died", "sex")}, "classes are in one column"),
    ],
)
def test_questions_that_cannot_be(files, options, message):
    with pytest.raises(ValueError, match=message):
        files(**options)
    with pytest.raises(ValueError, match="does not know depth"):
        TableTask.from_dict({"records": "x.csv", "depth": 3})
    with pytest.raises(ValueError, match="needs records"):
        TableTask.from_dict({"label": "died"})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label": "cured"}, ValueError, "no column 'cured'"),
        ({"labels": None}, ValueError, "no column 'died'; if it stands in a second table"),
        ({"labels": "absent.csv"}, FileNotFoundError, "absent.csv: there is no such file"),
        ({"id": "patient"}, ValueError, "no column 'patient'"),
        ({"landmark": 1.0, "end": "sex"}, TypeError, "'sex' holds text"),
        ({"label": "sex", "kind": "regression"}, TypeError, "'sex' holds text"),
        ({"static": ["died"], "label": "stay"}, ValueError, "series 'd': died is missing"),
        ({"limits": {"x": (0, 2)}}, ValueError, "series 'b', position 0, time 1.0: x is 3.0, outside 0.0 to 2.0"),
    ],
)
def test_files_that_do_not_fit(files, options, error, message):
    with pytest.raises(error, match=message):
        files(**options).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda df: df.assign(id=[1, 2, 3, 4]), "the ids are of .* write them alike"),
        (lambda df: df.assign(id=["a", "b", "a", "d"]), "series 'a' has several rows"),
        (lambda df: df.assign(id=["a", None, "c", "d"]), "row 1 has no id"),
        (lambda df: df.assign(id=["w", "x", "y", "z"]), "no series is left: do the ids"),
        (lambda df: df.assign(died=[math.inf, 0.5, 1, 1]), "series 'a': died is infinite"),
    ],
)
def test_outcomes_that_do_not_fit(files, change, message):
    task = files()
    change(OUTCOMES).to_csv(task.labels, index=False)
    with pytest.raises(ValueError, match=message):
        task.load()


def test_one_class_is_told_and_trains(files):
    OUTCOMES.assign(died=1).to_csv(files().labels, index=False)
    loaded, found = examples(files())
    assert loaded.classes == ("1", "not 1") and found.labels.tolist() == [0, 0, 0, 0]
    assert loaded.notes == ("died is 1 in all series: there is nothing to tell apart.",)


def test_classes_and_words_that_training_did_not_see(files):
    with pytest.raises(ValueError, match="series 'b': died is '0'; the classes are 1, 2"):
        files().load(classes=("1", "2"))
    with pytest.raises(ValueError, match="series 'b': sex is 'm'; known are f"):
        files(static="sex").load(categories={"sex": ("f",)})
    with pytest.raises(ValueError, match="nobody expects: 'y'"):
        files().load(variables=["x"])
    assert channels(files().load(variables=["x"], unknown="drop").ds) == ("x",)


def test_the_horizon_comes_from_the_training_part(tmp_path):
    """No number of the test part reaches the model's problem: its records may be as long as they like."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"id": np.repeat(np.arange(40), 5), "time": np.tile(np.arange(5.0), 40)})
    frame = frame.assign(x=draw.normal(size=200), label=frame["id"] % 2)
    frame.to_csv(tmp_path / "wide.csv", index=False)
    task = TableTask(str(tmp_path / "wide.csv"), wide=True, label="label")
    split = prepare(task.load().task, 0, task.load().ds)
    assert split.problem.horizon == 4.0
    stretched = frame.assign(time=frame["time"].where(~frame["id"].isin(split.test.ids), 1000 * frame["time"]))
    stretched.to_csv(tmp_path / "wide.csv", index=False)
    again = prepare(task.load().task, 0, task.load().ds)
    assert again.problem == split.problem and torch.equal(again.train.series.values, split.train.series.values)


def test_the_scale_of_targets():
    labels = torch.tensor([[1.0, 5.0], [3.0, 5.0], [NAN, 5.0]])
    scale = TargetScale.fit(labels)
    assert scale == TargetScale((2.0, 5.0), (1.0, 1.0))
    assert TargetScale.from_dict({"mean": [2.0, 5.0], "scale": [1.0, 1.0]}) == scale
    for wrong in ({"mean": [1.0]}, {"mean": [1.0], "scale": [1.0, 2.0]}, {"mean": 1.0, "scale": [1.0]}):
        with pytest.raises(ValueError, match="scale of the targets"):
            TargetScale.from_dict(wrong)


@pytest.mark.parametrize(("kind", "expected"), [("regression", "regression"), ("forecasting", None)])
def test_the_kind_of_a_trained_question_is_not_guessed_from_the_answers_of_another_file(kind, expected, tmp_path):
    label = () if kind == "forecasting" else ("score",)
    settings = SimpleNamespace(task=TableTask("records.csv", label=label, landmark=1.0))
    trained = SimpleNamespace(settings=settings, model=SimpleNamespace(problem=SimpleNamespace(kind=kind)))
    task = _task_of(trained, tmp_path / "others.csv", {}, None)
    assert (task.kind, task.label, task.records) == (expected, label, str(tmp_path / "others.csv"))
