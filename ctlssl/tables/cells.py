"""From the cells of a table to the arrays of the schema: rows merged by time, duplicates settled by a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from ctlssl.schema import make_dataset
from ctlssl.tables.columns import plain_array
from ctlssl.tables.stamps import Clock, read_clock
from ctlssl.tables.text import check_invalid

__all__ = ["DUPLICATES", "Cells", "Reading", "assemble", "covariates_of"]

DUPLICATES = {
    "error": None,
    "first": lambda value, start, count: value[start],
    "last": lambda value, start, count: value[start + count - 1],
    "mean": lambda value, start, count: np.add.reduceat(value, start) / count,
}
"""What several values of one channel at one time become: of sorted values, their starts and counts."""


@dataclass(frozen=True)
class Cells:
    """Observed values of a table, in the order of its rows: (cells,) each."""

    row: np.ndarray
    variable: np.ndarray
    value: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence[Cells]) -> Cells:
        """The cells of all parts."""
        empty = Cells(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        fields = ("row", "variable", "value")
        return cls(*(np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in fields))

    def finite(self) -> Cells:
        """The cells that hold a finite value."""
        kept = np.isfinite(self.value)
        return self if kept.all() else Cells(self.row[kept], self.variable[kept], self.value[kept])


@dataclass(frozen=True)
class Reading:
    """How a table is to be read; the arguments of `ctlssl.from_long` of the same names."""

    unit: str | None
    duplicates: str
    origin: object
    units: Mapping[str, str] | None
    invalid: str = "error"

    def __post_init__(self) -> None:
        check_invalid(self.invalid)
        if self.duplicates not in DUPLICATES:
            raise ValueError(f"unknown duplicates={self.duplicates!r}; choose from {', '.join(DUPLICATES)}.")


def assemble(
    time: pd.Series,
    codes: np.ndarray,
    ids: np.ndarray,
    names: list[str],
    cells: Cells,
    rows: np.ndarray,
    frames: Mapping[str, pd.DataFrame],
    reading: Reading,
) -> xr.Dataset:
    """A Dataset of the schema from the rows and cells of a table.

    Args:
        time: (rows,) stamps.
        codes: (rows,) positions of their series among the ids.
        ids: (series,).
        names: the channels.
        cells: what was observed.
        rows: (rows,) bool, the rows of the table that make a row of the result.
        frames: covariates by role, indexed by id.
        reading: units, origin and policy.
    """
    clock = read_clock(time, codes, ids, reading.unit, reading.origin)
    row_of, kept = _merge_rows(codes, clock.ticks, rows)
    if reading.invalid == "error":
        _refuse_infinite(cells, codes, ids, names, time)
    cells = cells.finite()
    values = np.full((len(names), len(kept)), np.nan)  # (D, obs)
    place = cells.variable * len(kept) + row_of[cells.row]
    order = np.argsort(place, kind="stable")
    start = np.flatnonzero(np.diff(place[order], prepend=-1))
    count = np.diff(start, append=len(order))
    if reading.duplicates == "error":
        _refuse_duplicates(cells, order, start, count, codes, ids, names, time)
    reduce = DUPLICATES[reading.duplicates] or DUPLICATES["first"]
    if len(start):
        values.reshape(-1)[place[order][start]] = reduce(cells.value[order], start, count)
    return make_dataset(
        ids,
        np.bincount(codes[kept], minlength=len(ids)),
        clock.time[kept],
        clock.unit,
        dict(zip(names, values, strict=True)),
        covariates_of(frames, ids) | _origin(clock),
        {} if reading.units is None else reading.units,
    )


def _merge_rows(codes: np.ndarray, ticks: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of the result that each row of the table goes to, and the rows of the table that open one."""
    order = np.lexsort((ticks, codes))
    order = order[rows[order]]
    opens = np.ones(len(order), dtype=bool)
    opens[1:] = (np.diff(codes[order]) != 0) | (ticks[order][1:] != ticks[order][:-1])
    row_of = np.full(len(codes), -1)
    row_of[order] = np.cumsum(opens) - 1
    return row_of, order[opens]


def _refuse_infinite(cells: Cells, codes: np.ndarray, ids: np.ndarray, names: list[str], time: pd.Series) -> None:
    bad = np.flatnonzero(np.isinf(cells.value))
    if len(bad):
        row, name = cells.row[bad[0]], names[cells.variable[bad[0]]]
        raise ValueError(
            f"series {ids[codes[row]].item()!r}, time {time.iloc[row]}: {name} is {cells.value[bad[0]]}; "
            "correct it, or make it NaN for not observed."
        )


def _refuse_duplicates(
    cells: Cells,
    order: np.ndarray,
    start: np.ndarray,
    count: np.ndarray,
    codes: np.ndarray,
    ids: np.ndarray,
    names: list[str],
    time: pd.Series,
) -> None:
    if (count > 1).any():
        cell = order[start[np.flatnonzero(count > 1)[0]]]
        row, name = cells.row[cell], names[cells.variable[cell]]
        raise ValueError(
            f"series {ids[codes[row]].item()!r}, time {time.iloc[row]}: {name} occurs {count.max()} times "
            f'({(count > 1).sum()} such cells); choose duplicates="last", "first" or "mean".'
        )


def covariates_of(frames: Mapping[str, pd.DataFrame], ids: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    """By name, the role and the values (series,) of what is told once a series.

    Args:
        frames: tables by role, indexed by id.
        ids: (series,).

    Raises:
        TypeError: a column of objects.
        ValueError: a series that is in no row, or a name in two tables.
    """
    covariates: dict[str, tuple[str, np.ndarray]] = {}
    for role, frame in frames.items():
        ordered = frame.reindex(ids)
        absent = ~np.isin(ids, plain_array(frame.index, "the index"))
        if absent.any():
            raise ValueError(
                f"series {ids[absent][0].item()!r}: it has no {role} variables ({absent.sum()} such series)."
            )
        for name in ordered.columns:
            if str(name) in covariates:
                raise ValueError(f"{name!r} is both static and label; a label among the covariates gives itself away.")
            covariates[str(name)] = (role, plain_array(ordered[name], f"{role} variable {name!r}"))
    return covariates


def _origin(clock: Clock) -> dict[str, tuple[str, np.ndarray]]:
    return {} if clock.origin is None else {"origin": ("context", clock.origin)}
