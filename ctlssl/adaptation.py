"""Models trained at one rate of sampling, tested under others, and helped over it in four ways."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from ctlssl.comparison import Plan, plan
from ctlssl.comparison.bars import bars
from ctlssl.comparison.cells import Cells, Result, cells_in, finite_or_none
from ctlssl.comparison.rounds import cell_of, in_rounds
from ctlssl.comparison.threads import held_to_threads
from ctlssl.comparison.work import attempt, built
from ctlssl.contract import Model
from ctlssl.examples import Examples
from ctlssl.parameter_budget import count_parameters
from ctlssl.sampling import CHANGES, RATES, Changed, change_sampling
from ctlssl.tasks import Split, Task, prepare
from ctlssl.timescale_fitting import TimeScale, fit_step_sizes, fit_timescale, step_sizes
from ctlssl.training import Progress, Training, evaluate, fit
from ctlssl.training.metrics import HIGHER_IS_BETTER

__all__ = ["ADAPTED_MODELS", "WAYS", "Changes", "adaptation", "chosen_changes", "run_adaptation"]

ADAPTED_MODELS = ("lssl", "s5", "gru", "neural_cde", "mtan")
"""What is compared where nothing else is asked for; `gru` reads the gaps as features."""

WAYS = ("zero-shot", "known rate", "fitted rate", "rate per series", "step sizes")
"""How a trained model is helped over a change.

    "zero-shot"        not at all: rate 1
    "known rate"       the rate that takes the times back to the true ones, as a user knows who knows the unit
    "fitted rate"      the rate that `fit_timescale` finds from a few labelled series
    "rate per series"  each tested series gets its own, found without its answer, around the middle of the rates that
                       the few labelled series have each for itself
    "step sizes"       the step sizes of the layers learn from the few labelled series, all else stays

