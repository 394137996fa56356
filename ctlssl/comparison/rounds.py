"""Cells of a plan: what decides each, and asking for them again and again, until each has a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ctlssl.comparison.bars import Bars
from ctlssl.comparison.cells import Cell, Cells
from ctlssl.comparison.keys import digest_of_split, identity, surroundings
from ctlssl.comparison.plans import Plan
from ctlssl.tasks import Split

__all__ = ["cell_of", "in_rounds"]

Place = TypeVar("Place")


def in_rounds(
    places: Sequence[Place], done: Callable[[Place], bool], cells: Cells, shown: Bars, label: Callable[[Place], str]
) -> None:
    """Do the work of every place; what another process is at comes again when the others were asked for.

    Args:
        places: what is to be done, in this order.
        done: does the work of a place, or finds that it was done; False while another process is at it.
        cells: waits where others have all that is left.
        shown: says so.
        label: what a place is called there.
    """
    left = list(places)
    while left:
        missing = [place for place in left if not done(place)]
        shown.finished(len(left) - len(missing))
        if len(missing) == len(left):
            shown.waiting(label(left[0]))
            cells.wait()
        left = missing


def cell_of(plan: Plan, work: str, label: str, place: tuple[int, str, str], split: Split, **more: Any) -> Cell:
    """The cell of one model trained on one split.

    Args:
        plan: of which it is a part.
        work: what is done with the model.
        label: for a reader.
        place: seed, task and model.
        split: as the task gives it.
        more: what else decides the result, JSON values.
    """
    seed, task, model = place
    spec = {
        "work": work,
        "task": task,
        "data": digest_of_split(split),
        "model": model,
        "factory": identity(plan.models[model]),
        "seed": seed,
        "width": plan.width,
        "training": replace(plan.training, seed=seed).to_dict(),
        "threads": plan.threads,
        "surroundings": surroundings(),
    }
    return Cell(label, spec | more)
