"""What estimators read: irregular records in a few forms, all of them made into a Dataset of the schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ctlssl.schema import check_dataset, select_series
from ctlssl.tables import from_arrays

__all__ = ["Records", "as_dataset"]


class Records:
    """A Dataset of the schema that is indexed by series: what scikit-learn's splitters and searches can divide.

    An `xarray.Dataset` is indexed by the names of its variables; `Records(ds)[3:5]` are two of its series.

    Args:
        ds: a Dataset of the schema.

    Raises:
        ValueError: a Dataset that breaks the schema.

    Example:
        >>> records = Records(from_arrays([[0.0, 0.5], [2.0], [1.0]], [[1.0, 2.0], [3.0], [4.0]]))
        >>> len(records), records[[0, 2]].dataset["row_size"].values
        (3, array([2, 1]))
    """

    def __init__(self, ds: xr.Dataset) -> None:
        check_dataset(ds)
        self.dataset = ds

    @property
    def shape(self) -> tuple[int]:
        """The number of series, as an array of them would say it."""
        return (self.dataset.sizes["series"],)

    def __len__(self) -> int:
        return self.dataset.sizes["series"]

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray | tuple) -> Records:
        if isinstance(index, tuple):  # records[index, ...], as an array is indexed
            index = index[0]
        chosen = [index] if isinstance(index, int | np.integer) else index
        return Records(select_series(self.dataset, chosen))

    def __repr__(self) -> str:
        return f"Records({len(self)} series, {self.dataset.sizes['obs']} rows)"


def as_dataset(X: Any) -> xr.Dataset | None:
    """The Dataset of records in one of the forms that estimators read; None of what is a table of numbers.

    Args:
        X: a Dataset of the schema; `Records`; a list of pairs (times, values), values (L, D) or (L,) with NaN where
            nothing was observed; or an array (series, rows, channels) on the regular grid 0, 1, 2, ..., NaN likewise.

    Raises:
        ValueError: a table with words in it; pairs whose times are not in order, as answers at rows would go astray,
            or that `ctlssl.from_arrays` refuses.
    """
    if isinstance(X, Records):
        return X.dataset
    if isinstance(X, xr.Dataset):
        check_dataset(X)
        return X
    if isinstance(X, np.ndarray) and X.ndim == 3:
        return from_arrays([np.arange(X.shape[1], dtype=np.float64)] * len(X), list(X))
    if isinstance(X, list) and X and all(isinstance(item, tuple) and len(item) == 2 for item in X):
        times, values = zip(*X, strict=True)
        for b, given in enumerate(times):
            stamps = np.asarray(given)
            if stamps.ndim == 1 and (back := np.flatnonzero(stamps[1:] < stamps[:-1])).size:
                raise ValueError(f"record {b}, position {back[0] + 1}: the time goes back; sort its rows by time.")
        return from_arrays(times, values)
    if isinstance(X, pd.DataFrame):
        words = [name for name in X.columns if not pd.api.types.is_numeric_dtype(X[name])]
        if words:
            raise ValueError(
                f"column {words[0]!r} holds no numbers, so this is no table of features; where its rows are those of "
                "records, ctlssl.from_long or ctlssl.from_wide makes them of it."
            )
    return None
