"""Cells asked for again and again, until each has a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ctlssl.comparison.bars import Bars
from ctlssl.comparison.cells import Cells

__all__ = ["in_rounds"]

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
