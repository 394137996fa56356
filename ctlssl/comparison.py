"""Models side by side on the same tasks: the same splits, the same seeds, the same budget for each."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray

from ctlssl.baselines import BASELINES, REFERENCES
from ctlssl.contract import Model, Problem
from ctlssl.costs import cost_by_length
from ctlssl.models import MODELS
from ctlssl.tasks import TASKS, Split, Task, prepare
from ctlssl.training import Progress, Training, evaluate, fit, score
from ctlssl.training.metrics import HIGHER_IS_BETTER

if TYPE_CHECKING:
    import rich.progress

    from ctlssl.baselines import Reference

__all__ = ["DEFAULT_MODELS", "Plan", "compare", "plan", "run"]

DEFAULT_MODELS = ("lssl", "gru", "ode_rnn", "neural_cde")
_COSTS = ("train_seconds", "seconds_per_epoch", "epochs", "evaluations_per_epoch", "parameters")
_PARTS = ("train", "valid", "test")

Factory = Callable[..., Model]  # (problem, width=...)
Classical = Callable[..., "Reference"]  # (problem, seed=...)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a comparison will do; made by `plan`, which checks every name, and carried out by `run`.

    Args:
        data: where the tasks are asked; None is the bundled data set of each.
        tasks: name -> task.
        models: name -> class or function, called as ``factory(problem, width=width)``.
        references: name -> classical model, fitted beside them.
        seeds: each gives a split, the initial weights and the order of the batches.
        training: the budget of every model; its seed is replaced by each of ``seeds``.
        width: of every model.
        threads: of torch.
        lengths: observations a series at which a step of training is timed on made-up records; () times none.
    """

    data: xarray.Dataset | None
    tasks: dict[str, Task]
    models: dict[str, Factory]
    references: dict[str, Classical]
    seeds: tuple[int, ...]
    training: Training
    width: int
    threads: int
    lengths: tuple[int, ...]

    @property
    def fits(self) -> int:
        """The number of neural models to train."""
        return len(self.tasks) * len(self.models) * len(self.seeds)


def compare(
    dataset: str | xarray.Dataset = "covid19",
    task: str | Task | Sequence[str | Task] | None = None,
    models: str | Sequence[str] | Mapping[str, Factory] | None = None,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    training: Training | None = None,
    width: int = 32,
    references: bool = True,
    threads: int = 1,
    lengths: Sequence[int] | None = None,
    progress: bool = True,
) -> xarray.Dataset:
    """Train models on the tasks of a data set and score them once on the test part.

    Every model gets the same splits, seeds, batches and budget. Within a seed the models take turns, and their order
    rotates from seed to seed, so that a slow moment of the machine is not always the same model's.

    Args:
        dataset: name of a data set with tasks, or a Dataset of your own for tasks of your own.
        task: a name, in full ("covid19/death") or short ("death"), a `Task`, several of them, or None for all tasks
            of the data set.
        models: a name, several, "all", a mapping name -> class or function called as ``factory(problem, width=...)``,
            or None for `DEFAULT_MODELS`.
        seeds: how many (0, 1, ...) or which; None is 3, and 1 where ``quick``.
        quick: a sixth of the epochs: to see that it runs, not which model is better.
        training: the budget; its seed is not read.
        width: of every model.
        references: also score the classical models of `ctlssl.baselines.summaries`.
        threads: of torch while the comparison runs. Batches of a few short series are faster on one, and one gives
            the same bits on any number of cores.
        lengths: observations a series at which a step of training is timed on made-up records of 32 series; None is
            16, 64 and 256 (16 and 64 where ``quick``), () times none.
        progress: show bars in the terminal.

    Returns:
        Dataset over (task, model, seed) with the metrics of the test part (NaN where a task has no such metric or a
        fit failed), ``train_seconds``, ``seconds_per_epoch`` (median), ``epochs``, ``evaluations_per_epoch`` of
        solvers and ``parameters``; ``kind`` over tasks, ``family`` ("neural" or "reference") over models, and
        ``series`` over (task, part); ``pass_seconds`` over (model, length).

    Raises:
        ValueError: a name that does not exist, with those that do.
    """
    return run(plan(dataset, task, models, seeds, quick, training, width, references, threads, lengths), progress)


