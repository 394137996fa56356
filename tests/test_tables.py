"""Tables in and out: every stamp exact, every order the same, every doubt an error that names the series."""

import datetime
import math
import warnings

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from ctlssl.schema import channels, check_dataset, labels, static
from ctlssl.tables import from_arrays, from_long, from_wide, to_long, to_series

NAN = math.nan
COLUMNS = {"id": "id", "time": "time", "variable": "variable", "value": "value"}


def long_table(rows):
    """A long table of (id, time, variable, value)."""
    return pd.DataFrame(rows, columns=list(COLUMNS))


SMALL = [("b", 2.0, "x", 1.0), ("a", 0.5, "y", 2.0), ("a", 0.0, "x", 3.0), ("b", 2.0, "y", 4.0), ("a", 0.5, "x", 5.0)]


def test_from_long_by_hand():
    ds = from_long(long_table(SMALL), **COLUMNS, unit="d", units={"x": "mmol/L"})
    assert ds["series"].values.tolist() == ["a", "b"]
    assert ds["row_size"].values.tolist() == [2, 1]
    assert ds["time"].values.tolist() == [0.0, 0.5, 2.0]
    np.testing.assert_array_equal(ds["x"].values, [3.0, 5.0, 1.0])
    np.testing.assert_array_equal(ds["y"].values, [NAN, 2.0, 4.0])
    assert (ds["time"].attrs["units"], ds["x"].attrs["units"], "units" in ds["y"].attrs) == ("d", "mmol/L", False)
    assert [name for name, item in ds.coords.items() if item.dims == ("series",)] == ["series"]
    check_dataset(ds)


@settings(deadline=None)
@given(st.permutations(SMALL))
def test_the_order_of_a_table_does_not_matter(rows):
    assert from_long(long_table(rows), **COLUMNS).identical(from_long(long_table(SMALL), **COLUMNS))


def test_a_table_is_not_changed():
    df = long_table(SMALL)
    before = df.copy(deep=True)
    from_long(df, **COLUMNS)
    pd.testing.assert_frame_equal(df, before)


CELLS = st.tuples(
    st.integers(-3, 3), st.floats(-1e6, 1e6), st.sampled_from("xyz"), st.floats(allow_nan=False, allow_infinity=False)
)


@settings(deadline=None)
@given(st.lists(CELLS, unique_by=lambda row: row[:3], max_size=30))
def test_long_to_dataset_to_long(rows):
    df = long_table(rows).astype({"id": np.int64, "time": np.float64, "value": np.float64})
    ds = from_long(df, **COLUMNS)
    check_dataset(ds)
    again = from_long(to_long(ds), **COLUMNS)
    assert again.identical(ds)
    expected = sorted((i, t, v, x) for i, t, v, x in rows)
    assert list(to_long(ds).itertuples(index=False, name=None)) == expected


@settings(deadline=None)
@given(st.lists(CELLS, unique_by=lambda row: row[:3], min_size=1, max_size=30))
def test_wide_and_long_agree(rows):
    df = long_table(rows)
    df["time"] += 0.0  # -0.0 and 0.0 are one time
    df = df.drop_duplicates(["id", "time", "variable"])
    wide = df.pivot(index=["id", "time"], columns="variable", values="value").reset_index()
    assert from_wide(wide, id="id", time="time").identical(from_long(df, **COLUMNS))


@settings(deadline=None)
@given(st.lists(st.lists(CELLS, unique_by=lambda row: row[1], max_size=9), max_size=5))
def test_arrays_and_long_agree(series):
    clocks = [[row[1] for row in rows] for rows in series]
    values = [np.array([[row[3]] for row in rows]).reshape(-1, 1) for rows in series]
    ds = from_arrays(clocks, values)
    assert ds["row_size"].values.tolist() == [len(rows) for rows in series]
    long = long_table([(k, row[1], "x0", row[3]) for k, rows in enumerate(series) for row in rows])
    if len(long):
        np.testing.assert_array_equal(to_long(ds)["value"], to_long(from_long(long, **COLUMNS))["value"])
        np.testing.assert_array_equal(ds["time"], from_long(long, **COLUMNS)["time"])


# Time stamps


EPOCH = 1_700_000_000_123_456_789
STEPS = np.array([0, 1, 3, 1000])  # nanoseconds; float64 resolves 256 of them at EPOCH


