"""The questions of covid19: its records end with the stay, so nothing after a landmark is shown."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import forecast_of, has_row, part_of, rows_with_a_value
from ctlssl.schema import channels, series_of_row

__all__ = ["TASKS"]


def covid19_death(ds: xr.Dataset) -> Examples:
    """Death in hospital of those who are still there after 24 hours."""
    seen = rows_with_a_value(ds, -np.inf, 24.0)
    chosen = (ds["discharge"].values > 24.0) & has_row(ds, seen)
    return Examples(
        series=part_of(ds, seen, chosen),
        ids=ds["series"].values[chosen],
        labels=torch.from_numpy(ds["outcome"].values[chosen].astype(np.int64)),
        variables=channels(ds),
    )


def covid19_forecast(ds: xr.Dataset) -> Examples:
    """Values of the fourth and fifth day in hospital, from the first three."""
    # Some results carry a stamp after the discharge; nobody could have been asked for those.
    in_hospital = ds["time"].values <= ds["discharge"].values[series_of_row(ds)]  # (obs,)
    seen, asked = rows_with_a_value(ds, -np.inf, 72.0), rows_with_a_value(ds, 72.0, 120.0) & in_hospital
    return forecast_of(ds, seen, asked, among=ds["discharge"].values > 72.0)


TASKS = (
    Task(
        name="covid19/death",
        dataset="covid19",
        kind="classification",
        description="death in hospital, from the first 24 h, among those still in hospital then",
        window=24.0,
        landmark=24.0,
        build=covid19_death,
    ),
    Task(
        name="covid19/forecast",
        dataset="covid19",
        kind="forecasting",
        description="values of the hours 72 to 120 when they were measured, from the first 72 h",
        window=72.0,
        landmark=72.0,
        build=covid19_forecast,
    ),
)
