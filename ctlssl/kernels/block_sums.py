"""Weighted sums over blocks of rows, counted back from the last row: what a final state is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctlssl.kernels.causal_convolution import pieces

__all__ = ["block_sums", "block_twin"]


def block_sums(u: Tensor, table: Tensor) -> Tensor:
    r"""V_j = sum_{a, i} table_{a, i} u_{s + j b + a, i}, blocks of b rows, the last of which ends with the last row.

    Args:
        u: inputs, (B, L, G, I); rows before the first (s <= 0) count as zeros.
        table: weights, (G, N, b, I), in the dtype of u.

    Returns:
        (G, N, J, B) with J = ceil(L / b).

    Example:
        >>> import torch
        >>> u, table = torch.arange(1.0, 6.0).reshape(1, 5, 1, 1), torch.ones(1, 1, 2, 1)
        >>> block_sums(u, table).flatten().tolist()
        [1.0, 5.0, 9.0]
    """
    if u.device.type == "cpu" and not torch.compiler.is_compiling():
        return _BlockSums.apply(u, table)
    return block_twin(u, table)


def block_twin(u: Tensor, table: Tensor) -> Tensor:
    """The same in two lines of torch, differentiable to any order."""
    padded = torch.nn.functional.pad(u, (0, 0, 0, 0, -u.shape[1] % table.shape[2], 0))
    return torch.einsum("bjagi,gnai->gnjb", padded.unflatten(1, (-1, table.shape[2])), table)


def _blocks(u: Tensor, b: int) -> Tensor:
    """Blocks (G, J * B, b * I) of u (B, L, G, I)."""
    B, L, G, I = u.shape  # noqa: E741
    # Pieces of a product that lie far apart in memory would cost it more than this copy.
    padded = torch.nn.functional.pad(u.permute(2, 0, 1, 3), (0, 0, -L % b, 0)).contiguous()  # (G, B, J * b, I)
    return padded.reshape(G, B, -1, b * I).transpose(1, 2).reshape(G, -1, b * I)


class _BlockSums(torch.autograd.Function):
    """Pieces that stay in the cache, as in the convolution; only the arguments are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(u, table)
        (B, L, G, I), (_, N, b, _) = u.shape, table.shape  # noqa: E741
        out = u.new_empty(G, N, -(-L // b), B)
        for series, groups in pieces(B, G, I * L):
            sums = table[groups].flatten(2) @ _blocks(u[series, :, groups], b).mT  # (G, N, J * B)
            out[groups, ..., series] = sums.unflatten(2, (out.shape[2], -1))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return _adjoint(grad, *ctx.saved_tensors)
        asked = [t for t, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True) if wanted]
        found = iter(torch.autograd.grad(block_twin(*ctx.saved_tensors), asked, grad, create_graph=True))
        return tuple(next(found) if wanted else None for wanted in ctx.needs_input_grad)


def _adjoint(grad: Tensor, u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    (B, L, G, I), b = u.shape, table.shape[2]  # noqa: E741
    gu, gtable = torch.empty_like(u), torch.zeros_like(table)
    for series, groups in pieces(B, G, I * L):
        late = grad[groups, ..., series]  # (G, N, J, B)
        gtable[groups] += (late.flatten(2) @ _blocks(u[series, :, groups], b)).unflatten(2, (b, I))
        rows = late.flatten(2).mT @ table[groups].flatten(2)  # (G, J * B, b * I)
        rows = rows.unflatten(2, (b, I)).unflatten(1, late.shape[2:])  # (G, J, B, b, I)
        gu[series, :, groups] = rows.permute(2, 1, 3, 0, 4).flatten(1, 2)[:, -L:]
    return gu, gtable