@pytest.mark.parametrize(
    "stamps",
    [
        pytest.param(pd.Series(EPOCH + STEPS), id="integers"),
        pytest.param(pd.Series(EPOCH + STEPS, dtype="Int64"), id="nullable integers"),
        pytest.param(pd.Series((EPOCH + STEPS).view("datetime64[ns]")), id="stamps"),
        pytest.param(pd.Series((EPOCH + STEPS).view("datetime64[ns]")).dt.tz_localize("Asia/Shanghai"), id="zone"),
        pytest.param(pd.Series((STEPS - EPOCH).view("datetime64[ns]")), id="before 1970"),
    ],
)
def test_epoch_nanoseconds_are_exact(stamps):
    df = pd.DataFrame({"id": 7, "time": stamps, "x": 1.0})
    unit = None if pd.api.types.is_integer_dtype(stamps.dtype) else "ns"
    ds = from_wide(df.sample(frac=1.0, random_state=0), id="id", time="time", unit=unit)
    assert ds["time"].values.tolist() == STEPS.tolist()
    first = ds["origin"].values[0]
    assert first == EPOCH if unit is None else pd.Timestamp(first) == _in_utc(stamps.iloc[0])


def _in_utc(stamp):
    return stamp if stamp.tz is None else stamp.tz_convert("UTC").tz_localize(None)


