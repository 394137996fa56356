"""Carry a plan out: cell by cell, alone or beside other processes, from where it was left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import xarray

from ctlssl.comparison.bars import Bars, bars
from ctlssl.comparison.cells import Cell, Cells, cells_in
from ctlssl.comparison.differences import paired_differences
from ctlssl.comparison.groups import Group
from ctlssl.comparison.keys import identity, surroundings
from ctlssl.comparison.plans import Plan, plan
from ctlssl.comparison.table import PARTS, table_of
from ctlssl.comparison.threads import held_to_threads
from ctlssl.comparison.work import measure_growth
from ctlssl.contract import Problem
from ctlssl.model_names import Factory
from ctlssl.parameter_budget import width_for
from ctlssl.tasks import Split, Task, prepare
from ctlssl.training import Training

__all__ = ["compare", "run"]


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
    parameters: int | None = None,
    tune: bool | Mapping[str, Sequence[Any]] = False,
    reference: str | None = None,
    out: str | os.PathLike | None = None,
) -> xarray.Dataset:
    """Train models on the tasks of a data set and score them once on the test part.

    Every model gets the same splits, seeds, batches and budget. Within a seed the models take turns, and their order
    rotates from seed to seed, so that a slow moment of the machine is not always the same model's.

    With ``out`` every finished cell (a model, task, seed and settings) is a file of its own there, and what is there
    already is not done again: a comparison that was killed goes on where it was, and gives the metrics, bit for bit, of
    one that was not, with the seconds that were measured when a cell was run. Several processes with one ``out``,
    also on several machines, share the cells; their seconds are then those of machines with company. A cell is found
    by a digest of all that decides its result (data, model, options, training, width, seed, versions and the sources
    of this package), so that any number of plans may share a folder, and a plan may grow by seeds, models and tasks.

    Args:
        dataset: name of a data set with tasks, or a Dataset of your own for tasks of your own.
        task: a name, in full ("covid19/death") or short ("death"), a `Task`, several of them, or None for all tasks
            of the data set.
        models: a name, with options behind it as in "ode_rnn:method=euler:steps=1", several, "all", a mapping name ->
            class or function called as ``factory(problem, width=...)``, or None for `DEFAULT_MODELS`.
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
        parameters: a budget in place of the width: each model gets the width at which its number of trained parameters
            comes nearest.
        tune: True: every model is trained with each setting of `TUNING` on every split, the one with the lowest loss
            on the validation part of that split is trained again (to the same weights), and that one alone is scored
            on the test part. A mapping of lists is another grid: of fields of `Training` and options of the models.
        reference: the model from which the others' differences are taken; None is lssl, where it is compared.
        out: a folder for the cells, made where it is missing; None keeps none.

    Returns:
        Dataset over (task, model, seed) with the metrics of the test part (NaN where a task has no such metric or a
        fit failed: ``failure`` then has the reason), ``train_seconds``, ``seconds_per_epoch`` (median), ``epochs``,
        ``evaluations_per_epoch`` of solvers, ``parameters``, ``width``, and ``peak_bytes``, what one step of training
        on the longest ``batch_size`` training series takes beyond the memory resident before it (Linux; NaN
        elsewhere); ``tuning_seconds`` and ``settings`` (JSON) where they were chosen; the losses ``train_loss`` and
        ``valid_loss`` also over epoch; ``kind`` over tasks, ``family`` ("neural" or "reference") over models, and
        ``series`` over (task, part); ``pass_seconds`` over (model, length); and ``difference`` with its interval over
        (task, model), see `paired_differences`.

    Raises:
        ValueError: a name that does not exist, with those that do, or a budget that a model cannot meet.
        OSError: the folder cannot be written.
    """
    budgets = {"parameters": parameters, "tune": tune, "reference": reference}
    asked = (dataset, task, models, seeds, quick, training, width, references, threads, lengths)
    return run(plan(*asked, **budgets), progress, out)


def run(plan: Plan, progress: bool = True, out: str | os.PathLike | None = None) -> xarray.Dataset:
    """Carry out a plan; what comes back, and what is kept in a folder, is described at `compare`.

    Args:
        plan: from `plan`.
        progress: show bars in the terminal.
        out: a folder for the cells, or None.
    """
    folder = None if out is None else Path(out)
    with (
        held_to_threads(plan.threads),
        bars(plan.fits, plan.training.epochs, progress) as shown,
        cells_in(folder) as cells,
    ):
        groups, sizes, growth = _groups(plan, cells, shown)
        waiting = list(groups)
        while waiting:
            moved = [group.advance() for group in waiting]
            waiting = [group for group in waiting if group.missing]
            if waiting and not any(moved):
                shown.waiting(waiting[0].task)
                cells.wait()
        results = {(group.task, name, group.seed): result for group in groups for name, result in group.results.items()}
        table = table_of(plan, results, sizes)
        if plan.lengths:
            table = table.merge(_growth(plan, cells, *growth))
    if plan.reference is not None:
        table = table.merge(paired_differences(table, plan.reference)).assign_attrs(reference=plan.reference)
    return table


def _groups(
    plan: Plan, cells: Cells, shown: Bars
) -> tuple[list[Group], dict[str, list[int]], tuple[Problem, Mapping[str, int]]]:
    """The work, seed by seed; the sizes of the parts of each task; problem and widths of the last task."""
    split_of = lru_cache(maxsize=2)(lambda task, seed: prepare(plan.tasks[task], seed, plan.data))
    groups, sizes, widths = [], {}, {}
    warm: set[tuple[str, str]] = set()
    for turn, seed in enumerate(plan.seeds):
        for task in plan.tasks:
            if turn == 0:
                split: Split = split_of(task, seed)
                sizes[task] = [len(getattr(split, part)) for part in PARTS]
                widths[task] = _widths(plan, split.problem)
            groups.append(Group(plan, task, turn, partial(split_of, task, seed), widths[task], cells, shown, warm))
    last = next(reversed(plan.tasks))
    return groups, sizes, (split_of(last, plan.seeds[0]).problem, widths[last])


def _widths(plan: Plan, problem: Problem) -> dict[str, int]:
    """The width of every model, by the budget of parameters where there is one."""
    if plan.parameters is None:
        return dict.fromkeys(plan.models, plan.width)
    return {name: width_for(factory, problem, plan.parameters, name) for name, factory in plan.models.items()}


def _growth(plan: Plan, cells: Cells, problem: Problem, widths: Mapping[str, int]) -> xarray.Dataset:
    """Seconds of a step of training as records grow, `pass_seconds` (model, length)."""
    spec = {
        "work": "costs by length",
        "problem": problem.to_dict(),
        "factories": {name: identity(factory) for name, factory in plan.models.items()},
        "widths": dict(widths),
        "lengths": list(plan.lengths),
        "threads": plan.threads,
        "surroundings": surroundings(),
    }
    cell = Cell("costs by length", spec)
    while (found := cells.obtain(cell, lambda: measure_growth(plan.models, widths, problem, plan.lengths))) is None:
        cells.wait()
    seconds = [found["pass_seconds"][name] for name in plan.models]
    made = xarray.Dataset(
        {"pass_seconds": (("model", "length"), seconds, {"units": "s"})},
        {"model": list(plan.models), "length": list(plan.lengths)},
    )
    return made.reindex(model=[*plan.models, *plan.references])
