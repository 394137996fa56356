"""The first-order linear recurrence x_k = a_k x_{k-1} + b_k, elementwise.

On CPU tensors one compiled loop runs, forward and backward; elsewhere, under torch.compile, and inside `plain_torch()`
a loop in torch does. A backward pass whose graph is kept (create_graph=True) is made of the same recurrence backward in
time, so that second derivatives exist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.kernels.operators import array, fused, operator
from ctlssl.kernels.thread_pool import run_tasks

__all__ = ["linear_scan"]


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


def _compiles(a: Tensor, b: Tensor, x: Tensor) -> bool:
    """Whether the compiled loop takes these: one kind of number, one shape."""
    alike = a.dtype == b.dtype == x.dtype and a.shape == b.shape and x.shape == b.shape[:1] + b.shape[2:]
    return alike and fused(b.real if b.is_complex() else b)


def _states(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    if _compiles(a, b, x):
        return _scan(a, b, x)
    out = torch.empty_like(b)
    for k in range(b.shape[1]):
        x = torch.addcmul(b[:, k], a[:, k], x)
        out[:, k] = x
    return out


class _Scan(torch.autograd.Function):
    """The adjoint runs the same recurrence backward in time; this keeps the factors and the states alone."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        states = _states(a, b, x)
        ctx.save_for_backward(a, x, states)
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, x, states = ctx.saved_tensors
        if a.shape[1] == 0:
            return torch.zeros_like(a), torch.zeros_like(states), torch.zeros_like(x)
        if not torch.is_grad_enabled() and _compiles(a, states, x):
            return tuple(_scan_adjoint(a, x, states, grad))
        later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1).conj()  # a_{k+1}
        adjoint = _Scan.apply(later.flip(1), grad.flip(1), torch.zeros_like(x)).flip(1)
        earlier = torch.cat([x[:, None], states[:, :-1]], dim=1)  # x_{k-1}
        return adjoint * earlier.conj(), adjoint, adjoint[:, 0] * a[:, 0].conj()


def _flat(tensor: Tensor) -> np.ndarray:
    """The numbers one after another, complex ones as pairs."""
    tensor = tensor.resolve_conj()
    return array(torch.view_as_real(tensor) if tensor.is_complex() else tensor).ravel()


def _sizes(a: Tensor) -> tuple[int, int, bool]:
    """Rows L, numbers K of a row, and whether they are complex."""
    return a.shape[1], a[0, 0].numel() if a.numel() else 0, a.is_complex()


def _run(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    from ctlssl.kernels.compiled_scan import scan_forward

    states = torch.empty(b.shape, dtype=b.dtype)
    given = (*_sizes(b), *(_flat(part) for part in (a, b, x, states)))
    run_tasks(lambda first, last: scan_forward(first, last, *given), len(b), b.numel())
    return states


def _run_adjoint(a: Tensor, x: Tensor, states: Tensor, grad: Tensor) -> list[Tensor]:
    from ctlssl.kernels.compiled_scan import scan_backward

    found = [torch.empty(a.shape, dtype=a.dtype), torch.empty(a.shape, dtype=a.dtype), torch.zeros_like(x)]
    found[2] = found[2].contiguous()
    given = (*_sizes(a), *(_flat(part) for part in (a, x, states, grad, *found)))
    run_tasks(lambda first, last: scan_backward(first, last, *given), len(a), 2 * a.numel())
    return found


def _fake(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return b.new_empty(b.shape)


def _fake_adjoint(a: Tensor, x: Tensor, states: Tensor, grad: Tensor) -> list[Tensor]:
    return [a.new_empty(a.shape), a.new_empty(a.shape), x.new_empty(x.shape)]


_scan = operator("linear_scan(Tensor a, Tensor b, Tensor x) -> Tensor", _run, _fake)
_scan_adjoint = operator(
    "linear_scan_adjoint(Tensor a, Tensor x, Tensor states, Tensor grad) -> Tensor[]", _run_adjoint, _fake_adjoint
)
