"""The questions of pbc: its visits end with death or transplantation, so nothing after a landmark is shown."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import forecast_of, has_row, part_of, rows_with_a_value
from ctlssl.schema import channels

__all__ = ["TASKS"]

_YEAR = 365.25  # days


def pbc_end(ds: xr.Dataset) -> Examples:
    """Death or transplantation within three years, of those who have neither behind them after one year.

    Patients who left the study within the three years, without either, are not asked about.
    """
    seen = rows_with_a_value(ds, -np.inf, _YEAR)
    followed, end = ds["followed"].values, ds["end"].values  # (series,)
    happened = (end > 0) & (followed <= 4 * _YEAR)
    chosen = (followed > _YEAR) & (happened | (followed > 4 * _YEAR)) & has_row(ds, seen)
    return Examples(
        series=part_of(ds, seen, chosen),
        ids=ds["series"].values[chosen],
        labels=torch.from_numpy(happened[chosen].astype(np.int64)),
        variables=channels(ds),
    )


def pbc_forecast(ds: xr.Dataset) -> Examples:
    """Values of the visits of the second to the fourth year, from those of the first."""
    seen, asked = rows_with_a_value(ds, -np.inf, _YEAR), rows_with_a_value(ds, _YEAR, 4 * _YEAR)
    return forecast_of(ds, seen, asked, among=ds["followed"].values > _YEAR)


TASKS = (
    Task(
        name="pbc/end",
        dataset="pbc",
        kind="classification",
        description="death or transplantation in the next 3 years, from year 1, of those without either then",
        window=_YEAR,
        landmark=_YEAR,
        build=pbc_end,
    ),
    Task(
        name="pbc/forecast",
        dataset="pbc",
        kind="forecasting",
        description="values of years 2 to 4 at the visits, from the first year",
        window=_YEAR,
        landmark=_YEAR,
        build=pbc_forecast,
    ),
)
