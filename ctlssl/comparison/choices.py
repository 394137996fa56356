"""What a comparison was asked for, by name: each choice resolved, and refused with what there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from ctlssl.baselines import REFERENCES
from ctlssl.model_names import Factory, models_by_name, options_of
from ctlssl.tasks import TASKS, Task
from ctlssl.training import Training

if TYPE_CHECKING:
    from ctlssl.baselines import Reference

__all__ = [
    "DEFAULT_MODELS",
    "TUNING",
    "Classical",
    "chosen_grid",
    "chosen_models",
    "chosen_references",
    "chosen_seeds",
    "chosen_tasks",
    "kinds_of",
    "training_fields",
]

Classical = Callable[..., "Reference"]  # (problem, seed=...)

DEFAULT_MODELS = ("lssl", "gru", "ode_rnn", "neural_cde")
TUNING: dict[str, tuple[float, ...]] = {"learning_rate": (1e-3, 3e-3, 1e-2), "dropout": (0.2, 0.5)}
"""The grid of a comparison that tunes: every model tries all pairs."""

training_fields = frozenset(field.name for field in fields(Training)) - {"seed"}


def chosen_tasks(dataset: str | None, task: str | Task | Sequence[str | Task] | None) -> dict[str, Task]:
    """Tasks by name, of a bundled data set or as they are given."""
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


def chosen_models(models: str | Sequence[str] | Mapping[str, Factory] | None) -> dict[str, Factory]:
    """Factories by name."""
    if isinstance(models, Mapping) and models:
        return dict(models)
    return models_by_name(DEFAULT_MODELS if models is None else models)


def chosen_references(tasks: Mapping[str, Task]) -> dict[str, Classical]:
    """The classical models that answer one of the tasks."""
    kinds = {task.kind for task in tasks.values()}
    return {name: item for name, item in REFERENCES.items() if kinds & set(kinds_of(item))}


def kinds_of(reference: Classical) -> tuple[str, ...]:
    """The kinds of problem that a classical model answers."""
    return (reference.func if isinstance(reference, partial) else reference).kinds


def chosen_seeds(seeds: int | Sequence[int] | None, quick: bool) -> tuple[int, ...]:
    """Different numbers from 0 on."""
    if seeds is None:
        seeds = 1 if quick else 3
    if isinstance(seeds, str | float | bool):
        raise ValueError(f"seeds is {seeds!r}; give a whole number from 1 on, or a list of them from 0 on.")
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds)
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds is {seeds!r}; give a number from 1 on, or different numbers from 0 on.")
    return chosen


def chosen_grid(
    tune: bool | Mapping[str, Sequence[Any]], models: Mapping[str, Factory], training: Training
) -> dict[str, tuple[Any, ...]]:
    """Values to try of fields of `Training` and of options that every model has; nothing where nothing is tuned."""
    grid = {name: tuple(values) for name, values in (TUNING if tune is True else tune or {}).items()}
    for name, values in grid.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(f"tune[{name!r}] is {values!r}; give different values, at least one.")
        if name in training_fields:
            for value in values:
                Training(**training.to_dict() | {name: value})  # refuses what cannot be
            continue
        for model, factory in models.items():
            taken = options_of(factory)
            if taken is not None and name not in taken:
                told = f"it has {', '.join(sorted(taken))}" if taken else "it has none"
                raise ValueError(f"tune asks for {name!r}, which is no option of {model!r} ({told}) nor of Training.")
    return grid
