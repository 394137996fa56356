"""The recurrence of a bank of liquid diagonal systems as a torch operator over the fused loops, with its derivatives.

On CPU tensors in float32 and float64 the loops run, in float64 throughout; elsewhere, under torch.compile, and inside
`plain_torch()` the twin does. First derivatives come from the loops, which keep the states at checkpoints and run the
rows between them again; where the graph of a backward pass is kept (create_graph=True) that pass is the twin's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.kernels.liquid_twin import liquid_twin
from ctlssl.kernels.operators import array, fused, operator, register_derivative
from ctlssl.kernels.packing import STRIDE, checkpoints
from ctlssl.kernels.thread_pool import run_tasks

__all__ = ["liquid_bank"]


def liquid_bank(
    u: Tensor,
    kinds: Tensor,
    steps: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    x: Tensor,
    alpha: float,
    exact_form: bool,
    guard: bool,
) -> tuple[Tensor, Tensor]:
    """C x + D u of a bank of H liquid systems, (B, L, H), and the last committed state, (B, H, 2 n).

    Args:
        u: inputs, (B, L, H); those of padding are not read.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        steps: gaps times step sizes, (B, L, H) float64.
        poles: eigenvalues of the pairs, (H, 2 n) float64.
        B: input map, (H, 2 n) float64.
        C: output map, (H, 2 n) float64.
        D: feed-through, (H,) float64.
        x: state before the first row, (B, H, 2 n).
        alpha: of gbt, negative for the exact rule; not read by the exact form.
        exact_form: whether the liquid equation itself is solved, or the paper's step is taken.
        guard: whether the liquid factor is scaled down where the state could grow.
    """
    given = (u, kinds, steps, poles, B, C, D, x, float(alpha), exact_form, guard)
    if not fused(u):
        return liquid_twin(*given)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in given[:8])
    return _liquid(*given, keep)[:2]


def _arrays(given: tuple[Any, ...]) -> tuple[tuple[int, ...], tuple[Any, ...], np.ndarray]:
    """Sizes (L, H, n), what the loops read after them, and the state."""
    u, kinds, steps, poles, B, C, D, x, alpha, exact_form, guard = given
    kind = 2 if exact_form else 0 if alpha >= 0 else 1
    wide = [array(part.double()).ravel() for part in (steps, poles, B, C, D)]
    sizes = (*u.shape[1:], x.shape[2] // 2)
    return sizes, (kind, alpha, guard, array(u.double()).ravel(), array(kinds).ravel(), *wide), array(x.double())


def _run(*given: Any) -> tuple[Tensor, ...]:
    from ctlssl.kernels.compiled_liquid import FACTORS, liquid_forward

    *given, keep = given
    (L, H, n), rest, start = _arrays(tuple(given))
    u, points, x = given[0], checkpoints(L, keep), start.flatten()
    y, kept = np.zeros(u.numel()), np.empty(points * x.size)

    def kernel(first: int, last: int) -> None:
        liquid_forward(first, last, np.zeros(FACTORS * n), L, H, n, *rest, x, y, kept, points)

    run_tasks(kernel, len(u) * H, u.numel() * n * 4)
    shown, end = torch.from_numpy(y).reshape(u.shape), torch.from_numpy(x).reshape(start.shape)
    return shown.to(u.dtype), end.to(given[7].dtype), torch.from_numpy(kept)


def _fake(u, kinds, steps, poles, B, C, D, x, alpha, exact_form, guard, keep):  # noqa: ANN001, ANN202
    kept = x.new_empty(checkpoints(u.shape[1], keep) * x.numel(), dtype=torch.float64)
    return u.new_empty(u.shape), x.new_empty(x.shape), kept


def _run_adjoint(gy: Tensor, gend: Tensor, kept: Tensor, *given: Any) -> list[Tensor]:
    from ctlssl.kernels.compiled_liquid import FACTORS
    from ctlssl.kernels.compiled_liquid_adjoint import liquid_backward

    *given, _ = given
    (L, H, n), rest, start = _arrays(tuple(given))
    tasks, u, points = len(start) * H, given[0], checkpoints(L, True)
    gx, back = array(gend.double()).flatten(), array(gy.double()).ravel()
    gu, gsteps = np.zeros(u.numel()), np.zeros(u.numel())
    gsums, gC, gD = np.zeros(tasks * 4 * n), np.zeros(tasks * 2 * n), np.zeros(tasks)
    places = (array(kept), points, back, gx, gu, gsteps, gsums, gC, gD)

    def kernel(first: int, last: int) -> None:
        rooms = [np.zeros(size) for size in (FACTORS * n, (STRIDE + 1) * 2 * n, STRIDE * 2 * n, 2 * n)]
        liquid_backward(first, last, tuple(rooms), L, H, n, *rest, *places)

    run_tasks(kernel, tasks, u.numel() * n * 8)
    gpoles, gB = np.split(gsums.reshape(-1, H, 4 * n).sum(0), 2, axis=1)  # (H, 2 n)
    found = gu, gsteps, gpoles, gB, gC.reshape(-1, H, 2 * n).sum(0), gD.reshape(-1, H).sum(0), gx
    like = [given[k] for k in _DIFFERENTIABLE]
    return [torch.from_numpy(f.reshape(t.shape)).to(t.dtype) for f, t in zip(found, like, strict=True)]


def _fake_adjoint(  # noqa: ANN202
    gy, gend, kept, u, kinds, steps, poles, B, C, D, x, alpha, exact_form, guard, clocked,  # noqa: ANN001
):  # fmt: skip
    return [t.new_empty(t.shape) for t in (u, steps, poles, B, C, D, x)]


_DIFFERENTIABLE = (0, 2, 3, 4, 5, 6, 7)
_INPUTS = (
    "Tensor u, Tensor kinds, Tensor steps, Tensor poles, Tensor B, Tensor C, Tensor D, Tensor x, float alpha, "
    "bool exact_form, bool guard"
)
_liquid = operator(f"liquid({_INPUTS}, bool keep) -> (Tensor y, Tensor end, Tensor kept)", _run, _fake)
_liquid_adjoint = operator(
    f"liquid_adjoint(Tensor gy, Tensor gend, Tensor kept, {_INPUTS}, bool clocked) -> Tensor[]",
    _run_adjoint,
    _fake_adjoint,
)
register_derivative(_liquid, _liquid_adjoint, liquid_twin, _DIFFERENTIABLE)
