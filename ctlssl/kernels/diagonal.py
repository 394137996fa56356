"""The recurrence of a diagonal A as torch operators over the fused loops, with its derivatives.

On CPU tensors in float32 and float64 the loops run; elsewhere, under torch.compile, and inside `plain_torch()` the
twin does. With CTLSSL_TRITON=1 in the environment Triton's kernels run on CUDA tensors: checked in its interpreter, not
yet timed on hardware. First derivatives come from the loops; where the graph of a backward pass is kept
(create_graph=True) that pass is the twin's, so that second derivatives exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from ctlssl.kernels.diagonal_twin import bank_twin, multi_twin
from ctlssl.kernels.fixed_cache import maker_of
from ctlssl.kernels.operators import array, direct, fused, operator, register_derivative
from ctlssl.kernels.packing import kept_numbers
from ctlssl.kernels.triton_diagonal import triton_bank, triton_multi, usable

__all__ = ["diagonal_bank", "diagonal_multi", "diagonal_row"]


def diagonal_bank(
    u: Tensor,
    start: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """C x + D u of a bank of H systems, (B, L, H, M), and the last committed state, (B, H, 2 n).

    Args:
        u: inputs, (B, L, H); those of padding are not read.
        start: the last committed input before the first row, (B, H).
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        poles: eigenvalues of the pairs, (H, 2 n) float64.
        B: input map, (H, 2 n).
        C: output map, (H, M, 2 n).
        D: feed-through, (H, M).
        x: state before the first row, (B, H, 2 n).
        hold: weights (p_F, p_G, n_F, n_G, kick).
        alpha: of gbt; negative for the exact rule.
    """
    given = (u, start, gaps, kinds, poles, B, C, D, x, list(hold), alpha)
    if usable(u):
        return triton_bank(*given)
    if not fused(u):
        return bank_twin(*given)
    if direct(given[:9]):
        return _run_bank(*given, False)[:2]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in given[:9])
    return _bank(*given, keep)[:2]


def diagonal_multi(
    u: Tensor,
    start: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """C x + D u of one system with H inputs, (B, L, H), and the last committed state, (B, 1, 2 n).

    Args:
        u: inputs, (B, L, H); those of padding are not read.
        start: the last committed input before the first row, (B, H).
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        poles: eigenvalues of the pairs, (1, 2 n) float64.
        B: input map, (2 n, H).
        C: output map, (H, 2 n).
        D: feed-through, (H,).
        x: state before the first row, (B, 1, 2 n).
        hold: weights (p_F, p_G, n_F, n_G, kick).
        alpha: of gbt; negative for the exact rule.
    """
    given = (u, start, gaps, kinds, poles, B, C, D, x, list(hold), alpha)
    if usable(u):
        return triton_multi(*given)
    if not fused(u):
        return multi_twin(*given)
    if direct(given[:9]):
        return _run_multi(*given, False)[:2]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in given[:9])
    return _multi(*given, keep)[:2]


@lru_cache(maxsize=64)
def _weights(hold: tuple[float, ...], alpha: float) -> np.ndarray:
    """Weights as the loops read them: the ramp of a gbt rule is alpha times its hold, a kick is the only drive."""
    p_F, p_G, n_F, n_G, kick = hold
    if kick:
        return np.array([0.0, 0.0, kick, 0.0, 1.0])
    if alpha >= 0:
        return np.array([p_F + alpha * p_G, 0.0, n_F + alpha * n_G, 0.0, 0.0])
    return np.array([p_F, p_G, n_F, n_G, 0.0])


def _arrays(tensors: Sequence[Tensor], hold: Sequence[float], alpha: float) -> SimpleNamespace:
    """The arguments as arrays, by name; C of a bank with its heads first; and `once`, for what is made of the maps."""
    u, start, gaps, kinds, *maps, x = tensors
    once = maker_of(maps)
    poles, B, C, D = once("arrays", lambda: _map_arrays(*maps))
    kinds = _one_committed(len(u)) if kinds is None else array(kinds)
    given = {"u": array(u), "start": array(start), "gaps": array(gaps), "kinds": kinds, "x": array(x)}
    weights = _weights(tuple(hold), alpha)
    return SimpleNamespace(**given, poles=poles, B=B, C=C, D=D, hold=weights, alpha=float(alpha), once=once)


@lru_cache(maxsize=16)
def _one_committed(series: int) -> np.ndarray:
    return np.ones((series, 1), np.uint8)


def _map_arrays(poles: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[np.ndarray, ...]:
    return array(poles), array(B), array(C.transpose(0, 1) if C.ndim == 3 else C), array(D)


def diagonal_row(
    u: Tensor,
    start: Tensor,
    gaps: Tensor,
    maps: Sequence[Tensor],
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor] | None:
    """One committed row of what `diagonal_bank` or `diagonal_multi` runs, or None where more than numbers is asked for.

    Args:
        u: inputs, (B, 1, H).
        start: the last committed input, (B, H).
        gaps: (B, 1) float64.
        maps: poles, B, C and D of a bank or of a multi-input system.
        x: state before the row, (B, G, 2 n).
        hold: weights (p_F, p_G, n_F, n_G, kick).
        alpha: of gbt; negative for the exact rule.

    Returns:
        the outputs (B, 1, H, M) or (B, 1, H), and the state after the row.
    """
    if not (fused(u) and direct((u, start, gaps, x))):
        return None
    run = _run_bank if maps[2].ndim == 3 else _run_multi
    return run(u, start, gaps, None, *maps, x, hold, alpha, False)[:2]


def _run_bank(*given):  # noqa: ANN002, ANN202
    from ctlssl.kernels import loops

    *inputs, keep = given
    return tuple(torch.from_numpy(part) for part in loops.bank(_arrays(inputs[:9], *inputs[9:]), keep))


def _fake_bank(u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, keep):  # noqa: ANN001, ANN202
    kept = kept_numbers(x.shape, u.shape[1], u.itemsize) if keep else 0
    return u.new_empty(*u.shape, C.shape[1]), x.new_empty(x.shape), x.new_empty(kept)


def _run_bank_adjoint(gy, gend, kept, *given):  # noqa: ANN001, ANN002, ANN202
    from ctlssl.kernels import loops

    *inputs, clocked = given
    found = loops.bank_adjoint(_arrays(inputs[:9], *inputs[9:]), array(kept), array(gy), array(gend), clocked)
    found = [torch.from_numpy(part) for part in found]
    found[5] = found[5].transpose(0, 1).contiguous()
    return found


def _run_multi(*given):  # noqa: ANN002, ANN202
    from ctlssl.kernels import loops

    *tensors, hold, alpha, keep = given
    return tuple(torch.from_numpy(part) for part in loops.multi(_arrays(tensors, hold, alpha), keep))


def _fake_multi(u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, keep):  # noqa: ANN001, ANN202
    kept = kept_numbers(x.shape, u.shape[1], u.itemsize) if keep else 0
    return u.new_empty(u.shape), x.new_empty(x.shape), x.new_empty(kept)


def _run_multi_adjoint(gy, gend, kept, *given):  # noqa: ANN001, ANN002, ANN202
    from ctlssl.kernels import loops

    *tensors, hold, alpha, clocked = given
    found = loops.multi_adjoint(_arrays(tensors, hold, alpha), array(kept), array(gy), array(gend), clocked)
    return [torch.from_numpy(part) for part in found]


def _fake_adjoint(gy, gend, kept, u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, clocked):  # noqa: ANN001, ANN202
    ggaps = gaps.new_empty(gaps.shape if clocked else (1, 0))
    inputs = u.new_empty(u.shape), start.new_empty(start.shape)
    return [*inputs, ggaps, *(t.new_empty(t.shape) for t in (poles, B, C, D, x))]


_INPUTS = (
    "Tensor u, Tensor start, Tensor gaps, Tensor kinds, Tensor poles, Tensor B, Tensor C, Tensor D, Tensor x, "
    "float[] hold, float alpha"
)
_FORWARD = f"({_INPUTS}, bool keep) -> (Tensor y, Tensor end, Tensor kept)"
_BACKWARD = f"(Tensor gy, Tensor gend, Tensor kept, {_INPUTS}, bool clocked) -> Tensor[]"

_bank = operator("diagonal_bank" + _FORWARD, _run_bank, _fake_bank)
_bank_adjoint = operator("diagonal_bank_adjoint" + _BACKWARD, _run_bank_adjoint, _fake_adjoint)
_multi = operator("diagonal_multi" + _FORWARD, _run_multi, _fake_multi)
_multi_adjoint = operator("diagonal_multi_adjoint" + _BACKWARD, _run_multi_adjoint, _fake_adjoint)
register_derivative(_bank, _bank_adjoint, bank_twin, (0, 1, 2, 4, 5, 6, 7, 8))
register_derivative(_multi, _multi_adjoint, multi_twin, (0, 1, 2, 4, 5, 6, 7, 8))
