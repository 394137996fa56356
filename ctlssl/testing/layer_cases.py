"""Series for a layer: drawn from a seed, or written down."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["LayerCase", "draw_layer_case"]


@dataclass(frozen=True, eq=False)
class LayerCase:
    """Series that a layer is held to the contract with.

    Args:
        name: how a failure calls it.
        u: inputs, (B, L, C) float64.
        dt: gaps, (B, L) float64, of values that float32 holds.
        lengths: rows of each series, (B,).
        places: before which rows of each series queries are put (the number of rows: at the end), in order.
        seed: of everything else that is drawn.
    """

    name: str
    u: Tensor
    dt: Tensor
    lengths: Tensor
    places: tuple[tuple[int, ...], ...]
    seed: int = 0

    def __str__(self) -> str:
        lengths = self.lengths.tolist()
        return f"{self.name} (batch {len(lengths)}, lengths {lengths}, queries before rows {list(self.places)})"

    @property
    def batch(self) -> int:
        """Number of series B."""
        return self.u.shape[0]

    @property
    def length(self) -> int:
        """Rows L."""
        return self.u.shape[1]

    def generator(self) -> torch.Generator:
        """A generator that starts the same way for every line."""
        return torch.Generator().manual_seed(self.seed)

    def whole(self) -> LayerCase:
        """The same with every series at full length and the queries of the first: for layers without `lengths`."""
        places = tuple(min(place, self.length) for place in self.places[0])
        lengths = torch.full_like(self.lengths, self.length)
        return replace(self, lengths=lengths, places=(places,) * self.batch)

    def first_rows(self, rows: int) -> LayerCase:
        """The same, cut after some rows."""
        places = tuple(tuple(place for place in series if place <= rows) for series in self.places)
        cut = {"u": self.u[:, :rows], "dt": self.dt[:, :rows], "lengths": self.lengths.clamp(max=rows)}
        return replace(self, places=places, **cut)

    def decades(self, low: float, high: float) -> Tensor:
        """Gaps (B, L) from 10^low to 10^high, mixed in each series, of values that float32 holds."""
        draw = self.generator()
        order = torch.stack([torch.randperm(self.length, generator=draw) for _ in range(self.batch)])  # (B, L)
        exponents = torch.linspace(low, high, self.length, dtype=torch.float64)[order]
        return (10.0**exponents).float().double()

    def with_queries(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries among the rows: u (B, R, C), dt (B, R), flags (B, R) and lengths (B,)."""
        draw = self.generator()
        rows = [self._one_with_queries(b, draw) for b in range(self.batch)]
        lengths = torch.tensor([len(flags) for _, _, flags in rows], dtype=torch.int64)
        longest = int(lengths.max()) if len(rows) else 0
        u = torch.zeros(self.batch, longest, self.u.shape[2], dtype=self.u.dtype)
        dt, flags = u.new_ones(self.batch, longest), torch.zeros(self.batch, longest, dtype=torch.bool)
        for b, (inputs, gaps, asked) in enumerate(rows):
            if asked:
                u[b, : len(asked)], dt[b, : len(asked)] = torch.stack(inputs), torch.stack(gaps)
                flags[b, : len(asked)] = torch.tensor(asked)
        return u, dt, flags, lengths

    def _one_with_queries(self, b: int, draw: torch.Generator) -> tuple[list[Tensor], list[Tensor], list[bool]]:
        inputs, gaps, asked = [], [], []
        for k in range(int(self.lengths[b]) + 1):
            for _ in range(self.places[b].count(k)):
                inputs.append(torch.randn(self.u.shape[2], generator=draw).double())
                ahead = self.dt[b, min(k, self.length - 1)]  # until the next observation, if there is one
                gaps.append(ahead * (0.1 + 0.8 * torch.rand((), generator=draw).double()))
                asked.append(True)
            if k < int(self.lengths[b]):
                inputs.append(self.u[b, k])
                gaps.append(self.dt[b, k])
                asked.append(False)
        return inputs, gaps, asked


def draw_layer_case(channels: int, seed: int, index: int, length: int = 9) -> LayerCase:
    """Three ragged series with gaps over four decades.

    Args:
        channels: C.
        seed: of the check.
        index: of the case.
        length: rows L, at least 2.
    """
    own = 1_000_003 * seed + index
    draw = torch.Generator().manual_seed(own)
    u = torch.randn(3, length, channels, generator=draw).double()  # float32 values: one reference for both dtypes
    dt = (10.0 ** (4 * torch.rand(3, length, generator=draw, dtype=torch.float64) - 2)).float().double()
    short = int(torch.randint(1, length, (), generator=draw))
    lengths = torch.tensor([length, short, 0])
    middle = length // 2
    places = ((0, middle, middle, length), (min(1, short), short), (0,))
    return LayerCase(f"case {index} of seed {seed}", u, dt, lengths, places, own)
