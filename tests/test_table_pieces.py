"""Tables read in pieces: the same file as if read at once, in bounded memory, or an error and no file."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from ctlssl import load_dataset, open_dataset, to_long
from ctlssl.run_page import write_report
from ctlssl.runs import RunSettings, TableTask, from_disk, open_run, train_run
from ctlssl.tables import convert_table, from_long, read_table
from ctlssl.tasks import prepare
from ctlssl.training import Training
from tests.pages import check_page

NAMES = ["id", "time", "variable", "value"]


def same(written, expected):
    """The two Datasets, whatever the order of their variables."""
    xr.testing.assert_identical(written[sorted(written.data_vars)], expected[sorted(expected.data_vars)])


@pytest.mark.parametrize("rows", [2000, 10**6])
def test_it_is_what_is_read_at_once(tmp_path, rows):
    ds = load_dataset("covid19")
    to_long(ds).sample(frac=0.3, random_state=0).to_csv(tmp_path / "records.csv", index=False)
    frames = {
        "static": pd.DataFrame({"age": ds["age"].values, "a/b": ds["gender"].values}, ds["series"].values),
        "labels": pd.Series(ds["outcome"].values, ds["series"].values, name="outcome"),
    }
    path = convert_table(tmp_path / "records.csv", tmp_path / "out.nc", **frames, unit="h", rows_in_memory=rows)
    table = pd.read_csv(tmp_path / "records.csv")
    expected = from_long(table, *table.columns, **frames, unit="h")
    assert (expected["row_size"].values == 0).any()  # series that the second table alone has
    same(open_dataset(path), expected)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.nc", "records.csv"]


TEXTS = {
    "stamps": ("a,2020-01-01T00:00:00.000000001,x,1\nb,2020-01-05,y,2\na,2020-01-01,x,3\n", {}),
    "stamps with a zone": ("a,2020-01-01T00:00+01:00,x,1\nb,2020-01-05T00:00Z,y,2\n", {}),
    "hours and minutes": ("a,00:30,x,1\nb,36:00,y,2\na,00:10,y,3\n", {"unit": "min"}),
    "epoch nanoseconds": ("1,1700000000123456789,x,1\n1,1700000000123456790,x,2\n2,5,x,2\n", {}),
    "whole and broken numbers": ("1,1,x,1\n1,2.5,x,2\n", {}),
    "ids that look like numbers here and there": ("1,1,x,1\n2,1,x,1\nb7,1,x,1\n", {}),
    "ids with leading zeros": ("007,1,x,1\n8,1,x,1\n7,2,x,1\n", {}),
    "odd names": ("a,1,<b>,1\na,1,variable_0,2\nb,1,温度,3\nb,2,a/b,4\n", {}),
    "twice, by policy": ("a,1,x,1\nb,1,x,5\na,1,x,3\n", {"duplicates": "mean"}),
    "no numbers, by policy": ("a,1,x,<3\nb,1,x,inf\na,2,x,3\n", {"invalid": "missing"}),
    "series without a value": ("a,1,x,\nb,1,x,2\n", {}),
}


@pytest.mark.parametrize("what", TEXTS)
def test_text_of_every_kind(tmp_path, what):
    text, policies = TEXTS[what]
    (tmp_path / "t.csv").write_text(",".join(NAMES) + "\n" + text, encoding="utf8")
    written = open_dataset(convert_table(tmp_path / "t.csv", tmp_path / "t.nc", rows_in_memory=1, **policies))
    same(written, read_table(tmp_path / "t.csv", **policies))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table has no row"),
        ("a,1,x,1\na,1,x,2\n", "t.csv: series 'a', time 1: x occurs 2 times"),
        ("a,1,x,1\nb,1,y,<3\n", "t.csv: series 'b', time 1: y is '<3', no number"),
        ("a,1,x,1\nb,2,x,inf\n", "t.csv: series 'b', time 2: x is inf"),
        ("a,1,x,1\nb,,x,2\n", "t.csv: row 1 has nothing in column 'time'"),
        ("a,1,x,1\n,1,x,2\n", "row 1 has nothing in column 'id'"),
        ("a,1,x,1\nb,2020-01-01,x,2\n", "times are of several kinds"),
        ("a,1,x,1\nb,1,x,2,3\n", "t.csv: not a table"),
        ("a,1,x,1,2\nb,1,x,2,3\n", "t.csv: not a table"),
    ],
)
def test_refused_and_nothing_is_left(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(",".join(NAMES) + "\n" + text)
    with pytest.raises(ValueError, match=message):
        convert_table(tmp_path / "t.csv", tmp_path / "t.nc", rows_in_memory=1)
    assert [item.name for item in tmp_path.iterdir()] == ["t.csv"]


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("id,time,variable,value,value\na,1,x,1,2\n")
    with pytest.raises(ValueError, match="several columns 'value'"):
        convert_table(tmp_path / "t.csv", tmp_path / "t.nc")


def test_origins_of_series_without_rows_are_those_of_a_table_read_at_once(tmp_path):
    (tmp_path / "t.csv").write_text(",".join(NAMES) + "\nb,2020-01-05,y,2\nd,2020-01-06,y,2\n")
    ages = pd.Series([1.0, 2.0, 3.0, 4.0], ["a", "b", "c", "d"])
    path = convert_table(tmp_path / "t.csv", tmp_path / "t.nc", static=ages, rows_in_memory=1)
    table = pd.read_csv(tmp_path / "t.csv", parse_dates=["time"])
    written, expected = open_dataset(path), from_long(table, *NAMES, static=ages)
    assert written["series"].values.tolist() == ["a", "b", "c", "d"]
    assert written["static"].values.tolist() == expected["static"].values.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert written["row_size"].values.tolist() == expected["row_size"].values.tolist() == [0, 1, 0, 1]
    with pytest.raises(TypeError, match="give a table indexed by id"):
        convert_table(tmp_path / "t.csv", tmp_path / "u.nc", static="age")


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert_table(tmp_path / "absent.csv", tmp_path / "t.nc")
    (tmp_path / "x.xlsx").write_text("")
    with pytest.raises(ValueError, match="read in pieces from .csv"):
        convert_table(tmp_path / "x.xlsx", tmp_path / "t.nc")


PEAK = """
import re, sys
from pathlib import Path
from ctlssl import convert_table, read_table


