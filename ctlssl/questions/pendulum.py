"""The question of the pendulum's images: where it is, at every image.

References:
    Becker et al. (2019), Recurrent Kalman networks, arXiv:1905.07357. Schirmer et al. (2022), Modeling irregular time
    series with continuous recurrent units, arXiv:2111.11344, whose protocol is 2000 series for training and 1000 for
    testing, scored by the mean squared error of sine and cosine at all images. Smith, Warrington, Linderman (2023),
    Simplified state space layers for sequence modeling, arXiv:2208.04933, which adds 1000 series for validation.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.normalization import Normalizer
from ctlssl.questions.task import Task
from ctlssl.schema import channels, to_series
from ctlssl.series import TimeSeries

__all__ = ["TASKS", "angles"]

_ANSWERS = ("sine", "cosine")


def angles(ds: xr.Dataset) -> Examples:
    """The images of each series, and the sine and cosine of the angle at each of them, which are never shown.

    A query stands at the time of every image, and comes after it: a model that reads forwards has the images until
    then, as a filter has.

    Args:
        ds: of `ctlssl.synthetic.pendulum`.
    """
    names = channels(ds)
    whole = to_series(ds, names, dtype=torch.float32)
    asked = torch.tensor([name in _ANSWERS for name in names])  # (D,)
    return Examples(
        series=TimeSeries(whole.values, whole.times, whole.observed & ~asked, whole.lengths),
        ids=np.asarray(ds["series"].values),
        query_times=torch.where(whole.in_length, whole.times, torch.nan),
        targets=whole.values,
        target_observed=whole.observed & asked,
        variables=names,
    )


TASKS = (
    Task(
        name="pendulum/angles",
        dataset="pendulum",
        kind="forecasting",
        description="sine and cosine of the angle at every image, from the images until then",
        window=1.0,
        build=angles,
        as_recorded=False,
        scale=Normalizer.unchanged,
    ),
    Task(
        name="pendulum_cru/angles",
        dataset="pendulum_cru",
        kind="forecasting",
        description="the same of 2000 series for training and 1000 each for validation and test, as published",
        window=1.0,
        build=angles,
        as_recorded=False,
        shares=(0.5, 0.25, 0.25),
        scale=Normalizer.unchanged,
    ),
)
