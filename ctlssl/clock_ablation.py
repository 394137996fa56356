"""Clock ablation: models retrained and re-tested with true times, gaps shuffled, all gaps equal, and no time."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from ctlssl.clocks import CLOCKS, with_clock
from ctlssl.comparison import Plan, plan
from ctlssl.comparison.bars import bars
from ctlssl.comparison.cells import Cells, Result, cells_in, finite_or_none
from ctlssl.comparison.rounds import cell_of, in_rounds
from ctlssl.comparison.threads import held_to_threads
from ctlssl.comparison.work import attempt, built
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
    out: str | os.PathLike | None = None,
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
        out: a folder for the finished cells (a model, task, seed and the clock it was trained with), from which a run
            that was killed goes on; None keeps none.

    Returns:
        Dataset over (task, model, training, clock, seed) with the metrics of the test part (NaN where a task has no
        such metric or a fit failed); ``epochs`` and ``train_seconds`` over (task, model, clock, seed); ``kind`` and
        ``metric``, by which models are told apart, over tasks.

    Raises:
        ValueError: a name that does not exist, with those that do.
        OSError: the folder cannot be written.
    """
    planned = plan(dataset, task, models, seeds, quick, training, width, references=False, threads=threads, lengths=())
    return run_ablation(planned, progress, clocks, out)


def run_ablation(
    plan: Plan,
    progress: bool = True,
    clocks: Sequence[str] = tuple(CLOCKS),
    out: str | os.PathLike | None = None,
) -> xarray.Dataset:
    """Carry out the ablation of a plan of `ctlssl.comparison.plan`; what comes back is described at `clock_ablation`.

    Args:
        plan: whose references and lengths are not read.
        progress: show bars in the terminal.
        clocks: as in `clock_ablation`.
        out: as in `clock_ablation`.

    Raises:
        ValueError: a clock that does not exist, or none that is true.
        OSError: the folder cannot be written.
    """
    check_clocks(clocks)
    results = _empty(plan, clocks)
    places = list(product(plan.seeds, plan.tasks, plan.models, clocks))
    with (
        held_to_threads(plan.threads),
        bars(len(places), plan.training.epochs, progress) as shown,
        cells_in(None if out is None else Path(out)) as cells,
    ):
        splits_of = lru_cache(maxsize=1)(lambda task, seed: _splits(plan, clocks, task, seed))

        def done(place: tuple[int, str, str, str]) -> bool:
            seed, task, name, clock = place
            found = _obtain(plan, cells, splits_of(task, seed), place, shown.watch)
            if found is not None:
                _write(results, {"task": task, "model": name, "seed": seed, "clock": clock}, clock, found)
            return found is not None

        in_rounds(places, done, cells, shown, lambda place: place[1])
    return results


def _splits(plan: Plan, clocks: Sequence[str], task: str, seed: int) -> dict[str, Split]:
    split = prepare(plan.tasks[task], seed, plan.data)
    return {clock: with_clock(split, clock, seed) for clock in clocks}


def check_clocks(clocks: Sequence[str]) -> None:
    """Refuse clocks that do not exist, that come twice, or without the true one."""
    unknown = [name for name in clocks if name not in CLOCKS]
    if unknown or "true" not in clocks or len(set(clocks)) < len(clocks):
        raise ValueError(f"clocks are {list(clocks)!r}; give true, and any others of {', '.join(CLOCKS)}, once each.")


def _obtain(
    plan: Plan,
    cells: Cells,
    splits: Mapping[str, Split],
    place: tuple[int, str, str, str],
    watch: Callable[[str], Progress],
) -> Result | None:
    """The costs and metrics of one model with one clock, from its cell or by training it."""
    seed, task, name, clock = place
    label, factory = f"{task}, seed {seed}: {name}, {clock} clock", plan.models[name]
    training = replace(plan.training, seed=seed)
    tests = splits if clock == "true" else {clock: splits[clock]}
    told = {"clock": clock, "tests": list(tests)}
    cell = cell_of(plan, "clock ablation", f"clock {label}", (seed, task, name), splits["true"], **told)
    work = partial(_scores, factory, splits[clock], tests, plan.width, training)
    return cells.obtain(cell, lambda: attempt(label, lambda: work(watch(label))))


def _scores(
    factory: Callable[..., Model],
    shown: Split,
    tests: Mapping[str, Split],
    width: int,
    training: Training,
    watch: Progress,
) -> Result:
    """Train one model with one clock; its costs, and the metrics of each clock it is tested with."""
    model = built(factory, shown.problem, width, training.seed)
    started = time.perf_counter()
    history = fit(model, shown.train, shown.valid, training, watch)
    costs = {"epochs": float(len(history.seconds)), "train_seconds": time.perf_counter() - started}
    metrics = {
        clock: {name: finite_or_none(value) for name, value in evaluate(model, split.test).items()}
        for clock, split in tests.items()
    }
    return {"costs": costs, "metrics": metrics}


def _write(results: xarray.Dataset, place: dict[str, Any], clock: str, result: Result) -> None:
    for name, value in result.get("costs", {}).items():
        results[name].loc[place] = value
    for tested, metrics in result.get("metrics", {}).items():
        for name, value in metrics.items():
            value = math.nan if value is None else value
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
