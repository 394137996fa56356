"""Numbers as positions on a row of pieces, so that one linear map of them bends where they bend."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["piecewise_linear"]


def piecewise_linear(values: Tensor, least: float, most: float, pieces: int) -> Tensor:
    """How far each value has come on each of equally long pieces of a range.

    e_j(v) = min(max((v - q_{j-1}) / (q_j - q_{j-1}), 0), 1) - 1/2 with knots q_0 = least, ..., q_K = most. A linear map
    of e is any continuous function that is linear between the knots; outside of the range it is constant.

    Args:
        values: (..., F).
        least: start of the first piece.
        most: end of the last.
        pieces: K.

    Returns:
        (..., F K).

    References:
        Gorishniy, Rubachev, Babenko (2022), On embeddings for numerical features in tabular deep learning,
        arXiv:2203.05556.

    >>> piecewise_linear(torch.tensor([0.25, 7.0]), 0.0, 2.0, pieces=2)
    tensor([-0.2500, -0.5000,  0.5000,  0.5000])
    """
    starts = torch.arange(pieces, dtype=values.dtype, device=values.device)  # (K,)
    passed = (values.unsqueeze(-1) - least) * (pieces / (most - least)) - starts  # (..., F, K)
    return (passed.clamp(0.0, 1.0) - 0.5).flatten(-2)
