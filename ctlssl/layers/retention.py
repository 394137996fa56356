r"""How a memory fades between events: flows of its numbers over the time a h that has passed, rate times gap.

    | retention | flow | after a gap |
    |---|---|---|
    | none | M' = 0 | M |
    | decay | M' = -a M | e^{-ah} M |
    | elastic | M' = -a (M + s sign M) | soft(e^{-ah} M, s (1 - e^{-ah})) |

with soft(x, t) = sign(x) max(|x| - t, 0). They are flows: two gaps one after the other do what their sum does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

__all__ = ["RETENTIONS", "Decay", "Elastic", "Permanent", "Retention"]


class Retention(ABC):
    """What is left of a memory after a gap, number by number; never farther apart than two memories were before.

    Attributes:
        clocked: whether the gap has a say in it.
    """

    clocked: bool = True

    @abstractmethod
    def keep(self, memory: Tensor, steps: Tensor) -> Tensor:
        """The memory (..., N, N) after steps a h (..., N), float64, one for each of its rows."""

    @abstractmethod
    def factor(self, memory: Tensor, steps: Tensor) -> Tensor:
        """By what each number of this memory is multiplied in `keep`, (..., N, N)."""


@final
@dataclass(frozen=True)
class Permanent(Retention):
    """All is kept."""

    clocked = False

    def keep(self, memory: Tensor, steps: Tensor) -> Tensor:
        """The memory itself."""
        return memory

    def factor(self, memory: Tensor, steps: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(memory)


@final
@dataclass(frozen=True)
class Decay(Retention):
    """Exponential decay with the clock."""

    def keep(self, memory: Tensor, steps: Tensor) -> Tensor:
        """e^{-ah} M."""
        return torch.exp(-steps).to(memory.dtype)[..., None] * memory

    def factor(self, memory: Tensor, steps: Tensor) -> Tensor:
        """e^{-ah}."""
        return torch.exp(-steps).to(memory.dtype)[..., None].expand_as(memory)


@final
@dataclass(frozen=True)
class Elastic(Retention):
    r"""Decay and a pull of constant force to 0, which is reached in finite time: what is small is forgotten wholly.

    The flow is exact, and is the proximal step of an elastic net whose weights grow with the gap, w = e^{ah} - 1:

        argmin_X |X - M|^2 / 2 + w (|X|^2 / 2 + s |X|_1) = soft(M, s w) / (1 + w) = soft(e^{-ah} M, s (1 - e^{-ah}))

    Args:
        sparsity: s >= 0, the force in units of the rate and of the memory's numbers.

    Raises:
        ValueError: a negative sparsity, or none at all.

    References:
        Zou, Hastie (2005), Regularization and variable selection via the elastic net; Behrouz, Razaviyayn, Zhong,
        Mirrokni (2025), It's all connected, arXiv:2504.13173.
    """

    sparsity: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < math.inf:
            raise ValueError(f"sparsity needs to be a finite number of at least 0; found {self.sparsity}")

    def keep(self, memory: Tensor, steps: Tensor) -> Tensor:
        """soft(e^{-ah} M, s (1 - e^{-ah}))."""
        least = (-self.sparsity * torch.expm1(-steps)).to(memory.dtype)[..., None]  # (..., N, 1)
        decayed = torch.exp(-steps).to(memory.dtype)[..., None] * memory  # (..., N, N)
        return decayed - torch.minimum(torch.maximum(decayed, -least), least)

    def factor(self, memory: Tensor, steps: Tensor) -> Tensor:
        """What is left over what there was, 0 where nothing was."""
        left = self.keep(memory, steps)
        return torch.where(memory != 0, left / torch.where(memory != 0, memory, 1), 0)


RETENTIONS: dict[str, Retention] = {"none": Permanent(), "decay": Decay(), "elastic": Elastic()}
