"""Which objective is learned next: the more often, the more is still being learned from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

__all__ = ["Mixture"]


@dataclass(frozen=True)
class Mixture:
    """Weights of K objectives by their measured progress.

    When the held-out losses are measured for the n-th time, n >= 1, the progress of objective i and the weights are

        p_i <- memory p_i + (1 - memory) (L_i(n-1) - L_i(n)),
        w_i = floor + (1 - K floor) q_i / (q_1 + .. + q_K),    q_i = max(0, p_i),

    and all weights are 1 / K while there is no progress. Losses must be of one measure, such as the error relative to
    that of the best constant answer: then a fall is a share of what there was to learn. Relative to the last loss
    itself, an objective at .002 that goes to .001 would seem to teach more than one that goes from .9 to .6. Falls and
    rises are averaged before they are cut at 0, so that noise cancels.

    Args:
        names: of the objectives.
        floor: the least weight, so that none starves and each can come back; at most 1 / K.
        memory: how much of the earlier progress is kept at a measurement, 0 <= memory < 1.
        last: the latest losses, or nothing.
        progress: p, the running mean of the falls.

    Raises:
        ValueError: no objective or one twice, or a floor or a memory that cannot be.

    References:
        Blouir, Smith, Anastasopoulos, Shehu (2024), Birdie: Advancing State Space Models with Reward-Driven Objectives
        and Curricula, arXiv:2411.01030 (there the rewards of objectives train a network that proposes the mixture).

    Example:
        >>> mixture = Mixture(("forecasting", "copying"), floor=0.1, memory=0.0)
        >>> mixture.after([1.0, 1.0]).weights
        (0.5, 0.5)
        >>> weights = mixture.after([1.0, 1.0]).after([0.7, 0.9]).weights
        >>> [round(weight, 6) for weight in weights]  # .1 + .8 * .3 / .4
        [0.7, 0.3]
    """

    names: tuple[str, ...]
    floor: float = 0.05
    memory: float = 0.7
    last: tuple[float, ...] = ()
    progress: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"a mixture is of one objective or more, each named once; found {self.names}")
        if not 0 <= self.floor <= 1 / len(self.names):
            raise ValueError(
                f"floor is {self.floor}; the least weight of {len(self.names)} objectives lies in 0 to 1 / "
                f"{len(self.names)}"
            )
        if not 0 <= self.memory < 1:
            raise ValueError(f"memory is {self.memory}; it must be in 0 <= memory < 1")

    @property
    def weights(self) -> tuple[float, ...]:
        """The probability of each objective, in the order of the names."""
        falls, spare = [max(0.0, part) for part in self.progress], 1 - len(self.names) * self.floor
        if not sum(falls) > 0:
            return (1 / len(self.names),) * len(self.names)
        return tuple(self.floor + spare * fall / sum(falls) for fall in falls)

    def after(self, losses: Sequence[float]) -> Mixture:
        """The mixture after a measurement.

        Args:
            losses: the held-out loss of each objective.

        Raises:
            ValueError: other than K losses, or one that is not finite.
        """
        losses = tuple(float(loss) for loss in losses)
        if len(losses) != len(self.names):
            raise ValueError(f"{len(losses)} losses for {len(self.names)} objectives; give one each")
        for name, loss in zip(self.names, losses, strict=True):
            if not math.isfinite(loss):
                raise ValueError(f"the held-out loss of {name!r} is {loss}; lower the learning rate")
        if not self.last:
            return replace(self, last=losses, progress=(0.0,) * len(losses))
        parts = zip(self.progress, self.last, losses, strict=True)
        progress = (self.memory * kept + (1 - self.memory) * (old - new) for kept, old, new in parts)
        return replace(self, last=losses, progress=tuple(progress))

    def draw(self, generator: torch.Generator) -> str:
        """The name of an objective, drawn by the weights.

        Args:
            generator: on the CPU.
        """
        weights = torch.tensor(self.weights, dtype=torch.float64)  # (K,)
        return self.names[int(torch.multinomial(weights, 1, generator=generator))]
