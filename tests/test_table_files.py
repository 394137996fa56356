"""Files of tables, and the shapes of other libraries: what is read, what is refused, and by which policy."""

import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchcde
import xarray as xr

from ctlssl import load_dataset, save_dataset
from ctlssl.schema import channels, check_dataset, labels, static
from ctlssl.tables import (
    from_aeon,
    from_arrays,
    from_long,
    from_pypots,
    from_pyrregular,
    read_table,
    screen,
    to_long,
    to_torchcde,
)

NAN = math.nan
HEAD = "id,time,variable,value\n"


@pytest.fixture
def written(tmp_path):
    """A file of some text, under a name."""

    def write(text, name="records.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf8")
        return path

    return write


def test_a_csv_is_the_table_it_was_written_from(tmp_path):
    ds = load_dataset("covid19")
    to_long(ds).to_csv(tmp_path / "records.csv", index=False)
    to_long(ds).to_csv(tmp_path / "records.tsv", index=False, sep="\t")
    names = {"id": "id", "time": "time", "variable": "variable", "value": "value"}
    expected = from_long(to_long(ds), **names)
    for name in ("records.csv", "records.tsv"):
        xr.testing.assert_identical(read_table(tmp_path / name), expected)


def test_a_wide_csv_and_a_netcdf(tmp_path):
    ds = from_arrays([[0.0, 1.5], [2.0]], [[[1.0, NAN], [2.0, 3.0]], [[NAN, 4.0]]], variables=["x", "y"])
    frame = pd.DataFrame({"id": [1, 0, 0], "time": [2.0, 1.5, 0.0], "x": [NAN, 2.0, 1.0], "y": [4.0, 3.0, NAN]})
    frame.to_csv(tmp_path / "wide.csv", index=False)
    xr.testing.assert_identical(read_table(tmp_path / "wide.csv", wide=True), ds)
    xr.testing.assert_identical(read_table(save_dataset(ds, tmp_path / "ds.nc")), ds)


def test_parquet_without_pyarrow_has_a_remedy(tmp_path, monkeypatch):
    path = tmp_path / "records.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        read_table(path)


def test_parquet(tmp_path):
    path = tmp_path / "records.parquet"
    frame = pd.DataFrame({"subject_id": [7, 7], "time": pd.to_datetime(["2020-01-01", "2020-01-02"])})
    frame = frame.assign(code=["urea", "urea"], numeric_value=[1.0, 2.0])
    frame.to_parquet(path)
    ds = read_table(path, unit="d")
    assert ds["time"].values.tolist() == [0.0, 1.0] and ds["urea"].values.tolist() == [1.0, 2.0]
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="more than max_bytes=10"):
        read_table(path, max_bytes=10)
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="records.parquet"):
            read_table(path)


@pytest.mark.parametrize(
    ("first", "second", "hours"),
    [
        ("0.5", "2", 1.5),
        ("00:30", "36:00", 35.5),
        ("00:00:30", "00:01:00", 1 / 120),
        ("2020-01-01 08:00", "2020-01-02", 16.0),
        ("1965-12-31T23:00:00.000000001", "1966-01-01", 1 - 1e-9 / 3600),
        ("2021-03-28T01:30:00+01:00", "2021-03-28T03:30:00+02:00", 1.0),
        ("2020-01-01T00:00Z", "2020-01-01T00:30Z", 0.5),
    ],
)
def test_times_of_a_text_file(written, first, second, hours):
    ds = read_table(written(f"{HEAD}a,{second},x,2\na,{first},x,1\n"))
    assert ds["x"].values.tolist() == [1.0, 2.0]
    assert np.diff(ds["time"].values)[0] == pytest.approx(hours, abs=1e-13)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "records.csv: not a table"),
        ("id,time,variable\na,0,x\n", "which column is the value"),
        ("patient no,time,variable,value\na,0,x,1\n", "which column is the id"),
        ("id,time,variable,value,value\na,0,x,1,2\n", "several columns 'value'"),
        (HEAD + "a,0,x,1,5\n", "not a table"),
        (HEAD.replace(",", ";") + "a;0;x;1,5\n", "parted by ';'; a .csv has commas"),
        (HEAD + "a,noon,x,1\n", "series 'a', row 0 of the table: the time 'noon' is neither"),
        (HEAD + "a,0:30,x,1\nb,midnight,x,1\n", "series 'b', row 1 of the table: the time 'midnight' is no hh:mm"),
        (HEAD + "a,2020-01-01T00:00Z,x,1\na,2020-01-02T00:00,x,1\n", "row 1 of the table.*without a time zone"),
        (HEAD + "a,,x,1\n", "series 'a', row 0 of the table: no time"),
        (HEAD + "a,inf,x,1\n", "series 'a', row 0 of the table: time is inf"),
        (HEAD + ",0,x,1\n", "row 0 of the table: no id"),
        (HEAD + "a,0,,1\n", "row 0 of the table: no name"),
        (HEAD + "a,0,x,1\na,1,x,<3\n", r"series 'a', time 1: x is '<3', no number \(1 such values\)"),
        (HEAD + "a,0,x,inf\n", "series 'a', time 0: x is inf"),
        (HEAD + "a,0,x,1\na,0,x,2\n", "series 'a', time 0: x occurs 2 times"),
    ],
)
def test_refused_with_the_file_the_place_and_a_remedy(written, text, message):
    with pytest.raises(ValueError, match=message):
        read_table(written(text))


