"""Step sizes: how many units of a layer's own time pass in one unit of its clock."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["initial_log_steps"]


def initial_log_steps(shape: tuple[int, ...], step_range: tuple[float, float]) -> Tensor:
    """Logarithms of step sizes spread evenly over a range, in random order.

    The evenly spread values cover the range also with few channels; the order is random so that a step size is not
    tied to the frequency of its place.

    Args:
        shape: of the result; () gives the geometric middle of the range.
        step_range: smallest and largest step size; a pole at Re = -1/2 remembers about 2 / step units of the clock.

    Raises:
        ValueError: a range that is not 0 < low <= high < inf.

    References:
        Gu et al. (2021), LSSL, appendix B.3 (log-uniform steps, one a channel).
    """
    low, high = step_range
    if not 0 < low <= high < math.inf:
        raise ValueError(f"step_range needs 0 < low <= high; found {tuple(step_range)}")
    count = math.prod(shape)
    if not shape or count == 1:
        return torch.full(shape, (math.log(low) + math.log(high)) / 2)
    return torch.linspace(math.log(low), math.log(high), count)[torch.randperm(count)].reshape(shape)
