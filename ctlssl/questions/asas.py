"""The question of asas: the class of a variable star, which is in the period more than in anything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import class_of_series
from ctlssl.schema import select_series

__all__ = ["TASKS"]

_FEWEST = 27  # stars of a class that is asked for


def asas_class(ds: xr.Dataset) -> Examples:
    """The class among those that have 27 stars or more, from the whole light curve.

    Magnitudes are standardised star by star, and errors are in units of the star's own spread: what varies by a tenth
    of a magnitude is then told as plainly as what varies by five. What is lost goes to the static covariates: the mean
    magnitude, and the logarithm of the spread.
    """
    stars = np.bincount(ds["star_class"].values)
    classes = np.flatnonzero(stars >= _FEWEST)
    chosen = np.isin(ds["star_class"].values, classes)
    examples = class_of_series(select_series(ds, chosen), "star_class")
    series, seen = examples.series, examples.series.in_length.unsqueeze(-1)  # (B, L, 1)
    magnitude = torch.where(seen, series.values[..., :1], 0.0)  # (B, L, 1)
    count = series.lengths.view(-1, 1, 1)
    mean = magnitude.sum(dim=1, keepdim=True) / count  # (B, 1, 1)
    spread = (torch.where(seen, magnitude - mean, 0.0).square().sum(dim=1, keepdim=True) / count).sqrt()  # (B, 1, 1)
    spread = torch.where(spread > 0, spread, 1.0)
    values = torch.cat([series.values[..., :1] - mean, series.values[..., 1:]], dim=-1) / spread  # (B, L, 2)
    static = torch.cat([mean, spread.log10()], dim=-1).squeeze(1)  # (B, 2)
    return replace(
        examples,
        series=replace(series, values=values, static=static),
        labels=torch.from_numpy(np.searchsorted(classes, examples.labels.numpy())),
    )


TASKS = (
    Task(
        name="asas/class",
        dataset="asas",
        kind="classification",
        description="class of a variable star, one of the 12 that have 27 stars or more, from its light curve",
        window=3300.0,
        build=asas_class,
        as_recorded=False,
        folds=5,
        metric="macro_f1",
    ),
)