@pytest.mark.parametrize("resolution", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(("unit", "seconds"), [("s", 1), ("min", 60), ("h", 3600), ("d", 86400), (None, 3600)])
def test_units_of_the_result(resolution, unit, seconds):
    stamps = np.array(["2019-12-31T23:00:00", "2020-01-02T05:30:15"], dtype=f"datetime64[{resolution}]")
    ds = from_arrays([stamps], [[1.0, 2.0]], unit=unit)
    assert ds["time"].values.tolist() == [0.0, (30.5 * 3600 + 15) / seconds]
    assert ds["time"].attrs["units"] == ("h" if unit is None else unit)


@settings(deadline=None)
@given(
    st.lists(st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)), min_size=1, unique=True),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]),
)
def test_stamps_with_a_zone_are_differences_of_python(stamps, zone):
    aware = pd.Series(stamps).dt.as_unit("us").dt.tz_localize("UTC")
    ds = from_wide(pd.DataFrame({"id": 1, "time": aware.dt.tz_convert(zone), "x": 1.0}), "id", "time", unit="us")
    expected = [(stamp - min(stamps)) // datetime.timedelta(microseconds=1) for stamp in sorted(stamps)]
    assert ds["time"].values.tolist() == [float(step) for step in expected]


def test_summer_time_counts_the_hours_that_passed():
    stamps = pd.to_datetime(["2021-03-28 01:30", "2021-03-28 03:30"]).tz_localize("Europe/Berlin")
    ds = from_wide(pd.DataFrame({"id": 1, "time": stamps, "x": 1.0}), id="id", time="time")
    assert ds["time"].values.tolist() == [0.0, 1.0]
    assert ds["origin"].values.tolist() == ["2021-03-28T00:30:00.000000"]


NUMBERS = long_table([(1, 5, "x", 1.0), (1, 7, "x", 2.0), (2, 3, "x", 3.0)])
STAMPS = NUMBERS.assign(time=pd.Timestamp("2020-01-01") + pd.to_timedelta(NUMBERS["time"], unit="h"))


@pytest.mark.parametrize(
    ("df", "origin", "expected"),
    [
        (NUMBERS, None, [5.0, 7.0, 3.0]),
        (NUMBERS, "first", [0.0, 2.0, 0.0]),
        (NUMBERS, 4, [1.0, 3.0, -1.0]),
        (NUMBERS, {1: 5.5, 2: 0}, [-0.5, 1.5, 3.0]),
        (NUMBERS.assign(time=pd.to_timedelta(NUMBERS["time"], unit="h")), None, [5.0, 7.0, 3.0]),
        (STAMPS, None, [0.0, 2.0, 0.0]),
        (STAMPS, "first", [0.0, 2.0, 0.0]),
        (STAMPS, pd.Timestamp("2020-01-01"), [5.0, 7.0, 3.0]),
        (STAMPS, "2020-01-01 05:00", [0.0, 2.0, -2.0]),
        (STAMPS, pd.Series(pd.to_datetime(["2020-01-01", "2020-01-02"]), index=[2, 1]), [-19.0, -17.0, 3.0]),
    ],
)
def test_origins(df, origin, expected):
    assert from_long(df, **COLUMNS, origin=origin)["time"].values.tolist() == expected


@pytest.mark.parametrize(
    ("df", "options", "message"),
    [
        (STAMPS, {"origin": pd.Timestamp("2020-01-01", tz="UTC")}, "time zone or neither"),
        (STAMPS, {"origin": {1: pd.Timestamp("2020-01-01")}}, "series 2: no origin"),
        (NUMBERS, {"origin": {1: 0.0, 2: NAN}}, "not missing"),
        (NUMBERS, {"origin": pd.Timestamp("2020-01-01")}, "of the kind of the time column"),
        (STAMPS, {"unit": "fortnight"}, "unknown unit 'fortnight'; choose from ns"),
        (STAMPS.assign(time=STAMPS["time"].where(STAMPS["id"] == 1)), {}, "series 2, row 2 of the table: no time"),
        (NUMBERS.assign(time=[0.0, NAN, 1.0]), {}, "series 1, row 1 of the table: no time"),
        (NUMBERS.assign(time=[0.0, math.inf, 1.0]), {}, "series 1, row 1 of the table: time is inf"),
        (NUMBERS.assign(value=[0.0, 1.0, -math.inf]), {}, "series 2, time 3: x is -inf; correct it"),
        (NUMBERS.assign(id=[1.0, NAN, 2.0]), {}, "row 1 of the table: no id in column 'id'"),
        (NUMBERS.assign(variable=["x", None, "x"]), {}, "row 1 of the table: no name in column 'variable'"),
        (NUMBERS.assign(variable=["1", 1, "x"]), {}, "several variables are written '1'"),
        (NUMBERS.assign(variable="row_size"), {}, "'row_size' are taken; rename"),
        (NUMBERS.assign(variable="time"), {}, "'time' are taken; rename"),
        (NUMBERS, {"value": "result"}, "no column 'result'; it has 'id', 'time', 'variable', 'value'"),
        (NUMBERS, {"duplicates": "median"}, "unknown duplicates='median'; choose from error, first, last, mean"),
        (NUMBERS, {"units": {"y": "g"}}, "units are given for 'y'"),
        (NUMBERS, {"labels": "sex"}, "no column 'sex'"),
        (NUMBERS, {"static": "value"}, "series 1: static column 'value' takes several values"),
        (NUMBERS, {"labels": pd.Series([1], index=[1])}, "series 2: not in the table of label"),
        (NUMBERS, {"static": pd.Series([1, 2, 3], index=[1, 1, 2])}, "series 1: several rows"),
    ],
)
def test_refused_with_place_and_remedy(df, options, message):
    with pytest.raises(ValueError, match=message):
        from_long(df, **(COLUMNS | options))


@pytest.mark.parametrize(
    ("df", "message"),
    [
        (NUMBERS.assign(time=["1", "2", "3"]), "'time' is of dtype .*pandas.to_datetime"),
        (NUMBERS.assign(time=[True, False, True]), "'time' is of dtype bool"),
        (NUMBERS.assign(value=["1", "2", "<3"]), "'value' is of dtype .*pandas.to_numeric"),
        (NUMBERS.assign(value=[1j, 2j, 3j]), "'value' is complex"),
        (NUMBERS.assign(id=[1.5, 1.5, 2.0]), "'id' has fractions"),
        (NUMBERS.assign(id=[1, "1", 2]), "'id' has int, str"),
    ],
)
def test_wrong_types_are_refused(df, message):
    with pytest.raises(TypeError, match=message):
        from_long(df, **COLUMNS)


def test_a_file_is_no_table():
    with pytest.raises(
        TypeError, match="from_long reads a pandas DataFrame, found str; ctlssl.read_table reads a file"
    ):
        from_long("records.csv", **COLUMNS)
    with pytest.raises(TypeError, match="from_wide reads a pandas DataFrame, found dict"):
        from_wide({"id": [1]}, "id", "time")


def test_stamps_that_collapse_are_told():
    base = np.datetime64("1900-01-01", "ns")
    stamps = np.array(["2020-01-01T00:00:00.000000000", "2020-01-01T00:00:00.000000001"], dtype="datetime64[ns]")
    with pytest.warns(UserWarning, match="1 stamps, the first in series 0, .*nearer to the data"):
        ds = from_arrays([stamps], [[1.0, 2.0]], origin=pd.Timestamp(base))
    assert ds["x0"].values.tolist() == [1.0, 2.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_arrays([stamps], [[1.0, 2.0]], unit="ns")["time"].values.tolist() == [0.0, 1.0]


# Duplicates


TWICE = long_table([(1, 0.0, "x", 1.0), (1, 0.0, "y", 9.0), (1, 0.0, "x", 4.0), (1, 0.0, "x", NAN), (2, 0.0, "x", 7.0)])


@pytest.mark.parametrize(("policy", "expected"), [("first", 1.0), ("last", 4.0), ("mean", 2.5)])
def test_duplicates_by_policy(policy, expected):
    ds = from_long(TWICE, **COLUMNS, duplicates=policy)
    assert (ds["x"].values.tolist(), ds["y"].values[0], ds.sizes["obs"]) == ([expected, 7.0], 9.0, 2)
    wide = pd.DataFrame({"id": 1, "t": 0.0, "x": [1.0, 4.0, NAN], "y": [NAN, NAN, 9.0]})
    ds = from_wide(wide, id="id", time="t", duplicates=policy)
    assert (ds["x"].values.tolist(), ds["y"].values.tolist()) == ([expected], [9.0])


def test_duplicates_are_an_error_by_default():
    with pytest.raises(ValueError, match='series 1, time 0.0: x occurs 2 times .*choose duplicates="last"'):
        from_long(TWICE, **COLUMNS)


def test_stamps_closer_than_the_unit_resolves_are_no_duplicates():
    stamps = pd.to_datetime(["2020-01-01T00:00:00.000000000", "2020-01-01T00:00:00.000000001"])
    df = long_table([(1, stamps[0], "x", 1.0), (1, stamps[1], "x", 2.0)])
    assert from_long(df, **COLUMNS, unit="ns")["x"].values.tolist() == [1.0, 2.0]


# Covariates, names, empty things


def test_static_and_labels_from_columns_and_from_tables():
    df = NUMBERS.assign(age=[40.0, NAN, 50.0], sex=["f", "f", "m"], died=[True, True, False])
    ds = from_long(df, **COLUMNS, static=["age", "sex"], labels="died")
    assert (static(ds), labels(ds), channels(ds)) == (("age", "sex"), ("died",), ("x",))
    assert (ds["age"].values.tolist(), ds["sex"].values.tolist()) == ([40.0, 50.0], ["f", "m"])
    assert ds["died"].values.tolist() == [True, False]
    by_id = pd.DataFrame({"age": [50.0, 40.0, 60.0], "sex": ["m", "f", "x"]}, index=[2, 1, 3])
    ds = from_long(NUMBERS, **COLUMNS, static=by_id, labels=pd.Series([0, 1, 1], index=[1, 2, 3], name="died"))
    assert (ds["series"].values.tolist(), ds["row_size"].values.tolist()) == ([1, 2, 3], [2, 1, 0])
    assert (ds["sex"].values.tolist(), ds["died"].values.tolist()) == (["f", "m", "x"], [0, 1, 1])


def test_a_label_cannot_be_static_too():
    with pytest.raises(ValueError, match="'died' is both static and label"):
        from_long(NUMBERS.assign(died=1), **COLUMNS, static="died", labels="died")


def test_covariates_only_for_the_series_that_have_them():
    with pytest.raises(ValueError, match="series 3: it has no static variables"):
        from_long(NUMBERS, **COLUMNS, static=pd.Series(1, [1, 2]), labels=pd.Series(1, [1, 2, 3]))


def test_wide_tables_keep_empty_rows_and_refuse_double_columns():
    df = pd.DataFrame({"id": [1, 1], "t": [0.0, 1.0], "x": [NAN, NAN]})
    ds = from_wide(df, id="id", time="t")
    assert (ds.sizes["obs"], bool(np.isnan(ds["x"]).all())) == (2, True)
    with pytest.raises(ValueError, match="several columns 'x'"):
        from_wide(pd.concat([df, df[["x"]]], axis=1), id="id", time="t")


def test_arrays_keep_the_order_of_the_series():
    ds = from_arrays([[1.0], [], [2.0, 0.0]], [[5.0], [], [6.0, 7.0]], ids=["z", "y", "a"], labels=[0, 1, 2])
    assert ds["series"].values.tolist() == ["z", "y", "a"]
    assert ds["row_size"].values.tolist() == [1, 0, 2]
    assert (ds["time"].values.tolist(), ds["x0"].values.tolist()) == ([1.0, 0.0, 2.0], [5.0, 7.0, 6.0])
    assert ds["label"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("times", "values", "options", "message"),
    [
        ([[0.0]], [], {}, "1 arrays of times and 0 of values"),
        ([[0.0]], [[1.0, 2.0]], {}, r"series 0: times \(1,\) and values \(2, 1\)"),
        ([[0.0], [1.0]], [[[1.0]], [[1.0, 2.0]]], {}, "1 and 2 channels"),
        ([[0.0]], [[1.0]], {"ids": [1, 2]}, "ids must be 1"),
        ([[0.0], [1.0]], [[1.0], [1.0]], {"ids": ["a", "a"]}, "ids must be 2 different"),
        ([[0.0]], [[1.0]], {"variables": ["x", "y"]}, "variables names 2 channels, the values have 1"),
        ([[0.0], [NAN]], [[1.0], [1.0]], {}, "series 1, row 1 of the table: no time"),
    ],
)
def test_arrays_that_do_not_belong_together(times, values, options, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(times, values, **options)


def test_nothing_at_all():
    for ds in (from_arrays([], []), from_long(NUMBERS.iloc[:0], **COLUMNS), from_arrays([], [], variables=["x"])):
        check_dataset(ds)
        assert (ds.sizes["series"], ds.sizes["obs"]) == (0, 0)
        assert to_long(ds).empty
        assert to_series(ds).batch == 0
