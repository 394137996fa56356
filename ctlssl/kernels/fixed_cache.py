"""What is made once of tensors that never change: the packed constants of a system that is stepped again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

__all__ = ["declare_constant", "made_once", "maker_of"]

_Made = TypeVar("_Made")


def declare_constant(*tensors: Tensor) -> None:
    """Promise that these tensors, used together, are never changed in place: what is made of them lives with them."""
    book: dict = {}
    for tensor in tensors:
        tensor._made_of_constants = book


def made_once(tensors: Sequence[Tensor], key: str, make: Callable[[], _Made]) -> _Made:
    """What `make` makes of tensors; the same object as before if they were declared constant together.

    Args:
        tensors: all that it is made of.
        key: names what is made.
        make: makes it.
    """
    return maker_of(tensors)(key, make)


def maker_of(tensors: Sequence[Tensor]) -> Callable[[str, Callable[[], _Made]], _Made]:
    """`made_once` of these tensors, for several things that are made of them."""
    book = getattr(tensors[0], "_made_of_constants", None)
    if book is None or any(getattr(tensor, "_made_of_constants", None) is not book for tensor in tensors):
        return _made_anew

    def once(key: str, make: Callable[[], _Made]) -> _Made:
        if key not in book:
            book[key] = make()
        return book[key]

    return once


def _made_anew(key: str, make: Callable[[], _Made]) -> _Made:
    return make()
