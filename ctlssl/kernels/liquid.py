"""The recurrence of a bank of liquid diagonal systems as a torch operator over the fused loops, with its derivatives.

On CPU tensors in float32 and float64 the loops run, in float64 throughout; elsewhere, under torch.compile, and inside
`plain_torch()` the twin does. First derivatives come from the loops, which keep the states at checkpoints and run the
rows between them again; where the graph of a backward pass is kept (create_graph=True) that pass is the twin's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.kernels.liquid_twin import liquid_twin
from ctlssl.kernels.operators import array, fused, operator, register_derivative
from ctlssl.kernels.packing import STRIDE, Sizes, joined, kept_numbers, sizes_of, split, unpack
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


def _arrays(given: Sequence[Any], keep: bool) -> tuple[Sizes, tuple[Any, ...]]:
    """The layout in lanes, and what the loops read after it."""
    u, kinds, steps, poles, B, C, D, x, alpha, exact_form, guard = given
    sizes = sizes_of(*u.shape, 1, x.shape[2] // 2, 8, keep)
    maps = (split(array(part.double()), sizes, np.dtype(float)) for part in (poles, B, C))
    kind = 2 if exact_form else 0 if alpha >= 0 else 1
    rows = (array(u.double()).ravel(), array(kinds).ravel(), array(steps.double()).ravel())
    return sizes, (kind, alpha, guard, *rows, *maps, array(D.double()))


def _rooms(sizes: Sizes, back: bool) -> tuple[np.ndarray, ...]:
    """Places for the rows between two checkpoints: inputs, steps, numbers of channels, sums; adjoints and states."""
    row = STRIDE * sizes.lanes
    lengths = [row, row, STRIDE * max(sizes.together, 1), row]
    lengths += [row, row, 4 * row, 2 * sizes.lanes] if back else []
    return tuple(np.zeros(length) for length in lengths)


def _run(*given: Any) -> tuple[Tensor, ...]:
    from ctlssl.kernels.compiled_liquid import liquid_forward

    *given, keep = given
    sizes, rest = _arrays(given, keep)
    u, x = given[0], given[7]
    states = split(array(x.double()), sizes, np.dtype(float))
    y, kept = np.zeros(u.numel()), np.empty(sizes.checkpoints * states.size)

    def kernel(first: int, last: int) -> None:
        liquid_forward(first, last, _rooms(sizes, False), sizes, *rest, states, y, kept)

    run_tasks(kernel, sizes.series * sizes.blocks, u.numel() * sizes.pairs)
    end = torch.from_numpy(joined(states, sizes, (sizes.series,)))
    return torch.from_numpy(y).reshape(u.shape).to(u.dtype), end.to(x.dtype), torch.from_numpy(kept)


def _fake(u, kinds, steps, poles, B, C, D, x, alpha, exact_form, guard, keep):  # noqa: ANN001, ANN202
    kept = x.new_empty(kept_numbers(x.shape, u.shape[1], 8) if keep else 0, dtype=torch.float64)
    return u.new_empty(u.shape), x.new_empty(x.shape), kept


def _run_adjoint(gy: Tensor, gend: Tensor, kept: Tensor, *given: Any) -> list[Tensor]:
    from ctlssl.kernels.compiled_liquid_adjoint import SUMS, liquid_backward

    *given, _ = given
    sizes, rest = _arrays(given, True)
    u, series, vectors = given[0], sizes.series, sizes.blocks * sizes.vectors
    gx, gD = split(array(gend.double()), sizes, np.dtype(float)), np.zeros((series, sizes.channels))
    gu, gsteps, sums = np.zeros(u.numel()), np.zeros(u.numel()), np.zeros((series, vectors, SUMS, sizes.lanes))
    places = (array(kept), array(gy.double()).ravel(), gx, gu, gsteps, sums.ravel(), gD.ravel())

    def kernel(first: int, last: int) -> None:
        liquid_backward(first, last, _rooms(sizes, True), sizes, *rest, *places)

    run_tasks(kernel, series * sizes.blocks, 4 * u.numel() * sizes.pairs)
    found = unpack(np.moveaxis(sums.sum(0), 1, 0), sizes)  # (SUMS, H, n)
    maps = [np.concatenate([found[part], found[part + 1]], axis=-1) for part in (0, 2, 4)]  # (H, 2 n)
    found = gu, gsteps, *maps, gD.sum(0), joined(gx, sizes, (series,))
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