def plan(
    dataset: str | xarray.Dataset = "covid19",
    task: str | Task | Sequence[str | Task] | None = None,
    models: str | Sequence[str] | Mapping[str, Factory] | None = None,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    training: Training | None = None,
    width: int = 32,
    references: bool = True,
    threads: int = 1,
    lengths: Sequence[int] | None = None,
) -> Plan:
    """What `compare` with the same arguments would do, all names checked and nothing begun.

    Raises:
        ValueError: a name that does not exist, with those that do, or a number that cannot be.
    """
    lengths = ((16, 64) if quick else (16, 64, 256)) if lengths is None else tuple(lengths)
    counts = {"threads": threads, "width": width, **{f"lengths[{i}]": length for i, length in enumerate(lengths)}}
    for name, number in counts.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}; give a whole number from 1 on.")
    training = Training() if training is None else training
    if quick:
        training = replace(training, epochs=math.ceil(training.epochs / 6))
    data = None if isinstance(dataset, str) else dataset
    tasks = _tasks(dataset if data is None else None, task)
    classical = _references(tasks) if references else {}
    return Plan(data, tasks, _models(models), classical, _seeds(seeds, quick), training, width, threads, lengths)


def run(plan: Plan, progress: bool = True) -> xarray.Dataset:
    """Carry out a plan; what comes back is described at `compare`.

    Args:
        plan: from `plan`.
        progress: show bars in the terminal.
    """
    results = _empty(plan)
    with _threads(plan.threads), _bars(plan, progress) as bars:
        for turn, seed in enumerate(plan.seeds):
            for task_name, task in plan.tasks.items():
                split = prepare(task, seed, plan.data)
                if turn == 0:
                    results["series"].loc[{"task": task_name}] = [len(getattr(split, part)) for part in _PARTS]
                    _warm_up(plan, split)
                for name, reference in plan.references.items():
                    if task.kind in _kinds(reference):
                        place = {"task": task_name, "model": name, "seed": seed}
                        _write(results, place, _score_reference(reference, split, seed))
                for name in _rotated(list(plan.models), turn):
                    label = f"{task_name}, seed {seed}: {name}"
                    try:
                        scores = _score(plan, plan.models[name], split, seed, bars.watch(label))
                    except FloatingPointError as error:
                        warnings.warn(f"{label} failed and counts as missing: {error}", stacklevel=2)
                        scores = {}
                    _write(results, {"task": task_name, "model": name, "seed": seed}, scores)
                    bars.finished()
        return results.merge(_growth(plan, split.problem)) if plan.lengths else results


def _growth(plan: Plan, problem: Problem) -> xarray.Dataset:
    """Seconds of a step of training as records grow, `pass_seconds` (model, length)."""
    factories = {name: partial(_build, factory, seed=0) for name, factory in plan.models.items()}
    with torch.random.fork_rng(devices=[]):  # dropout draws
        costs = cost_by_length(factories, problem, plan.lengths, width=plan.width)
    every = [*plan.models, *plan.references]
    return costs[["seconds"]].rename(seconds="pass_seconds").reindex(model=every)


def _rotated(names: list[str], turn: int) -> list[str]:
    first = turn % len(names)
    return names[first:] + names[:first]


