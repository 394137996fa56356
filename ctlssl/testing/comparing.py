"""How two answers are compared: to the last bit, by their largest difference, and by their slopes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

__all__ = ["bits", "difference", "directional", "gradients_of", "rows_of", "seen_change", "tensors_of"]

_STEPS = (2.0**-13, 2.0**-17, 2.0**-20)
"""Relative steps of the finite differences: the smaller ones are for a fold that the first steps over."""

_SURE = 1e-8
"""An error at which no other step is tried."""

_UNSEEN = 2.0**-28
"""Relative change of a gap that rounding to float32 takes back."""


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest deviation over the largest number expected; inf for other shapes or what is not finite."""
    found, expected = found.detach().double(), expected.detach().double()
    if found.shape != expected.shape or not bool((found.isfinite() & expected.isfinite()).all()):
        return torch.inf
    if not found.numel():
        return 0.0
    scale = expected.abs().max().item()
    return (found - expected).abs().max().item() / (scale if scale > 0 else 1.0)


def bits(found: Tensor, expected: Tensor) -> float:
    """0 where two tensors are equal bit for bit (NaN is NaN), else how far they are apart."""
    if found.shape == expected.shape and torch.equal(found.isnan(), expected.isnan()):
        if torch.equal(found.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0)):
            return 0.0
    return max(difference(found, expected), torch.finfo(torch.float64).tiny)


def tensors_of(state: Any) -> list[Tensor]:
    """The floating point tensors in a state, whatever it is made of, in one order."""
    if isinstance(state, Tensor):
        return [state] if state.is_floating_point() or state.is_complex() else []
    if hasattr(state, "tensors"):
        return tensors_of(state.tensors())
    if isinstance(state, Mapping):
        return [tensor for key in sorted(state, key=str) for tensor in tensors_of(state[key])]
    if isinstance(state, Sequence) and not isinstance(state, str):
        return [tensor for part in state for tensor in tensors_of(part)]
    if dataclasses.is_dataclass(state):
        return [tensor for field in dataclasses.fields(state) for tensor in tensors_of(getattr(state, field.name))]
    return []


def rows_of(state: Any, batch: int, series: int) -> list[Tensor]:
    """What belongs to one series in a state of `batch` of them."""
    return [part[series : series + 1] for part in tensors_of(state) if part.ndim and part.shape[0] == batch]


def gradients_of(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of a number by each input, zeros where it does not depend on it."""
    if not loss.requires_grad:
        return [torch.zeros_like(part) for part in inputs]
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def directional(
    answer: Callable[[dict[str, Tensor]], Tensor],
    inputs: dict[str, Tensor],
    generator: torch.Generator,
    sizes: Mapping[str, float | Tensor] = MappingProxyType({}),
) -> dict[str, float]:
    """How far the gradients of a randomly weighted answer are from finite differences along a random direction.

    Args:
        answer: what makes a tensor of the inputs.
        inputs: float64 tensors by name.
        generator: of weights and directions.
        sizes: of the directions, by name: a number, or one an entry, whose signs alone are then drawn; the largest
            number of an input where none is given.

    Returns:
        |difference| / (|gradient| |direction|) by name; 0 where an input has no effect and no gradient.
    """
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    found = answer(leaves)
    weights = torch.randn(found.shape, generator=generator, dtype=found.dtype)
    slopes = dict(zip(leaves, gradients_of((weights * found).sum(), list(leaves.values())), strict=True))
    # An effect below this share of the answer drowns in the rounding of the differences.
    least = 1e-3 * (weights * found.detach()).abs().sum().item()
    errors = {}
    for name, value in inputs.items():
        size = sizes[name] if name in sizes else (value.abs().max().item() if value.numel() else 0.0) or 1.0
        way = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        way = size * (way.sign() if isinstance(size, Tensor) else way)
        ahead = partial(_moved, answer, inputs, name, way)
        slope, size = (slopes[name] * way).sum().item(), (slopes[name].norm() * way.norm()).item()
        errors[name] = math.inf
        for step in _STEPS:
            measured = _slope(lambda k, ahead=ahead: (weights * ahead(k)).sum(), step)
            gap = abs(slope - measured)
            errors[name] = min(errors[name], gap / max(size, least, abs(measured)) if gap else 0.0)
            if errors[name] < _SURE:
                break
    return errors


def _moved(
    answer: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor], name: str, way: Tensor, far: float
) -> Tensor:
    return answer({**inputs, name: inputs[name] + far * way})


@torch.no_grad()
def _slope(along: Callable[[float], Tensor], step: float) -> float:
    """The derivative at 0 of a number by fourth order differences."""
    far, near, after, beyond = (along(k * step).item() for k in (-2, -1, 1, 2))
    return (far - 8 * near + 8 * after - beyond) / (12 * step)


def seen_change(answer: Callable[[Tensor], Tensor], dt: Tensor, generator: torch.Generator) -> float | None:
    """How far an answer's change is from its slope when gaps change by less than float32 can hold.

    Args:
        answer: what makes a tensor of the gaps.
        dt: gaps, float64, of values that float32 holds.
        generator: of the weights of the answer.

    Returns:
        |change - slope| over the sum of |slopes|: near 0, and 1 where the gaps were rounded; None where the answer
        does not depend on the gaps.
    """
    leaf = dt.detach().clone().requires_grad_()
    before = answer(leaf)
    weights = torch.randn(before.shape, generator=generator, dtype=before.dtype)
    (slope,) = gradients_of((weights * before).sum(), [leaf])
    change = _UNSEEN * dt * slope.sign()  # all one way, so that nothing cancels
    scale = (slope * change).abs().sum().item()
    if scale <= 1e-13 * (weights * before.detach()).abs().sum().item():
        return None
    with torch.no_grad():
        difference = (weights * (answer(dt + change) - before)).sum().item()
    return abs(difference - (slope * change).sum().item()) / scale
