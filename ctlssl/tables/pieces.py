"""Tables larger than memory: read in pieces, sorted by series on disk, written as one NetCDF file of the schema."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd
import xarray as xr

from ctlssl.durable import replacing
from ctlssl.elapsed import EXACT_INTEGERS
from ctlssl.files import real_name, with_plain_names
from ctlssl.schema import channels, make_dataset
from ctlssl.tables.cells import covariates_of
from ctlssl.tables.columns import covariate_table, id_codes
from ctlssl.tables.readers import from_long
from ctlssl.tables.reading import Columns, csv_options, refuse_double_columns
from ctlssl.tables.text import stamps_of_text, values_of_text

__all__ = ["convert_table"]

_RECORD = np.dtype([("series", np.int64), ("time", np.int64), ("variable", np.int32), ("value", np.float64)])
_CHUNK = 2**16  # rows of a variable that are compressed together
_FILTERS = {"zlib": True, "complevel": 4, "shuffle": False, "fletcher32": True}


def convert_table(
    source: str | os.PathLike,
    path: str | os.PathLike,
    id: str | None = None,
    time: str | None = None,
    variable: str | None = None,
    value: str | None = None,
    static: pd.DataFrame | pd.Series | None = None,
    labels: pd.DataFrame | pd.Series | None = None,
    unit: str | None = None,
    duplicates: str = "error",
    invalid: str = "error",
    rows_in_memory: int = 1_000_000,
) -> Path:
    r"""Read a long table in pieces, and write it as NetCDF of the schema, series by series.

    The result is what `ctlssl.read_table` reads from the same file, whatever the order of its rows. Two passes are made
    over the table: the first counts the values of every series, the second deals its rows to files beside ``path``,
    each of which has all rows of some series and fits in memory. Of the whole table only the ids, the names of
    variables and one number a series are ever held.

    Args:
        source: .csv, .tsv or .parquet.
        path: the .nc to write, whole or not at all; its folder also needs room for 28 bytes a row.
        id: see `ctlssl.read_table`.
        time: see there.
        variable: see there.
        value: see there.
        static: a table indexed by id.
        labels: likewise.
        unit: see `ctlssl.from_long`.
        duplicates: see there.
        invalid: see `ctlssl.read_table`.
        rows_in_memory: rows that are held at a time; a series with more of them is held as a whole.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: as `ctlssl.from_long`.
        ValueError: as `ctlssl.read_table`; the message names the series, the time and the variable.
        OSError: the folder cannot be written, or is full; nothing is left there.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = Path(folder, "records.csv")
        ...     _ = table.write_text("id,time,variable,value" + "".join(f"\n{k % 3},{k},x,{k}" for k in range(9)))
        ...     from ctlssl.files import open_dataset
        ...     ds = open_dataset(convert_table(table, Path(folder, "records.nc"), rows_in_memory=4))
        >>> ds["row_size"].values, ds["x"].values
        (array([3, 3, 3]), array([0., 3., 6., 1., 4., 7., 2., 5., 8.]))
    """
    source, path = Path(source), Path(path)
    given = {"static": static, "label": labels}
    frames = {role: _frame(frame, role) for role, frame in given.items() if frame is not None}
    others = [frame.index for frame in frames.values()]
    table = _Table.counted(source, Columns(id, time, variable, value), rows_in_memory, invalid, others)
    policies = {"unit": unit, "duplicates": duplicates, "invalid": invalid}
    covariates = covariates_of(frames, table.ids)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        parts = table.dealt(Path(folder))
        with replacing(path) as temporary:
            _write(temporary, table, parts, covariates, policies)
    return path


@dataclass(frozen=True, eq=False)
class _Table:
    """A long table on disk, and what a pass over it told.

    Args:
        source: the file.
        columns: of it.
        rows: that are read at a time.
        invalid: policy.
        ids: sorted.
        code: of each id as it stands in the file, its position among the ids.
        counts: (series,) rows of each.
        names: of the variables, sorted.
        clock: dtype of the times.
        large: whether there are whole numbers that float64 does not hold.
    """

    source: Path
    columns: Columns
    rows: int
    invalid: str
    ids: np.ndarray
    code: pd.Series
    counts: np.ndarray
    names: np.ndarray
    clock: np.dtype
    large: bool

    @classmethod
    def counted(cls, source: Path, columns: Columns, rows: int, invalid: str, others: list[pd.Index]) -> _Table:
        counts, names, kinds, large = pd.Series(dtype=np.int64), set(), {}, False
        for piece in _pieces(source, rows, columns):
            columns = columns.found_in(piece, source)
            _check(piece, columns, source)
            counts = counts.add(piece[columns.id].value_counts(), fill_value=0)
            names |= set(piece[columns.variable].astype(str).unique())
            stamps, zoned = _clock(piece, columns, source)
            kind = (stamps.dtype.kind if stamps.dtype.kind in "mM" else "", zoned)
            kinds[kind] = np.result_type(kinds.get(kind, stamps.dtype), stamps.dtype)
            large |= stamps.dtype.kind == "i" and bool((np.abs(stamps) > EXACT_INTEGERS).any())
        if not len(counts):
            raise ValueError(f"{source}: the table has no row.")
        if len(kinds) > 1:
            raise ValueError(f"{source}: times are of several kinds in different places; make them one.")
        keys = _numbers_or_text(counts.index).to_series(name=columns.id)  # 7 and 007 are one
        code, ids = id_codes(keys, others)  # of further tables, whose series may have no row here
        totals = np.bincount(code, weights=counts.to_numpy(), minlength=len(ids)).astype(np.int64)
        ordered = np.array(sorted(names), dtype=object)
        known = pd.Series(code, index=counts.index)
        return cls(source, columns, rows, invalid, ids, known, totals, ordered, *kinds.values(), large)

    def dealt(self, folder: Path) -> list[Path]:
        """Files of records, each with all rows of neighbouring series."""
        ends = np.cumsum(self.counts)
        _, part_of = np.unique((ends - self.counts) // self.rows, return_inverse=True)  # (series,)
        place = {name: code for code, name in enumerate(self.names.tolist())}
        files = [folder / f"{k}.rows" for k in range(part_of.max() + 1)]
        for piece in _pieces(self.source, self.rows, self.columns):
            records = np.empty(len(piece), dtype=_RECORD)
            records["series"] = piece[self.columns.id].map(self.code)
            stamps, _ = _clock(piece, self.columns, self.source)
            records["time"] = stamps.astype(self.clock).view(np.int64)
            records["variable"] = piece[self.columns.variable].astype(str).map(place)
            records["value"] = _values(piece, self.columns, self.source, self.invalid)
            goes = part_of[records["series"]]
            for part in np.unique(goes):
                with files[part].open("ab") as file:
                    records[goes == part].tofile(file)
        return files

    def read(self, file: Path, policies: dict[str, Any]) -> xr.Dataset:
        """The series of a file, as `from_long` reads them."""
        records = np.fromfile(file, dtype=_RECORD)
        columns = {
            "id": self.ids[records["series"]],
            "time": records["time"].copy().view(self.clock),
            "variable": self.names[records["variable"]],
            "value": records["value"],
        }
        try:
            return from_long(pd.DataFrame(columns), *columns, origin="first" if self.large else None, **policies)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error


def _pieces(source: Path, rows: int, columns: Columns) -> Iterator[pd.DataFrame]:
    """A table as frames of so many rows; the ids of a text file as they stand there."""
    if not source.is_file():
        raise FileNotFoundError(f"{source}: there is no such file.")
    if source.suffix in (".csv", ".tsv"):
        options = csv_options(source)
        try:
            head = pd.read_csv(source, nrows=0, **options)
            text = {columns.found_in(head, source).id: str}  # in one piece they may look like numbers
            refuse_double_columns(source)
            with pd.read_csv(source, chunksize=rows, low_memory=False, dtype=text, **options) as reader:
                while (piece := _next(reader)) is not None:
                    yield piece
        except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise ValueError(f"{source}: not a table, or a damaged one ({error}).") from error
    elif source.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=rows):
                yield batch.to_pandas()
    else:
        raise ValueError(f"{source}: a table is read in pieces from .csv, .tsv or .parquet.")


def _next(pieces: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of cells that no name stands above
        return next(pieces, None)


def _numbers_or_text(index: pd.Index) -> pd.Index:
    """Ids as numbers where all of them are, as the same column of a smaller file would be."""
    if not pd.api.types.infer_dtype(index) == "string":
        return index
    numbers = pd.to_numeric(index.to_series(), errors="coerce")
    return index if numbers.isna().any() else pd.Index(numbers)


def _check(piece: pd.DataFrame, columns: Columns, source: Path) -> None:
    for name in (columns.id, columns.time, columns.variable, columns.value):
        if name not in piece.columns:
            have = ", ".join(map(repr, piece.columns[:12]))
            raise ValueError(f"{source}: the table has no column {name!r}; it has {have}.")
    for name in (columns.id, columns.time, columns.variable):
        missing = piece[name].isna()
        if missing.any():
            raise ValueError(f"{source}: row {piece.index[missing][0]} has nothing in column {name!r}; drop the row.")


def _clock(piece: pd.DataFrame, columns: Columns, source: Path) -> tuple[np.ndarray, bool]:
    """Times as numbers of 64 bits, or as stamps in UTC, and whether they had a time zone."""
    column = stamps_of_text(piece[columns.time], piece[columns.id])
    zoned = isinstance(column.dtype, pd.DatetimeTZDtype)
    if zoned:
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    array = column.to_numpy()
    if array.dtype.kind in "mM":
        return array, zoned
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{source}: times are of dtype {array.dtype}; give numbers, or stamps.")
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64), zoned


def _values(piece: pd.DataFrame, columns: Columns, source: Path, invalid: str) -> np.ndarray:
    variable = piece[columns.variable].astype(str)
    parts = (variable, piece[columns.id], piece[columns.time], invalid)
    try:
        values = values_of_text(piece[columns.value], *parts)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def _frame(source: object, role: str) -> pd.DataFrame:
    if not isinstance(source, pd.DataFrame | pd.Series):
        raise TypeError(f"the {role} variables are {source!r:.60}; give a table indexed by id.")
    return covariate_table(pd.DataFrame({"id": source.index}), "id", source, [], role)


def _write(
    path: Path,
    table: _Table,
    files: Sequence[Path],
    covariates: dict[str, tuple[str, np.ndarray]],
    policies: dict[str, Any],
) -> None:
    """All series, one file of records after the other; only one of them is in memory at a time."""
    sizes, origins = np.zeros(len(table.ids), dtype=np.int64), None
    ds = table.read(files[0], policies)
    names = _begin(path, table, ds)
    with netCDF4.Dataset(path, "a") as written:
        for k, file in enumerate(files):
            ds = table.read(file, policies) if k else ds
            _append(written, names, ds)
            place = np.searchsorted(table.ids, ds["series"].values)
            sizes[place] = ds["row_size"].values
            if "origin" in ds:
                origins = _nothing(len(sizes), ds["origin"].dtype) if origins is None else origins
                origins[place] = ds["origin"].values
            file.unlink()
    if origins is not None:
        covariates = covariates | {"origin": ("context", origins)}
    ends = make_dataset(table.ids, sizes, np.empty(0), None, {}, covariates, {}).drop_vars("time")
    ends = with_plain_names(ends, taken=names.values())
    types = {name: {"dtype": "S1"} if item.dtype.kind in "UT" else {} for name, item in ends.variables.items()}
    encoding = {name: kind | _FILTERS for name, kind in types.items()}
    ends.drop_attrs(deep=False).to_netcdf(path, mode="a", engine="netcdf4", format="NETCDF4", encoding=encoding)


def _nothing(series: int, dtype: np.dtype) -> np.ndarray:
    """Origins of series without rows."""
    return np.full(series, np.datetime64("NaT") if dtype.kind == "M" else 0).astype(dtype)


def _begin(path: Path, table: _Table, like: xr.Dataset) -> dict[str, str]:
    """A file without rows; the names of its variables over rows, by their real names."""
    clock = {"time": ("obs", np.empty(0), like["time"].attrs)}
    head = xr.Dataset({name: ("obs", np.empty(0)) for name in table.names}, clock, like.attrs)
    head = with_plain_names(head)
    encoding = {name: _FILTERS | {"chunksizes": (_CHUNK,)} for name in head.variables}
    head.to_netcdf(path, engine="netcdf4", format="NETCDF4", unlimited_dims=("obs",), encoding=encoding)
    return {real_name(head, name): str(name) for name in head.variables}


def _append(file: netCDF4.Dataset, names: dict[str, str], ds: xr.Dataset) -> None:
    begin, rows = file.dimensions["obs"].size, ds.sizes["obs"]
    for name, stored in names.items():
        known = name == "time" or name in channels(ds)
        file[stored][begin : begin + rows] = ds[name].values if known else np.full(rows, np.nan)
