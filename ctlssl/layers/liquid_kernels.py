r"""Liquid kernels as causal convolutions of products of neighbouring inputs, on grids of one gap.

The paper's kernels of order p act on correlations u_i u_{i-1} ... u_{i-p+1}. Its released code multiplies instead of
convolving and turns the series round, so that early outputs read late inputs; these are the definitions, causal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctlssl.kernels.causal_convolution import causal_convolution
from ctlssl.state_matrices.diagonal import join_pairs

__all__ = ["KERNELS", "liquid_convolution"]


def _powers_of_both(A: Tensor, B: Tensor, order: int, lags: Tensor, last: int) -> Tensor:
    """KB: Abar^j Bbar^p, (H, n, L)."""
    # As products: a complex 0 to the power of 0 is NaN.
    powers = torch.where(lags == 0, 1, A[..., None]).cumprod(-1)  # (H, n, L)
    return (B**order)[..., None] * powers


def _powers_of_input(A: Tensor, B: Tensor, order: int, lags: Tensor, last: int) -> Tensor:
    """PB: Bbar^p for the last products, 0 for older ones; of order 1 the kernel of the linear system."""
    if order == 1:
        return _powers_of_both(A, B, order, lags, last)
    return (B**order)[..., None] * (lags < last)


KERNELS: dict[str, Callable[[Tensor, Tensor, int, Tensor, int], Tensor]] = {
    "kb": _powers_of_both,
    "pb": _powers_of_input,
}
"""By name: from Abar and Bbar (H, n), the order and the lags (L,) to what C reads, (H, n, L)."""


def liquid_convolution(
    u: Tensor, A: Tensor, B: Tensor, C: Tensor, degree: int, kernel: Callable[..., Tensor], last: int
) -> Tensor:
    r"""y_k = sum_{p <= P} sum_{j <= k} C K_p(j) u_{k-j} u_{k-j-1} ... u_{k-j-p+1}, (B, L, H), without D u.

    Args:
        u: inputs, (B, L, H).
        A: Abar of the one gap, (H, n) complex128.
        B: Bbar, (H, n) complex128.
        C: output map on real pairs, (H, 2 n) float64.
        degree: P.
        kernel: of `KERNELS`.
        last: products that a finite kernel reads.

    References:
        Hasani, Lechner, Wang, Chahine, Amini, Rus (2022), Liquid structural state-space models, arXiv:2209.12951,
        proposition 1 and algorithm 1.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.complex128)
        >>> u, C = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[1.0, 0.0]]).double()
        >>> liquid_convolution(u, 0 * one, one, C, 2, KERNELS["kb"], 16).flatten().round()  # u_k + u_k u_{k-1}
        tensor([1., 4., 9.])
    """
    L, y = u.shape[1], torch.zeros_like(u)
    lags = torch.arange(L, dtype=torch.float64, device=u.device)
    product = torch.ones_like(u)
    for order in range(1, min(degree, L) + 1):
        earlier = torch.nn.functional.pad(u, (0, 0, order - 1, 0))[:, :L]  # u_{k-order+1}, zeros before the start
        product = product * earlier  # (B, L, H)
        read = (join_pairs(kernel(A, B, order, lags, last).mT) * C[:, None]).sum(-1)  # (H, L)
        y = y + causal_convolution(product[..., None], read[:, None, None].to(u.dtype))[..., 0]
    return y
