"""The work of one cell: a model trained and scored, a trial of settings, a classical model, costs by length."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ctlssl.comparison.cells import Result, finite_or_none
from ctlssl.comparison.choices import Classical, training_fields
from ctlssl.comparison.memory import peak_bytes
from ctlssl.contract import Model, Problem
from ctlssl.costs import cost_by_length
from ctlssl.model_names import Factory
from ctlssl.parameter_budget import count_parameters
from ctlssl.tasks import Examples, Split
from ctlssl.training import History, Progress, Training, evaluate, fit, score

__all__ = [
    "attempt",
    "built",
    "fit_and_score",
    "measure_growth",
    "score_reference",
    "try_settings",
    "warm_up",
    "with_settings",
]


def with_settings(factory: Factory, training: Training, settings: Mapping[str, Any]) -> tuple[Factory, Training]:
    """A model and its training with settings of a grid: fields of `Training`, and options of the model."""
    of_training = {name: value for name, value in settings.items() if name in training_fields}
    options = {name: value for name, value in settings.items() if name not in training_fields}
    return partial(factory, **options) if options else factory, replace(training, **of_training)


def attempt(label: str, compute: Callable[[], Result]) -> Result:
    """What a cell computes, or the reason why it has no result: numbers that are not finite, no memory, no solution.

    Args:
        label: what a warning calls the cell.
        compute: the work.
    """
    try:
        return compute()
    except (FloatingPointError, MemoryError, ValueError) as error:
        reason = str(error) or type(error).__name__
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        reason = f"out of memory: {error}"
    reason = " ".join(reason.split())
    warnings.warn(f"{label} failed and counts as missing: {reason}", stacklevel=2)
    return {"failure": reason}


def built(factory: Factory, problem: Problem, width: int, seed: int) -> Model:
    """A model with weights drawn from the seed; the global random state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return factory(problem, width=width)


def warm_up(factory: Factory, split: Split, width: int, training: Training) -> None:
    """What is compiled or loaded at first use is not training time; numbers that fail here will fail and be told later.

    Raises:
        ValueError: a model or a part that training refuses altogether.
    """
    with suppress(FloatingPointError, MemoryError):
        fit(built(factory, split.problem, width, 0), split.train.select([0, 1]), training=replace(training, epochs=1))


def try_settings(factory: Factory, split: Split, width: int, training: Training, watch: Progress) -> Result:
    """Train one model with settings of the grid; the test part is not looked at."""
    _, history, seconds = _trained(factory, split, width, training, watch)
    return {"valid_loss": history.valid_loss[history.best_epoch], "seconds": seconds, "epochs": len(history.seconds)}


def fit_and_score(factory: Factory, split: Split, width: int, training: Training, watch: Progress) -> Result:
    """Train one model and score it on the test part, which is read here and nowhere else."""
    model, history, seconds = _trained(factory, split, width, training, watch)
    metrics = {name: finite_or_none(value) for name, value in evaluate(model, split.test).items()}
    costs = {
        "train_seconds": seconds,
        "seconds_per_epoch": float(np.median(history.seconds)),
        "epochs": len(history.seconds),
        "evaluations_per_epoch": history.evaluations_per_epoch,
        "parameters": count_parameters(model),
        "width": width,
        "peak_bytes": finite_or_none(_memory_of_a_step(model, split.train, training)),
    }
    curves = {
        "train_loss": [finite_or_none(loss) for loss in history.train_loss],
        "valid_loss": [finite_or_none(loss) for loss in history.valid_loss],
    }
    return {"metrics": metrics, "costs": costs, "curves": curves, "best_epoch": history.best_epoch + 1}


def score_reference(reference: Classical, split: Split, seed: int) -> Result:
    """Fit a classical model and score it on the test part."""
    started = time.perf_counter()
    fitted = reference(split.problem, seed=seed).fit(split.train.series, split.train.labels)
    seconds = time.perf_counter() - started
    prediction = fitted.predict(split.test.series, split.test.query_times)
    metrics = score(split.problem.kind, prediction, split.test)
    return {
        "metrics": {name: finite_or_none(value) for name, value in metrics.items()},
        "costs": {"train_seconds": seconds},
    }


def measure_growth(
    models: Mapping[str, Factory], widths: Mapping[str, int], problem: Problem, lengths: tuple[int, ...]
) -> Result:
    """Seconds of a step of training as records grow, a list over the lengths for each model."""
    factories = {name: _fixed(factory, widths[name]) for name, factory in models.items()}
    with torch.random.fork_rng(devices=[]):  # dropout draws
        costs = cost_by_length(factories, problem, lengths)
    return {"pass_seconds": {name: costs.seconds.sel(model=name).values.tolist() for name in models}}


def _fixed(factory: Factory, chosen: int) -> Factory:
    return lambda problem, width: built(factory, problem, chosen, seed=0)


def _trained(
    factory: Factory, split: Split, width: int, training: Training, watch: Progress
) -> tuple[Model, History, float]:
    model = built(factory, split.problem, width, training.seed)
    started = time.perf_counter()
    history = fit(model, split.train, split.valid, training, watch)
    return model, history, time.perf_counter() - started


def _memory_of_a_step(model: Model, train: Examples, training: Training) -> float:
    """Bytes that one step takes, forward, backward and update, on the longest series of the training part.

    The model is changed by it, and of no use after.
    """
    longest = torch.argsort(train.series.lengths, descending=True, stable=True)[: training.batch_size]
    batch = train.select(longest)
    model.zero_grad(set_to_none=True)
    try:
        return peak_bytes(lambda: fit(model, batch, training=replace(training, epochs=1)))
    except (FloatingPointError, MemoryError, RuntimeError, ValueError):  # the scores were sound, and stay
        return math.nan
