"""Log-signatures of depth 2 of polygons, over windows of their corners."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

__all__ = ["LogSignature", "log_signatures"]


class LogSignature(NamedTuple):
    """Of a path X of C channels between two places, up to depth 2.

    Attributes:
        increment: X(end) - X(begin), (..., C).
        area: Levy areas 1/2 (int (X^i - X^i(begin)) dX^j - int (X^j - X^j(begin)) dX^i), antisymmetric, (..., C, C).
    """

    increment: Tensor
    area: Tensor

    def followed_by(self, step: Tensor) -> LogSignature:
        """Of the path with a straight step (..., C) behind it; Chen's identity at depth 2."""
        return LogSignature(self.increment + step, self.area + _wedge(self.increment, step))


def log_signatures(steps: Tensor, window: int) -> LogSignature:
    r"""From the beginning of each window to every corner of it, of polygons with these straight steps.

    Windows are of `window` steps each, the last one filled up with steps of length 0. With the place P_k of a corner
    relative to the beginning of its window, the area at it is 1/2 sum_{l < k} (P_l \otimes dX_l - dX_l \otimes P_l).

    Args:
        steps: dX_l, (B, K, C).
        window: w, steps a window.

    Returns:
        Of (B, K // w + 1, w + 1) corners: the first of each window is its beginning, where all is 0, the last one its
        end.

    Raises:
        ValueError: a window of less than one step.

    References:
        Chen (1957), Integration of paths, geometric invariants and a generalized Baker-Hausdorff formula.
        Morrill, Salvi, Kidger, Foster (2021), Neural rough differential equations for long time series,
        arXiv:2009.08295.

    Example:
        >>> import torch
        >>> square = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]])
        >>> around = log_signatures(square, window=4)
        >>> around.increment[0, 0, -1], around.area[0, 0, -1]
        (tensor([0., 0.]), tensor([[ 0.,  1.],
                                   [-1.,  0.]]))
    """
    if window < 1:
        raise ValueError(f"a window has at least one step; found {window}")
    batch, count, channels = steps.shape
    windows = count // window + 1
    steps = pad(steps, (0, 0, 0, windows * window - count)).view(batch, windows, window, channels)  # (B, M, w, C)
    places = pad(steps.cumsum(dim=2), (0, 0, 1, 0))  # (B, M, w + 1, C)
    areas = _wedge(places[:, :, :-1], steps).cumsum(dim=2)  # (B, M, w, C, C)
    return LogSignature(places, pad(areas, (0, 0, 0, 0, 1, 0)))


def _wedge(a: Tensor, b: Tensor) -> Tensor:
    """1/2 (a b^T - b a^T), (..., C, C)."""
    product = a.unsqueeze(-1) * b.unsqueeze(-2)
    return 0.5 * (product - product.mT)