def test_other_files_are_refused(written, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=r"read from .csv, .tsv, .parquet, .nc"):
        read_table(written("x", "records.xlsx"))
    with pytest.raises(ValueError, match=r"is a folder; records are read from a file: .csv"):
        read_table(tmp_path)
    with pytest.raises(ValueError, match=r"more than max_bytes=8; .*convert_table"):
        read_table(written(HEAD + "a,0,x,1\n"), max_bytes=8)
    (tmp_path / "bytes.csv").write_bytes(b"id,time,variable,value\n\xff\xfe,0,x,1\n")
    with pytest.raises(ValueError, match="damaged"):
        read_table(tmp_path / "bytes.csv")


def test_values_that_are_none_by_policy(written):
    path = written(HEAD + "a,0,x,1\na,1,x,<3\na,2,x,inf\na,3,y,2\n")
    ds = read_table(path, invalid="missing")
    assert ds["time"].values.tolist() == [0.0, 3.0] and ds["x"].values[0] == 1.0 and np.isnan(ds["x"].values[1])
    with pytest.raises(ValueError, match="unknown invalid='ignore'; choose from error, missing"):
        read_table(path, invalid="ignore")
    wide = read_table(written("id,time,x\na,0,1\na,1,n/d\na,2,-inf\n", "wide.csv"), wide=True, invalid="missing")
    np.testing.assert_array_equal(wide["x"].values, [1.0, NAN, NAN])


def test_covariates_of_a_second_table(written):
    outcomes = pd.DataFrame({"age": [50, 60], "died": [True, False]}, index=["a", "b"])
    path = written(HEAD + "a,0,x,1\nb,1,x,2\n")
    ds = read_table(path, static=outcomes[["age"]], labels=outcomes["died"])
    assert (static(ds), labels(ds), ds["died"].values.tolist()) == (("age",), ("died",), [True, False])
    with pytest.raises(ValueError, match="series 'b': not in the table of label"):
        read_table(path, labels=outcomes["died"].iloc[:1])


def test_names_of_any_kind_come_back(written):
    names = ["<script>alert(1)</script>", "温度", "a $b$", "y" * 300, "=1+1"]
    table = pd.DataFrame({"id": "a", "time": 0.0, "variable": names, "value": 1.0})
    assert set(channels(read_table(written(table.to_csv(index=False))))) == set(names)


# Policies for values


SMALL = from_arrays(
    [[0.0, 1.0], [5.0]], [[[36.6, 1.0], [366.0, 1.0]], [[NAN, 1.0]]], ids=["a", "b"], variables=["t", "c"]
)


def test_values_outside_of_their_range():
    with pytest.raises(ValueError, match=r"series 'a', position 1, time 1.0: t is 366.0, outside 25 to 45 \(1 such"):
        screen(SMALL, limits={"t": (25, 45)})
    before = SMALL.copy(deep=True)
    np.testing.assert_array_equal(screen(SMALL, limits={"t": (25, 45)}, outside="missing")["t"], [36.6, NAN, NAN])
    np.testing.assert_array_equal(screen(SMALL, limits={"t": (25, 45)}, outside="clip")["t"], [36.6, 45.0, NAN])
    assert screen(SMALL, limits={"t": (36.6, 366)}).identical(SMALL) and SMALL.identical(before)


def test_variables_that_are_unknown_or_constant():
    with pytest.raises(ValueError, match="nobody expects: 'c'"):
        screen(SMALL, variables=["t"])
    assert channels(screen(SMALL, variables=["t", "other"], unknown="drop")) == ("t",)
    with pytest.raises(ValueError, match="one value at most: 'c'"):
        screen(SMALL, constant="error")
    dropped = screen(SMALL, constant="drop")
    check_dataset(dropped)
    assert channels(dropped) == ("t",) and dropped.sizes["obs"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outside": "wrap"}, "unknown outside='wrap'; choose from error, missing, clip"),
        ({"unknown": "keep"}, "unknown unknown='keep'"),
        ({"constant": "hide"}, "unknown constant='hide'"),
        ({"limits": {"z": (0, 1)}}, "'z', which is no channel"),
        ({"limits": {"t": (1, 0)}}, "give the lower one first"),
    ],
)
def test_policies_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        screen(SMALL, **options)


