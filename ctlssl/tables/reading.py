"""Tables as files: CSV, Parquet and NetCDF by the ending of the name, checked before they are read."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from ctlssl.tables.readers import from_long, from_wide
from ctlssl.tables.text import stamps_of_text, values_of_text

__all__ = ["SUFFIXES", "Columns", "from_frame", "read_frame", "read_table"]

SUFFIXES = (".csv", ".tsv", ".parquet", ".nc")
"""Endings of the names of the files that `read_table` reads."""

_USUAL = {
    "id": ("id", "series", "subject_id", "patient", "patient_id", "stay_id", "RecordID"),
    "time": ("time", "hours", "timestamp", "charttime", "Time"),
    "variable": ("variable", "code", "test", "parameter", "Parameter"),
    "value": ("value", "numeric_value", "result", "Value"),
}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what; None is found by the names that are usual.

    Args:
        id: ids of the series.
        time: times.
        variable: names of channels, in a long table.
        value: values, in a long table.
        wide: whether each channel has a column of its own.

    Example:
        >>> table = pd.DataFrame(columns=["patient", "hours", "test", "result"])
        >>> Columns().found_in(table, "records.csv")
        Columns(id='patient', time='hours', variable='test', value='result', wide=False)
    """

    id: str | None = None
    time: str | None = None
    variable: str | None = None
    value: str | None = None
    wide: bool = False

    def found_in(self, df: pd.DataFrame, path: object) -> Columns:
        """The same with every name filled in.

        Args:
            df: the table.
            path: its file, for the messages.

        Raises:
            ValueError: a column that was not named and has no usual name.
        """
        found = {role: getattr(self, role) for role in _USUAL}
        for role in ("id", "time") if self.wide else tuple(_USUAL):
            usual = [name for name in _USUAL[role] if name in df.columns and name not in found.values()]
            if found[role] is None and not usual:
                have = ", ".join(map(repr, df.columns[:12]))
                raise ValueError(f"{path}: which column is the {role}? It has {have}; name it: {role}=...")
            found[role] = usual[0] if found[role] is None else found[role]
        return Columns(**found, wide=self.wide)


def read_table(
    path: str | os.PathLike,
    id: str | None = None,
    time: str | None = None,
    variable: str | None = None,
    value: str | None = None,
    wide: bool = False,
    static: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    labels: str | Sequence[str] | pd.DataFrame | pd.Series | None = None,
    unit: str | None = None,
    duplicates: str = "error",
    invalid: str = "error",
    origin: object = None,
    units: Mapping[str, str] | None = None,
    max_bytes: int = 2**32,
) -> xr.Dataset:
    r"""Read records from a file: a long or wide table as .csv, .tsv or .parquet, or a .nc of the schema.

    Times in a text file are numbers, ISO 8601 stamps with or without a time zone, or hh:mm and hh:mm:ss, which count
    hours. Text among the values is refused, or taken as not observed.

    Args:
        path: the file. The other arguments but the last are not for a .nc, which says all of it itself.
        id: column of the series' ids; None looks for the usual names (id, subject_id, patient, ...).
        time: column of times; None likewise (time, hours, timestamp, ...).
        variable: column of channel names of a long table; None likewise (variable, code, ...).
        value: column of its values; None likewise (value, numeric_value, ...).
        wide: the table has one row per series and time, and one column per channel.
        static: see `ctlssl.from_long`.
        labels: see `ctlssl.from_long`.
        unit: see `ctlssl.from_long`.
        duplicates: see `ctlssl.from_long`.
        invalid: what an infinite value, or text among the values, is: "error", or "missing".
        origin: see `ctlssl.from_long`.
        units: see `ctlssl.from_long`.
        max_bytes: the largest file; `ctlssl.convert_table` reads larger ones in pieces.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: as `ctlssl.from_long`.
        ValueError: another ending, a file that is damaged or too large, and as `ctlssl.from_long`; the message names
            the series, the time and the variable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "records.csv")
        ...     _ = path.write_text("patient,time,test,result\na,00:30,urea,5\na,01:00,urea,6.5\n")
        ...     read_table(path)["time"].values
        array([0.5, 1. ])
    """
    path = Path(path)
    if path.suffix == ".nc":
        from ctlssl.files import open_dataset

        return open_dataset(path, max_bytes)
    df = read_frame(path, max_bytes)
    columns = Columns(id, time, variable, value, wide).found_in(df, path)
    settings = {"unit": unit, "duplicates": duplicates, "invalid": invalid, "origin": origin, "units": units}
    return from_frame(df, columns, path, static, labels, **settings)