def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024


before = peak()
if sys.argv[2] == "pieces":
    convert_table(sys.argv[1], sys.argv[1] + ".nc", rows_in_memory=100_000)
else:
    read_table(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_grows_less_than_the_table(tmp_path):
    """Peak MiB beyond the imports, of 1 and 4 million rows in random order; read at once it would be the whole."""
    draw, peaks = np.random.default_rng(0), {}
    for rows in (1_000_000, 4_000_000):
        frame = pd.DataFrame({"id": draw.integers(rows // 100, size=rows), "time": draw.uniform(0, 1e6, size=rows)})
        frame = frame.assign(variable=draw.choice(["x", "y", "z"], size=rows), value=draw.normal(size=rows))
        frame.to_csv(tmp_path / f"{rows}.csv", index=False)
        for how in ("pieces", "whole"):
            asked = [sys.executable, "-c", PEAK, str(tmp_path / f"{rows}.csv"), how]
            done = subprocess.run(asked, capture_output=True, text=True, check=True)
            peaks[rows, how] = float(done.stdout)
    print({f"{rows} rows, {how}": f"{peak:.0f} MiB" for (rows, how), peak in peaks.items()})
    assert peaks[4_000_000, "pieces"] < 3 * peaks[1_000_000, "pieces"]
    assert peaks[4_000_000, "pieces"] < peaks[4_000_000, "whole"] / 3


# Trained from disk


def question(folder, **more):
    """Death on covid19, by two files; and the same with the records as a NetCDF file."""
    ds = load_dataset("covid19")
    to_long(ds).to_csv(folder / "records.csv", index=False)
    names = {"died": "outcome", "age": "age", "stay": "discharge"}
    outcomes = pd.DataFrame({name: ds[source].values for name, source in names.items()} | {"id": ds["series"].values})
    outcomes.to_csv(folder / "outcomes.csv", index=False)
    convert_table(folder / "records.csv", folder / "records.nc")
    asked = {"labels": str(folder / "outcomes.csv"), "static": "age", "landmark": 24.0, "end": "stay"} | more
    whole = TableTask(str(folder / "records.csv"), **asked)
    return whole, replace(whole, records=str(folder / "records.nc"), from_disk=True)


@pytest.mark.parametrize("label", [("died",), ("stay", "age")])
def test_the_split_on_disk_is_that_in_memory(tmp_path, label, monkeypatch):
    monkeypatch.setattr(from_disk, "_BLOCK_BYTES", 8 * 74 * 100)  # a hundred rows: many blocks
    whole, stored = question(tmp_path, label=label)
    expected = prepare(whole.load().task, 3, whole.load().ds)
    found, loaded = from_disk.split_on_disk(stored, tmp_path / "series", 3)
    assert found.problem == expected.problem and loaded.notes == whole.load().notes
    for name, part in expected.normalizer.tensors().items():
        torch.testing.assert_close(found.normalizer.tensors()[name], part, rtol=0, atol=0, equal_nan=True)
    for name in ("train", "valid", "test"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.ids.tolist() == theirs.ids.tolist() and mine.variables == theirs.variables
        assert torch.equal(mine.labels, theirs.labels)
        series = mine.series.to_series()
        for field in ("times", "observed", "lengths", "static"):
            assert torch.equal(getattr(series, field), getattr(theirs.series, field)), field
        torch.testing.assert_close(series.values, theirs.series.values, rtol=0, atol=0, equal_nan=True)


def test_a_run_from_disk_ends_as_one_in_memory(tmp_path):
    """To rounding, without dropout, whose draws go by the shapes of batches; and nothing but the run is left."""
    whole, stored = question(tmp_path, label="died")
    scores = {}
    for name, task in {"whole": whole, "stored": stored}.items():
        settings = RunSettings(task, width=8, options={"dropout": 0.0}, training=Training(epochs=2))
        scores[name] = train_run(settings, tmp_path / name)
    assert scores["stored"] == pytest.approx(scores["whole"], abs=1e-4)
    assert not (tmp_path / "stored" / "series").exists()
    page = write_report(tmp_path / "stored")
    assert "What the observations did" in check_page(page, pictures=6)
    table = open_run(tmp_path / "stored").predict(open_dataset(tmp_path / "records.nc").assign(age=ages(tmp_path)))
    assert np.isfinite(table["class_1"]).all()


def ages(folder):
    ids = open_dataset(folder / "records.nc")["series"].values
    column = pd.read_csv(folder / "outcomes.csv").set_index("id").loc[ids, "age"].to_numpy(float)
    return ("series", column, {"role": "static"})


@pytest.mark.parametrize("more", [{"label": (), "static": (), "end": None}, {"limits": {"urea": (0, 1)}}])
def test_what_is_not_done_from_disk_is_refused(tmp_path, more):
    _, stored = question(tmp_path, **({"label": "died"} | more))
    with pytest.raises(ValueError, match="from disk, the series of a .nc are classified or regressed"):
        from_disk.split_on_disk(stored, tmp_path / "series", 0)
    with pytest.raises(ValueError, match="from disk"):
        from_disk.split_on_disk(replace(stored, records=str(tmp_path / "records.csv")), tmp_path / "series", 0)