# Other libraries


def test_from_aeon_in_both_shapes():
    ragged = [np.array([[1.0, NAN, 3.0], [NAN, NAN, 5.0]]), np.array([[7.0], [8.0]])]
    ds = from_aeon(ragged, y=np.array(["x", "y"]))
    assert ds["row_size"].values.tolist() == [3, 1] and ds["label"].values.tolist() == ["x", "y"]
    np.testing.assert_array_equal(ds["x0"], [1.0, NAN, 3.0, 7.0])
    padded = np.full((2, 2, 5), NAN)
    padded[0, :, :3], padded[1, :, :1] = ragged
    assert from_aeon(padded, y=["x", "y"]).identical(ds)
    steps = {"X": padded.swapaxes(1, 2), "y": np.array(["x", "y"])}
    assert from_pypots(steps).identical(ds)
    timed = from_aeon(ragged, times=[[0.0, 0.5, 9.0], [2.0]], unit="h", variables=["u", "v"])
    assert timed["time"].values.tolist() == [0.0, 0.5, 9.0, 2.0] and channels(timed) == ("u", "v")
    shared = from_aeon(padded, times=np.arange(5) / 2)
    assert shared["time"].values.tolist() == [0.0, 0.5, 1.0, 0.0]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: from_aeon(np.zeros((2, 3))), r"series 0: found shape \(3,\)"),
        (lambda: from_aeon(np.zeros((1, 1, 3)), times=[0.0, 1.0]), r"series 0: times \(2,\) for 3 time points"),
        (lambda: from_aeon(np.full((1, 1, 1), math.inf)), "x0 is inf"),
        (lambda: from_pypots({"x": 1}), 'no "X" among'),
        (lambda: from_pypots({"X": np.zeros((1, 2))}), r"has shape \(1, 2\)"),
        (lambda: from_pyrregular(xr.DataArray(np.zeros((1, 1)))), "pyrregular's are over"),
    ],
)
def test_shapes_that_are_none_of_theirs(read, message):
    with pytest.raises(ValueError, match=message):
        read()


class Coordinates:
    """As much of a `sparse.COO` as is read of it."""

    def __init__(self, coords, data):
        self.coords, self.data = np.asarray(coords), np.asarray(data)


def test_sparse_and_dense_arrays_of_pyrregular_agree():
    dense = np.full((2, 2, 3), NAN)
    dense[0, 0, [0, 2]], dense[0, 1, 0], dense[1, 1, 1] = [1.0, 2.0], 3.0, 4.0
    place = np.nonzero(~np.isnan(dense))
    stamps = np.array(["2020-01-01T00", "2020-01-01T01", "2020-01-03T00"], dtype="datetime64[ns]")
    coords = {"ts_id": ["p", "q"], "signal_id": ["u", "v"], "time_id": stamps, "class": ("ts_id", ["y", "n"])}
    array = xr.DataArray(dense, dims=("ts_id", "signal_id", "time_id"), coords=coords)
    ds = from_pyrregular(array, target="class")
    assert ds["time"].values.tolist() == [0.0, 48.0, 0.0] and ds["class"].values.tolist() == ["y", "n"]
    np.testing.assert_array_equal(ds["v"], [3.0, NAN, 4.0])

    class Sparse(xr.DataArray):
        __slots__ = ()
        data = property(lambda self: Coordinates(place, dense[place]))

    assert from_pyrregular(Sparse(array), target="class").identical(ds)
    with pytest.raises(ValueError, match="no coordinate 'sex' over ts_id"):
        from_pyrregular(array, target="sex")


def test_torchcde_reads_what_is_written():
    ds = from_arrays([[0.0, 2.0, 3.0], [1.0], []], [[1.0, NAN, 4.0], [7.0], []], variables=["x"])
    paths, names = to_torchcde(ds)
    assert names == ("time", "x") and paths.shape == (3, 3, 2)
    coefficients = torchcde.linear_interpolation_coeffs(paths[:2])
    path = torchcde.LinearInterpolation(coefficients)
    # between its observed rows 0 and 2 the first series rises from 1 to 4; past its end the second stands still
    torch.testing.assert_close(path.evaluate(1.0)[:, 1], torch.tensor([2.5, 7.0], dtype=torch.float64))
    torch.testing.assert_close(path.evaluate(2.0), torch.tensor([[3.0, 4.0], [1.0, 7.0]], dtype=torch.float64))
