"""A layer under the contract: what it can be asked, and its copies in both dtypes."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ctlssl.testing.layer_cases import LayerCase

__all__ = ["DTYPES", "ROUNDING", "LayerSubject", "accepted"]

DTYPES = (torch.float64, torch.float32)

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
"""What one layer may lose to rounding, relative to its largest output."""

_LARGEST_GROWTH = 0.5
"""Largest |gap x eigenvalue| that a rule which is not A-stable is given."""


def accepted(call: Callable[..., Any], names: tuple[str, ...]) -> frozenset[str]:
    """Which keywords a call takes."""
    parameters = inspect.signature(call).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset(names)
    return frozenset(names) & {parameter.name for parameter in parameters}


class LayerSubject:
    """A layer and what the contract may ask of it.

    Args:
        layer: called as `layer(u, dt, ...)` -> (y, state).
        channels: of u.
        limits: limits that replace those of the contract, by line.
        rescale: makes of a copy, given c, the layer for a clock whose times are c times as large.

    Raises:
        ValueError: a layer whose channels nobody tells.
    """

    def __init__(
        self,
        layer: nn.Module,
        channels: int | None = None,
        limits: Mapping[int, float] | None = None,
        rescale: Callable[[nn.Module, float], nn.Module] | None = None,
    ) -> None:
        channels = getattr(layer, "channels", None) if channels is None else channels
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(
                f"{type(layer).__name__} does not say how many channels it reads; give check_clock(..., channels=)"
            )
        self.layer, self.channels, self.limits = layer, channels, dict(limits or {})
        self.keywords = accepted(layer.forward, ("lengths", "state", "is_query", "rate", "view"))
        self.bidirectional = bool(getattr(layer, "bidirectional", False))
        self.steps = callable(getattr(layer, "step", None)) and not self.bidirectional
        self.peeks = callable(getattr(layer, "peek", None)) and not self.bidirectional
        self.rescale = rescale or (_divide_steps if isinstance(getattr(layer, "log_step", None), Tensor) else None)
        self._twins: dict[torch.dtype, nn.Module] = {}

    def limit(self, line: int, exact: float) -> float:
        """The limit of a check: the contract's, unless another was given for the line."""
        return self.limits.get(line, exact)

    def twin(self, dtype: torch.dtype) -> nn.Module:
        """A copy in a dtype, from the same parameters, in evaluation mode."""
        if dtype not in self._twins:
            self._twins[dtype] = copy.deepcopy(self.layer).to(dtype).eval()
        return self._twins[dtype]

    def inputs(self, case: LayerCase, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Inputs in a dtype and gaps in float64 that the layer's rule can be given."""
        return case.u.to(dtype), self.allowed(case.dt)

    def allowed(self, dt: Tensor) -> Tensor:
        """The gaps, smaller by one factor where a rule that is not A-stable would grow."""
        if math.isinf(self.largest_gap) or not dt.numel() or dt.max() <= self.largest_gap:
            return dt
        # A power of two, so that values of float32 stay such.
        return dt * 2.0 ** math.floor(math.log2(self.largest_gap / dt.max().item()))

    def ragged(self, case: LayerCase) -> tuple[LayerCase, dict[str, Tensor]]:
        """The case as the layer can be given it, and the keywords that say the lengths."""
        if "lengths" in self.keywords:
            return case, {"lengths": case.lengths}
        return case.whole(), {}

    @cached_property
    def grows(self) -> bool:
        """Whether its rule is not A-stable."""
        rule = getattr(getattr(self.layer, "method", None), "rule", None)
        return bool(getattr(self.layer, "growing", False) or getattr(rule, "growing", False))

    @cached_property
    def fastest_rate(self) -> float | None:
        """The largest |eigenvalue|, in units of the clock; None for a layer that tells neither it nor its `system`."""
        if isinstance(rate := getattr(self.layer, "fastest_rate", None), float):
            return rate
        if not callable(getattr(self.layer, "system", None)):
            return None
        try:
            system = self.twin(torch.float64).system()
        except ValueError:  # step sizes that depend on the input
            return None
        return max(system.poles().detach().abs().max().item(), 1e-6)

    @cached_property
    def largest_gap(self) -> float:
        """The largest gap it may be given."""
        if not self.grows:
            return math.inf
        return _LARGEST_GROWTH / (self.fastest_rate or 1.0)


def _divide_steps(layer: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        layer.log_step -= math.log(factor)
    return layer
