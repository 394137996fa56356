"""What one step of training costs as records grow longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ctlssl.contract import Model, Problem
from ctlssl.parameter_budget import count_parameters, width_for
from ctlssl.series import TimeSeries

if TYPE_CHECKING:
    import xarray

__all__ = ["cost_by_length", "ratios"]


def cost_by_length(
    models: Mapping[str, Callable[..., Model]],
    problem: Problem,
    lengths: Sequence[int] = (16, 64, 256),
    batch: int = 32,
    repeats: int = 3,
    width: int = 32,
    parameters: int | None = None,
    progress: Callable[[int, int], None] | None = None,
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
        parameters: a budget that every model gets in place of the width: `width_for` says which width that is.
        progress: called before each length with how many were done, and how many there are.

    Returns:
        A dataset with `seconds` and `evaluations` (of vector fields) over (model, length), `parameters` and `width`
        over model, and `repetitions`, the seconds of each, over (repetition, model, length).

    Raises:
        ValueError: no model, a length, batch or number of repetitions below 1, or a budget that no width meets.

    Example:
        >>> from ctlssl.models import LSSLModel
        >>> problem = Problem("classification", channels=3, outputs=2)
        >>> cost_by_length({"lssl": LSSLModel}, problem, lengths=(4, 8), batch=2, repeats=1).seconds.dims
        ('model', 'length')
    """
    if not models or min(*lengths, batch, repeats) < 1:
        found = f"{list(models)}, {lengths}, {batch}, {repeats}"
        raise ValueError(f"models, and lengths, batch and repeats of at least 1 are needed; found {found}")
    widths = {
        name: width if parameters is None else width_for(factory, problem, parameters, name)
        for name, factory in models.items()
    }
    built = {name: factory(problem, width=widths[name]) for name, factory in models.items()}
    runs = np.zeros((repeats + 1, len(built), len(lengths)))
    evaluations = np.zeros(runs.shape[1:])
    for column, length in enumerate(lengths):
        if progress is not None:
            progress(column, len(lengths))
        series, queries = _made_up(problem, batch, length)
        for run in runs:
            for row, model in enumerate(built.values()):
                before = model.evaluations
                run[row, column] = _step(model, series, queries)
                evaluations[row, column] = model.evaluations - before
    return _as_dataset(built, widths, lengths, runs[1:], evaluations, batch)


def ratios(costs: xarray.Dataset, reference: str) -> xarray.DataArray:
    """How many times as long as a reference each model takes, (model, length): the median over the repetitions.

    A ratio is taken within a repetition, in which the models took turns.

    Args:
        costs: from `cost_by_length`.
        reference: one of its models.

    Raises:
        ValueError: a reference that was not timed.
    """
    if reference not in costs.model.values:
        raise ValueError(f"{reference!r} was not timed; there are {', '.join(costs.model.values)}.")
    return (costs.repetitions / costs.repetitions.sel(model=reference, drop=True)).median("repetition")


def _as_dataset(
    built: Mapping[str, Model],
    widths: Mapping[str, int],
    lengths: Sequence[int],
    runs: np.ndarray,
    evaluations: np.ndarray,
    batch: int,
) -> xarray.Dataset:
    """The numbers of the repetitions, (R, M, L), under their names."""
    import xarray

    dims = ("model", "length")
    values = {
        "seconds": (dims, np.median(runs, axis=0)),
        "evaluations": (dims, evaluations),
        "repetitions": (("repetition", *dims), runs),
        "parameters": ("model", [count_parameters(model) for model in built.values()]),
        "width": ("model", [widths[name] for name in built]),
    }
    costs = xarray.Dataset(values, {"model": list(built), "length": list(lengths)}, {"batch": batch})
    costs.seconds.attrs = {"units": "s", "long_name": f"forward and backward pass of {batch} series"}
    costs.repetitions.attrs = {"units": "s"}
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
    return series, times[:, -1:] + problem.time_scale if problem.asks_queries else None


def _step(model: Model, series: TimeSeries, queries: Tensor | None) -> float:
    model.zero_grad()
    begin = time.perf_counter()
    prediction = model(series, queries)
    answer = prediction.mean if prediction.logits is None else prediction.logits
    answer.square().mean().backward()
    return time.perf_counter() - begin
