"""The first-order linear recurrence x_k = a_k x_{k-1} + b_k, elementwise or with blocks of 2 x 2.

On CPU tensors compiled loops run; elsewhere, under torch.compile, inside `plain_torch()` and for second derivatives
the same in plain torch, a row at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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


def _array(t: Tensor, front: int, back: int) -> np.ndarray:
    """Its numbers, all axes between the first `front` and the last `back` being one."""
    ends = t.shape[t.ndim - back :]
    shape = (*t.shape[:front], t.shape[front : t.ndim - back].numel(), *ends)
    return t.detach().resolve_conj().reshape(shape).contiguous().numpy()


def _run(kernel: Callable, states: Tensor, *arrays: np.ndarray) -> None:
    """A kernel over all series and pieces of the numbers of a row, states being (B, L, ...)."""
    from ctlssl.kernels.compiled_scan import PIECE

    (series, rows), numbers = states.shape[:2], arrays[0].shape[2]
    pieces = -(-numbers // PIECE)
    run_tasks(lambda first, last: kernel(first, last, pieces, *arrays), series * pieces, series * rows * numbers)


def _forward(kernel: Callable, factors: Tensor, b: Tensor, x: Tensor, axes: int) -> Tensor:
    """The states by a compiled kernel, a number having `axes` axes of its own (0, or 1 in a block)."""
    states = torch.empty_like(b, memory_format=torch.contiguous_format)
    given = _array(factors, 2, 2 * axes), _array(b, 2, axes), _array(x, 1, axes)
    _run(kernel, b, *given, _array(states, 2, axes))
    return states


def _backward(kernel: Callable, factors: Tensor, x: Tensor, states: Tensor, grad: Tensor, axes: int) -> tuple:
    """Adjoints of factors, additions and the first state by a compiled kernel."""
    found = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (factors, states, x)]
    given = _array(factors, 2, 2 * axes), _array(x, 1, axes), _array(states, 2, axes), _array(grad, 2, axes)
    places = _array(found[0], 2, 2 * axes), _array(found[1], 2, axes), _array(found[2], 1, axes)
    _run(kernel, states, *given, *places)
    return tuple(found)


class _Scan(torch.autograd.Function):
    """The adjoint runs the same recurrence backward in time, so second derivatives are this function again."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        if _compiled(b):
            from ctlssl.kernels.compiled_scan import scan_forward

            states = _forward(scan_forward, a, b, x, 0)
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

            return _backward(scan_back, a, x, states, grad, 0)
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

            states = _forward(block_forward, M, b, x, 1)
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

            return _backward(block_back, M, x, states, grad, 1)
        later = torch.cat([M[:, 1:].mT, torch.zeros_like(M[:, :1])], dim=1)  # M_{k+1}^T
        adjoint = _BlockScan.apply(later.flip(1), grad.flip(1), torch.zeros_like(x)).flip(1)
        earlier = torch.cat([x[:, None], states[:, :-1]], dim=1)  # x_{k-1}
        return adjoint[..., None] * earlier[..., None, :], adjoint, (M[:, 0].mT @ adjoint[:, 0, ..., None])[..., 0]


def _block_loop(M: Tensor, b: Tensor, x: Tensor) -> Tensor:
    out = torch.empty_like(b)
    for k in range(b.shape[1]):
        x = (M[:, k] @ x[..., None])[..., 0] + b[:, k]
        out[:, k] = x
    return out
