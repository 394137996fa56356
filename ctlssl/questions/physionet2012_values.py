"""Values of physionet2012 that are to be found: between others, after them, and once as its protocol has it.

The protocol of Rubanova et al. takes the 8,000 stays of both sets, 80 % of them for training, and divides every value
by the largest of its channel in all of them. Its published interpolation shows a model all values and asks for the same
values again: a copy scores 0 (`physionet2012/reconstruction`). Its autoregressive models are asked for each value
before they see it (`physionet2012/next`), its extrapolation is from the first day to the second. What interpolation
means elsewhere, values that were held out, is `physionet2012/interpolation`, with the half of the times that Shukla and
Marlin hold out at most.

References:
    Rubanova, Chen, Duvenaud (2019), Latent ODEs for irregularly-sampled time series, arXiv:1907.03907. Shukla, Marlin
    (2021), Multi-time attention networks for irregularly sampled time series, arXiv:2101.10318.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ctlssl.examples import Examples
from ctlssl.normalization import Normalizer
from ctlssl.questions.physionet2012 import covariates
from ctlssl.questions.task import Task
from ctlssl.questions.windows import has_row, later_values, part_of, rows_with_a_value
from ctlssl.schema import channels, series_of_row
from ctlssl.series import TimeSeries

__all__ = ["LARGEST", "SCALE", "TASKS", "mean_squared_errors", "units"]

LARGEST = {
    "alanine_aminotransferase": 16920.0,
    "albumin": 5.3,
    "alkaline_phosphatase": 2205.0,
    "arterial_carbon_dioxide": 100.0,
    "arterial_oxygen": 500.0,
    "arterial_ph": 735.0,
    "aspartate_aminotransferase": 18430.0,
    "bicarbonate": 52.0,
    "bilirubin": 59.4,
    "blood_urea_nitrogen": 209.0,
    "cholesterol": 360.0,
    "creatinine": 22.1,
    "cuff_diastolic_pressure": 211.0,
    "cuff_mean_pressure": 218.0,
    "cuff_systolic_pressure": 300.0,
    "diastolic_pressure": 272.0,
    "glasgow_coma_score": 15.0,
    "glucose": 1289.0,
    "heart_rate": 300.0,
    "hematocrit": 61.8,
    "inspired_oxygen": 1.0,
    "lactate": 31.0,
    "magnesium": 21.0,
    "mean_pressure": 300.0,
    "mechanical_ventilation": 1.0,
    "oxygen_saturation": 100.0,
    "platelets": 2292.0,
    "potassium": 22.9,
    "respiration_rate": 100.0,
    "sodium": 177.0,
    "systolic_pressure": 295.0,
    "temperature": 42.2,
    "troponin_i": 49.6,
    "troponin_t": 24.91,
    "urine": 11000.0,
    "weight": 472.0,  # on admission
    "white_cell_count": 6251.9,
}
"""The largest value of each channel in all stays, by which the protocol divides."""

SCALE = 16.0
"""Scores are `SCALE` times the protocol's values, so that most channels spread by about 1."""


def units(series: TimeSeries) -> Normalizer:
    """Values in the units of the protocol times `SCALE`, from their means in the training part."""
    seen = series.observed & series.in_length.unsqueeze(-1)  # (B, L, D)
    total = torch.where(seen, series.values.double(), 0.0).sum(dim=(0, 1))  # (D,)
    mean = total / seen.sum(dim=(0, 1)).clamp(min=1)
    return Normalizer.linear(series, mean.tolist(), (mean + torch.tensor(list(LARGEST.values())) / SCALE).tolist())


def mean_squared_errors(mean: Tensor, targets: Tensor, observed: Tensor) -> dict[str, float]:
    """The errors of forecasts by the two published measures, in the units of the protocol.

    Args:
        mean: (B, Q, D) forecasts, as scores.
        targets: (B, Q, D) scores.
        observed: (B, Q, D) bool, which of them count.

    Returns:
        ``by_channel``: of each stay and channel the mean over its values, 0 where it has none, and of these the mean
        over all stays and channels, as Rubanova et al. compute it; ``pooled``: the mean over all values, as Shukla and
        Marlin do.

    Example:
        >>> targets = torch.tensor([[[16.0, 0.0], [32.0, 0.0]]])
        >>> observed = torch.tensor([[[True, False], [True, False]]])
        >>> mean_squared_errors(torch.zeros(1, 2, 2), targets, observed)
        {'by_channel': 1.25, 'pooled': 2.5}
    """
    error = torch.where(observed, (mean.double() - targets.double()) / SCALE, 0.0).square()  # (B, Q, D)
    counts = observed.sum(dim=1)  # (B, D)
    by_channel = (error.sum(dim=1) / counts.clamp(min=1)).mean()
    return {"by_channel": by_channel.item(), "pooled": (error.sum() / counts.sum().clamp(min=1)).item()}


