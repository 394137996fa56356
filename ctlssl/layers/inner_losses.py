r"""Losses that a memory takes a step on at every event, by their derivative psi(r) = w(r) r with 0 < w(r) <= 1.

    squared             l = |r|^2 / 2                                        w = 1
    huber               l = |r|^2 / 2, and c |r| - c^2 / 2 beyond |r| = c    w = min(1, c / |r|)
    huber_elementwise   the same of each element, summed
    lp                  l = c^2 / p sum_i ((1 + (r_i / c)^2)^{p/2} - 1)      w_i = (1 + (r_i / c)^2)^{p/2 - 1}

with a threshold c. Far out psi is as large as r, as c, and as c^{2-p} |r_i|^{p-1}.
Every one is convex, |r|^2 / 2 near 0, and its psi has slopes between 0 and 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

__all__ = ["INNER_LOSSES", "Huber", "InnerLoss", "Lp", "Squared"]


class InnerLoss(ABC):
    """A convex loss of residuals r = M k - v, with slopes of its derivative between 0 and 1.

    Attributes:
        thresholded: whether the threshold has a say in it.
    """

    thresholded: bool = True

    @abstractmethod
    def value(self, residual: Tensor, threshold: Tensor) -> Tensor:
        """The loss l(r), (...,), of residuals (..., N) at a threshold that broadcasts with them."""

    @abstractmethod
    def weight(self, residual: Tensor, threshold: Tensor) -> Tensor:
        """What the residual is multiplied by in the derivative, w(r) = psi(r) / r, (..., N) or (..., 1)."""


@final
@dataclass(frozen=True)
class Squared(InnerLoss):
    """|r|^2 / 2: the step is the delta rule, and as large as the residual.

    References:
        Widrow, Hoff (1960); Yang, Wang, Zhang, Shen, Kim (2024), DeltaNet, arXiv:2406.06484.
    """

    thresholded = False

    def value(self, residual: Tensor, threshold: Tensor) -> Tensor:
        """|r|^2 / 2."""
        return residual.square().sum(-1) / 2

    def weight(self, residual: Tensor, threshold: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(residual[..., :1])


@final
@dataclass(frozen=True)
class Huber(InnerLoss):
    """Squared up to the threshold and linear beyond: the step is clipped, psi is at most the threshold.

    Args:
        elementwise: whether each element is clipped at the threshold, or the vector by its norm.

    References:
        Huber (1964), Robust estimation of a location parameter.
    """

    elementwise: bool = False

    def value(self, residual: Tensor, threshold: Tensor) -> Tensor:
        """r^2 / 2 up to c, c |r| - c^2 / 2 beyond."""
        size = residual.abs() if self.elementwise else torch.linalg.vector_norm(residual, dim=-1, keepdim=True)
        inner = torch.minimum(size, threshold)
        return (inner * (size - inner / 2)).sum(-1)

    def weight(self, residual: Tensor, threshold: Tensor) -> Tensor:
        """min(1, c / |r|)."""
        if self.elementwise:
            return threshold / torch.maximum(residual.abs(), threshold)
        # In units of the largest element, so that no square overflows; a root at 0 would have no gradient.
        unit = residual.detach().abs().amax(-1, keepdim=True).clamp(min=1)  # (..., 1)
        least = threshold / unit
        return least / torch.maximum((residual / unit).square().sum(-1, keepdim=True), least.square()).sqrt()


@final
@dataclass(frozen=True)
class Lp(InnerLoss):
    """The l_p loss of each element, made smooth at 0 on the scale of the threshold.

    Far out psi is c^{2-p} |r|^{p-1} sign(r); at 0, where |r|^{p-1} has no finite slope, it is r. p = 2 is the squared
    loss; p = 1 is bounded as Huber's is.

    Args:
        power: p, 1 <= p <= 2.

    Raises:
        ValueError: another power.

    References:
        Behrouz, Razaviyayn, Zhong, Mirrokni (2025), It's all connected, arXiv:2504.13173.
    """

    power: float = 1.5

    def __post_init__(self) -> None:
        if not 1 <= self.power <= 2:
            raise ValueError(f"power needs 1 <= power <= 2, or a step can overshoot; found {self.power}")

    def value(self, residual: Tensor, threshold: Tensor) -> Tensor:
        """c^2 / p ((1 + (r / c)^2)^{p/2} - 1), summed."""
        rise = torch.hypot(residual / threshold, torch.ones_like(residual)) ** self.power - 1
        return (threshold.square() / self.power * rise).sum(-1)

    def weight(self, residual: Tensor, threshold: Tensor) -> Tensor:
        """(1 + (r / c)^2)^{p/2 - 1}."""
        return torch.hypot(residual / threshold, torch.ones_like(residual)) ** (self.power - 2)


INNER_LOSSES: dict[str, InnerLoss] = {
    "squared": Squared(),
    "huber": Huber(),
    "huber_elementwise": Huber(elementwise=True),
    "lp": Lp(),
}
