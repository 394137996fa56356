"""Tables with something wrong, from the file to the trained model: each survives, or is refused with a place."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from ctlssl import from_arrays, from_long, from_wide
from ctlssl.runs import RunFolder, RunSettings, TableTask, open_run, train_run
from ctlssl.tables import read_table
from ctlssl.training import Training

NAN = math.nan
QUICK = Training(epochs=2)


def sound(series=40, rows=5):
    """A wide table of two variables, whose label the first one tells."""
    draw = np.random.default_rng(0)
    ids = np.repeat(np.arange(series), rows)
    frame = pd.DataFrame({"id": ids, "time": np.tile(np.arange(float(rows)), series), "y": draw.normal(size=len(ids))})
    return frame.assign(x=draw.normal(size=len(ids)) + ids % 2, label=ids % 2)


def trained(folder, frame, **more):
    """A run on a table, and its predictions for all of it."""
    frame.to_csv(folder / "wide.csv", index=False)
    task = TableTask(**{"records": str(folder / "wide.csv"), "wide": True, "label": "label"} | more)
    train_run(RunSettings(task, width=8, training=QUICK), folder / "run")
    run = open_run(folder / "run")
    ds = read_table(folder / "wide.csv", wide=True, labels=[name for name in ("label",) if name in frame])
    return run, run.predict(ds.drop_vars("label", errors="ignore"))


def first(frame, column, value):
    frame = frame.astype({column: float}) if isinstance(value, float) else frame
    frame.loc[frame["id"] == 3, column] = value
    return frame


SURVIVED = {
    "two rows at one time": lambda df: df.assign(time=np.floor(df["time"] / 2)).drop_duplicates(["id", "time"]),
    "rows in any order": lambda df: df.sample(frac=1, random_state=0),
    "a variable that is never seen": lambda df: df.assign(z=NAN),
    "a variable that never varies": lambda df: df.assign(z=1.0),
    "a series without a value": lambda df: first(first(df, "x", NAN), "y", NAN),
    "series of a single row": lambda df: df[df["time"] == 0],
    "gaps from 1e-9 to 1e9": lambda df: df.assign(time=df["time"].map({0: 0, 1: 1e-9, 2: 1, 3: 1e3, 4: 1e9})),
    "values of 1e30": lambda df: first(df, "x", 1e30),
    "values of 1e-310": lambda df: first(df, "x", 1e-310),
    "truth values": lambda df: df.assign(y=df["y"] > 0),
    "whole numbers": lambda df: df.assign(y=(10 * df["y"]).astype(int)),
    "times long before": lambda df: df.assign(time=df["time"] - 1e12),
    "one variable": lambda df: df.drop(columns="y"),
    "names of variables that are not latin": lambda df: df.rename(columns={"x": "体温 <b>", "y": "é/ü"}),
    "a rare class": lambda df: df.assign(label=(df["id"] < 4).astype(int)),
    "three classes of words": lambda df: df.assign(label=(df["id"] % 3).map({0: "a", 1: "b", 2: "c"})),
}


@pytest.mark.parametrize("what", SURVIVED)
def test_survived(tmp_path, what):
    frame = SURVIVED[what](sound())
    run, table = trained(tmp_path, frame)
    report = RunFolder(tmp_path / "run").read_json("report.json")
    assert math.isfinite(report["test"]["log_loss"])
    assert np.isfinite(table[list(run.answers)].to_numpy()).all() and len(table) == frame["id"].nunique()
    assert all(bool(part.isfinite().all()) for part in run.model.state_dict().values())
    np.testing.assert_allclose(table[list(run.answers)].sum(axis=1), 1, atol=1e-6)


def test_the_order_of_rows_leaves_every_bit(tmp_path):
    for name, frame in {"a": sound(), "b": sound().sample(frac=1, random_state=0)}.items():
        (tmp_path / name).mkdir()
        trained(tmp_path / name, frame)
    parts = [(tmp_path / name / "run" / "model.safetensors").read_bytes() for name in "ab"]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("value", [1.0, "well"])
def test_one_class_trains_and_its_areas_are_undefined(tmp_path, value):
    with pytest.warns(UserWarning, match="auroc and auprc are NaN"):
        trained(tmp_path, sound().assign(label=value))
    scores = RunFolder(tmp_path / "run").read_json("report.json")["test"]
    assert math.isnan(scores["auroc"]) and scores["log_loss"] < 1.0


def test_a_constant_number_is_learned(tmp_path):
    run, table = trained(tmp_path, sound().assign(label=1234.5), kind="regression")
    assert run.targets.scale == (1.0,)
    np.testing.assert_allclose(table["label"], 1234.5, atol=2.0)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (sound().iloc[:0], "no series"),
        (sound(series=2), "too few for a training, a validation and a test part"),
        (sound().assign(x=NAN, y=NAN), "too few"),
        (first(sound(), "time", NAN), "series 3, row 15 of the table: no time"),
        (first(sound(), "x", math.inf), "series 3, time .*: x is inf"),
        (pd.concat([sound(), sound().iloc[16:17]]), "series 3, time 1.0: . occurs 2 times"),
        (sound().assign(x="n/d"), "series 0, time 0.0: x is 'n/d', no number"),
        (sound().assign(label=lambda df: df["time"]), "series 0: static column 'label' takes several values"),
        (sound().rename(columns={"x": "row_size"}), "'row_size' are taken"),
    ],
)
def test_refused_before_anything_is_trained(tmp_path, frame, message):
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, frame)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "dtype", ["int8", "uint16", "int64", "bool", "float16", "float32", "Int64", "Float32", "boolean"]
)
def test_numbers_of_any_kind_are_read_exactly(dtype):
    values = pd.Series([0, 1, 1], dtype=dtype)
    df = pd.DataFrame({"id": [1, 1, 2], "time": [0, 1, 0], "variable": "x", "value": values})
    ds = from_long(df, "id", "time", "variable", "value")
    assert ds["x"].dtype == np.float64 and ds["x"].values.tolist() == [0.0, 1.0, 1.0]


def test_times_in_float32_that_collapsed_are_duplicates_with_a_place():
    """Epoch seconds in float32 are 128 s apart: what was two times is one, and says so."""
    epoch = np.array([1.7e9, 1.7e9 + 60], dtype=np.float32)
    with pytest.raises(ValueError, match="series 1, time 1700000000.0: x occurs 2 times"):
        from_wide(pd.DataFrame({"id": 1, "time": epoch, "x": [1.0, 2.0]}), "id", "time")
    exact = from_arrays([np.array([1.7e9, 1.7e9 + 60])], [[1.0, 2.0]], origin="first")
    assert exact["time"].values.tolist() == [0.0, 60.0]


def test_reading_leaves_the_surroundings_alone(tmp_path):
    sound().to_csv(tmp_path / "wide.csv", index=False)
    state, filters, threads = torch.random.get_rng_state(), list(warnings.filters), torch.get_num_threads()
    before = np.random.get_state()[1].tolist()
    TableTask(str(tmp_path / "wide.csv"), wide=True, label="label").load()
    assert torch.equal(state, torch.random.get_rng_state()) and before == np.random.get_state()[1].tolist()
    assert filters == list(warnings.filters) and threads == torch.get_num_threads()
