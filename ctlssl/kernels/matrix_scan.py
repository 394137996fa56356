"""The linear recurrence of matrices X_k = M_k X_{k-1} + B_k in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["matrix_scan"]


def matrix_scan(M: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """All states of X_k = M_k X_{k-1} + b_k, one matrix product a step.

    Args:
        M: transitions, (B, L, ..., N, N), real or complex.
        b: additions, (B, L, ..., N, P).
        x: state before the first step, (B, ..., N, P).

    Returns:
        The states X_1 .. X_L, (B, L, ..., N, P).

    Example:
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).expand(1, 3, 2, 2)
        >>> matrix_scan(turn, torch.zeros(1, 3, 2, 1), torch.tensor([[[1.0], [0.0]]])).flatten(2)
        tensor([[[ 0.,  1.],
                 [-1.,  0.],
                 [ 0., -1.]]])
    """
    return _Scan.apply(M, b, x)


def _loop(M: Tensor, b: Tensor, x: Tensor, order: range) -> Tensor:
    """X = M[:, k] X + b[:, k] for k in that order, what stands at k coming to stand at k of the result."""
    out, X = b.new_empty(b.shape[1], x.shape[:-2].numel(), *x.shape[-2:]), x.flatten(0, -3)  # (B ..., N, P)
    for k in order:
        X = torch.baddbmm(b[:, k].flatten(0, -3), M[:, k].flatten(0, -3), X, out=out[k])
    return out.reshape(len(out), *x.shape).transpose(0, 1)


class _Scan(torch.autograd.Function):
    """Autograd through the loop would keep a node a step; this keeps the transitions and the states."""

    @staticmethod
    def forward(M: Tensor, b: Tensor, x: Tensor) -> Tensor:
        return _loop(M, b, x, range(b.shape[1]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[2], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        M, x, states = ctx.saved_tensors
        if M.shape[1] == 0:
            return torch.zeros_like(M), torch.zeros_like(states), torch.zeros_like(x)
        adjoint = _Adjoint.apply(M, grad)
        earlier = torch.cat([x[:, None], states[:, :-1]], dim=1)  # X_{k-1}
        return adjoint @ earlier.mH, adjoint, M[:, 0].mH @ adjoint[:, 0]


class _Adjoint(torch.autograd.Function):
    """G_k = M_{k+1}^H G_{k+1} + g_k from the last step to the first, whose own adjoint is the scan with no start."""

    @staticmethod
    def forward(M: Tensor, g: Tensor) -> Tensor:
        back = range(g.shape[1] - 2, -1, -1)
        G = _loop(M[:, 1:].mH, g[:, :-1], g[:, -1], back)  # (B, L - 1, ..., N, P)
        return torch.cat([G, g[:, -1:]], dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        M, G = ctx.saved_tensors
        states = _Scan.apply(M, grad, torch.zeros_like(grad[:, 0]))
        by_transition = G[:, 1:] @ states[:, :-1].mH
        return torch.cat([torch.zeros_like(M[:, :1]), by_transition], dim=1), states
