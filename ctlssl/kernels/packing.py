"""Diagonal systems dealt to vectors of lanes, and what comes back from these."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

__all__ = [
    "STRIDE",
    "checkpoints",
    "Fixed",
    "Sizes",
    "fixed_slots",
    "joined",
    "kept_numbers",
    "pack",
    "pole_adjoints",
    "sizes_of",
    "split",
    "unpack",
]

STRIDE = 64
"""Rows between two checkpoints of the state."""

_BYTES = 64
_PER_PI = (0.3183098861837907, -1.9678676675182486e-17)  # 1 / pi as a sum


class Sizes(NamedTuple):
    """How a bank lies in lanes: `together` channels of `width` lanes share a vector, or one takes several `vectors`."""

    series: int
    rows: int
    channels: int
    heads: int
    pairs: int
    lanes: int
    blocks: int
    together: int
    width: int
    vectors: int
    checkpoints: int

    @property
    def even(self) -> bool:
        """Whether every lane has an eigenvalue, so that dealing is a transposition."""
        return self.together * self.pairs == self.vectors * self.lanes and self.channels == self.blocks * self.together


class Fixed(NamedTuple):
    """What stays the same over time, flat, vector by vector: the slots of `compiled_diagonal`; half turns in float64.

    `tops` are the largest half turns of each vector, `stills` tells whether one of its eigenvalues counts as 0.
    """

    slots: np.ndarray
    turns64: np.ndarray
    tops: np.ndarray
    stills: np.ndarray


def checkpoints(rows: int, keep: bool) -> int:
    """How many states of a series are kept for the way back."""
    return -(-rows // STRIDE) if keep else 0


def sizes_of(series: int, rows: int, channels: int, heads: int, pairs: int, itemsize: int, keep: bool) -> Sizes:
    """The layout of H channels of n pairs, with checkpoints if they are to be kept."""
    lanes = _BYTES // itemsize
    together = min(max(1, lanes // pairs), channels)
    kept = checkpoints(rows, keep)
    blocks, vectors = -(-channels // together), -(-pairs // lanes)
    width = min(pairs, lanes)
    return Sizes(series, rows, channels, heads, pairs, lanes, blocks, together, width, vectors, kept)


def kept_numbers(state: tuple[int, ...], rows: int, itemsize: int) -> int:
    """How many numbers the checkpoints of states (B, H, 2 n) take."""
    series, channels, states = state
    sizes = sizes_of(series, rows, channels, 0, states // 2, itemsize, True)
    return sizes.checkpoints * series * sizes.blocks * sizes.vectors * 2 * sizes.lanes


def pack(values: np.ndarray, sizes: Sizes, dtype: np.dtype) -> np.ndarray:
    """Numbers of each pair (..., H, n) in lanes (..., vectors of all blocks, W), zeros where there is no pair."""
    front, n = values.shape[:-2], sizes.pairs
    if sizes.even:
        return np.ascontiguousarray(values, dtype).reshape(*front, sizes.blocks * sizes.vectors, sizes.lanes)
    together = np.zeros((*front, sizes.blocks * sizes.together, n), dtype)
    together[..., : sizes.channels, :] = values
    together = together.reshape(*front, sizes.blocks, sizes.together * n)
    room = np.zeros((*front, sizes.blocks, sizes.vectors * sizes.lanes), dtype)
    room[..., : sizes.together * n] = together
    return room.reshape(*front, sizes.blocks * sizes.vectors, sizes.lanes)


def unpack(lanes: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Lanes (..., vectors of all blocks, W) as numbers of each pair (..., H, n)."""
    front, n = lanes.shape[:-2], sizes.pairs
    lanes = lanes.reshape(*front, sizes.blocks, sizes.vectors * sizes.lanes)[..., : sizes.together * n]
    return lanes.reshape(*front, sizes.blocks * sizes.together, n)[..., : sizes.channels, :]


