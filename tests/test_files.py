"""Files: what comes back is what was written, or an error; a file is written whole or not at all."""

import math
import os

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings

from ctlssl.files import open_dataset, save_dataset
from ctlssl.schema import channels
from ctlssl.tables import from_arrays, from_long, from_wide, to_long

NAMES = ["x", "heart rate", "a/b", "<script>alert(1)</script>", "温度", "é", "1", " lead", "trail ", "-", "y" * 300, ""]


def small(**options):
    """Three series, one of them empty, with text ids and odd names."""
    values = [np.arange(2.0 * len(NAMES)).reshape(2, -1), np.empty((0, len(NAMES))), np.full((1, len(NAMES)), math.nan)]
    static = pd.DataFrame(
        {"sex": ["f", "m", "ü"], "age": [1, 2, 3], "weight": [1.5, math.nan, 2.5]}, ["a", "b", "日本"]
    )
    return from_arrays(
        [[0.0, 0.1], [], [-1e9]],
        values,
        ids=["a", "b", "日本"],
        variables=NAMES,
        static=static,
        labels=[True, False, True],
        unit="h",
        units={"温度": "°C"},
        **options,
    )


def test_round_trip_with_odd_names_and_text(tmp_path):
    ds = small()
    again = open_dataset(save_dataset(ds, tmp_path / "small.nc"))
    xr.testing.assert_identical(again, ds)
    assert channels(again) == tuple(NAMES)
    assert {name: item.dtype for name, item in again.variables.items()} == {
        name: item.dtype for name, item in ds.variables.items()
    }
    assert all("ctlssl_name" not in ds[name].attrs for name in NAMES)  # saving changed nothing of what was saved


FLOATS = st.floats(width=64, allow_infinity=False)
TABLES = st.lists(
    st.tuples(st.integers(-5, 5), st.floats(-1e9, 1e9), FLOATS, FLOATS), max_size=12, unique_by=lambda r: r[:2]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLES, st.sampled_from(NAMES), st.booleans())
def test_table_to_file_to_table(tmp_path, rows, name, text):
    df = pd.DataFrame(rows, columns=["id", "t", name, "other"]).astype({name: float, "other": float, "t": float})
    df["id"] = df["id"].map(lambda k: f"patient {k}") if text else df["id"].astype(np.int64)
    ds = from_wide(df, id="id", time="t")
    again = open_dataset(save_dataset(ds, tmp_path / "table.nc"))
    xr.testing.assert_identical(again, ds)
    table = to_long(again)
    pd.testing.assert_frame_equal(table, to_long(ds))
    names = {"id": "id", "time": "time", "variable": "variable", "value": "value"}
    expected = table.sort_values(["id", "time", "variable"], ignore_index=True)
    pd.testing.assert_frame_equal(to_long(from_long(table, **names)), expected)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hnp.arrays(st.sampled_from([np.int8, np.uint16, np.int64, np.float32, np.float64, np.bool_]), 3))
def test_covariates_keep_their_dtype_and_their_bits(tmp_path, column):
    ds = from_arrays([[0.0]] * 3, [[1.0]] * 3)
    ds["z"] = ("series", column, {"role": "static"})
    again = open_dataset(save_dataset(ds, tmp_path / "z.nc"))
    assert again["z"].dtype == column.dtype
    np.testing.assert_array_equal(again["z"].values, column)


@pytest.mark.parametrize(
    "ds", [from_arrays([], []), from_arrays([], [], variables=["x"]), from_arrays([[], []], [[], []])]
)
def test_empty_datasets(tmp_path, ds):
    xr.testing.assert_identical(open_dataset(save_dataset(ds, tmp_path / "empty.nc")), ds)


def test_stamps_keep_their_origin(tmp_path):
    stamps = pd.to_datetime(["2020-03-01 00:00:00.000000001", "1965-01-01"], format="mixed").tz_localize("Asia/Tokyo")
    ds = from_wide(pd.DataFrame({"id": [1, 2], "t": stamps, "x": 1.0}), id="id", time="t")
    again = open_dataset(save_dataset(ds, tmp_path / "stamps.nc"))
    assert again["origin"].values.tolist() == ["2020-02-29T15:00:00.000000001", "1964-12-31T15:00:00.000000000"]
    xr.testing.assert_identical(again, ds)


def test_a_selection_of_an_opened_file_can_be_saved(tmp_path):
    opened = open_dataset(save_dataset(small(), tmp_path / "small.nc"))
    part = opened.isel(series=[0], obs=[0, 1])
    xr.testing.assert_identical(open_dataset(save_dataset(part, tmp_path / "part.nc")), part)


def test_xarray_alone_reads_the_file(tmp_path):
    ds = small().drop_vars([name for name in NAMES if name != "x"])
    with xr.open_dataset(save_dataset(ds, tmp_path / "x.nc")) as plain:
        np.testing.assert_array_equal(plain["x"], ds["x"])
        assert plain["time"].dtype == np.float64
        assert plain["series"].values.tolist() == ["a", "b", "日本"]
        assert plain["row_size"].attrs["sample_dimension"] == "obs"


# Writing


