"""Time stamps of tables: read as exact ticks, differenced from an origin, and only then float64 in one unit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ctlssl.elapsed import EXACT_INTEGERS, NANOSECONDS

__all__ = ["Clock", "read_clock"]


@dataclass(frozen=True)
class Clock:
    """The stamps of the rows of a table.

    Args:
        ticks: (rows,) int64 or float64, exact and comparable across the table.
        time: (rows,) float64 since the origin, in ``unit``.
        unit: the unit of ``time``, None where the table has plain numbers and no unit was named.
        origin: (series,) what time 0 is: ISO 8601 strings for stamps, numbers for numbers; None where it is 0.
        zone: "UTC" for stamps with a time zone, else None.
    """

    ticks: np.ndarray
    time: np.ndarray
    unit: str | None
    origin: np.ndarray | None
    zone: str | None


def read_clock(column: pd.Series, codes: np.ndarray, ids: np.ndarray, unit: str | None, origin: object) -> Clock:
    """The stamps of a column as exact ticks and as time since an origin.

    Args:
        column: (rows,) numbers, durations, or stamps with or without a time zone.
        codes: (rows,) the series that each row belongs to.
        ids: (series,) their names.
        unit: the unit of the result; None is hours for stamps and durations, and leaves numbers as they are.
        origin: None, "first" (each series' own first stamp), one stamp or number, or one per id in a mapping.

    Raises:
        TypeError: stamps that are text or other objects.
        ValueError: missing or infinite stamps, an unknown unit, or an origin that does not fit.
    """
    array, zone = _plain(column, codes, ids)
    if array.dtype.kind in "mM":
        unit = "h" if unit is None else unit
        if unit not in NANOSECONDS:
            raise ValueError(f"unknown unit {unit!r}; choose from {', '.join(NANOSECONDS)}.")
    origins = _origins(array, codes, ids, origin, zone)
    array, origins, ticks, zeros, per_unit = _common_ticks(array, origins, unit)
    difference = ticks - zeros[codes]
    if ((difference >= 0) != (ticks >= zeros[codes])).any():
        raise ValueError("stamps are too far from their origin for 64-bit ticks; give a nearer origin.")
    time = difference.astype(np.float64) / per_unit
    _warn_of_collapse(difference, time, codes, ids)
    if array.dtype.kind == "M":
        return Clock(ticks, time, unit, np.array(np.datetime_as_string(origins).tolist(), dtype=np.str_), zone)
    return Clock(ticks, time, unit, zeros if zeros.any() else None, None)


def _plain(column: pd.Series, codes: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, str | None]:
    """The stamps as a numpy array of numbers, datetime64 (in UTC, where there is a zone) or timedelta64."""
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        row = int(missing[0])
        raise ValueError(f"series {ids[codes[row]].item()!r}, row {row} of the table: no time; drop the row.")
    if pd.api.types.infer_dtype(column) in ("datetime", "timedelta") and column.dtype == object:
        column = column.infer_objects()
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), "UTC"
    array = column.to_numpy()
    if pd.api.types.is_numeric_dtype(column.dtype) and array.dtype.kind not in "iufbc":
        array = column.to_numpy(dtype=np.float64 if pd.api.types.is_float_dtype(column.dtype) else np.int64)
    if array.dtype.kind not in "iufmM":
        raise TypeError(
            f"time column {column.name!r} is of dtype {column.dtype}; give numbers, or stamps by pandas.to_datetime."
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(array))
        if len(bad):
            row = int(bad[0])
            raise ValueError(f"series {ids[codes[row]].item()!r}, row {row} of the table: time is {array[row]}.")
    if array.dtype.kind == "u" and array.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(f"time column {column.name!r} has integers beyond 2**63 - 1; subtract an origin first.")
    return (array.astype(np.int64) if array.dtype.kind in "iu" else array), None


def _origins(array: np.ndarray, codes: np.ndarray, ids: np.ndarray, origin: object, zone: str | None) -> np.ndarray:
    """What time 0 is in each series, in numbers or stamps."""
    kind = array.dtype.kind
    if origin is None:
        # integers that float64 cannot hold are ticks of some epoch, which only differences make exact
        large = kind == "i" and ((array > EXACT_INTEGERS) | (array < -EXACT_INTEGERS)).any()
        if not (kind == "M" or large):
            return np.zeros(len(ids), array.dtype)
        origin = "first"
    if isinstance(origin, str) and origin == "first":
        order = np.lexsort((array, codes))
        sorted_codes = codes[order]
        head = np.ones(len(order), dtype=bool)
        head[1:] = sorted_codes[1:] != sorted_codes[:-1]
        first = np.full(len(ids), np.datetime64("NaT", "ns") if kind == "M" else 0).astype(array.dtype)
        first[sorted_codes[head]] = array[order[head]]
        return first
    if isinstance(origin, pd.Series | Mapping):
        given = pd.Series(origin)
        lacking = [key for key in ids.tolist() if key not in given.index]
        if lacking:
            raise ValueError(f"series {lacking[0]!r}: no origin is given for it ({len(lacking)} such series).")
        given = given.loc[ids.tolist()]
        return _in_kind(given.reset_index(drop=True), kind, zone)
    single = _in_kind(pd.Series([pd.Timestamp(origin) if kind == "M" else origin]), kind, zone)
    return np.repeat(single, len(ids))


def _in_kind(origins: pd.Series, kind: str, zone: str | None) -> np.ndarray:
    aware = isinstance(origins.dtype, pd.DatetimeTZDtype)
    if kind == "M" and aware != (zone is not None):
        raise ValueError(
            f"origin and time column must both have a time zone or neither; the origin has {origins.dtype}."
        )
    if aware:
        origins = origins.dt.tz_convert("UTC").dt.tz_localize(None)
    array = origins.to_numpy()
    fits = array.dtype.kind == kind if kind in "mM" else array.dtype.kind in "iuf"
    if not fits or origins.isna().any():
        raise ValueError(
            f"origin must be of the kind of the time column, and not missing; found dtype {origins.dtype}."
        )
    return array


def _common_ticks(
    array: np.ndarray, origins: np.ndarray, unit: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Stamps and origins in one resolution, as ticks, and the ticks in a unit of the result."""
    if array.dtype.kind not in "mM":
        exact = array.dtype.kind == "i" and origins.dtype.kind in "iu"
        dtype = np.int64 if exact else np.float64
        array, origins = array.astype(dtype), origins.astype(dtype)
        return array, origins, array, origins, 1.0
    common = np.promote_types(array.dtype, origins.dtype)
    resolution, count = np.datetime_data(common)
    if resolution not in NANOSECONDS:  # years and months have no fixed length
        common, resolution, count = np.dtype(f"{array.dtype.kind}8[s]"), "s", 1
    array, origins = array.astype(common), origins.astype(common)
    per_unit = NANOSECONDS[str(unit)] / (NANOSECONDS[resolution] * count)
    return array, origins, array.view(np.int64), origins.view(np.int64), per_unit


def _warn_of_collapse(difference: np.ndarray, time: np.ndarray, codes: np.ndarray, ids: np.ndarray) -> None:
    order = np.lexsort((difference, codes))
    same = codes[order][1:] == codes[order][:-1]
    collapsed = same & (np.diff(difference[order]) > 0) & (np.diff(time[order]) == 0)
    if collapsed.any():
        b = codes[order][1:][collapsed][0]
        warnings.warn(
            f"{collapsed.sum()} stamps, the first in series {ids[b].item()!r}, differ from the one before by less than "
            "float64 resolves at their distance from the origin; give an origin nearer to the data.",
            stacklevel=5,
        )