Models are trained once, without the change; only the last way trains anything again.
"""

_SPREAD = 0.3  # of the logarithm of the rates of single series


@dataclass(frozen=True)
class Changes:
    """What the trained models are put through.

    Args:
        names: of `ctlssl.sampling.CHANGES`.
        ways: of `WAYS`.
        base: models are trained on every base-th row, the base rate.
        shots: series of the validation part whose answers are shown under the change.
    """

    names: tuple[str, ...]
    ways: tuple[str, ...]
    base: int
    shots: int


def chosen_changes(
    changes: Sequence[str] | None = None, ways: Sequence[str] | None = None, base: int = 1, shots: int = 32
) -> Changes:
    """The changes of `adaptation`, all names checked; None is all that the base rate allows, and all ways.

    Raises:
        ValueError: a name that does not exist, with those that do, or a number that cannot be.

    Example:
        >>> chosen_changes(["x1", "x1/2"], base=2).ways[0]
        'zero-shot'
    """
    for name, number in {"base": base, "shots": shots}.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}; give a whole number from 1 on.")
    possible = [name for name in CHANGES if base % max(RATES.get(name, 1.0), 1.0) == 0]
    wanted = possible if changes is None else list(dict.fromkeys(changes))
    for what, asked, known in (("change", wanted, possible), ("way", ways or WAYS, WAYS)):
        if unknown := [name for name in asked if name not in known]:
            raise ValueError(f"{what} {unknown[0]!r} is unknown at base {base}; there are {', '.join(known)}.")
    if not wanted:
        raise ValueError(f"No change was asked for; there are {', '.join(possible)}.")
    return Changes(tuple(wanted), tuple(dict.fromkeys(ways or WAYS)), base, shots)


def adaptation(
    dataset: str | xarray.Dataset = "spirals",
    task: str | Task | Sequence[str | Task] | None = None,
    models: str | Sequence[str] | Mapping[str, Callable[..., Model]] | None = None,
    changes: Sequence[str] | None = None,
    ways: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    training: Training | None = None,
    width: int = 32,
    base: int = 1,
    shots: int = 32,
    threads: int = 1,
    progress: bool = True,
    out: str | os.PathLike | None = None,
) -> xarray.Dataset:
    """Train models at one rate of sampling and test them under others, and with clocks that are off.

    Each model is trained once a seed, at the base rate with true times. The same weights are then tested under every
    change of `ctlssl.sampling.change_sampling`, and helped in every way of `WAYS`. Splits, seeds, weights at the start
    and training are those of `ctlssl.compare`. What is adapted is adapted on series of the validation part under the
    change; the test part is read once for each way (by "rate per series" also its series, without their answers).

    Args:
        dataset: name of a data set with tasks, or a Dataset of your own for tasks of your own.
        task: a name, a `Task`, several of them, or None for all tasks of the data set.
        models: as in `ctlssl.compare`; None is `ADAPTED_MODELS`.
        changes: of `ctlssl.sampling.CHANGES`; None is all that the base rate allows.
        ways: of `WAYS`; None is all.
        seeds: how many (0, 1, ...) or which; None is 3, and 1 where ``quick``.
        quick: a sixth of the epochs: to see that it runs.
        training: the budget; its seed is not read.
        width: of every model.
        base: models are trained on every base-th row, so that rates up to `base` times theirs can be tested.
        shots: series of the validation part whose answers are shown under the change.
        threads: of torch while it runs.
        progress: show bars in the terminal.
        out: a folder for the finished cells (a model, task and seed with all changes), from which a run that was
            killed goes on; None keeps none.

    Returns:
        Dataset over (task, model, change, way, seed) with the metrics of the test part (NaN where a task has no such
        metric, a fit failed, or a model has no step size); ``found_rate``, ``found_low`` and ``found_high`` of
        `fit_timescale` over (task, model, change, seed), and ``known_rate`` over (task, change, seed), a mean over the
        series; ``epochs``, ``train_seconds`` and ``parameters`` over (task, model, seed); ``kind`` over tasks.

    Raises:
        ValueError: a name that does not exist, with those that do.
        OSError: the folder cannot be written.
    """
    models = ADAPTED_MODELS if models is None else models
    planned = plan(dataset, task, models, seeds, quick, training, width, references=False, threads=threads, lengths=())
    return run_adaptation(planned, chosen_changes(changes, ways, base, shots), progress, out)


def run_adaptation(
    plan: Plan, changes: Changes, progress: bool = True, out: str | os.PathLike | None = None
) -> xarray.Dataset:
    """Carry out a plan of `ctlssl.comparison.plan`; what comes back is described at `adaptation`.

    Args:
        plan: whose references and lengths are not read.
        changes: from `chosen_changes`.
        progress: show bars in the terminal.
        out: a folder for the finished cells, or None.
    """
    results = _empty(plan, changes)
    places = [(seed, task, model) for seed in plan.seeds for task in plan.tasks for model in plan.models]
    with (
        held_to_threads(plan.threads),
        bars(len(places), plan.training.epochs, progress) as shown,
        cells_in(None if out is None else Path(out)) as cells,
    ):
        split_of = lru_cache(maxsize=1)(lambda task, seed: prepare(plan.tasks[task], seed, plan.data))

        def done(place: tuple[int, str, str]) -> bool:
            seed, task, name = place
            found = _obtain(plan, changes, cells, split_of(task, seed), (task, name, seed), shown.watch)
            if found is not None:
                _write(results, {"task": task, "model": name, "seed": seed}, found)
            return found is not None

        in_rounds(places, done, cells, shown, lambda place: place[1])
    return results


def _obtain(
    plan: Plan,
    changes: Changes,
    cells: Cells,
    split: Split,
    place: tuple[str, str, int],
    watch: Callable[[str], Progress],
) -> Result | None:
    task, name, seed = place
    label, factory = f"{task}, seed {seed}: {name}", plan.models[name]
    training = replace(plan.training, seed=seed)
    cell = cell_of(plan, "adaptation", f"adapt {label}", (seed, task, name), split, changes=asdict(changes))
    work = partial(_adapt, factory, split, plan.width, training, changes)
    return cells.obtain(cell, lambda: attempt(label, lambda: work(watch(label))))


def _adapt(
    factory: Callable[..., Model], split: Split, width: int, training: Training, changes: Changes, watch: Progress
) -> Result:
    """Train one model at the base rate, and test it under every change in every way."""
    base, seed, problem = changes.base, training.seed, split.problem
    slower = replace(problem, time_scale=base * problem.time_scale, first_gap=base * problem.first_gap)
    train, valid = (change_sampling(part, "x1", base=base).examples for part in (split.train, split.valid))
    model = built(factory, slower, width, seed)
    started = time.perf_counter()
    history = fit(model, train, valid, training, watch)
    costs = {
        "epochs": len(history.seconds),
        "train_seconds": time.perf_counter() - started,
        "parameters": count_parameters(model),
    }
    shown = np.random.default_rng(seed).permutation(len(split.valid))[: changes.shots]
    few = split.valid.select(np.sort(shown))
    tests = {}
    for name in changes.names:
        told = change_sampling(few, name, 2 * seed, base).examples
        tests[name] = _tested(model, told, change_sampling(split.test, name, 2 * seed + 1, base), changes.ways, seed)
    return {"costs": costs, "changes": tests}


def _tested(model: Model, few: Examples, test: Changed, ways: Sequence[str], seed: int) -> Result:
    """The metrics of each way under one change, and the rate that was found."""
    found: TimeScale | None = None
    if "fitted rate" in ways:
        found = fit_timescale(model, few)
    scores: dict[str, Callable[[], dict[str, float]]] = {
        "zero-shot": lambda: evaluate(model, test.examples),
        "known rate": lambda: evaluate(model, test.examples, rate=test.rate),
        "fitted rate": lambda: evaluate(model, test.examples, rate=found.rate),
        "rate per series": lambda: evaluate(model, test.examples, rate=_rate_per_series(model, few, test.examples)),
        "step sizes": lambda: evaluate(_with_own_steps(model, few, seed), test.examples),
    }
    result: Result = {"known_rate": float(test.rate.mean()), "metrics": {}}
    if found is not None:
        result["found"] = [found.rate, *found.interval]
    for way in ways:
        if way == "step sizes" and not step_sizes(model):
            result["metrics"][way] = {}
            continue
        try:
            result["metrics"][way] = {name: finite_or_none(value) for name, value in scores[way]().items()}
        except FloatingPointError:
            result["metrics"][way] = {}
    return result


def _rate_per_series(model: Model, few: Examples, test: Examples) -> Any:
    middle = fit_timescale(model, few, spread=_SPREAD).shared
    around = (middle * math.exp(-3 * _SPREAD), middle * math.exp(3 * _SPREAD))
    return fit_timescale(model, test, around, criterion="self", spread=_SPREAD).rate


def _with_own_steps(model: Model, few: Examples, seed: int) -> Model:
    """A copy of the model whose step sizes have learned from a few series."""
    adapted = copy.deepcopy(model)
    fit_step_sizes(adapted, few, training=Training(epochs=60, learning_rate=0.05, dynamics_rate=1.0, seed=seed))
    return adapted


def _write(results: xarray.Dataset, place: dict[str, Any], result: Result) -> None:
    for name, value in result.get("costs", {}).items():
        results[name].loc[place] = value
    for change, tested in result.get("changes", {}).items():
        where = place | {"change": change}
        results["known_rate"].loc[{key: where[key] for key in ("task", "change", "seed")}] = tested["known_rate"]
        for name, value in zip(_FOUND, tested.get("found", ()), strict=False):
            results[name].loc[where] = value
        for way, metrics in tested["metrics"].items():
            for name, value in metrics.items():
                results[name].loc[where | {"way": way}] = math.nan if value is None else value


_FOUND = ("found_rate", "found_low", "found_high")


def _empty(plan: Plan, changes: Changes) -> xarray.Dataset:
    coordinates: dict[str, Any] = {
        "task": list(plan.tasks),
        "model": list(plan.models),
        "change": list(changes.names),
        "way": list(changes.ways),
        "seed": list(plan.seeds),
        "kind": ("task", [task.kind for task in plan.tasks.values()]),
    }
    over = {name: ("task", "model", "change", "way", "seed") for name in HIGHER_IS_BETTER}
    over |= {name: ("task", "model", "change", "seed") for name in _FOUND}
    over |= {"known_rate": ("task", "change", "seed")}
    over |= {name: ("task", "model", "seed") for name in ("epochs", "train_seconds", "parameters")}
    values = {name: (dims, np.full([len(coordinates[dim]) for dim in dims], math.nan)) for name, dims in over.items()}
    attributes = {
        "title": "Test metrics of models under rates and clocks that they were not trained with",
        "settings": json.dumps(plan.training.to_dict()),
        "width": plan.width,
        "threads": plan.threads,
        "base": changes.base,
        "shots": changes.shots,
    }
    results = xarray.Dataset(values, coordinates, attributes)
    results["train_seconds"].attrs["units"] = "s"
    return results
