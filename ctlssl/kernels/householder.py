"""A matrix memory under Householder steps as a torch operator over compiled loops, with its derivatives.

On CPU tensors in float32 and float64 the loops run; elsewhere, under torch.compile, and inside `plain_torch()` the
twin does, and also the backward pass of a graph that is kept for second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctlssl.kernels.matrix_scan import matrix_scan
from ctlssl.kernels.operators import array, fused, operator, register_derivative
from ctlssl.kernels.packing import STRIDE, checkpoints
from ctlssl.kernels.thread_pool import run_tasks

__all__ = ["householder_memory", "householder_product"]


def householder_memory(
    keys: Tensor, values: Tensor, decays: Tensor, betas: Tensor, queries: Tensor, kinds: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Reads S_k^T q_k of the memories of M heads, (B, L, M, P), and the last committed memories, (B, M, N, P).

    A row scales the memory by its decay and then, for j = 1 .. n, adds beta_j k_j (v_j - S^T k_j)^T to it.

    Args:
        keys: (B, L, M, n, N).
        values: (B, L, M, n, P).
        decays: (B, L, M).
        betas: (B, L, M, n).
        queries: what is read, (B, L, M, N).
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        x: memories before the first row, (B, M, N, P).
    """
    given = (keys, values, decays, betas, queries, kinds, x)
    if not fused(keys):
        return _twin(*given)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return _memory(*given, keep)[:2]


def householder_product(keys: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """The steps of a row as one: the product I - W K^T, (..., N, N), and W, (..., N, n), which writes W V^T.

    Args:
        keys: rows of K^T, (..., n, N).
        betas: (..., n).

    References:
        Bischof, Van Loan (1987), The WY representation for products of Householder matrices.

    Example:
        >>> product, _ = householder_product(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 2.0]))
        >>> product
        tensor([[-1.,  0.],
                [ 0., -1.]])
    """
    n, N = keys.shape[-2:]
    columns: list[Tensor] = []  # of W, the last step's first
    for j in reversed(range(n)):
        column = key = keys[..., j, :]  # (..., N)
        for later, done in zip(range(n - 1, j, -1), columns, strict=True):
            column = column - done * (keys[..., later, :] * key).sum(-1, keepdim=True)
        columns.append(betas[..., j, None] * column)
    W = torch.stack(columns[::-1], dim=-1)
    return torch.eye(N, dtype=keys.dtype, device=keys.device) - W @ keys, W


def _twin(
    keys: Tensor, values: Tensor, decays: Tensor, betas: Tensor, queries: Tensor, kinds: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    product, W = householder_product(keys, betas)
    product, written = decays[..., None, None] * product, W @ values  # (B, L, M, N, N), (B, L, M, N, P)
    commits = (kinds == 1)[..., None, None, None]  # (B, L, 1, 1, 1)
    eye = torch.eye(keys.shape[-1], dtype=x.dtype, device=x.device)
    states = matrix_scan(torch.where(commits, product, eye), torch.where(commits, written, 0), x)
    states = torch.cat([x[:, None], states], dim=1)  # (B, 1 + L, M, N, P)
    seen = torch.where(commits, states[:, 1:], product @ states[:, :-1] + written)
    return (queries[..., None, :] @ seen)[..., 0, :], states[:, -1]


def _run(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    from ctlssl.kernels import compiled_householder

    *inputs, x, keep = given
    found = _fake(*given)
    arrays, results = [array(part) for part in (*inputs, x)], [part.zero_().numpy() for part in found]

    def kernel(first: int, last: int) -> None:
        compiled_householder.forward(first, last, *arrays, *results, STRIDE)

    run_tasks(kernel, x.shape[0] * x.shape[1], inputs[0].shape[1] * x.numel())
    return found


def _fake(keys, values, decays, betas, queries, kinds, x, keep):  # noqa: ANN001, ANN202
    series, length, heads = keys.shape[:3]
    kept = x.new_empty(series, checkpoints(length, keep), *x.shape[1:])
    return x.new_empty(series, length, heads, x.shape[3]), x.new_empty(x.shape), kept


def _run_adjoint(gshown: Tensor, gend: Tensor, kept: Tensor, *rest: Any) -> list[Tensor]:
    from ctlssl.kernels import compiled_householder

    *inputs, x, _ = rest
    found = [torch.zeros(part.shape, dtype=part.dtype) for part in (*inputs[:5], x)]
    arrays = [array(part) for part in (*inputs, kept, gshown, gend)]
    results = [part.numpy() for part in found]

    def kernel(first: int, last: int) -> None:
        compiled_householder.backward(first, last, *arrays, *results, STRIDE)

    run_tasks(kernel, x.shape[0] * x.shape[1], inputs[0].shape[1] * x.numel())
    return found


def _fake_adjoint(  # noqa: ANN202
    gshown, gend, kept, keys, values, decays, betas, queries, kinds, x, clocked  # noqa: ANN001
):  # fmt: skip
    return [part.new_empty(part.shape) for part in (keys, values, decays, betas, queries, x)]


_GIVEN = "Tensor keys, Tensor values, Tensor decays, Tensor betas, Tensor queries, Tensor kinds, Tensor x"
_memory = operator(f"householder({_GIVEN}, bool keep) -> (Tensor shown, Tensor end, Tensor kept)", _run, _fake)
_memory_adjoint = operator(
    f"householder_adjoint(Tensor gshown, Tensor gend, Tensor kept, {_GIVEN}, bool clocked) -> Tensor[]",
    _run_adjoint,
    _fake_adjoint,
)
register_derivative(_memory, _memory_adjoint, _twin, (0, 1, 2, 3, 4, 6))
