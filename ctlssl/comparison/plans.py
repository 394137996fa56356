"""What a comparison will do, all of it checked before anything begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from ctlssl.comparison.choices import (
    DEFAULT_MODELS,
    TUNING,
    Classical,
    chosen_grid,
    chosen_models,
    chosen_references,
    chosen_seeds,
    chosen_tasks,
)
from ctlssl.model_names import Factory
from ctlssl.tasks import Task
from ctlssl.training import Training

if TYPE_CHECKING:
    import xarray

__all__ = ["DEFAULT_MODELS", "TUNING", "Plan", "plan"]


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
        width: of every model, where there is no budget of parameters.
        threads: of torch.
        lengths: observations a series at which a step of training is timed on made-up records; () times none.
        parameters: the budget that decides the width of every model, or None.
        grid: name -> values to try on the validation part; {} tunes nothing.
        reference: the model from which the others' differences are taken, or None.
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
    parameters: int | None
    grid: dict[str, tuple[Any, ...]]
    reference: str | None

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Every combination of the grid, the last name changing fastest; one that changes nothing without a grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    @property
    def fits(self) -> int:
        """The number of neural models to train: with a grid, one for each of its settings and one with the best."""
        trials = len(self.settings) if self.grid else 0
        return len(self.tasks) * len(self.models) * len(self.seeds) * (trials + 1)


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
    parameters: int | None = None,
    tune: bool | Mapping[str, Sequence[Any]] = False,
    reference: str | None = None,
) -> Plan:
    """What `compare` with the same arguments would do, all names checked and nothing begun.

    Raises:
        ValueError: a name that does not exist, with those that do, or a number that cannot be.
    """
    lengths = ((16, 64) if quick else (16, 64, 256)) if lengths is None else tuple(lengths)
    counts = {"threads": threads, "width": width, **{f"lengths[{i}]": length for i, length in enumerate(lengths)}}
    counts |= {} if parameters is None else {"parameters": parameters}
    for name, number in counts.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}; give a whole number from 1 on.")
    training = Training() if training is None else training
    if quick:
        training = replace(training, epochs=math.ceil(training.epochs / 6))
    data = None if isinstance(dataset, str) else dataset
    tasks = chosen_tasks(dataset if data is None else None, task)
    neural, classical = chosen_models(models), chosen_references(tasks) if references else {}
    return Plan(
        data=data,
        tasks=tasks,
        models=neural,
        references=classical,
        seeds=chosen_seeds(seeds, quick),
        training=training,
        width=width,
        threads=threads,
        lengths=lengths,
        parameters=parameters,
        grid=chosen_grid(tune, neural, training),
        reference=_reference(reference, [*neural, *classical]),
    )


def _reference(name: str | None, models: list[str]) -> str | None:
    if name is None:
        return "lssl" if "lssl" in models else None
    if name not in models:
        raise ValueError(f"reference {name!r} is not compared; there are {', '.join(models)}.")
    return name
