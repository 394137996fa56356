"""Answers and weights of series: by name, by position, or by the names of the series."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ctlssl.estimators.records import Records
from ctlssl.examples import Examples

__all__ = ["answers_of", "in_order", "names_of", "weighted_examples"]


def answers_of(y: Any, ds: xr.Dataset, X: Any) -> np.ndarray:
    """The answers of the series of a Dataset: as given, or the variable of that name.

    Args:
        y: (B,) or (B, T), a name, or several names.
        ds: of B series.
        X: the records that it was read from, see `in_order`.

    Raises:
        ValueError: no answers, a name that the Dataset does not have, or answers for another number of series.
    """
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None: give the answers, or the name of a label.")
    names = [y] if isinstance(y, str) else y
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) and name in ds for name in names):
        wrong = [name for name in names if ds[name].dims != ("series",)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no variable over series; it cannot be an answer.")
        columns = [ds[name].values for name in names]
        return columns[0] if isinstance(y, str) else np.stack(columns, axis=1)
    if isinstance(y, str):
        raise ValueError(f"the records have no label {y!r}; there are {', '.join(map(str, ds.data_vars))}.")
    return np.asarray(in_order(y, ds, X))


def names_of(y: Any) -> set[str]:
    """The variables that are named as answers."""
    given = [y] if isinstance(y, str) else y if isinstance(y, list | tuple) else []
    return {name for name in given if isinstance(name, str)}


def in_order(values: Any, ds: xr.Dataset, X: Any) -> Any:
    """Answers or weights in the order of the series, whose names come out of a table sorted.

    A pandas object whose index is the names of the series is put into their order. Anything else is taken by position:
    arrays and lists, numbers from 0 on, and all that goes with records that have no names of their own.

    Args:
        values: one a series.
        ds: of B series.
        X: the records that it was read from.

    Raises:
        ValueError: an index of texts that are not the names of the series.
    """
    if not isinstance(values, pd.Series | pd.DataFrame) or not isinstance(X, xr.Dataset | Records):
        return values
    ids, index = pd.Index(ds["series"].values), values.index
    if len(index) == len(ids) and index.is_unique and index.isin(ids).all():
        return values.loc[ids]
    if not pd.api.types.is_numeric_dtype(index.dtype) and pd.api.types.infer_dtype(index) == "string":
        strange = next((name for name in index if name not in ids), index[0] if len(index) else None)
        raise ValueError(
            f"the answers are indexed by {len(index)} names, such as {strange!r}, and the {len(ids)} series by "
            f"others, such as {ids[0]!r}: give one answer for each series, or an array in the order of ds['series']."
        )
    return values


def weighted_examples(examples: Examples, weights: np.ndarray | None) -> Examples:
    """The examples with weights of mean 1."""
    if weights is None:
        return examples
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(examples),) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(f"sample weights must be {len(examples)} numbers >= 0 that are not all zero.")
    return replace(examples, weights=torch.from_numpy(weights / weights.mean()).float())
