"""How the examples of a task are made of a Dataset: what is shown, and what is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.schema import channels, select_rows, select_series, series_of_row, to_series
from ctlssl.series import TimeSeries

__all__ = ["class_of_series", "covid19_death", "covid19_forecast", "later_values", "numbers_of_series"]


def _rows(ds: xr.Dataset, after: float, until: float) -> np.ndarray:
    """Which rows hold a value and lie in (after, until], (obs,) bool."""
    time = ds["time"].values
    filled = np.zeros(len(time), dtype=bool)
    for name in channels(ds):
        filled |= ~np.isnan(ds[name].values)
    return filled & (time > after) & (time <= until)


def _part(ds: xr.Dataset, rows: np.ndarray, chosen: np.ndarray, variables: Sequence[str] | None = None) -> TimeSeries:
    return to_series(select_series(select_rows(ds, rows), chosen), variables, dtype=torch.float64)


def _has_row(ds: xr.Dataset, rows: np.ndarray) -> np.ndarray:
    return np.bincount(series_of_row(ds)[rows], minlength=ds.sizes["series"]) > 0  # (series,)


def class_of_series(ds: xr.Dataset, label: str) -> Examples:
    """Whole series, and the class of each.

    Args:
        ds: the data.
        label: a variable over series, integers from 0.
    """
    rows = _rows(ds, -np.inf, np.inf)
    chosen = _has_row(ds, rows)
    return Examples(
        series=_part(ds, rows, chosen),
        ids=ds["series"].values[chosen],
        labels=torch.from_numpy(ds[label].values[chosen].astype(np.int64)),
        variables=channels(ds),
    )


def numbers_of_series(
    ds: xr.Dataset, labels: Sequence[str], hidden: Sequence[str] = (), logarithm: bool = False
) -> Examples:
    """Whole series, and numbers that belong to each.

    Args:
        ds: the data.
        labels: variables over series.
        hidden: channels that a model does not see.
        logarithm: ask for the logarithms of the numbers.
    """
    rows, variables = _rows(ds, -np.inf, np.inf), tuple(name for name in channels(ds) if name not in hidden)
    chosen = _has_row(ds, rows)
    targets = np.stack([ds[name].values[chosen].astype(np.float64) for name in labels], axis=1)  # (B, T)
    return Examples(
        series=_part(ds, rows, chosen, variables),
        ids=ds["series"].values[chosen],
        labels=torch.from_numpy(np.log(targets) if logarithm else targets).float(),
        variables=variables,
    )


def later_values(ds: xr.Dataset, landmark: float, asked: Sequence[str] | None = None) -> Examples:
    """What comes until a landmark is shown, what was measured after it is asked for.

    Args:
        ds: the data.
        landmark: a time.
        asked: the channels that are asked for; None all.
    """
    seen, later = _rows(ds, -np.inf, landmark), _rows(ds, landmark, np.inf)
    chosen = _has_row(ds, seen) & _has_row(ds, later)
    future = _part(ds, later, chosen)
    wanted = torch.tensor([asked is None or name in asked for name in channels(ds)])  # (D,)
    return Examples(
        series=_part(ds, seen, chosen),
        ids=ds["series"].values[chosen],
        query_times=torch.where(future.in_length, future.times, torch.nan),
        targets=future.values,
        target_observed=future.observed & wanted,
        variables=channels(ds),
    )


def covid19_death(ds: xr.Dataset) -> Examples:
    """Death in hospital of those who are still there after 24 hours."""
    seen = _rows(ds, -np.inf, 24.0)
    chosen = (ds["discharge"].values > 24.0) & _has_row(ds, seen)
    return Examples(
        series=_part(ds, seen, chosen),
        ids=ds["series"].values[chosen],
        labels=torch.from_numpy(ds["outcome"].values[chosen].astype(np.int64)),
        variables=channels(ds),
    )


def covid19_forecast(ds: xr.Dataset) -> Examples:
    """Values of the fourth and fifth day in hospital, from the first three."""
    # Some results carry a stamp after the discharge; nobody could have been asked for those.
    in_hospital = ds["time"].values <= ds["discharge"].values[series_of_row(ds)]  # (obs,)
    seen, asked = _rows(ds, -np.inf, 72.0), _rows(ds, 72.0, 120.0) & in_hospital
    chosen = (ds["discharge"].values > 72.0) & _has_row(ds, seen) & _has_row(ds, asked)
    future = _part(ds, asked, chosen)
    return Examples(
        series=_part(ds, seen, chosen),
        ids=ds["series"].values[chosen],
        query_times=torch.where(future.in_length, future.times, torch.nan),
        targets=future.values,
        target_observed=future.observed,
        variables=channels(ds),
    )
