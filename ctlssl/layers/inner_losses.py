r"""Inner losses and retentions of a memory: what one step of its update minimises, and what it forgets between events.

A loss l(r) of the residual r = M k - v enters through the weight w(r), with grad l = w(r) r elementwise. A retention is
a flow m -> m(h) of every number of the memory over a gap h.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["LOSSES", "RETENTIONS", "huber", "length", "power", "shrink", "squared"]

_SMOOTH = 1e-6
"""Residuals below which the p-th power is a parabola: its slope at 0 would be infinite."""


def length(r: Tensor) -> Tensor:
    """Euclidean length of vectors (..., V), (..., 1), without overflow; its gradient at 0 is 0.

    Example:
        >>> length(torch.tensor([[3e30, 4e30], [0.0, 0.0]])).flatten()
        tensor([5.0000e+30, 0.0000e+00])
    """
    largest = r.detach().abs().amax(-1, keepdim=True)
    unit = r / torch.where(largest > 0, largest, 1)
    square = unit.square().sum(-1, keepdim=True)
    return largest * torch.where(largest > 0, square, 1).sqrt()


def squared(r: Tensor, threshold: float) -> Tensor:
    """L = |r|^2 / 2: the weight is 1, and a residual counts by its size.

    Args:
        r: residuals, (..., V).
        threshold: not read.
    """
    return torch.ones_like(r[..., :1])


def huber(r: Tensor, threshold: float) -> Tensor:
    """L = |r|^2 / 2 up to |r| = threshold and straight beyond: the gradient is never longer than the threshold.

    Args:
        r: residuals, (..., V).
        threshold: length where the line begins.

    References:
        Huber (1964), Robust estimation of a location parameter.
    """
    size = length(r)
    return torch.where(size > threshold, threshold / torch.where(size > threshold, size, 1), 1)


def power(r: Tensor, threshold: float) -> Tensor:
    """L = sum |r|^p / p with p = 1 + threshold: between p = 1, the median, and p = 2, the mean.

    Args:
        r: residuals, (..., V).
        threshold: p - 1, above 0 and up to 1.
    """
    return (r.abs().clamp(min=_SMOOTH)) ** (threshold - 1.0)


LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {"squared": squared, "huber": huber, "lp": power}
"""By name: from residuals (..., V) and a threshold to weights (..., V) or (..., 1)."""


def shrink(m: Tensor, h: Tensor, floor: float) -> Tensor:
    """The flow m' = -m - floor sign(m) over times h: it decays and reaches 0, where it stays.

    Args:
        m: numbers, (...).
        h: times, (...) or what broadcasts.
        floor: 0 for a plain exponential decay.

    References:
        Zou, Hastie (2005), Regularization and variable selection via the elastic net, for the penalty whose flow it is.

    Example:
        >>> shrink(torch.tensor([2.0, 0.1]), torch.tensor(1.0), floor=0.5).round(decimals=4)
        tensor([0.4197, 0.0000])
    """
    kept = torch.exp(-h)
    return torch.sign(m) * (m.abs() * kept + floor * torch.expm1(-h)).clamp(min=0)


def _none(m: Tensor, h: Tensor, floor: float) -> Tensor:
    return m


def _decay(m: Tensor, h: Tensor, floor: float) -> Tensor:
    return m * torch.exp(-h)


RETENTIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "none": _none,
    "decay": _decay,
    "elastic": shrink,
}
"""By name: from a memory, times and a floor to the memory after them."""


def check_loss(loss: str, retention: str, threshold: float, floor: float) -> None:
    """Refuse names that do not exist and numbers that cannot be.

    Raises:
        ValueError: naming what there is.
    """
    if loss not in LOSSES:
        raise ValueError(f"no inner loss {loss!r}; there are {', '.join(LOSSES)}")
    if retention not in RETENTIONS:
        raise ValueError(f"no retention {retention!r}; there are {', '.join(RETENTIONS)}")
    if not (0 < threshold < math.inf and 0 <= floor < math.inf) or (loss == "lp" and threshold > 1):
        raise ValueError(
            f"threshold must be positive (p - 1, at most 1, for lp) and floor not negative; found {threshold}, {floor}"
        )
