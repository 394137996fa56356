"""The one schema of data: an `xarray.Dataset` in the CF contiguous ragged layout.

    series    (series)  coordinate: the id of each series, integers or strings
    row_size  (series)  the number of its rows; the rows of the series follow one another along ``obs``
    time      (obs)     float64, non-decreasing within a series, with its unit as an attribute
    <channel> (obs)     one variable per channel, NaN = not observed, units as an attribute
    <other>   (series)  labels, static covariates and context, told apart by the attribute ``role``

References:
    CF conventions 1.12, section 9.3.3 and example H.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries

__all__ = ["channels", "check_dataset", "labels", "select_rows", "select_series", "static", "to_packed", "to_series"]

RESERVED = ("series", "obs", "row_size", "time", "origin")


def channels(ds: xr.Dataset) -> tuple[str, ...]:
    """The names of the channels: the variables over ``obs``."""
    return tuple(str(name) for name, variable in ds.data_vars.items() if variable.dims == ("obs",) and name != "time")


def labels(ds: xr.Dataset) -> tuple[str, ...]:
    """The names of the labels: the variables over ``series`` that say so."""
    return _with_role(ds, "label")


def static(ds: xr.Dataset) -> tuple[str, ...]:
    """The names of the static covariates: the variables over ``series`` that say so."""
    return _with_role(ds, "static")


def _with_role(ds: xr.Dataset, role: str) -> tuple[str, ...]:
    found = ds.data_vars.items()
    return tuple(str(name) for name, item in found if item.dims == ("series",) and item.attrs.get("role") == role)


def make_dataset(
    ids: np.ndarray,
    row_size: np.ndarray,
    time: np.ndarray,
    unit: str | None,
    values: Mapping[str, np.ndarray],
    covariates: Mapping[str, tuple[str, np.ndarray]],
    units: Mapping[str, str],
) -> xr.Dataset:
    """A Dataset of the schema from its arrays.

    Args:
        ids: (series,).
        row_size: (series,) integers.
        time: (obs,) numbers.
        unit: the unit of ``time``, if it is known.
        values: (obs,) numbers per channel.
        covariates: per variable over series its role ("label", "static" or "context") and (series,) values.
        units: the unit of a channel or covariate, where it is known.
    """
    names = [*values, *covariates]
    taken = {name for name in names if names.count(name) > 1} | {*RESERVED} & {*values, *({*covariates} - {"origin"})}
    if taken:
        raise ValueError(
            f"the names {', '.join(map(repr, sorted(taken)))} are taken; rename these variables in the table."
        )
    unknown = sorted(set(units) - set(names))
    if unknown:
        raise ValueError(f"units are given for {', '.join(map(repr, unknown))}, which the data do not have.")
    data: dict[str, tuple] = {
        "row_size": (
            "series",
            row_size.astype(np.int64),
            {"sample_dimension": "obs", "long_name": "rows of the series"},
        )
    }
    for name, column in values.items():
        data[name] = ("obs", column, {"units": units[name]} if name in units else {})
    for name, (role, column) in covariates.items():
        data[name] = ("series", column, {"role": role} | ({"units": units[name]} if name in units else {}))
    clock = {"long_name": "time"} | ({} if unit is None else {"units": unit})
    coords = {"series": ("series", ids, {"cf_role": "timeseries_id"}), "time": ("obs", time.astype(np.float64), clock)}
    return xr.Dataset(data, coords, {"Conventions": "CF-1.12", "featureType": "timeSeries"})


def check_dataset(ds: xr.Dataset) -> None:
    """Refuse a Dataset that is not of the schema.

    Raises:
        TypeError: a variable of objects, or a channel that is not of numbers.
        ValueError: what is missing or does not fit, with the id of the series and the position in it.
    """
    absent = [name for name in ("series", "row_size", "time") if name not in ds.variables]
    if absent:
        raise ValueError(
            f"the Dataset has no variable {', '.join(absent)}; make it by ctlssl.from_long, from_wide or from_arrays."
        )
    _check_dims(ds)
    _check_dtypes(ds)
    ids, row_size, time = ds["series"].values, ds["row_size"].values, ds["time"].values
    unique, count = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise ValueError(f"series {unique[count > 1][0].item()!r}: the id occurs {count.max()} times; ids are unique.")
    if (row_size < 0).any():
        bad = int(np.flatnonzero(row_size < 0)[0])
        raise ValueError(f"series {ids[bad].item()!r}: row_size is {row_size[bad]}; it must not be negative.")
    if sum(row_size.tolist()) != len(time):  # Python integers do not overflow
        raise ValueError(
            f"row_size sums to {sum(row_size.tolist())} but obs has {len(time)} rows; the file is damaged."
        )
    _check_clock(ids, row_size, time)
    for name in channels(ds):
        infinite = np.flatnonzero(np.isinf(ds[name].values))
        if len(infinite):
            where = position(ids, row_size, int(infinite[0]))
            raise ValueError(f"{where}: {name} is infinite; correct it, or make it NaN for not observed.")


def _check_dims(ds: xr.Dataset) -> None:
    expected = {"series": ("series",), "row_size": ("series",), "time": ("obs",)}
    for name, dims in expected.items():
        if ds[name].dims != dims:
            raise ValueError(f"{name} must be over {dims}, found {ds[name].dims}.")
    for name, variable in ds.variables.items():
        if variable.dims not in ((), ("series",), ("obs",)):
            raise ValueError(f"{name!r} is over {variable.dims}; variables are over obs or over series.")
    others = [str(name) for name, item in ds.coords.items() if item.dims == ("series",) and name != "series"]
    if others:
        raise ValueError(f"series is the only coordinate over series; make {', '.join(others)} plain (reset_coords).")


def _check_dtypes(ds: xr.Dataset) -> None:
    for name, variable in ds.variables.items():
        if variable.dtype.kind not in "biufUT":
            raise TypeError(f"{name!r} is of dtype {variable.dtype}; give numbers or strings.")
    for name in ("time", *channels(ds)):
        if ds[name].dtype.kind not in "biuf":
            raise TypeError(f"{name!r} over obs is of dtype {ds[name].dtype}; give numbers, NaN = not observed.")
    if ds["row_size"].dtype.kind not in "iu":
        raise TypeError(f"row_size is of dtype {ds['row_size'].dtype}; it counts rows, in integers.")


def _check_clock(ids: np.ndarray, row_size: np.ndarray, time: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(time))
    if len(bad):
        raise ValueError(f"{position(ids, row_size, int(bad[0]))}: time is {time[bad[0]]}; drop the row.")
    back = time[1:] < time[:-1]
    starts = np.cumsum(row_size)[:-1]
    starts = starts[(starts > 0) & (starts < len(time))]
    back[starts - 1] = False  # from one series to the next, time may go anywhere
    if back.any():
        k = int(np.flatnonzero(back)[0]) + 1
        raise ValueError(
            f"{position(ids, row_size, k)}: time {time[k]} < previous {time[k - 1]}; "
            "sort each series by time (ctlssl.from_long and from_wide do)."
        )


def position(ids: np.ndarray, row_size: np.ndarray, row: int) -> str:
    """Where a row along ``obs`` is, in words: the id of its series and the position in it."""
    ends = np.cumsum(row_size)
    b = int(np.searchsorted(ends, row, side="right"))
    return f"series {ids[b].item()!r}, position {row - int(ends[b] - row_size[b])}"


def select_series(ds: xr.Dataset, index: Sequence[int] | np.ndarray | slice) -> xr.Dataset:
    """Some of the series, with their rows.

    Args:
        ds: a Dataset of the schema.
        index: positions, a boolean flag per series, or a slice.

    Example:
        >>> ds = make_dataset(np.array([4, 7]), np.array([2, 1]), np.array([0.0, 1.0, 5.0]), "h",
        ...                   {"heart_rate": np.array([70.0, 80.0, 90.0])}, {}, {})
        >>> select_series(ds, [1])["heart_rate"].values
        array([90.])
    """
    size = ds["row_size"].values.astype(np.int64)
    index = index if isinstance(index, slice) else np.asarray(index)
    chosen = np.arange(len(size))[index if isinstance(index, slice) or index.size else index.astype(np.int64)]
    ends = np.cumsum(size[chosen])
    shift = np.repeat((np.cumsum(size) - size)[chosen] - (ends - size[chosen]), size[chosen])
    return ds.isel(series=chosen, obs=np.arange(len(shift)) + shift)


def select_rows(ds: xr.Dataset, keep: np.ndarray) -> xr.Dataset:
    """Some of the rows; every series stays, with fewer rows or none.

    Args:
        ds: a Dataset of the schema.
        keep: (obs,) bool.
    """
    counts = np.bincount(series_of_row(ds)[keep], minlength=ds.sizes["series"])
    selected = ds.isel(obs=np.flatnonzero(keep))
    return selected.assign(row_size=ds["row_size"].copy(data=counts.astype(np.int64)))


def series_of_row(ds: xr.Dataset) -> np.ndarray:
    """The position of the series that each row belongs to, (obs,)."""
    return np.repeat(np.arange(ds.sizes["series"]), ds["row_size"].values)


def to_series(
    ds: xr.Dataset,
    variables: Sequence[str] | None = None,
    static: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    missing: str = "error",
) -> TimeSeries:
    """The padded batch that models read.

    Args:
        ds: a Dataset of the schema.
        variables: the channels, in this order; None: all that the Dataset has, in its order.
        static: the static covariates, in this order; None: the variables over series of role "static".
        dtype: of values and static covariates; times are float64.
        missing: what a channel of ``variables`` that the Dataset lacks is: "error", or "unobserved".

    Returns:
        TimeSeries: values are NaN where nothing was observed; static is None where there are no covariates.

    Raises:
        TypeError: a static covariate that is not a number.
        ValueError: a Dataset that breaks the schema, or lacks what is asked for.

    Example:
        >>> ds = make_dataset(np.array([4, 7]), np.array([2, 1]), np.array([0.0, 1.0, 5.0]), "h",
        ...                   {"heart_rate": np.array([70.0, np.nan, 90.0])}, {}, {})
        >>> series = to_series(ds)
        >>> series.lengths, series.observed[0, :, 0]
        (tensor([2, 1]), tensor([ True, False]))
    """
    return to_packed(ds, variables, static, dtype, missing).to_series()


def to_packed(
    ds: xr.Dataset,
    variables: Sequence[str] | None = None,
    static: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    missing: str = "error",
) -> PackedSeries:
    """The series without padding, rows as they lie in the Dataset; arguments and errors as of `to_series`.

    Example:
        >>> ds = make_dataset(np.array([4, 7]), np.array([2, 1]), np.array([0.0, 1.0, 5.0]), "h",
        ...                   {"heart_rate": np.array([70.0, np.nan, 90.0])}, {}, {})
        >>> to_packed(ds).times
        tensor([0., 1., 5.], dtype=torch.float64)
    """
    check_dataset(ds)
    names, covariates = _requested(ds, variables, static, missing)
    values = torch.full((ds.sizes["obs"], len(names)), torch.nan, dtype=dtype)  # (T, D)
    observed = torch.zeros(values.shape, dtype=torch.bool)  # (T, D)
    for d, name in enumerate(names):
        if name in ds.variables:  # a channel at a time: no copy of all of them in float64
            column = torch.from_numpy(ds[name].values.astype(np.float64))  # (T,)
            values[:, d], observed[:, d] = column, torch.isfinite(column)
    statics = np.stack([ds[name].values for name in covariates], axis=1) if covariates else None  # (B, S)
    return PackedSeries(
        values=values,
        times=torch.from_numpy(ds["time"].values.astype(np.float64)),
        observed=observed,
        lengths=torch.from_numpy(ds["row_size"].values.astype(np.int64)),
        static=None if statics is None else torch.from_numpy(statics).to(dtype),
    )


def _requested(
    ds: xr.Dataset, variables: Sequence[str] | None, covariates: Sequence[str] | None, missing: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if missing not in ("error", "unobserved"):
        raise ValueError(f'missing must be "error" or "unobserved", found {missing!r}.')
    known = channels(ds)
    names = known if variables is None else tuple(variables)
    absent = [name for name in names if name not in known]
    if absent and missing == "error":
        raise ValueError(
            f"the Dataset has no channel {', '.join(map(repr, absent))}; it has {', '.join(map(repr, known))}. "
            'missing="unobserved" takes them as never observed.'
        )
    chosen = static(ds) if covariates is None else tuple(covariates)
    absent = [name for name in chosen if name not in ds.variables or ds[name].dims != ("series",)]
    if absent:
        raise ValueError(f"the Dataset has no {', '.join(map(repr, absent))} over series; it has {static(ds)}.")
    text = [name for name in chosen if ds[name].dtype.kind not in "biuf"]
    if text:
        raise TypeError(f"static {', '.join(map(repr, text))}: text is no covariate; encode it as numbers.")
    return names, chosen