def split(pairs: np.ndarray, sizes: Sizes, dtype: np.dtype) -> np.ndarray:
    """Pair arrays (..., H, 2 n) in lanes, real and imaginary parts of a vector next to each other, flat."""
    if sizes.even:
        halves = pairs.reshape(-1, sizes.together, 2, sizes.vectors, sizes.width)
        return np.array(halves.transpose(0, 3, 2, 1, 4), dtype, order="C").ravel()
    n = sizes.pairs
    return np.stack([pack(pairs[..., part], sizes, dtype) for part in (slice(n), slice(n, None))], axis=-2).ravel()


def joined(flat: np.ndarray, sizes: Sizes, front: tuple[int, ...] = ()) -> np.ndarray:
    """The way back from `split`, (*front, H, 2 n)."""
    if sizes.even:
        lanes = flat.reshape(-1, sizes.vectors, 2, sizes.together, sizes.width).transpose(0, 3, 2, 1, 4)
        return np.array(lanes, order="C").reshape(*front, sizes.channels, 2 * sizes.pairs)
    lanes = flat.reshape(*front, sizes.blocks * sizes.vectors, 2, sizes.lanes)
    return np.concatenate([unpack(lanes[..., part, :], sizes) for part in (0, 1)], axis=-1)


def fixed_slots(poles: np.ndarray, B: np.ndarray, sizes: Sizes, dtype: np.dtype) -> Fixed:
    """From eigenvalues and input maps, pair arrays (H, 2 n)."""
    poles, B = _complex(poles), _complex(B)
    inverse, zero = _inverse(poles, dtype)
    turn, rest = _product(poles.imag, *_PER_PI)
    shown = turn.astype(dtype).astype(np.float64)
    parts = [poles.real / math.log(2), shown, (turn - shown) + rest]
    for z in (poles, B * inverse, B * inverse * inverse, np.where(zero, B, 0), B):
        parts += [z.real, z.imag]
    slots = np.stack([pack(part, sizes, dtype) for part in parts], axis=1)  # (vectors, slots, W)
    turns64 = np.stack([pack(part, sizes, np.float64) for part in (turn, rest)], axis=1)  # (vectors, 2, W)
    stills = pack(zero & (B != 0), sizes, bool).any(-1)
    return Fixed(slots.ravel(), turns64.ravel(), np.abs(turns64[:, 0]).max(-1), stills)


def pole_adjoints(sums: np.ndarray, poles: np.ndarray, B: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Adjoints of the eigenvalues and of B, pair arrays (H, 2 n), from the sums over rows, complex (8, H, n)."""
    poles, B = _complex(poles), _complex(B)
    inverse, zero = _inverse(poles, dtype)
    gpole, gdrive, gsecond, gstill, gstill2, gramp, gthird, ginput = sums
    back, square = inverse.conj(), (inverse * inverse).conj()
    gB = back * gdrive + square * gramp + ginput + np.where(zero, gstill, 0)
    through = square * gsecond + 2 * square * back * gthird + np.where(zero, gstill2, 0)
    return _real(gpole - B.conj() * through), _real(gB)


def _complex(pairs: np.ndarray) -> np.ndarray:
    """Pair arrays (..., 2 n) as complex numbers (..., n)."""
    n = pairs.shape[-1] // 2
    return pairs[..., :n].astype(np.float64) + 1j * pairs[..., n:]


def _real(numbers: np.ndarray) -> np.ndarray:
    return np.concatenate([numbers.real, numbers.imag], axis=-1)


def _inverse(poles: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """1 / lambda, and where lambda counts as 0: there the inverse is 0 too."""
    zero = np.abs(poles) < (1e-14 if np.dtype(dtype) == np.float32 else 1e-25)
    return np.where(zero, 0, 1 / np.where(zero, 1, poles)), zero


def _product(a: np.ndarray, b: float, b_low: float) -> tuple[np.ndarray, np.ndarray]:
    """A (b + b_low) as a sum of two numbers (Dekker's product)."""
    product = a * b
    scale = 134217729.0  # 2^27 + 1
    top = scale * a - (scale * a - a)
    high = scale * b - (scale * b - b)
    error = ((top * high - product) + top * (b - high) + (a - top) * high) + (a - top) * (b - high)
    return product, error + a * b_low
