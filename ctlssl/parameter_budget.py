"""The width at which a model has a given number of parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from ctlssl.contract import Model, Problem

__all__ = ["count_parameters", "width_for"]

_APART = 0.1  # how far from the budget a count may be, as a part of it
_NEXT = 16  # widths after one that a model refuses (it may want an even number) that are tried in its place


def count_parameters(model: torch.nn.Module) -> int:
    """The number of trained numbers of a module."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def width_for(factory: Callable[..., Model], problem: Problem, parameters: int, name: str = "the model") -> int:
    """The width whose number of trained parameters comes nearest to a budget; of two equally near, the smaller.

    The count must not fall as the width grows; widths that the model refuses with a ValueError are passed over.

    Args:
        factory: called as ``factory(problem, width=width)``.
        problem: what the model is for.
        parameters: the budget.
        name: what an error calls the model.

    Raises:
        ValueError: a budget below 1, or no width within 10 % of it.

    Example:
        >>> from ctlssl.baselines import GRU
        >>> problem = Problem("classification", channels=3, outputs=2)
        >>> width = width_for(GRU, problem, parameters=5000)
        >>> width, count_parameters(GRU(problem, width=width))
        (22, 4845)
    """
    if isinstance(parameters, bool) or not isinstance(parameters, int) or parameters < 1:
        raise ValueError(f"parameters is {parameters!r}; give a whole number from 1 on.")

    @cache
    def count(width: int) -> int | None:
        with torch.random.fork_rng(devices=[]):
            try:
                return count_parameters(factory(problem, width=width))
            except ValueError:
                return None

    def allowed(width: int) -> int:
        found = next((w for w in range(width, width + _NEXT) if count(w) is not None), None)
        if found is None:
            factory(problem, width=width)  # its own words say why
            raise ValueError(f"{name} refuses all widths from {width} to {width + _NEXT - 1}.")
        return found

    low = high = allowed(1)
    while count(high) < parameters:
        low, high = high, allowed(2 * high)
    while high > low:  # count(low) < parameters <= count(high)
        middle = allowed((low + high) // 2)
        if middle in (low, high):  # what is refused lies between: the allowed neighbours are all that is left
            middle = allowed(low + 1)
        if middle == high:
            break
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    best = min((low, high), key=lambda width: abs(count(width) - parameters))
    if abs(count(best) - parameters) > _APART * parameters:
        near = ", ".join(f"{count(width)} at width {width}" for width in sorted({low, high}))
        raise ValueError(f"{name} comes within 10 % of {parameters} parameters at no width: it has {near}.")
    return best
