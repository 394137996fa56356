"""Tables and arrays in, the one schema out, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ctlssl.schema import channels, check_dataset, series_of_row, to_series
from ctlssl.tables.cells import Cells, Reading, assemble
from ctlssl.tables.columns import covariate_table, id_codes, numbers, plain_array, variable_names

__all__ = ["from_arrays", "from_long", "from_wide", "to_long", "to_series"]


def from_long(
    df: pd.DataFrame,
    id: str,
    time: str,
    variable: str,
    value: str,
    static: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    labels: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    unit: str | None = None,
    duplicates: str = "error",
    origin: object = None,
    units: Mapping[str, str] | None = None,
    invalid: str = "error",
) -> xr.Dataset:
    """Read a long table: one row per value, as in MEDS and most exports of laboratory systems.

    Values at one time of one series become one row. Series and variables come out sorted by name, rows by time, so
    the order of the table does not matter (but to "first" and "last"). A NaN value says that nothing was observed.

    Args:
        df: the table; it is not changed.
        id: column of the series' ids, integers or strings.
        time: column of numbers, durations, or stamps with or without a time zone.
        variable: column of channel names.
        value: column of numbers.
        static: columns that are constant within a series, or a table indexed by id. Ids that only this table has
            become series of length 0.
        labels: the same, for what is to be predicted.
        unit: unit of the result's time ("h", "s", "d", ...). None is hours for stamps; numbers stay as they are,
            and only their name is taken from here.
        duplicates: what two values of one variable at one time are: "error", or the "last", "first" or "mean" of them.
        origin: what time 0 is: None (the first stamp of each series; for numbers 0, unless they are integers beyond
            2**53), "first", one stamp or number, or a mapping from id to one.
        units: units of the channels and covariates, where known.
        invalid: what an infinite value is: "error", or "missing", not observed.

    Returns:
        A Dataset of the schema. Stamps keep what time 0 was, as ISO strings, in ``origin``.

    Raises:
        TypeError: a column that is not of the kind named above.
        ValueError: a column that is absent, a missing id or time, an infinite value, a duplicate (under "error").

    Example:
        >>> df = pd.DataFrame({
        ...     "patient": [1, 1, 1, 2],
        ...     "when": pd.to_datetime(["2020-01-01 08:00"] * 2 + ["2020-01-01 20:30", "2020-03-01 00:00"]),
        ...     "test": ["urea", "sodium", "urea", "sodium"],
        ...     "result": [5.0, 140.0, 6.0, 138.0],
        ... })
        >>> ds = from_long(df, id="patient", time="when", variable="test", value="result")
        >>> ds["row_size"].values, ds["time"].values, ds["urea"].values
        (array([2, 1]), array([ 0. , 12.5,  0. ]), array([ 5.,  6., nan]))
    """
    _need_frame(df, "from_long")
    reading = Reading(unit, duplicates, origin, units, invalid)
    _need_columns(df, id, time, variable, value)
    frames = _frames(df, id, static, labels)
    codes, ids = id_codes(df[id], [frame.index for frame in frames.values()])
    names = variable_names(df[variable])
    content = numbers(df[value], value)
    name_codes, names = pd.factorize(names, sort=True)
    seen = np.flatnonzero(np.isfinite(content) if invalid == "missing" else ~np.isnan(content))
    cells = Cells(row=seen, variable=name_codes[seen], value=content[seen])
    rows = np.zeros(len(df), dtype=bool)
    rows[seen] = True
    return assemble(df[time], codes, ids, names.tolist(), cells, rows, frames, reading)


def from_wide(
    df: pd.DataFrame,
    id: str,
    time: str,
    variables: Sequence[str] | None = None,
    static: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    labels: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    unit: str | None = None,
    duplicates: str = "error",
    origin: object = None,
    units: Mapping[str, str] | None = None,
    invalid: str = "error",
) -> xr.Dataset:
    """Read a wide table: one row per series and time, one column per channel, NaN = not observed.

    Rows in which nothing was observed stay, as times at which nothing was seen. Rows of one series at one time
    become one.

    Args:
        df: the table; it is not changed.
        id: column of the series' ids, integers or strings.
        time: column of numbers, durations, or stamps with or without a time zone.
        variables: the columns that are channels; None: all that are nothing else.
        static: see `from_long`.
        labels: see `from_long`.
        unit: see `from_long`.
        duplicates: see `from_long`.
        origin: see `from_long`.
        units: see `from_long`.
        invalid: see `from_long`.

    Raises:
        TypeError: a column that is not of the kind named above.
        ValueError: as `from_long`.

    Example:
        >>> df = pd.DataFrame({"id": ["b", "a", "a"], "t": [1.0, 3.0, 2.0], "x": [1.0, np.nan, 5.0]})
        >>> df["age"] = [40, 50, 50]
        >>> ds = from_wide(df, id="id", time="t", static="age")
        >>> ds["series"].values, ds["time"].values, ds["x"].values, ds["age"].values
        (array(['a', 'b'], dtype='<U1'), array([2., 3., 1.]), array([ 5., nan,  1.]), array([50, 40]))
    """
    _need_frame(df, "from_wide")
    if not df.columns.is_unique:
        double = df.columns[df.columns.duplicated()].tolist()
        raise ValueError(f"the table has several columns {', '.join(map(repr, double))}; rename them.")
    _need_columns(df, id, time, *(variables or ()))
    frames = _frames(df, id, static, labels)
    if variables is None:
        used = {id, time, *(name for source in (static, labels) for name in _column_list(source))}
        variables = [name for name in df.columns if name not in used]
    codes, ids = id_codes(df[id], [frame.index for frame in frames.values()])
    names = list(variable_names(pd.Series(list(variables), dtype=object)))
    columns = [numbers(df[name], name) for name in variables]
    return _wide(df[time], codes, ids, names, columns, frames, Reading(unit, duplicates, origin, units, invalid))


def _wide(
    time: pd.Series,
    codes: np.ndarray,
    ids: np.ndarray,
    names: list[str],
    columns: Sequence[np.ndarray],
    frames: Mapping[str, pd.DataFrame],
    reading: Reading,
) -> xr.Dataset:
    parts = []
    for d, content in enumerate(columns):
        seen = np.flatnonzero(~np.isnan(content))
        parts.append(Cells(row=seen, variable=np.full(len(seen), d), value=content[seen]))
    rows = np.ones(len(time), dtype=bool)
    return assemble(time, codes, ids, names, Cells.concatenate(parts), rows, frames, reading)


def from_arrays(
    times: Sequence[Any],
    values: Sequence[Any],
    ids: Sequence[int] | Sequence[str] | None = None,
    variables: Sequence[str] | None = None,
    static: pd.DataFrame | pd.Series | None = None,
    labels: pd.DataFrame | pd.Series | Sequence[Any] | None = None,
    unit: str | None = None,
    duplicates: str = "error",
    origin: object = None,
    units: Mapping[str, str] | None = None,
    invalid: str = "error",
) -> xr.Dataset:
    """Read one pair of arrays per series.

    Args:
        times: per series (L,) numbers, datetime64 or timedelta64, in any order.
        values: per series (L, D) or (L,) numbers, NaN = not observed.
        ids: the names of the series, which stay in this order; None: 0, 1, 2, ...
        variables: the names of the D channels; None: "x0", "x1", ...
        static: a table indexed by id.
        labels: a table indexed by id, or one label per series in the order of ``times``.
        unit: see `from_long`.
        duplicates: see `from_long`.
        origin: see `from_long`.
        units: see `from_long`.
        invalid: see `from_long`.

    Raises:
        ValueError: arrays that do not belong together, and as `from_long`.

    Example:
        >>> ds = from_arrays([[0.0, 0.5], [2.0]], [[1.0, 2.0], [3.0]], labels=[0, 1])
        >>> ds["row_size"].values, ds["x0"].values, ds["label"].values
        (array([2, 1]), array([1., 2., 3.]), array([0, 1]))
    """
    if len(times) != len(values):
        raise ValueError(
            f"found {len(times)} arrays of times and {len(values)} of values; give one of each per series."
        )
    keys = plain_array(pd.Index(range(len(times)) if ids is None else list(ids)), "ids")
    if len(keys) != len(times) or len(np.unique(keys)) < len(keys):
        raise ValueError(f"ids must be {len(times)} different names, found {len(keys)}.")
    clock, codes, content = _joined(times, values, keys)
    columns = [f"x{d}" for d in range(content.shape[1])] if variables is None else list(variables)
    if len(columns) != content.shape[1] and len(times):
        raise ValueError(f"variables names {len(columns)} channels, the values have {content.shape[1]}.")
    if labels is not None and not isinstance(labels, pd.DataFrame | pd.Series):
        labels = pd.Series(list(labels), index=keys, name="label")
    table = pd.DataFrame({"id": keys[codes]})
    names = list(variable_names(pd.Series(columns, dtype=object)))
    reading = Reading(unit, duplicates, origin, units, invalid)
    return _wide(clock, codes, keys, names, content.T, _frames(table, "id", static, labels), reading)


def to_long(
    ds: xr.Dataset, id: str = "id", time: str = "time", variable: str = "variable", value: str = "value"
) -> pd.DataFrame:
    """Write a long table: one row per observed value, sorted by series, time and channel.

    Args:
        ds: a Dataset of the schema.
        id: name of the column of ids.
        time: name of the column of times.
        variable: name of the column of channel names.
        value: name of the column of values.

    Example:
        >>> ds = from_arrays([[0.0, 0.5], [2.0]], [[1.0, np.nan], [3.0]])
        >>> to_long(ds)
           id  time variable  value
        0   0   0.0       x0    1.0
        1   1   2.0       x0    3.0
    """
    check_dataset(ds)
    names = channels(ds)
    values = np.stack([ds[name].values for name in names], axis=1) if names else np.empty((ds.sizes["obs"], 0))
    row, column = np.nonzero(~np.isnan(values))
    table = pd.DataFrame(
        {
            id: ds["series"].values[series_of_row(ds)[row]],
            time: ds["time"].values[row],
            variable: np.asarray(names, dtype=object)[column],
            value: values[row, column],
        }
    )
    return table.astype({variable: str})  # also where there is no row


def _joined(times: Sequence[Any], values: Sequence[Any], keys: np.ndarray) -> tuple[pd.Series, np.ndarray, np.ndarray]:
    """All times in one column, the series of each row, and all values (rows, D)."""
    clocks, blocks = [], []
    for key, stamps, content in zip(keys.tolist(), times, values, strict=True):
        stamps, content = np.asarray(stamps), np.asarray(content, dtype=np.float64)
        content = content[:, None] if content.ndim == 1 else content  # (L, D)
        if stamps.ndim != 1 or content.ndim != 2 or len(stamps) != len(content):
            raise ValueError(
                f"series {key!r}: times {stamps.shape} and values {content.shape} do not fit; give (L,) and (L, D)."
            )
        clocks.append(stamps)
        blocks.append(content)
    sizes = [len(block) for block in blocks]
    filled = [k for k, size in enumerate(sizes) if size] or list(range(len(sizes)))[:1]
    width = {blocks[k].shape[1] for k in filled}
    if len(width) > 1:
        raise ValueError(f"series have {' and '.join(map(str, sorted(width)))} channels; give all of them the same.")
    clock = pd.Series(np.concatenate([clocks[k] for k in filled]) if filled else np.empty(0), name="times")
    content = np.concatenate([blocks[k] for k in filled]) if filled else np.empty((0, 0))
    return clock, np.repeat(np.arange(len(sizes)), sizes), content


def _need_frame(df: object, reader: str) -> None:
    if not isinstance(df, pd.DataFrame):
        remedy = "; ctlssl.read_table reads a file" if isinstance(df, str | os.PathLike) else ""
        raise TypeError(f"{reader} reads a pandas DataFrame, found {type(df).__name__}{remedy}.")


def _need_columns(df: pd.DataFrame, *names: str) -> None:
    absent = [name for name in names if name not in df.columns]
    if absent:
        have = ", ".join(map(repr, df.columns))
        raise ValueError(f"the table has no column {', '.join(map(repr, absent))}; it has {have}.")


def _column_list(source: object) -> list:
    """The columns of the table that hold covariates, where they are given as columns."""
    if source is None or isinstance(source, pd.DataFrame | pd.Series):
        return []
    return [source] if isinstance(source, str) else list(source)


def _frames(df: pd.DataFrame, id: str, static: object, labels: object) -> dict[str, pd.DataFrame]:
    """The covariates by role, each a table indexed by id."""
    frames = {}
    for role, source in {"static": static, "label": labels}.items():
        _need_columns(df, *_column_list(source))
        if isinstance(source, pd.DataFrame | pd.Series) or _column_list(source):
            frames[role] = covariate_table(df, id, source, _column_list(source), role)
    return frames
