"""Arrays for the compiled loops: numpy views of tensors, places for results, sums in a fixed order."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import numpy as np

from ctlssl.kernels import compiled_bank, compiled_bank_adjoint, compiled_multi, compiled_multi_adjoint
from ctlssl.kernels.compiled_diagonal import FOUND, TRACE
from ctlssl.kernels.packing import STRIDE, Sizes, fixed_slots, joined, pack, pole_adjoints, sizes_of, split, unpack
from ctlssl.kernels.thread_pool import run_tasks

__all__ = ["bank", "bank_adjoint", "multi", "multi_adjoint"]

_SLOTS = 32
"""Parts of a batch that sum the gradients of shared parameters by themselves: a number, whatever the threads."""


def _clock(a: SimpleNamespace) -> tuple[np.ndarray, ...]:
    """Gaps, kinds, and the last committed row before each one, -1 where there is none."""
    if a.kinds.shape[1] == 1:
        return a.gaps.ravel(), a.kinds.ravel(), _none_before(a.kinds.size)
    rows = np.where(a.kinds == 1, np.arange(a.kinds.shape[1]), -1)
    before = np.full(rows.shape, -1)
    before[:, 1:] = np.maximum.accumulate(rows, axis=1)[:, :-1]
    return a.gaps.ravel(), a.kinds.ravel(), before.ravel()


@lru_cache(maxsize=16)
def _none_before(series: int) -> np.ndarray:
    return np.full(series, -1)


def _bank_sizes(a: SimpleNamespace, keep: bool) -> Sizes:
    heads, H, N = a.C.shape
    return sizes_of(*a.gaps.shape, H, heads, N // 2, a.u.itemsize, keep)


def _bank_maps(a: SimpleNamespace, sizes: Sizes) -> tuple[np.ndarray, ...]:
    dtype = a.u.dtype
    C = split(a.C, sizes, dtype).reshape(sizes.heads, -1, 2 * sizes.lanes).swapaxes(0, 1)  # (vectors, M, 2 W)
    return (*fixed_slots(a.poles, a.B, sizes, dtype), np.ascontiguousarray(C).ravel(), a.D.ravel())


def _bank_arrays(a: SimpleNamespace, sizes: Sizes) -> tuple[np.ndarray, ...]:
    return (*a.once("bank", lambda: _bank_maps(a, sizes)), a.u.ravel(), a.start.ravel(), *_clock(a))


def _rooms(sizes: Sizes, dtype: np.dtype, back: bool) -> tuple[np.ndarray, ...]:
    """Places for the rows between two checkpoints: drives, numbers of channels, sums; adjoints and states kept."""
    W, M = sizes.lanes, sizes.heads
    lengths = [2 * STRIDE * W, max(STRIDE * sizes.together, 3 * W), M * STRIDE * W]
    lengths += [2 * STRIDE * W, STRIDE * TRACE * W, 2 * W, (FOUND + 2 * M) * W] if back else []
    return tuple(np.zeros(length, dtype) for length in lengths)


def bank(a: SimpleNamespace, keep: bool) -> tuple[np.ndarray, ...]:
    """Y (B, L, H, M), the last state (B, H, 2 n) and checkpoints, flat and none unless they are to be kept.

    Args:
        a: u, start, gaps, kinds, poles, B, C (M, H, 2 n), D, x, hold and alpha, as `diagonal_bank` has them.
        keep: whether a way back will be asked for.
    """
    sizes, dtype = _bank_sizes(a, keep), a.u.dtype
    given, x = _bank_arrays(a, sizes), split(a.x, sizes, dtype)
    y, kept = np.zeros(a.u.size * sizes.heads, dtype), np.empty(sizes.checkpoints * x.size, dtype)

    def kernel(first: int, last: int) -> None:
        rooms = _rooms(sizes, dtype, False)
        compiled_bank.bank_forward(first, last, rooms, sizes, *given, x, a.hold, a.alpha, y, kept)

    run_tasks(kernel, sizes.series * sizes.blocks, a.u.size * sizes.pairs)
    return y.reshape(*a.u.shape, sizes.heads), joined(x, sizes, (sizes.series,)), kept


def _pairs(found: np.ndarray) -> np.ndarray:
    """Sums (2 k, ...) as complex numbers (k, ...); a product with 1j would make NaN of infinity."""
    numbers = np.empty((len(found) // 2, *found.shape[1:]), complex)
    numbers.real, numbers.imag = found[0::2], found[1::2]
    return numbers


def bank_adjoint(a: SimpleNamespace, kept: np.ndarray, gy: np.ndarray, gend: np.ndarray, clocked: bool) -> tuple:
    """Adjoints of u, start, gaps, poles, B, C (M, H, 2 n), D and x; of gaps empty where nobody asks."""
    sizes, dtype = _bank_sizes(a, True), a.u.dtype
    given, gx = _bank_arrays(a, sizes), split(gend, sizes, dtype)
    slots, vectors, heads = min(sizes.series, _SLOTS), sizes.blocks * sizes.vectors, sizes.heads
    gu, gstart, gD = np.zeros_like(a.u), np.zeros_like(a.start), np.zeros((slots, *a.D.shape))
    ggaps = np.zeros((sizes.blocks, *a.gaps.shape) if clocked else (1, 1, 0))
    sums = np.zeros((slots, vectors, FOUND + 2 * heads, sizes.lanes))
    places = gx, gu.ravel(), gstart.ravel(), clocked, ggaps.ravel(), sums.ravel(), gD.ravel()

    def kernel(first: int, last: int) -> None:
        rooms = _rooms(sizes, dtype, True)
        given_back = (*given, a.hold, a.alpha, kept, gy.ravel(), *places)
        compiled_bank_adjoint.bank_backward(first, last, rooms, slots, sizes, *given_back)

    run_tasks(kernel, slots * sizes.blocks, a.u.size * sizes.pairs)
    found = unpack(np.moveaxis(sums.sum(0), 1, 0), sizes)  # (FOUND + 2 M, H, n)
    gpoles, gB = pole_adjoints(_pairs(found[:FOUND]), a.poles, a.B, dtype)
    gC = np.concatenate([found[FOUND::2], found[FOUND + 1 :: 2]], axis=-1)  # (M, H, 2 n)
    gx = joined(gx, sizes, (sizes.series,))
    return gu, gstart, ggaps.sum(0), gpoles, *(part.astype(dtype) for part in (gB, gC, gD.sum(0))), gx


def _in_lanes(pairs: np.ndarray, sizes: Sizes, dtype: np.dtype) -> np.ndarray:
    """Pair arrays (H, 2 n) of one system as rows of lanes, all real parts first, (H, 2 vectors W)."""
    n = sizes.pairs
    halves = [pack(pairs[:, None, part], sizes, dtype).reshape(len(pairs), -1) for part in (slice(n), slice(n, None))]
    return np.concatenate(halves, axis=1)


def _out_of_lanes(lanes: np.ndarray, sizes: Sizes) -> np.ndarray:
    """The way back, (H, 2 n)."""
    halves = np.split(lanes, 2, axis=1)
    return np.concatenate([half[:, : sizes.pairs] for half in halves], axis=1)


def _turned(rows: np.ndarray, width: int) -> np.ndarray:
    """A matrix (H, K) transposed, its rows filled up with zeros, (K, width)."""
    found = np.zeros((rows.shape[1], width), rows.dtype)
    found[:, : len(rows)] = rows.T
    return found


def _multi_arrays(a: SimpleNamespace, keep: bool) -> tuple[Sizes, int, np.ndarray, np.ndarray, tuple, tuple]:
    """The layout, the filled-up number of channels, maps by channel, and the arrays before and after the maps."""
    H, n, dtype = a.u.shape[2], a.poles.shape[-1] // 2, a.u.dtype
    sizes = sizes_of(*a.gaps.shape, 1, 0, n, dtype.itemsize, keep)._replace(channels=H)
    into, out, fixed = a.once("multi", lambda: _multi_maps(a, sizes._replace(channels=1)))
    after = (a.D.ravel(), a.u.ravel(), a.start.ravel(), *_clock(a))
    return sizes, -(-H // sizes.lanes) * sizes.lanes, into, out, fixed, after


def _multi_maps(a: SimpleNamespace, one: Sizes) -> tuple[np.ndarray, np.ndarray, tuple]:
    into, out = _in_lanes(a.B.T, one, a.u.dtype), _in_lanes(a.C, one, a.u.dtype)
    return into, out, fixed_slots(a.poles, _unit(one.pairs), one, a.u.dtype)


def _unit(n: int) -> np.ndarray:
    """The input map of a system whose inputs are B u, (1, 2 n)."""
    return np.concatenate([np.ones((1, n)), np.zeros((1, n))], axis=1)


def _tiles(sizes: Sizes, width: int, dtype: np.dtype, back: bool) -> tuple[np.ndarray, ...]:
    """Places for a tile: inputs, B u, states, outputs, phases; then a vector kept, its state and sums; adjoints."""
    W, states = sizes.lanes, 2 * sizes.vectors * sizes.lanes
    lengths = [(STRIDE + 1) * width, (STRIDE + 1) * states, STRIDE * states, STRIDE * width, 3 * W]
    adjoints = [STRIDE * states, (STRIDE + 1) * states, (STRIDE + 2) * width]
    lengths += [STRIDE * TRACE * W, 2 * W, FOUND * W, *adjoints] if back else []
    return tuple(np.zeros(length, dtype) for length in lengths)


def multi(a: SimpleNamespace, keep: bool) -> tuple[np.ndarray, ...]:
    """Y (B, L, H), the last state (B, 1, 2 n) and checkpoints, as `bank`.

    Args:
        a: u, start, gaps, kinds, poles, B (2 n, H), C (H, 2 n), D, x, hold and alpha, as `diagonal_multi` has them.
        keep: whether a way back will be asked for.
    """
    sizes, width, into, out, fixed, after = _multi_arrays(a, keep)
    dtype, one = a.u.dtype, sizes._replace(channels=1)
    x, y = split(a.x, one, dtype), np.empty(a.u.size, dtype)
    kept = np.empty(sizes.checkpoints * x.size, dtype)
    turned = a.once("turned", lambda: _turned(out, width))
    given = (*fixed, into.ravel(), turned.ravel(), *after)

    def kernel(first: int, last: int) -> None:
        rooms = _tiles(sizes, width, dtype, False)
        compiled_multi.multi_forward(first, last, rooms, sizes, *given, x, a.hold, a.alpha, y, kept)

    run_tasks(kernel, sizes.series, a.u.size * sizes.pairs // 8)
    return y.reshape(a.u.shape), joined(x, one, (sizes.series,)), kept


def multi_adjoint(a: SimpleNamespace, kept: np.ndarray, gy: np.ndarray, gend: np.ndarray, clocked: bool) -> tuple:
    """Adjoints of u, start, gaps, poles, B (2 n, H), C (H, 2 n), D and x; of gaps empty where nobody asks."""
    sizes, width, into, out, fixed, after = _multi_arrays(a, True)
    dtype, slots, one = a.u.dtype, min(sizes.series, _SLOTS), sizes._replace(channels=1)
    gx, gu, gstart = split(gend, one, dtype), np.empty(a.u.size, dtype), np.zeros(a.start.size, dtype)
    ggaps = np.zeros((sizes.vectors, *a.gaps.shape) if clocked else (1, 1, 0))
    sums = np.zeros((slots, sizes.vectors, FOUND, sizes.lanes))
    gB, gC = (np.zeros((slots, width, into.shape[1]), dtype) for _ in range(2))
    gD = np.zeros((slots, width), dtype)
    given = (*fixed, into.ravel(), _turned(into, width).ravel(), out.ravel(), *after, a.hold, a.alpha, kept)
    places = (gx, gu, gstart, clocked, ggaps.ravel(), sums.ravel(), gB.ravel(), gC.ravel(), gD.ravel())

    def kernel(first: int, last: int) -> None:
        rooms = _tiles(sizes, width, dtype, True)
        compiled_multi_adjoint.multi_backward(first, last, rooms, slots, sizes, *given, gy.ravel(), *places)

    run_tasks(kernel, slots, a.u.size * sizes.pairs // 4)
    gpoles, _ = pole_adjoints(_pairs(unpack(np.moveaxis(sums.sum(0), 1, 0), one)), a.poles, _unit(sizes.pairs), dtype)
    H = sizes.channels
    gB, gC = (_out_of_lanes(part.sum(0, dtype=np.float64)[:H], sizes).astype(dtype) for part in (gB, gC))
    gD = gD.sum(0, dtype=np.float64)[:H].astype(dtype)
    gu, gstart = gu.reshape(a.u.shape), gstart.reshape(a.start.shape)
    return gu, gstart, ggaps.sum(0), gpoles, np.ascontiguousarray(gB.T), gC, gD, joined(gx, one, (sizes.series,))