def after_first_day(ds: xr.Dataset) -> Examples:
    """The values of the second day, from those of the first.

    The protocol cuts at the median of the times of a batch of stays, which is 24 h within minutes.
    """
    _check(ds)
    chosen = has_row(ds, rows_with_a_value(ds, -np.inf, 24.0)) & has_row(ds, rows_with_a_value(ds, 24.0, np.inf))
    return _known(ds, later_values(ds, landmark=24.0), chosen)


def between(ds: xr.Dataset, seed: int = 0) -> Examples:
    """The values of half of the times of each stay, drawn once, from those of the other half."""
    rows = rows_with_a_value(ds, -np.inf, np.inf)
    owner = series_of_row(ds)  # (obs,)
    order = np.lexsort((np.random.default_rng(seed).random(len(owner)), ~rows, owner))  # those without a value last
    rank, starts = np.empty(len(owner), dtype=np.int64), np.cumsum(ds["row_size"].values) - ds["row_size"].values
    rank[order] = np.arange(len(owner)) - starts[owner]
    count = np.bincount(owner[rows], minlength=ds.sizes["series"])[owner]  # (obs,)
    shown = rows & (rank < count // 2)
    hidden = rows & ~shown
    return _asked(ds, shown, hidden, has_row(ds, shown) & has_row(ds, hidden))


def again(ds: xr.Dataset) -> Examples:
    """All values, from all values."""
    rows = rows_with_a_value(ds, -np.inf, np.inf)
    return _asked(ds, rows, rows, has_row(ds, rows))


def next_values(ds: xr.Dataset) -> Examples:
    """The values of each row, from the rows before it: asked a quarter of a minute before, where times are minutes."""
    rows = rows_with_a_value(ds, -np.inf, np.inf)
    examples = _asked(ds, rows, rows, has_row(ds, rows))
    later = examples.query_times - 1 / 240
    later[:, 0] = torch.nan  # nothing is known before the first row
    return replace(examples, query_times=later, target_observed=examples.target_observed & ~later.isnan().unsqueeze(-1))


def _asked(ds: xr.Dataset, shown: np.ndarray, asked: np.ndarray, chosen: np.ndarray) -> Examples:
    """Some rows (obs,), and the values of others."""
    _check(ds)
    wanted = part_of(ds, asked, chosen)
    examples = Examples(
        series=part_of(ds, shown, chosen),
        ids=ds["series"].values[chosen],
        query_times=torch.where(wanted.in_length, wanted.times, torch.nan),
        targets=wanted.values,
        target_observed=wanted.observed & wanted.in_length.unsqueeze(-1),
        variables=channels(ds),
    )
    return _known(ds, examples, chosen)


def _check(ds: xr.Dataset) -> None:
    if channels(ds) != tuple(LARGEST):
        raise ValueError(f"these units are of {len(LARGEST)} channels by name, found others; take the whole data set")


def _known(ds: xr.Dataset, examples: Examples, chosen: np.ndarray) -> Examples:
    """The examples with what is known of each stay on admission."""
    static = covariates(ds)[torch.from_numpy(chosen)]
    return replace(examples, series=replace(examples.series, static=static))


_task = partial(Task, dataset="physionet2012", kind="forecasting", shares=(0.64, 0.16, 0.2), scale=units)

TASKS = (
    _task(
        name="physionet2012/extrapolation",
        description="all values of the second day in intensive care, from the first",
        window=24.0,
        landmark=24.0,
        build=after_first_day,
    ),
    _task(
        name="physionet2012/interpolation",
        description="the values of half of the times of 48 h, from those of the other half",
        window=48.0,
        build=between,
        as_recorded=False,
    ),
    _task(
        name="physionet2012/next",
        description="the values of each time, from those before it",
        window=48.0,
        build=next_values,
        as_recorded=False,
    ),
    _task(
        name="physionet2012/reconstruction",
        description="all values of 48 h, from the same values: the published interpolation, in which a copy scores 0",
        window=48.0,
        build=again,
        as_recorded=False,
    ),
)
