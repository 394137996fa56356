"""NetCDF-4 files of the schema: written whole or not at all, checked before anything is allocated."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr

from ctlssl.durable import replacing
from ctlssl.schema import check_dataset

__all__ = ["open_dataset", "opened_dataset", "real_name", "save_dataset", "with_plain_names"]

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_REAL_NAME = "ctlssl_name"  # the attribute that holds a name which NetCDF cannot
_MOST_VARIABLES = 100_000


def save_dataset(ds: xr.Dataset, path: str | os.PathLike) -> Path:
    """Write a Dataset of the schema as NetCDF-4, compressed and with checksums.

    The file is written under a temporary name in the same folder, synchronised and renamed: what was there before
    stays whole until the new file is complete. Names that NetCDF cannot hold are kept in an attribute.

    Args:
        ds: a Dataset of the schema; nothing else is written.
        path: the file, replaced where it exists.

    Returns:
        The path.

    Raises:
        TypeError: a variable of objects, or a channel that is not of numbers.
        ValueError: a Dataset that breaks the schema.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from ctlssl.tables import from_arrays
        >>> ds = from_arrays([[0.0, 0.5], [2.0]], [[1.0, 2.0], [3.0]], variables=["heart rate"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     open_dataset(save_dataset(ds, Path(folder) / "rates.nc")).identical(ds)
        True
    """
    check_dataset(ds)
    path = Path(path)
    stored = with_plain_names(ds.drop_encoding())
    # no byte shuffle: few distinct values and many NaN repeat as whole numbers
    filters = {"zlib": True, "complevel": 9, "shuffle": False, "fletcher32": True}
    # strings go as characters: strings of any length would lie in the one part of the file that has no checksum
    types = {name: {"dtype": "S1"} if item.dtype.kind in "UT" else {} for name, item in stored.variables.items()}
    encoding = {name: types[name] | filters for name, item in stored.variables.items() if item.size}
    with replacing(path) as temporary:
        stored.to_netcdf(temporary, engine="netcdf4", format="NETCDF4", encoding=encoding)
    return path


def open_dataset(path: str | os.PathLike, max_bytes: int = 2**32) -> xr.Dataset:
    """Read a NetCDF file of the schema into memory, after its sizes and types have been found sound.

    The checks come after the NetCDF library has read the header, and that library is not made for hostile files:
    convert those of strangers elsewhere, and read a table of them.

    Args:
        path: a file.
        max_bytes: the most that its variables may take in memory.

    Returns:
        A Dataset in memory; the file is closed.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: a variable of objects, or a channel that is not of numbers.
        ValueError: a file that is not NetCDF, is damaged, is too large or breaks the schema, with the series named.
    """
    path = Path(path)
    if not path.is_file():  # an address would make the NetCDF library go to the network
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        with netCDF4.Dataset(path, "r") as file:
            _check_header(path, file, max_bytes)
            ds = xr.open_dataset(xr.backends.NetCDF4DataStore(file), decode_times=False).load()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a NetCDF file, or a damaged one ({error}).") from error
    try:
        ds = _with_real_names(_with_plain_strings(ds.drop_encoding(), max_bytes))
        check_dataset(ds)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{path}: {error}") from error
    return ds


@contextmanager
def opened_dataset(path: str | os.PathLike) -> Iterator[xr.Dataset]:
    """A NetCDF file of the schema whose variables over rows are read when they are asked for, and not kept.

    Checked as by `open_dataset`, one variable at a time: the file may be larger than memory, a variable may not.

    Args:
        path: a file.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: as `open_dataset`.
        ValueError: as `open_dataset`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        with netCDF4.Dataset(path, "r") as file:
            _check_header(path, file, None)
            ds = xr.open_dataset(xr.backends.NetCDF4DataStore(file), decode_times=False, cache=False)
            series = [name for name, item in ds.variables.items() if item.dims != ("obs",)]
            ds = ds.assign({name: ds[name].load() for name in series}).drop_encoding()
            ds = _with_real_names(_with_plain_strings(ds, 2**32))
            check_dataset(ds)
            yield ds
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a NetCDF file, or a damaged one ({error}).") from error


def _check_header(path: Path, file: netCDF4.Dataset, max_bytes: int | None) -> None:
    """Refuse a file by what its header says, before its arrays are read."""
    if file.groups or file.cmptypes or file.vltypes or file.enumtypes:
        raise ValueError(f"{path}: groups and user-defined types are not of the schema; write a flat file.")
    if len(file.variables) > _MOST_VARIABLES:
        raise ValueError(f"{path}: {len(file.variables)} variables; at most {_MOST_VARIABLES} are read.")
    # Python integers: the product of shapes from a file may not overflow
    need = sum(
        math.prod(map(int, variable.shape)) * (8 if variable.dtype is str else np.dtype(variable.dtype).itemsize)
        for variable in file.variables.values()
    )
    if max_bytes is not None and need > max_bytes:
        raise ValueError(f"{path}: needs {need} bytes, more than {max_bytes}; raise max_bytes if you trust it.")
    _check_row_size(path, file)


def _check_row_size(path: Path, file: netCDF4.Dataset) -> None:
    if "row_size" not in file.variables or "obs" not in file.dimensions:
        raise ValueError(f"{path}: no row_size or no dimension obs; the file is not of the schema.")
    variable = file.variables["row_size"]
    if variable.dtype is str or np.dtype(variable.dtype).kind not in "iu":
        raise TypeError(f"{path}: row_size is of dtype {variable.dtype}; it counts rows, in integers.")
    total, rows = sum(np.asarray(variable[...]).reshape(-1).tolist()), file.dimensions["obs"].size
    if total != rows:
        raise ValueError(f"{path}: row_size sums to {total} but obs has {rows} rows; the file is damaged.")


def with_plain_names(ds: xr.Dataset, taken: Collection[str] = ()) -> xr.Dataset:
    """A Dataset whose names NetCDF can hold; the real ones are kept in an attribute.

    Args:
        ds: of the schema, or a part of it.
        taken: names that are in the file already.
    """
    odd = [name for name in ds.data_vars if not _PLAIN_NAME.fullmatch(str(name))]
    free = (f"variable_{k}" for k in range(len(odd) + len(ds.variables) + len(taken)))
    names = {name: next(new for new in free if new not in ds.variables and new not in taken) for name in odd}
    ds = ds.copy()
    for name in odd:
        ds[name].attrs[_REAL_NAME] = str(name)
    return ds.rename(names)


def real_name(ds: xr.Dataset, name: object) -> str:
    """The name of a variable before `with_plain_names`."""
    return str(ds[name].attrs.get(_REAL_NAME, name))


def _with_real_names(ds: xr.Dataset) -> xr.Dataset:
    names = {name: item.attrs[_REAL_NAME] for name, item in ds.data_vars.items() if _REAL_NAME in item.attrs}
    ds = ds.rename(names)
    for name in names.values():
        del ds[name].attrs[_REAL_NAME]
    return ds


def _with_plain_strings(ds: xr.Dataset, max_bytes: int) -> xr.Dataset:
    """Strings of any length, which the library reads as objects, as strings of one length."""
    for name, item in ds.variables.items():
        if item.dtype.kind in "OT":
            content = item.values.reshape(-1).tolist()
            if not all(isinstance(text, str) for text in content):
                raise TypeError(f"{name!r} holds objects; give numbers or strings.")
            longest = max(map(len, content), default=0)
            if 4 * longest * len(content) > max_bytes:
                raise ValueError(
                    f"{name!r} has strings of {longest} characters, more than max_bytes={max_bytes} holds."
                )
            ds = ds.assign({name: (item.dims, np.array(content, dtype=np.str_).reshape(item.shape), item.attrs)})
    return ds