def _score(plan: Plan, factory: Factory, split: Split, seed: int, watch: Progress) -> dict[str, float]:
    """Train one model and score it on the test part, which is read here and nowhere else."""
    model = _build(factory, split.problem, plan.width, seed)
    started = time.perf_counter()
    history = fit(model, split.train, split.valid, replace(plan.training, seed=seed), watch)
    seconds = time.perf_counter() - started
    return {
        **evaluate(model, split.test),
        "train_seconds": seconds,
        "seconds_per_epoch": float(np.median(history.seconds)),
        "epochs": len(history.seconds),
        "evaluations_per_epoch": history.evaluations_per_epoch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _warm_up(plan: Plan, split: Split) -> None:
    """What is compiled or loaded at first use is not training time."""
    for factory in plan.models.values():
        fit(_build(factory, split.problem, plan.width, 0), split.train.select([0, 1]), training=Training(epochs=1))


def _score_reference(reference: Classical, split: Split, seed: int) -> dict[str, float]:
    started = time.perf_counter()
    fitted = reference(split.problem, seed=seed).fit(split.train.series, split.train.labels)
    seconds = time.perf_counter() - started
    prediction = fitted.predict(split.test.series, split.test.query_times)
    return {**score(split.problem.kind, prediction, split.test), "train_seconds": seconds}


def _build(factory: Factory, problem: Problem, width: int, seed: int) -> Model:
    """A model with weights drawn from the seed; the global random state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return factory(problem, width=width)


def _tasks(dataset: str | None, task: str | Task | Sequence[str | Task] | None) -> dict[str, Task]:
    own = {name: item for name, item in TASKS.items() if item.dataset == dataset}
    asked = list(own) if task is None else [task] if isinstance(task, str | Task) else list(task)
    named = [name for name in asked if isinstance(name, str)]
    if not own and (named or not asked):
        known = ", ".join(sorted({item.dataset for item in TASKS.values()}))
        if dataset is None:
            raise ValueError(f"A Dataset of your own needs a Task of your own; named tasks belong to {known}.")
        raise ValueError(f"data set {dataset!r} has no task; those with tasks are {known}.")
    unknown = [name for name in named if name not in own and f"{dataset}/{name}" not in own]
    if unknown or not asked:
        found = f"task {unknown[0]!r} is unknown" if unknown else "No task was asked for"
        raise ValueError(f"{found}; {dataset} has {', '.join(name.split('/', 1)[1] for name in own)}.")
    full = [name if isinstance(name, Task) else own.get(name) or own[f"{dataset}/{name}"] for name in asked]
    return {item.name: item for item in full}


def _models(models: str | Sequence[str] | Mapping[str, Factory] | None) -> dict[str, Factory]:
    if isinstance(models, Mapping) and models:
        return dict(models)
    known: dict[str, Factory] = {**MODELS, **BASELINES}
    names = DEFAULT_MODELS if models is None else [models] if isinstance(models, str) else models
    names = list(known) if list(names) == ["all"] else list(dict.fromkeys(names))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = f"model {unknown[0]!r} is unknown" if unknown else "No model was asked for"
        raise ValueError(f"{found}; there are {', '.join(known)}, or all.")
    return {name: known[name] for name in names}


def _references(tasks: Mapping[str, Task]) -> dict[str, Classical]:
    kinds = {task.kind for task in tasks.values()}
    return {name: item for name, item in REFERENCES.items() if kinds & set(_kinds(item))}


def _kinds(reference: Classical) -> tuple[str, ...]:
    return (reference.func if isinstance(reference, partial) else reference).kinds


def _seeds(seeds: int | Sequence[int] | None, quick: bool) -> tuple[int, ...]:
    if seeds is None:
        seeds = 1 if quick else 3
    if isinstance(seeds, str | float | bool):
        raise ValueError(f"seeds is {seeds!r}; give a whole number from 1 on, or a list of them from 0 on.")
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds)
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds is {seeds!r}; give a number from 1 on, or different numbers from 0 on.")
    return chosen


def _empty(plan: Plan) -> xarray.Dataset:
    models = [*plan.models, *plan.references]
    shape = len(plan.tasks), len(models), len(plan.seeds)
    coordinates: dict[str, Any] = {
        "task": list(plan.tasks),
        "model": models,
        "seed": list(plan.seeds),
        "part": list(_PARTS),
        "kind": ("task", [task.kind for task in plan.tasks.values()]),
        "family": ("model", ["neural"] * len(plan.models) + ["reference"] * len(plan.references)),
    }
    values: dict[str, Any] = {
        name: (("task", "model", "seed"), np.full(shape, np.nan)) for name in (*HIGHER_IS_BETTER, *_COSTS)
    }
    values["series"] = (("task", "part"), np.zeros((shape[0], len(_PARTS)), dtype=np.int64))
    attributes = {
        "title": "Test metrics and costs of models trained on the same splits",
        "training": json.dumps(plan.training.to_dict()),
        "width": plan.width,
        "threads": plan.threads,
        "versions": json.dumps({name: version(name) for name in ("torch", "numpy", "scikit-learn")}),
    }
    results = xarray.Dataset(values, coordinates, attributes)
    for name in ("train_seconds", "seconds_per_epoch"):
        results[name].attrs["units"] = "s"
    return results


def _write(results: xarray.Dataset, place: dict[str, Any], scores: dict[str, float]) -> None:
    for name, value in scores.items():
        results[name].loc[place] = value


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Bars:
    """Two bars on standard error: all fits, and the epochs of the one under way."""

    def __init__(self, plan: Plan, bars: rich.progress.Progress) -> None:
        self._bars = bars
        self._fits = bars.add_task("models trained", total=plan.fits)
        self._epochs = bars.add_task("epochs", total=plan.training.epochs)

    def watch(self, label: str) -> Callable[[int, float, float], None]:
        """What `fit` calls after every epoch."""
        self._bars.update(self._epochs, description=label, completed=0)
        return lambda epoch, *_: self._bars.update(self._epochs, completed=epoch)

    def finished(self) -> None:
        """One fit more is done."""
        self._bars.advance(self._fits)


@contextmanager
def _bars(plan: Plan, shown: bool) -> Iterator[_Bars]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bars:
        yield _Bars(plan, bars)
