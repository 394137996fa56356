"""Tables read in pieces: the same file as if read at once, in bounded memory, or an error and no file."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ctlssl import load_dataset, open_dataset, to_long
from ctlssl.tables import convert_table, read_table

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
    expected = read_table(tmp_path / "records.csv", unit="h")
    kept = np.isin(ds["series"].values, expected["series"].values)
    written = open_dataset(path)
    assert written["outcome"].values.tolist() == ds["outcome"].values[kept].tolist()
    assert written["a/b"].attrs["role"] == "static"
    same(written.drop_vars(["age", "a/b", "outcome"]), expected)
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
    ],
)
def test_refused_and_nothing_is_left(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(",".join(NAMES) + "\n" + text)
    with pytest.raises(ValueError, match=message):
        convert_table(tmp_path / "t.csv", tmp_path / "t.nc", rows_in_memory=1)
    assert [item.name for item in tmp_path.iterdir()] == ["t.csv"]


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert_table(tmp_path / "absent.csv", tmp_path / "t.nc")
    (tmp_path / "x.xlsx").write_text("")
    with pytest.raises(ValueError, match="read in pieces from .csv"):
        convert_table(tmp_path / "x.xlsx", tmp_path / "t.nc")


PEAK = """
import resource, sys
from ctlssl import convert_table, read_table
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.argv[2] == "pieces":
    convert_table(sys.argv[1], sys.argv[1] + ".nc", rows_in_memory=100_000)
else:
    read_table(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_table(tmp_path):
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
    assert peaks[4_000_000, "pieces"] < 1.5 * peaks[1_000_000, "pieces"]
    assert peaks[4_000_000, "pieces"] < peaks[4_000_000, "whole"] / 3
