"""What one step of training costs as records grow longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ctlssl.contract import Model, Problem
from ctlssl.series import TimeSeries

if TYPE_CHECKING:
    import xarray

__all__ = ["cost_by_length"]


def cost_by_length(
    models: Mapping[str, Callable[..., Model]],
    problem: Problem,
    lengths: Sequence[int] = (16, 64, 256),
    batch: int = 32,
    repeats: int = 3,
    width: int = 32,
) -> xarray.Dataset:
    """Seconds of one forward and backward pass of each model on made-up records of several lengths.

    Every series has a clock of its own with exponential gaps of mean `problem.time_scale`. The models take turns
    within a repetition, so that a slow moment of the machine falls on all of them.

    Args:
        models: name -> class or function, called as ``factory(problem, width=width)``.
        problem: channels, outputs and clock; a forecast is asked at one time behind each series.
        lengths: observations a series.
        batch: series.
        repeats: timed repetitions after one that warms up; the median is kept.
        width: of every model.

    Returns:
        A dataset with `seconds` and `evaluations` (of vector fields) over (model, length).

    Raises:
        ValueError: no model, or a length, batch or number of repetitions below 1.

    Example:
        >>> from ctlssl.models import LSSLModel
        >>> problem = Problem("classification", channels=3, outputs=2)
        >>> cost_by_length({"lssl": LSSLModel}, problem, lengths=(4, 8), batch=2, repeats=1).seconds.dims
        ('model', 'length')
    """
    import xarray

    if not models or min(*lengths, batch, repeats) < 1:
        found = f"{list(models)}, {lengths}, {batch}, {repeats}"
        raise ValueError(f"models, and lengths, batch and repeats of at least 1 are needed; found {found}")
    built = {name: factory(problem, width=width) for name, factory in models.items()}
    shape = (len(built), len(lengths))
    seconds, evaluations = np.zeros(shape), np.zeros(shape)
    for column, length in enumerate(lengths):
        series, queries = _made_up(problem, batch, length)
        runs = np.zeros((repeats + 1, len(built)))
        for run in runs:
            for row, model in enumerate(built.values()):
                before = model.evaluations
                run[row] = _step(model, series, queries)
                evaluations[row, column] = model.evaluations - before
        seconds[:, column] = np.median(runs[1:], axis=0)
    dims = ("model", "length")
    coords = {"model": list(built), "length": list(lengths)}
    costs = xarray.Dataset({"seconds": (dims, seconds), "evaluations": (dims, evaluations)}, coords)
    costs.seconds.attrs = {"units": "s", "long_name": f"forward and backward pass of {batch} series"}
    return costs


def _made_up(problem: Problem, batch: int, length: int) -> tuple[TimeSeries, Tensor | None]:
    draw = torch.Generator().manual_seed(0)
    shape = (batch, length, problem.channels)
    gaps = torch.empty(batch, length, dtype=torch.float64).exponential_(1 / problem.time_scale, generator=draw)
    times = gaps.cumsum(1)  # (B, L)
    series = TimeSeries(
        values=torch.randn(shape, generator=draw),
        times=times,
        observed=torch.rand(shape, generator=draw) < 0.5,
        lengths=torch.full((batch,), length),
        static=torch.randn(batch, problem.static, generator=draw) if problem.static else None,
    )
    return series, times[:, -1:] + problem.time_scale if problem.kind == "forecasting" else None


def _step(model: Model, series: TimeSeries, queries: Tensor | None) -> float:
    model.zero_grad()
    begin = time.perf_counter()
    prediction = model(series, queries)
    answer = prediction.mean if prediction.logits is None else prediction.logits
    answer.square().mean().backward()
    return time.perf_counter() - begin
