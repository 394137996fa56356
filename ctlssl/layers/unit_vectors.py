"""Keys and queries of memories: vectors of length 1."""

from __future__ import annotations

from torch import Tensor

__all__ = ["unit_vectors"]


def unit_vectors(x: Tensor, least: float = 1e-9) -> Tensor:
    """Vectors x / sqrt(|x|^2 + least^2): of length 1, or less where x is not much longer than `least`; 0 stays 0.

    Args:
        x: vectors, (..., K); no square of theirs overflows, and gradients are finite at 0.
        least: length far below which a vector has no direction.

    Example:
        >>> import torch
        >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    size = x.detach().abs().amax(-1, keepdim=True).clamp(min=1)  # (..., 1)
    x = x / size
    return x / (x.square().sum(-1, keepdim=True) + (least / size).square()).sqrt()
