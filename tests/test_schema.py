"""The schema: what breaks it is named, and selections and padded batches hold what the table holds."""

import math

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings

from ctlssl.schema import check_dataset, select_rows, select_series
from ctlssl.tables import from_arrays, from_long, to_long, to_series

NAN = math.nan
COLUMNS = {"id": "id", "time": "time", "variable": "variable", "value": "value"}
SMALL = pd.DataFrame(
    [("b", 2.0, "x", 1.0), ("a", 0.5, "y", 2.0), ("a", 0.0, "x", 3.0), ("b", 2.0, "y", 4.0), ("a", 0.5, "x", 5.0)],
    columns=list(COLUMNS),
)


def test_to_series_by_hand():
    df = SMALL.assign(age=[30, 20, 20, 30, 20])
    series = to_series(from_long(df, **COLUMNS, static="age"), dtype=torch.float64)
    assert series.lengths.tolist() == [2, 1]
    assert series.times.tolist() == [[0.0, 0.5], [2.0, 0.0]]
    assert series.observed.tolist() == [[[True, False], [True, True]], [[True, True], [False, False]]]
    assert series.values[series.observed].tolist() == [3.0, 5.0, 2.0, 1.0, 4.0]
    assert series.values[~series.observed].isnan().all()
    assert series.static.tolist() == [[20.0], [30.0]]


def test_to_series_picks_and_orders_channels_by_name():
    ds = from_long(SMALL, **COLUMNS)
    assert torch.equal(to_series(ds, ["y", "x"]).values[..., 1].nan_to_num(), to_series(ds).values[..., 0].nan_to_num())
    with pytest.raises(ValueError, match="no channel 'z'; it has 'x', 'y'"):
        to_series(ds, ["x", "z"])
    series = to_series(ds, ["z", "x"], missing="unobserved")
    assert not series.observed[..., 0].any()
    assert torch.equal(series.observed[..., 1], to_series(ds, ["x"]).observed[..., 0])
    with pytest.raises(ValueError, match="missing must be"):
        to_series(ds, missing="zero")
    with pytest.raises(ValueError, match="no 'age' over series"):
        to_series(ds, static=["age"])


def test_text_is_no_covariate():
    ds = from_long(SMALL.assign(sex="f"), **COLUMNS, static="sex")
    with pytest.raises(TypeError, match="static 'sex': text"):
        to_series(ds)


def broken(change):
    """A Dataset of three series, and what was done to it."""
    ds = from_arrays([[0.0, 1.0], [], [3.0, 4.0, 5.0]], [[1.0, 2.0], [], [3.0, 4.0, 5.0]], ids=["a", "b", "c"])
    return change(ds)


def with_values(name, values):
    """A change of one variable."""
    return lambda ds: ds.assign({name: (ds[name].dims, np.asarray(values), ds[name].attrs)})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (with_values("row_size", [2, 0, 2]), ValueError, "row_size sums to 4 but obs has 5"),
        (with_values("row_size", [2, -1, 4]), ValueError, "series 'b': row_size is -1"),
        (with_values("row_size", [2**62, 2**62, 2**63 - 1]), ValueError, "row_size sums to 18446744073709551615"),
        (with_values("row_size", [2.0, 0.0, 3.0]), TypeError, "row_size is of dtype float64"),
        (with_values("time", [0.0, 1.0, 3.0, 2.0, 5.0]), ValueError, "series 'c', position 1: time 2.0 < previous 3.0"),
        (with_values("time", [0.0, 1.0, 3.0, NAN, 5.0]), ValueError, "series 'c', position 1: time is nan"),
        (with_values("x0", [1.0, math.inf, 1, 1, 1]), ValueError, "series 'a', position 1: x0 is infinite"),
        (with_values("x0", np.array(list("abcde"), dtype=object)), TypeError, "'x0' is of dtype object"),
        (with_values("x0", np.array(list("abcde"))), TypeError, "'x0' over obs"),
        (with_values("time", np.arange(5).astype("timedelta64[h]")), TypeError, "'time' is of dtype timedelta64"),
        (with_values("series", ["a", "b", "a"]), ValueError, "series 'a': the id occurs 2 times"),
        (lambda ds: ds.drop_vars("row_size"), ValueError, "no variable row_size"),
        (lambda ds: ds.assign(z=(("series", "obs"), np.zeros((3, 5)))), ValueError, "'z' is over"),
        (lambda ds: ds.assign_coords(z=("series", np.zeros(3))), ValueError, "only coordinate over series; make z"),
    ],
)
def test_a_dataset_that_breaks_the_schema_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        check_dataset(broken(change))
    with pytest.raises(error, match=message):
        to_series(broken(change))


def test_time_may_go_back_from_one_series_to_the_next():
    check_dataset(from_arrays([[5.0, 6.0], [], [0.0]], [[1.0, 1.0], [], [1.0]]))


@settings(deadline=None)
@given(st.data())
def test_selection_agrees_with_pandas(data):
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    clocks = [list(range(size)) for size in sizes]
    ds = from_arrays(clocks, [np.arange(size) + 10.0 * k for k, size in enumerate(sizes)])
    index = data.draw(st.lists(st.integers(0, len(sizes) - 1), unique=True))
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes))), dtype=bool)
    table = to_long(ds)
    chosen = select_series(ds, index)
    check_dataset(chosen)
    expected = [value for k in index for value in table.loc[table["id"] == k, "value"]]
    assert chosen["x0"].values.tolist() == expected
    thinned = select_rows(ds, keep)
    check_dataset(thinned)
    assert thinned["series"].identical(ds["series"])
    pd.testing.assert_frame_equal(to_long(thinned), table[keep].reset_index(drop=True))
    flags = np.isin(np.arange(len(sizes)), index)
    assert select_series(ds, flags).identical(select_series(ds, np.flatnonzero(flags)))
    assert select_series(ds, slice(0, 1)).identical(select_series(ds, [0]))
