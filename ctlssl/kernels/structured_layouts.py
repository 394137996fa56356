"""Structures that have fused loops: how the fields of each lie in rows of parameters, and how gradients come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ctlssl.state_matrices import DPLR, Quasiseparable, StateMatrix

__all__ = ["LAYOUTS", "Layout"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One structure. Its fields come as one array (G, F), each flattened, one after the other.

    Args:
        number: what the compiled loops call it.
        build: its state matrix.
        rank: A -> rank of its low-rank part, 0 where there is none.
        shapes: N, rank -> shapes of the fields without the batch.
        order: fields -> the order in which the loops take the states of each group, (G, N).
        rows: N, rank -> R, how many rows of parameters there are.
        pack: fields, order, rows of parameters (G, R) to be filled.
        unpack: fields, order, gradient of the rows (G, R) -> gradients of the fields.
    """

    number: int
    build: type[StateMatrix]
    rank: Callable[[StateMatrix], int]
    shapes: Callable[[int, int], list[tuple[int, ...]]]
    order: Callable[[list[np.ndarray]], np.ndarray]
    rows: Callable[[int, int], int]
    pack: Callable[[list[np.ndarray], np.ndarray, np.ndarray], None]
    unpack: Callable[[list[np.ndarray], np.ndarray, np.ndarray], list[np.ndarray]]


@lru_cache(maxsize=64)
def _ascending(groups: int, N: int) -> np.ndarray:
    return np.broadcast_to(np.arange(N), (groups, N)).copy()


def _as_they_are(fields: list[np.ndarray]) -> np.ndarray:
    return _ascending(*fields[0].shape)


def _pack_quasiseparable(fields: list[np.ndarray], order: np.ndarray, rows: np.ndarray) -> None:
    P, D, Q, lower, diag, upper = fields
    with np.errstate(divide="ignore"):
        parts = (1 / P, 1 / Q, Q, D, lower, diag, upper)
    rows[:, -7:] = 0  # the bands end before the last state
    for k, part in enumerate(parts):
        rows[:, k : 7 * part.shape[1] : 7] = part


def _unpack_quasiseparable(fields: list[np.ndarray], order: np.ndarray, gradient: np.ndarray) -> list[np.ndarray]:
    P, _, Q = fields[:3]
    left, right, _, D, lower, diag, upper = np.moveaxis(gradient.reshape(*P.shape, 7), 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return [-left / P**2, D, -right / Q**2, lower[:, :-1], diag, upper[:, :-1]]


def _smallest_last(fields: list[np.ndarray]) -> np.ndarray:
    """The pair of the smallest eigenvalue changes places with the last."""
    real, imag = fields[:2]
    groups, n = real.shape
    pairs = np.broadcast_to(np.arange(n), real.shape).copy()
    smallest, each = (real**2 + imag**2).argmin(1), np.arange(groups)
    pairs[each, smallest], pairs[:, -1] = n - 1, smallest
    return np.concatenate([pairs, pairs + n], axis=1)


def _pack_dplr(fields: list[np.ndarray], order: np.ndarray, rows: np.ndarray) -> None:
    n, N = fields[0].shape[1], order.shape[1]
    each = np.arange(len(order))[:, None]
    for k, part in enumerate(fields[:2]):
        rows[:, k * n : (k + 1) * n] = part[each, order[:, :n]]
    columns = np.concatenate(fields[2:], axis=2)[each, order]  # (G, N, 2 r)
    for c in range(columns.shape[2]):
        rows[:, (1 + c) * N : (2 + c) * N] = columns[..., c]


def _unpack_dplr(fields: list[np.ndarray], order: np.ndarray, gradient: np.ndarray) -> list[np.ndarray]:
    groups, n = fields[0].shape
    back, rank = order.argsort(1), fields[2].shape[2]
    poles = np.split(gradient[:, : 2 * n], 2, axis=1)
    factors = gradient[:, 2 * n :].reshape(groups, 2, rank, 2 * n).transpose(1, 0, 3, 2)  # (2, G, N, r)
    return [
        *(np.take_along_axis(part, back[:, :n], 1) for part in poles),
        *(np.take_along_axis(part, back[..., None], 1) for part in factors),
    ]


LAYOUTS = {
    "quasiseparable": Layout(
        number=0,
        build=Quasiseparable,
        rank=lambda A: 0,
        shapes=lambda N, rank: [(N,), (N,), (N,), (N - 1,), (N,), (N - 1,)],
        order=_as_they_are,
        rows=lambda N, rank: 7 * N,
        pack=_pack_quasiseparable,
        unpack=_unpack_quasiseparable,
    ),
    "dplr": Layout(
        number=1,
        build=DPLR,
        rank=lambda A: A.P.shape[-1],
        shapes=lambda N, rank: [(N // 2,), (N // 2,), (N, rank), (N, rank)],
        order=_smallest_last,
        rows=lambda N, rank: (1 + 2 * rank) * N,
        pack=_pack_dplr,
        unpack=_unpack_dplr,
    ),
}