def test_a_dataset_that_breaks_the_schema_is_not_written(tmp_path):
    ds = small()
    with pytest.raises(ValueError, match="row_size sums to 9"):
        save_dataset(ds.assign(row_size=("series", [3, 3, 3])), tmp_path / "bad.nc")
    with pytest.raises(TypeError, match="of dtype object"):
        save_dataset(ds.assign(z=("series", np.array([1, "a", None], dtype=object))), tmp_path / "bad.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("point", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, point):
    path = save_dataset(small(), tmp_path / "kept.nc")
    before = path.read_bytes()

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, point, no_space)
    with pytest.raises(OSError, match="No space left"):
        save_dataset(from_arrays([[0.0]], [[1.0]]), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["kept.nc"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        save_dataset(small(), tmp_path / "nowhere" / "x.nc")


# Damaged and foreign files


def test_every_truncation_is_refused(tmp_path):
    whole = save_dataset(small(), tmp_path / "whole.nc").read_bytes()
    for size in [*range(0, len(whole), 211), len(whole) - 1]:
        path = tmp_path / f"cut{size}.nc"  # the HDF5 library remembers a file by its name
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"cut{size}.nc"):
            open_dataset(path)


def test_flipped_bits_in_the_values_are_found(tmp_path):
    draw = np.random.default_rng(5)
    ds = from_arrays([np.sort(draw.normal(size=3000))], [draw.normal(size=3000)])
    whole = save_dataset(ds, tmp_path / "whole.nc").read_bytes()
    found = 0
    # nearly all of the file is the two arrays: its middle lies in them, but for a few unused bytes
    for k in draw.integers(len(whole) // 4, 3 * len(whole) // 4, size=30).tolist():
        content = bytearray(whole)
        content[k] ^= 1 << int(draw.integers(8))
        path = tmp_path / f"flip{k}.nc"
        path.write_bytes(content)
        try:
            assert open_dataset(path).identical(ds)
        except ValueError as error:
            assert "damaged" in str(error)
            found += 1
    assert found >= 25


@pytest.mark.parametrize("content", [b"", b"id,time\n1,2\n", b"\x89HDF\r\n\x1a\n" + bytes(100), b"CDF\x01" + bytes(60)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.nc"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="other.nc"):
        open_dataset(path)


def test_addresses_and_missing_files_are_not_opened(tmp_path):
    for path in (tmp_path / "absent.nc", "https://example.org/x.nc", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            open_dataset(path)


def foreign(path, fill):
    """A file written by hand: three rows of two series, and whatever `fill` adds or changes."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("series", 2)
        file.createDimension("obs", 3)
        file.createVariable("series", "i8", "series")[:] = [10, 20]
        file.createVariable("row_size", "i4", "series")[:] = [2, 1]
        file.createVariable("time", "f8", "obs")[:] = [0.0, 1.0, 0.5]
        file["time"].units = "hours since 2020-01-01"
        file.createVariable("x", "f4", "obs", fill_value=-9.0)[:] = [1.0, -9.0, 3.0]
        fill(file)
    return path


def test_foreign_files_of_the_schema_are_read(tmp_path):
    ds = open_dataset(foreign(tmp_path / "foreign.nc", lambda file: None))
    np.testing.assert_array_equal(ds["x"], [1.0, math.nan, 3.0])
    assert ds["time"].values.tolist() == [0.0, 1.0, 0.5]


def set_values(name, values):
    """A change of one variable of a file."""
    return lambda file: file[name].__setitem__(slice(None), values)


def object_column(file):
    """Strings of any length over obs."""
    file.createVariable("text", str, "obs")[:] = np.array(["a", "b", "c"], dtype=object)


def huge(file):
    """A variable of 8 TB, of which nothing is written."""
    file.createDimension("many", 10**12)
    file.createVariable("bomb", "f8", "many")


@pytest.mark.parametrize(
    ("fill", "error", "message"),
    [
        (set_values("row_size", [2, 2]), ValueError, "row_size sums to 4 but obs has 3"),
        (set_values("row_size", [-1, 4]), ValueError, "series 10: row_size is -1"),
        (set_values("time", [0.0, math.nan, 0.0]), ValueError, "series 10, position 1: time is nan"),
        (set_values("time", [1.0, 0.0, 0.0]), ValueError, "series 10, position 1: time 0.0 < previous 1.0"),
        (set_values("x", [0.0, 0.0, math.inf]), ValueError, "series 20, position 0: x is infinite"),
        (set_values("series", [20, 20]), ValueError, "series 20: the id occurs 2 times"),
        (object_column, TypeError, "'text' over obs"),
        (huge, ValueError, "needs 8000000000.* bytes, more than"),
        (lambda file: file.createGroup("g"), ValueError, "groups"),
        (lambda file: file.createCompoundType(np.dtype([("a", "f8")]), "pair"), ValueError, "user-defined types"),
        (lambda file: file.renameVariable("row_size", "rows"), ValueError, "no row_size"),
        (lambda file: file.createVariable("m", "f8", ("series", "obs")), ValueError, "'m' is over"),
    ],
)
def test_what_breaks_the_schema_is_refused(tmp_path, fill, error, message):
    with pytest.raises(error, match=message):
        open_dataset(foreign(tmp_path / "foreign.nc", fill))


def test_the_most_bytes_is_the_callers_choice(tmp_path):
    path = save_dataset(small(), tmp_path / "small.nc")
    with pytest.raises(ValueError, match="more than 100; raise max_bytes"):
        open_dataset(path, max_bytes=100)