def from_frame(
    df: pd.DataFrame, columns: Columns, path: object, static: object = None, labels: object = None, **settings: Any
) -> xr.Dataset:
    """The Dataset of a table that may hold times and values as text.

    Args:
        df: the table.
        columns: all of them named.
        path: its file, for the messages.
        static: as of `ctlssl.from_long`.
        labels: likewise.
        settings: the other arguments of `ctlssl.from_long`.

    Raises:
        TypeError: as `ctlssl.from_long`.
        ValueError: as `ctlssl.from_long`, and as `read_table` of text.
    """
    invalid = settings.get("invalid", "error")
    try:
        for name in (columns.id, columns.time):
            if name not in df.columns:
                raise ValueError(f"the table has no column {name!r}; it has {', '.join(map(repr, df.columns[:12]))}.")
        clock, ids = stamps_of_text(df[columns.time], df[columns.id]), df[columns.id]
        if not columns.wide:
            names = (columns.id, columns.time, columns.variable, columns.value)
            if columns.value in df.columns and columns.variable in df.columns:
                variable = df[columns.variable].astype(str)
                values = values_of_text(df[columns.value], variable, ids, df[columns.time], invalid)
                df = df.assign(**{columns.value: values, columns.time: clock})
            return from_long(df, *names, static=static, labels=labels, **settings)
        used = {columns.id, columns.time, *_columns_of(static), *_columns_of(labels)}
        values = {
            name: values_of_text(df[name], name, ids, df[columns.time], invalid)
            for name in df.columns
            if name not in used
        }
        df = df.assign(**values, **{columns.time: clock})
        return from_wide(df, columns.id, columns.time, static=static, labels=labels, **settings)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{path}: {error}") from error


def _columns_of(source: object) -> list:
    if source is None or isinstance(source, pd.DataFrame | pd.Series):
        return []
    return [source] if isinstance(source, str) else list(source)


def read_frame(path: str | os.PathLike, max_bytes: int = 2**32) -> pd.DataFrame:
    """A table of a .csv, .tsv or .parquet file, as it stands there.

    Args:
        path: the file.
        max_bytes: the most that it may take, uncompressed.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a Parquet file, and no pyarrow.
        ValueError: another ending, or a file that is damaged, empty or too large.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; records are read from a file: {', '.join(SUFFIXES)}.")
    if path.suffix not in _FRAMES:
        raise ValueError(f"{path}: records are read from {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    refuse_large(path, path.stat().st_size, max_bytes)
    try:
        df = _FRAMES[path.suffix](path, max_bytes)
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, csv.Error, OSError) as error:
        raise ValueError(f"{path}: not a table, or a damaged one ({error}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a table, or a damaged one ({error}).") from error
    return df


def refuse_large(path: Path, size: int, max_bytes: int) -> None:
    """Refuse a table beyond a size, before it is read."""
    if size > max_bytes:
        raise ValueError(
            f"{path}: {size} bytes, more than max_bytes={max_bytes}; raise it, or let ctlssl.convert_table read the "
            "table in pieces."
        )


def csv_options(path: Path) -> dict[str, Any]:
    """How pandas reads a text file: by its ending, never decompressed, its header as it stands."""
    # a row with more cells than the header has names would silently make the first column an index
    return {
        "sep": "\t" if path.suffix == ".tsv" else ",",
        "compression": None,
        "index_col": False,
        "skipinitialspace": True,
        "encoding": "utf-8-sig",
    }


def refuse_double_columns(path: Path) -> None:
    """Refuse a text file with two columns of one name, which pandas would rename, and one of another separator."""
    options = csv_options(path)
    with path.open(encoding=options["encoding"], newline="") as file:
        names = [name.strip() for name in next(csv.reader(file, delimiter=options["sep"]), [])]
    other = next((sign for sign in ";\t,|" if len(names) == 1 and sign in names[0]), None)
    if other is not None:
        raise ValueError(
            f"{path}: its columns are parted by {other!r}; a .csv has commas, a .tsv tabulators: convert it, or read "
            f"it by pandas.read_csv(..., sep={other!r}) and ctlssl.from_long."
        )
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ValueError(f"{path}: several columns {', '.join(map(repr, double))}; rename them.")


def _read_csv(path: Path, max_bytes: int) -> pd.DataFrame:
    refuse_double_columns(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of cells that no name stands above
        return pd.read_csv(path, low_memory=False, **csv_options(path))


def _read_parquet(path: Path, max_bytes: int) -> pd.DataFrame:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ImportError(f"{path}: Parquet is read by pyarrow; pip install pyarrow, or give CSV.") from error
    try:
        with parquet.ParquetFile(path) as file:
            groups = (file.metadata.row_group(k) for k in range(file.metadata.num_row_groups))
            refuse_large(path, sum(group.total_byte_size for group in groups), max_bytes)
            return file.read().to_pandas()
    except ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file, or a damaged one ({error}).") from error


_FRAMES: dict[str, Callable[[Path, int], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
