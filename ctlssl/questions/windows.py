"""What most questions are made of: rows in a window of time, and what is asked of the series or after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.schema import channels, select_rows, select_series, series_of_row, to_series
from ctlssl.series import TimeSeries

__all__ = [
    "class_of_series",
    "forecast_of",
    "has_row",
    "later_values",
    "numbers_of_series",
    "part_of",
    "response_to_inputs",
    "rows_with_a_value",
]


def rows_with_a_value(ds: xr.Dataset, after: float, until: float) -> np.ndarray:
    """Which rows hold a value and lie in (after, until], (obs,) bool."""
    time = ds["time"].values
    filled = np.zeros(len(time), dtype=bool)
    for name in channels(ds):
        filled |= ~np.isnan(ds[name].values)
    return filled & (time > after) & (time <= until)


def part_of(ds: xr.Dataset, rows: np.ndarray, chosen: np.ndarray, variables: Sequence[str] | None = None) -> TimeSeries:
    """Some rows (obs,) of some series (series,) as a batch in raw units, float64."""
    return to_series(select_series(select_rows(ds, rows), chosen), variables, dtype=torch.float64)


def has_row(ds: xr.Dataset, rows: np.ndarray) -> np.ndarray:
    """Which series have one of these rows, (series,) bool."""
    return np.bincount(series_of_row(ds)[rows], minlength=ds.sizes["series"]) > 0  # (series,)


def class_of_series(ds: xr.Dataset, label: str) -> Examples:
    """Whole series, and the class of each.

    Args:
        ds: the data.
        label: a variable over series, integers from 0.
    """
    rows = rows_with_a_value(ds, -np.inf, np.inf)
    chosen = has_row(ds, rows)
    return Examples(
        series=part_of(ds, rows, chosen),
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
    rows, variables = rows_with_a_value(ds, -np.inf, np.inf), tuple(name for name in channels(ds) if name not in hidden)
    chosen = has_row(ds, rows)
    targets = np.stack([ds[name].values[chosen].astype(np.float64) for name in labels], axis=1)  # (B, T)
    return Examples(
        series=part_of(ds, rows, chosen, variables),
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
    seen, later = rows_with_a_value(ds, -np.inf, landmark), rows_with_a_value(ds, landmark, np.inf)
    examples = forecast_of(ds, seen, later, np.ones(ds.sizes["series"], dtype=bool))
    wanted = torch.tensor([asked is None or name in asked for name in channels(ds)])  # (D,)
    return replace(examples, target_observed=examples.target_observed & wanted)


def forecast_of(ds: xr.Dataset, seen: np.ndarray, asked: np.ndarray, among: np.ndarray) -> Examples:
    """Some rows are shown, and the values of others are asked for, of the series that have both.

    Args:
        ds: the data.
        seen: (obs,) bool.
        asked: (obs,) bool.
        among: (series,) bool, the series that may be asked.
    """
    chosen = among & has_row(ds, seen) & has_row(ds, asked)
    future = part_of(ds, asked, chosen)
    return Examples(
        series=part_of(ds, seen, chosen),
        ids=ds["series"].values[chosen],
        query_times=torch.where(future.in_length, future.times, torch.nan),
        targets=future.values,
        target_observed=future.observed,
        variables=channels(ds),
    )


def response_to_inputs(
    ds: xr.Dataset,
    response: str,
    inputs: Sequence[str],
    shown: np.ndarray,
    covariates: Sequence[str] | None = None,
) -> Examples:
    """All of the inputs are shown, as planned in advance, and some values of the response; the others are asked for.

    Args:
        ds: the data.
        response: a channel.
        inputs: channels that are shown beside it at all times.
        shown: (obs,) bool, where the response is shown.
        covariates: the static ones; None all.
    """
    measured = ds[response].notnull().values  # (obs,)
    given = np.zeros_like(measured)
    for name in inputs:
        given |= ds[name].notnull().values
    shown, asked = measured & shown, measured & ~shown
    chosen, variables = has_row(ds, shown | given) & has_row(ds, asked), (*inputs, response)
    hidden = ds.assign({response: ds[response].where(xr.DataArray(shown, dims="obs"))})
    seen = select_series(select_rows(hidden, shown | given), chosen)
    future = to_series(select_series(select_rows(ds, asked), chosen), variables, (), torch.float64)
    wanted = torch.tensor([name == response for name in variables])  # (D,)
    return Examples(
        series=to_series(seen, variables, covariates, torch.float64),
        ids=ds["series"].values[chosen],
        query_times=torch.where(future.in_length, future.times, torch.nan),
        targets=future.values,
        target_observed=future.observed & wanted,
        variables=variables,
    )
