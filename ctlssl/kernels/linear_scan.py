"""The first-order linear recurrence x_k = a_k x_{k-1} + b_k, elementwise or with blocks of 2 x 2.

On CPU tensors compiled loops run; elsewhere, under torch.compile, inside `plain_torch()` and for second derivatives
the same in plain torch, a row at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctlssl.kernels.operators import fused
from ctlssl.kernels.thread_pool import run_tasks

__all__ = ["block_scan", "linear_scan"]


def linear_scan(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """All states of x_k = a_k x_{k-1} + b_k, elementwise.

    Args:
        a: factors, (B, L, ...), real or complex.
        b: additions, (B, L, ...).
        x: state before the first step, (B, ...).

    Returns:
        The states x_1 .. x_L, (B, L, ...).

    Example:
        >>> import torch
        >>> linear_scan(torch.full((1, 3), 0.5), torch.ones(1, 3), torch.zeros(1))
        tensor([[1.0000, 1.5000, 1.7500]])
    """
    return _Scan.apply(a, b, x)


def block_scan(M: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """All states of x_k = M_k x_{k-1} + b_k with 2 x 2 matrices.

    Args:
        M: matrices, (B, L, ..., 2, 2), real.
        b: additions, (B, L, ..., 2).
        x: state before the first step, (B, ..., 2).

    Returns:
        The states x_1 .. x_L, (B, L, ..., 2).

    Example:
        >>> import torch
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).expand(1, 3, 2, 2)
        >>> block_scan(turn, torch.zeros(1, 3, 2), torch.tensor([[1.0, 0.0]]))[0, -1]
        tensor([ 0., -1.])
    """
    return _BlockScan.apply(M, b, x)


def _compiled(x: Tensor) -> bool:
    return x.numel() > 0 and fused(x.real if x.is_complex() else x)


def _flat(t: Tensor, front: int, back: int) -> Any:
    """A contiguous array with all axes between the first `front` and the last `back` as one, kept where it is short."""
    middle = t.shape[front : t.ndim - back]
    return (
        t.detach()
        .reshape(*t.shape[:front], middle.numel(), *t.shape[t.ndim - back :])
        .contiguous()
        .resolve_conj()
        .numpy()
    )


def _run(kernel: Any, pieces_of: int, series: int, rows: int, *arrays: Any) -> None:
    from ctlssl.kernels.compiled_scan import PIECE

    pieces = -(-pieces_of // PIECE)
    run_tasks(lambda first, last: kernel(first, last, pieces, *arrays), series * pieces, series * rows * pieces_of)


class _Scan(torch.autograd.Function):
    """The adjoint runs the same recurrence backward in time, so second derivatives are this function again."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        if _compiled(b):
            from ctlssl.kernels.compiled_scan import scan_forward

            arrays, states = (
                (_flat(a, 2, 0), _flat(b, 2, 0), _flat(x, 1, 0)),
                torch.empty_like(b, memory_format=torch.contiguous_format),
            )
            _run(scan_forward, arrays[2].shape[1], *b.shape[:2], *arrays, _flat(states, 2, 0))
        else:
            states = _loop(a, b, x)
        ctx.save_for_backward(a, x, states)
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, x, states = ctx.saved_tensors
        if a.shape[1] == 0:
            return torch.zeros_like(a), torch.zeros_like(states), torch.zeros_like(x)
        if _compiled(states) and not torch.is_grad_enabled():
            from ctlssl.kernels.compiled_scan import scan_back

            found = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (states, states, x)]
            arrays = _flat(a, 2, 0), _flat(x, 1, 0), _flat(states, 2, 0), _flat(grad, 2, 0)
            _run(
                scan_back,
                arrays[1].shape[1],
                *states.shape[:2],
                *arrays,
                *(_flat(t, 2 - (t is found[2]), 0) for t in found),
            )
            return tuple(found)
        later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1).conj()  # a_{k+1}
        adjoint = _Scan.apply(later.flip(1), grad.flip(1), torch.zeros_like(x)).flip(1)
        earlier = torch.cat([x[:, None], states[:, :-1]], dim=1)  # x_{k-1}
        return adjoint * earlier.conj(), adjoint, adjoint[:, 0] * a[:, 0].conj()


def _loop(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    out = torch.empty_like(b)
    for k in range(b.shape[1]):
        x = torch.addcmul(b[:, k], a[:, k], x)
        out[:, k] = x
    return out


class _BlockScan(torch.autograd.Function):
    """As `_Scan`, with matrices in place of factors and their transposes on the way back."""

    @staticmethod
    def forward(ctx: Any, M: Tensor, b: Tensor, x: Tensor) -> Tensor:
        if _compiled(b):
            from ctlssl.kernels.compiled_scan import block_forward

            arrays, states = (
                (_flat(M, 2, 2), _flat(b, 2, 1), _flat(x, 1, 1)),
                torch.empty_like(b, memory_format=torch.contiguous_format),
            )
            _run(block_forward, arrays[2].shape[1], *b.shape[:2], *arrays, _flat(states, 2, 1))
        else:
            states = _block_loop(M, b, x)
        ctx.save_for_backward(M, x, states)
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        M, x, states = ctx.saved_tensors
        if M.shape[1] == 0:
            return torch.zeros_like(M), torch.zeros_like(states), torch.zeros_like(x)
        if _compiled(states) and not torch.is_grad_enabled():
            from ctlssl.kernels.compiled_scan import block_back

            gM, gb, gx = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (M, states, x))
            arrays = _flat(M, 2, 2), _flat(x, 1, 1), _flat(states, 2, 1), _flat(grad, 2, 1)
            _run(
                block_back,
                arrays[1].shape[1],
                *states.shape[:2],
                *arrays,
                _flat(gM, 2, 2),
                _flat(gb, 2, 1),
                _flat(gx, 1, 1),
            )
            return gM, gb, gx
        later = torch.cat([M[:, 1:].mT, torch.zeros_like(M[:, :1])], dim=1)
        adjoint = _BlockScan.apply(later.flip(1), grad.flip(1), torch.zeros_like(x)).flip(1)
        earlier = torch.cat([x[:, None], states[:, :-1]], dim=1)
        return adjoint[..., None] * earlier[..., None, :], adjoint, (M[:, 0].mT @ adjoint[:, 0, ..., None])[..., 0]


def _block_loop(M: Tensor, b: Tensor, x: Tensor) -> Tensor:
    out = torch.empty_like(b)
    for k in range(b.shape[1]):
        x = (M[:, k] @ x[..., None])[..., 0] + b[:, k]
        out[:, k] = x
    return out
