"""Arrays for the compiled loops of structured matrices: rows of parameters, eights of systems, fixed sums."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import numpy as np

from ctlssl.kernels import compiled_structured as compiled
from ctlssl.kernels.compiled_structured_lanes import LANES
from ctlssl.kernels.compiled_structured_rows import SKEW, WORK
from ctlssl.kernels.packing import STRIDE
from ctlssl.kernels.structured_layouts import LAYOUTS, Layout
from ctlssl.kernels.structured_shares import shares
from ctlssl.kernels.thread_pool import run_tasks

__all__ = ["Given", "recurrence", "recurrence_adjoint"]


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """Arguments of a recurrence as float64 arrays: B (G, N) and C (G, M, N), or None where inputs are drives."""

    inputs: np.ndarray
    x: np.ndarray
    gaps: np.ndarray
    kinds: np.ndarray
    joined: np.ndarray
    B: np.ndarray | None
    C: np.ndarray | None
    structure: str
    rank: int
    kick: bool
    alpha: float

    @property
    def layout(self) -> Layout:
        """The structure's entry in the table."""
        return LAYOUTS[self.structure]

    @cached_property
    def fields(self) -> list[np.ndarray]:
        """Fields of A, (G, ...)."""
        parts, begin = [], 0
        for shape in self.layout.shapes(self.x.shape[2], self.rank):
            end = begin + math.prod(shape)
            parts.append(self.joined[:, begin:end].reshape(len(self.joined), *shape))
            begin = end
        return parts

    @property
    def heads(self) -> int:
        """Outputs of a group; 0 where states are shown."""
        return 0 if self.C is None else self.C.shape[1]

    @cached_property
    def order(self) -> np.ndarray:
        """Order of the states in the loops, (G, N)."""
        return self.layout.order(self.fields)

    @cached_property
    def table(self) -> np.ndarray:
        """Rows of parameters of each group, (G, R)."""
        groups, N = self.order.shape
        table = np.empty((groups, self.fixed + bool(self.heads) * (1 + self.heads) * N))
        self.layout.pack(self.fields, self.order, table[:, : self.fixed])
        if self.heads:
            each = np.arange(groups)[:, None]
            table[:, self.fixed : self.fixed + N] = self.B[each, self.order]
            for m in range(self.heads):
                begin = self.fixed + (1 + m) * N
                table[:, begin : begin + N] = self.C[:, m][each, self.order]
        return table

    @property
    def fixed(self) -> int:
        """Where B begins in the table."""
        return self.layout.rows(self.x.shape[2], self.rank)

    def room(self, parameters: int, records: int) -> tuple[np.ndarray, int]:
        """Working place of one thread, and where the records begin in it."""
        N, rank = self.x.shape[2], self.rank
        small = 5 * N + rank * (1 + rank) + (2 + rank) * (3 + rank)
        begin = parameters * self.table.shape[1] + compiled.CLOCK + WORK * (N + SKEW) + small
        size = (begin + records * (3 * N + rank) + N) * LANES
        room = np.zeros(size + LANES)
        skip = -room.ctypes.data % 64 // 8  # a row is then one line of the cache
        return room[skip : skip + size], begin

    def leading(self) -> tuple:
        """The first arguments of both loops."""
        return self.layout.number, self.rank, self.heads, self.fixed, self.alpha, self.kick, STRIDE


def recurrence(a: Given, y: np.ndarray, end: np.ndarray, kept: np.ndarray) -> None:
    """Run forward: y (B, L, G, M) or states (B, L, G, N), end (B, G, N) and kept (B, tiles, G, N) are filled."""
    count, L, groups = a.inputs.shape[:3]
    items, counts, bounds, _ = shares(count, groups)
    leading, table = a.leading(), a.table

    def kernel(first: int, last: int) -> None:
        given = (items, counts, bounds, table, a.order, a.inputs, a.gaps, a.kinds, a.x)
        compiled.forward(first, last, *leading, *a.room(1, 1), *given, y, end, kept)

    run_tasks(kernel, len(bounds) - 1, count * L * groups * a.x.shape[2])


def recurrence_adjoint(a: Given, kept: np.ndarray, gy: np.ndarray, gend: np.ndarray, clocked: bool) -> list[np.ndarray]:
    """Adjoints of inputs, x, gaps (empty where nobody asks), fields, B and C."""
    count, L, groups = a.inputs.shape[:3]
    items, counts, bounds, parts = shares(count, groups)
    ginputs, gx = np.zeros_like(a.inputs), np.zeros_like(a.x)
    ggaps = np.zeros((count, L, groups) if clocked else (1, 0, 0))
    leading, table = a.leading(), a.table
    gtable = np.zeros((1 + max(parts, default=0), *table.shape))

    def kernel(first: int, last: int) -> None:
        given = (items, counts, bounds, parts, table, a.order, a.inputs, a.gaps, a.kinds, kept, gy, gend)
        results = (ginputs, ggaps, gtable, gx)
        compiled.backward(first, last, *leading, *a.room(2, min(L, STRIDE)), *given, *results)

    run_tasks(kernel, len(bounds) - 1, count * L * groups * a.x.shape[2])
    sums = gtable.sum(0)  # (G, R)
    fields = a.layout.unpack(a.fields, a.order, sums[:, : a.fixed])
    joined = np.concatenate([field.reshape(groups, -1) for field in fields], axis=1)
    return [ginputs, gx, ggaps.sum(-1), joined, *_maps(a, sums)]


def _maps(a: Given, sums: np.ndarray) -> list[np.ndarray]:
    """Gradients of B and C from the rows of parameters."""
    if not a.heads:
        return [np.zeros(0), np.zeros(0)]
    rows = sums[:, a.fixed :].reshape(len(sums), 1 + a.heads, -1)
    rows = np.take_along_axis(rows, a.order.argsort(1)[:, None], 2)  # (G, 1 + M, N)
    return [rows[:, 0], rows[:, 1:]]
