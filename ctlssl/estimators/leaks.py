"""Whether a label can be told without a value: by how long a record is."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from ctlssl.inspection import Leak, leak_of

__all__ = ["area_by_length", "warn_of_length"]

_SUSPICIOUS = 0.7  # area under the ROC curve


def area_by_length(ds: xr.Dataset, labels: np.ndarray) -> float:
    """How well the number of rows alone tells classes apart: the area under the ROC curve, .5 to 1.

    Of several classes it is the largest of one against the rest.

    Args:
        ds: B series.
        labels: (B,) integers from 0.

    Example:
        >>> from ctlssl.tables import from_arrays
        >>> ds = from_arrays([[0.0], [1.0], [0.0, 1.0]], [[1.0], [1.0], [1.0, 2.0]])
        >>> area_by_length(ds, np.array([0, 0, 1]))
        1.0
    """
    return _of_length(ds, labels).auroc


def warn_of_length(ds: xr.Dataset, labels: np.ndarray) -> None:
    """Warn where the number of rows alone says much about the label, with what to do about it."""
    leak = _of_length(ds, labels)
    if leak.auroc > max(_SUSPICIOUS, 0.5 + 3.0 * leak.deviation):  # of few series some length always fits
        warnings.warn(
            f"the number of rows alone predicts the label (AUROC {leak.auroc:.2f}): records that end at the event tell "
            "of it by their length. Give window=, a time at which all records are still running.",
            stacklevel=3,
        )


def _of_length(ds: xr.Dataset, labels: np.ndarray) -> Leak:
    return leak_of("label", "number of rows", ds["row_size"].values.astype(np.float64), labels)
