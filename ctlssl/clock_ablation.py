"""Clock ablation: models retrained and re-tested with true times, gaps shuffled, all gaps equal, and no time."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray

from ctlssl.clocks import CLOCKS, with_clock
from ctlssl.comparison import Plan, plan
from ctlssl.comparison.bars import bars
from ctlssl.comparison.threads import held_to_threads
from ctlssl.comparison.work import built
from ctlssl.contract import Model
from ctlssl.tasks import Split, Task, prepare
from ctlssl.training import Progress, Training, evaluate, fit
from ctlssl.training.metrics import HIGHER_IS_BETTER, MAIN_METRIC

__all__ = ["TRAININGS", "check_clocks", "clock_ablation", "run_ablation"]

TRAININGS = ("retrained", "true times")
"""What the training part showed: the clock that is tested, or true times whatever is tested."""


def clock_ablation(
    dataset: str | xarray.Dataset = "covid19",
    task: str | Task | Sequence[str | Task] | None = None,
    models: str | Sequence[str] | Mapping[str, Callable[..., Model]] | None = None,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    training: Training | None = None,
    width: int = 32,
    threads: int = 1,
    progress: bool = True,
    clocks: Sequence[str] = tuple(CLOCKS),
) -> xarray.Dataset:
    """Train and test models with clocks that say less and less: which of them read the clock, and where it matters.

    Four clocks, in all three parts of the split (see `ctlssl.clocks.with_clock`): the true times; the gaps of each
    series in random order; all gaps of a series equal; no time. Each model is trained anew with each clock and tested
    with the same one ("retrained": what it loses is what only that clock says). Beside it, the model that was trained
    with true times is tested with every clock ("true times": what it loses shows that it reads the clock). Splits,
    seeds, weights at the start and training are those of `ctlssl.compare`.

    Args:
        dataset: name of a data set with tasks, or a Dataset of your own for tasks of your own.
        task: a name, a `Task`, several of them, or None for all tasks of the data set.
        models: as in `ctlssl.compare`.
        seeds: how many (0, 1, ...) or which; None is 3, and 1 where ``quick``.
        quick: a sixth of the epochs: to see that it runs.
        training: the budget; its seed is not read.
        width: of every model.
        threads: of torch while it runs.
        progress: show bars in the terminal.
        clocks: which of the four; the true one is among them.

    Returns:
        Dataset over (task, model, training, clock, seed) with the metrics of the test part (NaN where a task has no
        such metric or a fit failed); ``epochs`` and ``train_seconds`` over (task, model, clock, seed); ``kind`` and
        ``metric``, by which models are told apart, over tasks.

    Raises:
        ValueError: a name that does not exist, with those that do.
    """
    planned = plan(dataset, task, models, seeds, quick, training, width, references=False, threads=threads, lengths=())
    return run_ablation(planned, progress, clocks)


def run_ablation(plan: Plan, progress: bool = True, clocks: Sequence[str] = tuple(CLOCKS)) -> xarray.Dataset:
    """Carry out the ablation of a plan of `ctlssl.comparison.plan`; what comes back is described at `clock_ablation`.

    Args:
        plan: whose references and lengths are not read.
        progress: show bars in the terminal.
        clocks: as in `clock_ablation`.

    Raises:
        ValueError: a clock that does not exist, or none that is true.
    """
    check_clocks(clocks)
    results = _empty(plan, clocks)
    fits = len(plan.seeds) * len(plan.tasks) * len(plan.models) * len(clocks)
    with held_to_threads(plan.threads), bars(fits, plan.training.epochs, progress) as shown:
        for seed in plan.seeds:
            for task_name, task in plan.tasks.items():
                split = prepare(task, seed, plan.data)
                splits = {clock: with_clock(split, clock, seed) for clock in clocks}
                for name, factory in plan.models.items():
                    place = {"task": task_name, "model": name, "seed": seed}
                    for clock, told in splits.items():
                        tests = splits if clock == "true" else {clock: told}
                        label = f"{task_name}, seed {seed}: {name}, {clock} clock"
                        try:
                            scores = _scores(plan, factory, told, tests, seed, shown.watch(label))
                        except FloatingPointError as error:
                            warnings.warn(f"{label} failed and counts as missing: {error}", stacklevel=2)
                            continue
                        finally:
                            shown.finished()
                        _write(results, place | {"clock": clock}, clock, scores)
    return results


def check_clocks(clocks: Sequence[str]) -> None:
    """Refuse clocks that do not exist, that come twice, or without the true one."""
    unknown = [name for name in clocks if name not in CLOCKS]
    if unknown or "true" not in clocks or len(set(clocks)) < len(clocks):
        raise ValueError(f"clocks are {list(clocks)!r}; give true, and any others of {', '.join(CLOCKS)}, once each.")


def _scores(
    plan: Plan,
    factory: Callable[..., Model],
    shown: Split,
    tests: Mapping[str, Split],
    seed: int,
    watch: Progress,
) -> dict[str, dict[str, float]]:
    """Train one model with one clock; its costs under "costs", and the metrics of each clock it is tested with."""
    model = built(factory, shown.problem, plan.width, seed)
    started = time.perf_counter()
    history = fit(model, shown.train, shown.valid, replace(plan.training, seed=seed), watch)
    costs = {"epochs": float(len(history.seconds)), "train_seconds": time.perf_counter() - started}
    return {"costs": costs} | {clock: evaluate(model, split.test) for clock, split in tests.items()}


def _write(results: xarray.Dataset, place: dict[str, Any], clock: str, scores: dict[str, dict[str, float]]) -> None:
    for name, value in scores.pop("costs").items():
        results[name].loc[place] = value
    for tested, metrics in scores.items():
        for name, value in metrics.items():
            if tested == clock:
                results[name].loc[place | {"training": "retrained"}] = value
            if clock == "true":
                results[name].loc[place | {"training": "true times", "clock": tested}] = value


def _empty(plan: Plan, clocks: Sequence[str]) -> xarray.Dataset:
    coordinates: dict[str, Any] = {
        "task": list(plan.tasks),
        "model": list(plan.models),
        "training": list(TRAININGS),
        "clock": list(clocks),
        "seed": list(plan.seeds),
        "kind": ("task", [task.kind for task in plan.tasks.values()]),
        "metric": ("task", [task.metric or MAIN_METRIC[task.kind] for task in plan.tasks.values()]),
    }
    over = ("task", "model", "training", "clock", "seed")
    shape = tuple(len(coordinates[name]) for name in over)
    values = {name: (over, np.full(shape, math.nan)) for name in HIGHER_IS_BETTER}
    for name in ("epochs", "train_seconds"):
        values[name] = (over[:2] + over[3:], np.full(shape[:2] + shape[3:], math.nan))
    attributes = {
        "title": "Test metrics of models with clocks that say less and less",
        "settings": json.dumps(plan.training.to_dict()),
        "width": plan.width,
        "threads": plan.threads,
    }
    results = xarray.Dataset(values, coordinates, attributes)
    results["train_seconds"].attrs["units"] = "s"
    return results
