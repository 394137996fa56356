"""Arrays for the compiled loops: numpy views of tensors, places for results, sums in a fixed order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ctlssl.kernels import compiled_bank, compiled_lanes, compiled_states
from ctlssl.kernels.compiled_bank import STRIDE
from ctlssl.kernels.compiled_vectors import LANES
from ctlssl.kernels.thread_pool import run_tasks

__all__ = ["bank", "bank_adjoint", "checkpoints", "states", "states_adjoint"]

_SLOTS = 32
"""Parts of a batch that sum the gradients of shared parameters by themselves: a number, whatever the threads."""


def checkpoints(length: int, keep: bool) -> int:
    """How many states of a series are kept for the way back."""
    return -(-length // STRIDE) if keep else 0


def _room(rows: int, heads: int, dtype: Any) -> tuple[np.ndarray, ...]:
    return (
        np.zeros((rows, compiled_lanes.SLOTS), dtype),
        np.zeros(compiled_lanes.FIXED, dtype),
        np.zeros(2 * LANES),
        np.zeros((heads, 2 * LANES), dtype),
    )


def _way_back(heads: int, dtype: Any) -> tuple[np.ndarray, ...]:
    return (
        np.zeros(compiled_lanes.ADJOINTS, dtype),
        np.zeros(STRIDE, np.int64),
        np.zeros((1 + heads, 2 * LANES), dtype),
    )


def _groups(H: int, n: int) -> int:
    return -(-H // max(1, LANES // n))


def bank(a: SimpleNamespace, y: np.ndarray, end: np.ndarray, kept: np.ndarray) -> None:
    """Run a bank forward; a holds u, held, gaps, kinds, poles, B, C (M, H, 2 n), x, hold, alpha."""
    count, L, H = a.u.shape
    n = a.poles.shape[1] // 2

    def kernel(first: int, last: int) -> None:
        room = _room(2, len(a.C), a.B.dtype)
        given = (a.u, a.held, a.gaps, a.kinds, a.poles, a.B, a.C, a.x, a.hold, a.alpha)
        compiled_bank.bank_forward(first, last, *room, *given, y, end, kept)

    run_tasks(kernel, count * _groups(H, n), count * L * H * n)


def bank_adjoint(a: SimpleNamespace, kept: np.ndarray, gy: np.ndarray, gend: np.ndarray, clocked: bool) -> tuple:
    """Adjoints of u, held, gaps, poles, B, C and x; of held and gaps empty where nobody asks."""
    count, L, H = a.u.shape
    heads, n, dtype = len(a.C), a.poles.shape[1] // 2, a.B.dtype
    groups, slots = _groups(H, n), min(count, _SLOTS)
    gu, gx = np.zeros_like(a.u), np.zeros_like(a.x)
    gheld = np.zeros_like(a.u) if a.hold[0] or a.hold[1] else np.zeros((1, 1, 0), dtype)
    ggaps = np.zeros((groups, count, L)) if clocked else np.zeros((1, 1, 0))
    sums = [np.zeros((slots, *shape)) for shape in (a.poles.shape, a.B.shape, a.C.shape)]

    def kernel(first: int, last: int) -> None:
        room = (*_room(STRIDE + 1, heads, dtype), *_way_back(heads, dtype))
        given = (a.u, a.held, a.gaps, a.kinds, a.poles, a.B, a.C, a.hold, a.alpha, kept, gy, gend)
        compiled_bank.bank_backward(first, last, slots, *room, *given, gu, gheld, ggaps, *sums, gx)

    run_tasks(kernel, slots * groups, count * L * H * n)
    gpoles, gB, gC = (part.sum(0) for part in sums)
    return gu, gheld, ggaps.sum(0), gpoles, gB.astype(dtype), gC.astype(dtype), gx


def states(a: SimpleNamespace, shown: np.ndarray, end: np.ndarray, kept: np.ndarray) -> None:
    """Run given drives forward; a holds first, second, gaps, kinds, poles, x, ramp, kick, alpha."""
    count, L = a.gaps.shape
    n = a.poles.shape[1] // 2

    def kernel(first: int, last: int) -> None:
        room = _room(2, 0, a.first.dtype)[:3]
        given = (a.first, a.second, a.gaps, a.kinds, a.poles, a.x, a.ramp, a.kick, a.alpha)
        compiled_states.states_forward(first, last, *room, *given, shown, end, kept)

    run_tasks(kernel, count * -(-n // LANES), count * L * n)


def states_adjoint(a: SimpleNamespace, kept: np.ndarray, gshown: np.ndarray, gend: np.ndarray, clocked: bool) -> tuple:
    """Adjoints of both drives, gaps, poles and x."""
    count, L = a.gaps.shape
    n, dtype = a.poles.shape[1] // 2, a.first.dtype
    parts, slots = -(-n // LANES), min(count, _SLOTS)
    gfirst, gsecond, gx = np.zeros_like(a.first), np.zeros_like(a.second), np.zeros_like(a.x)
    ggaps = np.zeros((parts, count, L)) if clocked else np.zeros((1, 1, 0))
    gpoles = np.zeros((slots, *a.poles.shape))

    def kernel(first: int, last: int) -> None:
        room = (*_room(STRIDE + 1, 0, dtype)[:3], *_way_back(0, dtype)[:2])
        given = (a.first, a.second, a.gaps, a.kinds, a.poles, a.ramp, a.kick, a.alpha, kept, gshown, gend)
        compiled_states.states_backward(first, last, slots, *room, *given, gfirst, gsecond, ggaps, gpoles, gx)

    run_tasks(kernel, slots * parts, count * L * n)
    return gfirst, gsecond, ggaps.sum(0), gpoles.sum(0), gx
