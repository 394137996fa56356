"""The shapes that other libraries of time series hold records in: aeon, PyPOTS, pyrregular, torchcde."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from ctlssl.schema import to_packed
from ctlssl.tables.readers import from_arrays, from_long

__all__ = ["from_aeon", "from_pypots", "from_pyrregular", "to_torchcde"]


def from_aeon(
    X: np.ndarray | Sequence[np.ndarray],
    y: Sequence[Any] | np.ndarray | None = None,
    times: Sequence[Any] | None = None,
    variables: Sequence[str] | None = None,
    unit: str | None = None,
) -> xr.Dataset:
    """Read what aeon's classifiers read: (n, channels, time points), or a list of (channels, time points).

    NaN is not observed. What is NaN in all channels to the end of a series is its padding, and is left out.

    Args:
        X: (n, D, L) numbers, or n arrays (D, L) of lengths of their own.
        y: (n,) labels.
        times: per series (L,) times, or one (L,) for all; None counts time points: 0, 1, 2, ...
        variables: names of the channels; None: "x0", "x1", ...
        unit: of the times.

    Raises:
        ValueError: other shapes, and as `ctlssl.from_arrays`.

    Example:
        >>> ds = from_aeon([np.array([[1.0, 2.0, np.nan]]), np.array([[3.0]])], y=["a", "b"])
        >>> ds["row_size"].values, ds["x0"].values, ds["label"].values
        (array([2, 1]), array([1., 2., 3.]), array(['a', 'b'], dtype='<U1'))
    """
    blocks = [np.asarray(block, dtype=np.float64) for block in X]  # (D, L) each
    if any(block.ndim != 2 for block in blocks):
        bad = next(k for k, block in enumerate(blocks) if block.ndim != 2)
        raise ValueError(f"series {bad}: found shape {blocks[bad].shape}; aeon's series are (channels, time points).")
    kept = [_without_padding(block.T) for block in blocks]  # (L, D) each
    return from_arrays(_clocks(times, blocks, kept), kept, variables=variables, labels=y, unit=unit)


def from_pypots(
    data: Mapping[str, Any],
    times: Sequence[Any] | None = None,
    variables: Sequence[str] | None = None,
    unit: str | None = None,
) -> xr.Dataset:
    """Read what PyPOTS' models read: a mapping with "X" of (n, steps, features), NaN = not observed, and "y".

    Steps at the end of a series at which nothing was observed are its padding, and are left out.

    Args:
        data: with "X", and labels (n,) in "y" where there are some.
        times: per series (steps,) times, or one (steps,) for all; None counts steps: 0, 1, 2, ...
        variables: names of the features; None: "x0", "x1", ...
        unit: of the times.

    Raises:
        ValueError: no "X", another shape, and as `ctlssl.from_arrays`.

    Example:
        >>> from_pypots({"X": np.array([[[1.0], [np.nan], [2.0], [np.nan]]]), "y": [1]})["time"].values
        array([0., 1., 2.])
    """
    if "X" not in data:
        raise ValueError(f'no "X" among {", ".join(map(repr, data))}; PyPOTS keeps the series there.')
    X = np.asarray(data["X"], dtype=np.float64)  # (n, L, D)
    if X.ndim != 3:
        raise ValueError(f'"X" has shape {X.shape}; PyPOTS\' series are (series, steps, features).')
    y = data.get("y")
    return from_aeon(X.swapaxes(1, 2), None if y is None else np.asarray(y).tolist(), times, variables, unit)


def from_pyrregular(array: xr.DataArray, target: str | None = None, unit: str | None = None) -> xr.Dataset:
    """Read an array of pyrregular: (ts_id, signal_id, time_id), sparse, with real times along time_id.

    Args:
        array: as `pyrregular.load_dataset` gives it; its data may also be dense, with NaN for what was not observed.
        target: a coordinate over ts_id that is the label. Other coordinates over ts_id are kept as context.
        unit: of the result's time; None is hours for stamps.

    Raises:
        ValueError: other dimensions, a label that is not there, and as `ctlssl.from_long`.

    Example:
        >>> array = xr.DataArray(
        ...     [[[1.0, np.nan, 2.0]]],
        ...     dims=("ts_id", "signal_id", "time_id"),
        ...     coords={"ts_id": ["a"], "signal_id": ["x"], "time_id": [0.0, 0.5, 7.0], "class": ("ts_id", [1])},
        ... )
        >>> ds = from_pyrregular(array, target="class")
        >>> ds["time"].values, ds["x"].values, ds["class"].attrs["role"]
        (array([0., 7.]), array([1., 2.]), 'label')
    """
    dims = ("ts_id", "signal_id", "time_id")
    if set(array.dims) != set(dims):
        raise ValueError(f"the array is over {array.dims}; pyrregular's are over {dims}.")
    array = array.transpose(*dims)
    place, values = _cells(array.data)
    by_series = {str(name): item for name, item in array.coords.items() if item.dims == ("ts_id",) and name != "ts_id"}
    if target is not None and target not in by_series:
        raise ValueError(f"no coordinate {target!r} over ts_id; there are {', '.join(map(repr, by_series))}.")
    ids, signals, clock = (np.asarray(array[name].values) for name in dims)
    ids = ids.astype(np.str_) if ids.dtype.kind in "OU" else ids
    table = pd.DataFrame(
        {"id": ids[place[0]], "time": clock[place[2]], "variable": signals[place[1]].astype(str), "value": values}
    )
    context = pd.DataFrame({name: item.values for name, item in by_series.items()}, index=ids)
    labels = None if target is None else context[target]
    others = context.drop(columns=[] if target is None else target)
    ds = from_long(table, *table.columns, labels=labels, static=others if others.size else None, unit=unit)
    for name in others.columns:
        ds[str(name)].attrs["role"] = "context"
    return ds


def to_torchcde(ds: xr.Dataset, dtype: torch.dtype = torch.float64) -> tuple[Tensor, tuple[str, ...]]:
    """Write what torchcde's interpolations read: (series, length, 1 + channels), time first, NaN = not observed.

    All series are as long as the longest, and two rows at least, as torchcde needs. Rows after the end of a series
    repeat its last time and the last value seen of each channel, so that the path stands still there.

    Args:
        ds: of the schema.
        dtype: of the result; in float32 close times can become one.

    Returns:
        the tensor, and what its channels are.

    Raises:
        ValueError: a Dataset that breaks the schema.

    Example:
        >>> paths, names = to_torchcde(from_arrays([[0.0, 2.0], [1.0]], [[5.0, np.nan], [7.0]]))
        >>> paths[:, :, 0].tolist(), paths[:, :, 1].tolist(), names
        ([[0.0, 2.0], [1.0, 1.0]], [[5.0, nan], [7.0, 7.0]], ('time', 'x0'))
    """
    from ctlssl.schema import channels

    series = to_packed(ds, static=(), dtype=torch.float64).to_series()
    B, L, D = series.values.shape
    paths = torch.full((B, max(L, 2), 1 + D), torch.nan, dtype=torch.float64)  # (B, L, 1 + D)
    for b, length in enumerate(series.lengths.tolist()):
        rows = torch.cat([series.times[b, :length, None], series.values[b, :length]], dim=1)  # (l, 1 + D)
        paths[b, :length] = rows
        last = (
            torch.from_numpy(pd.DataFrame(rows.numpy()).ffill().to_numpy(copy=True)[-1]) if length else torch.zeros(1)
        )
        paths[b, length:, : len(last)] = last
    return paths.to(dtype), ("time", *channels(ds))


def _without_padding(rows: np.ndarray) -> np.ndarray:
    """Rows (L, D) up to the last at which something was observed."""
    seen = np.flatnonzero(~np.isnan(rows).all(axis=1))
    return rows[: seen[-1] + 1 if len(seen) else 0]


def _clocks(times: Sequence[Any] | None, blocks: list[np.ndarray], kept: list[np.ndarray]) -> list[np.ndarray]:
    """The times of the rows of each series."""
    if times is None:
        return [np.arange(len(rows), dtype=np.float64) for rows in kept]
    shared = np.ndim(times[0]) == 0 if len(times) else True
    clocks = [np.asarray(times if shared else times[k]) for k in range(len(blocks))]
    for k, (clock, block) in enumerate(zip(clocks, blocks, strict=True)):
        if clock.shape != (block.shape[1],):
            raise ValueError(f"series {k}: times {clock.shape} for {block.shape[1]} time points; give one for each.")
    return [clock[: len(rows)] for clock, rows in zip(clocks, kept, strict=True)]


def _cells(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Places (3, cells) and values (cells,) of what was observed, in a sparse or dense array."""
    if hasattr(data, "coords") and hasattr(data, "data"):  # sparse.COO, without importing it
        place, values = np.asarray(data.coords), np.asarray(data.data, dtype=np.float64)
        seen = ~np.isnan(values)
        return place[:, seen], values[seen]
    dense = np.asarray(data, dtype=np.float64)
    place = np.stack(np.nonzero(~np.isnan(dense)))
    return place, dense[tuple(place)]
