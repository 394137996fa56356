"""Tridiagonal products and solves, batched and differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["tridiagonal_matmul", "tridiagonal_solve"]


def tridiagonal_matmul(lower: Tensor, diag: Tensor, upper: Tensor, x: Tensor) -> Tensor:
    """Product T x of a tridiagonal matrix.

    Args:
        lower: T[i+1, i], (..., N-1).
        diag: T[i, i], (..., N).
        upper: T[i, i+1], (..., N-1).
        x: vectors, (..., N).

    Example:
        >>> import torch
        >>> one = torch.ones(2)
        >>> tridiagonal_matmul(-one, torch.full((3,), 2.0), -one, torch.tensor([1.0, 2.0, 3.0]))
        tensor([0., 0., 4.])
    """
    above = torch.nn.functional.pad(upper * x[..., 1:], (0, 1))  # (..., N)
    below = torch.nn.functional.pad(lower * x[..., :-1], (1, 0))  # (..., N)
    return diag * x + above + below


def tridiagonal_solve(lower: Tensor, diag: Tensor, upper: Tensor, b: Tensor) -> Tensor:
    """Solution of T x = b by elimination without pivoting, O(N).

    Pivots that vanish are replaced by the smallest normal number of the dtype relative to the diagonal, so a
    learned T that drifts onto a singular matrix gives large numbers, not NaN.

    Args:
        lower: T[i+1, i], (..., N-1), real or complex.
        diag: T[i, i], (..., N).
        upper: T[i, i+1], (..., N-1).
        b: right-hand sides, (..., N).
    """
    dtype = torch.promote_types(torch.promote_types(lower.dtype, diag.dtype), torch.promote_types(upper.dtype, b.dtype))
    return _Solve.apply(lower.to(dtype), diag.to(dtype), upper.to(dtype), b.to(dtype))


def _guarded(pivot: Tensor) -> Tensor:
    tiny = torch.finfo(pivot.dtype).tiny ** 0.5
    return torch.where(pivot.abs() < tiny, tiny, pivot)


def _eliminate(lower: Tensor, diag: Tensor, upper: Tensor, b: Tensor) -> Tensor:
    low, main, up, rhs = lower.unbind(-1), diag.unbind(-1), upper.unbind(-1), b.unbind(-1)
    pivots, values = [_guarded(main[0])], [rhs[0]]
    for i in range(1, len(main)):
        ratio = low[i - 1] / pivots[-1]
        pivots.append(_guarded(main[i] - ratio * up[i - 1]))
        values.append(rhs[i] - ratio * values[-1])
    x = [values[-1] / pivots[-1]]
    for i in range(len(main) - 2, -1, -1):
        x.append((values[i] - up[i] * x[-1]) / pivots[i])
    return torch.stack(torch.broadcast_tensors(*reversed(x)), dim=-1)  # (..., N)


class _Solve(torch.autograd.Function):
    """The adjoint of a solve is a solve with the transposed matrix, so the backward pass is this function again."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor, diag: Tensor, upper: Tensor, b: Tensor) -> Tensor:
        x = _eliminate(lower, diag, upper, b)
        ctx.save_for_backward(lower, diag, upper, x)
        ctx.rhs_shape = b.shape
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        lower, diag, upper, x = ctx.saved_tensors
        adjoint = _Solve.apply(upper.conj(), diag.conj(), lower.conj(), grad)
        seen = x.conj()
        return (
            -(adjoint[..., 1:] * seen[..., :-1]).sum_to_size(lower.shape),
            -(adjoint * seen).sum_to_size(diag.shape),
            -(adjoint[..., :-1] * seen[..., 1:]).sum_to_size(upper.shape),
            adjoint.sum_to_size(ctx.rhs_shape),
        )
