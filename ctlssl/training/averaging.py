"""A running mean of the weights over the steps of a fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The exponential mean of the weights over the steps of a fit, which is less noisy than the last of them.

    After step n it is a w + (1 - a) theta_n, with a = min(decay, n / (n + 9)): the weights at the start, which are
    worth nothing, are forgotten soon. What is no floating point number is taken as it is.

    Args:
        model: whose weights are averaged.
        decay: of the mean, 0 < decay < 1; about 1 / (1 - decay) steps count.

    References:
        Polyak and Juditsky (1992), Acceleration of stochastic approximation by averaging.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> average = WeightAverage(model, decay=0.9)
        >>> average.update(model, 1)
        >>> with average.in_place(model):
        ...     inside = model.weight.clone()
        >>> torch.equal(inside, model.weight)
        True
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        rest = 1.0 - min(self.decay, step / (step + 9))
        for name, value in model.state_dict().items():
            mean = self.weights[name]
            if mean.is_floating_point() or mean.is_complex():
                mean.lerp_(value, rest)
            else:
                mean.copy_(value)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model has the mean weights; afterwards its own again."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from the weights of an earlier mean."""
        for name, mean in self.weights.items():
            mean.copy_(weights[name])
