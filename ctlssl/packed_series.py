"""Series of very different lengths, one after another without padding, and the batches of like length made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctlssl.series import TimeSeries, series_index

__all__ = ["PackedSeries", "like_lengths", "packed_rows"]

_SPARE_SHARE = 0.25
_SPARE_ROWS = 1024
"""Padding that a batch of like length may hold: this share of its rows, and these more. Fewer, larger batches cost less
than the rows of padding they bring."""


def like_lengths(lengths: Tensor) -> list[Tensor]:
    """Positions of series in groups of like length, so that a group padded to its longest holds little padding.

    A group takes the next shorter series as long as its padding stays below 1,024 rows and a quarter of its own, so all
    groups together hold at most 1.25 times the rows, and 1,024 more a group.

    Args:
        lengths: rows of each series, (B,).

    Returns:
        the positions (b,) of each group, each series in one; longest first.

    Example:
        >>> [group.tolist() for group in like_lengths(torch.tensor([10, 90_000, 12, 100_000, 0]))]
        [[3, 1], [2, 0, 4]]
    """
    order = torch.argsort(lengths.cpu(), descending=True, stable=True)
    groups: list[list[int]] = []
    longest = rows = 0
    for series, length in zip(order.tolist(), lengths.cpu()[order].tolist(), strict=True):
        spare = longest * (len(groups[-1]) + 1) - rows - length if groups else 0
        if not groups or spare > _SPARE_ROWS + _SPARE_SHARE * (rows + length):
            groups.append([])
            longest, rows = length, 0
        groups[-1].append(series)
        rows += length
    return [torch.tensor(group, device=lengths.device) for group in groups]


def packed_rows(lengths: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Where the rows of some series lie among those of all, and which of them are rows.

    Args:
        lengths: rows of each series, (B,), which lie one series after another.
        group: positions of some series, (b,).

    Returns:
        place (b, l), of any row in the padding, and inside (b, l) bool.
    """
    ends = lengths.cumsum(0)  # (B,)
    own = lengths[group]  # (b,)
    steps = torch.arange(int(own.max()) if len(own) else 0, device=lengths.device)  # (l,)
    inside = steps < own[:, None]  # (b, l)
    return torch.where(inside, (ends[group] - own)[:, None] + steps, 0), inside


@dataclass(frozen=True, eq=False)
class PackedSeries:
    """Irregular series without padding: the rows of all series one after another, as in a CF contiguous ragged array.

    It stands where a `TimeSeries` does in `Examples`, in `fit`, `predict` and `evaluate`, which run a model over
    batches of like length: one record of 100,000 rows among a thousand of 10 takes the memory of 110,000 rows.

    Args:
        values: (T, D), any content where nothing was observed; T rows in all.
        times: (T,) float64, non-decreasing within each series.
        observed: (T, D) bool, True = seen.
        lengths: (B,) int64, rows of each series, T in all.
        static: (B, S) covariates of the whole series, or None.

    Raises:
        TypeError: as `TimeSeries`.
        ValueError: shapes that do not belong together, and contents as `TimeSeries` refuses them.

    Example:
        >>> packed = PackedSeries(
        ...     values=torch.tensor([[1.0], [2.0], [3.0]]),
        ...     times=torch.tensor([0.0, 0.5, 0.1]),
        ...     observed=torch.ones(3, 1, dtype=torch.bool),
        ...     lengths=torch.tensor([2, 1]),
        ... )
        >>> packed.to_series().times
        tensor([[0.0000, 0.5000],
                [0.1000, 0.0000]], dtype=torch.float64)
    """

    values: Tensor
    times: Tensor
    observed: Tensor
    lengths: Tensor
    static: Tensor | None = None

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_content(self)
        for name, part in _promoted(self).items():
            object.__setattr__(self, name, part)

    @classmethod
    def from_series(cls, series: TimeSeries) -> PackedSeries:
        """The rows of a padded batch without its padding."""
        inside = series.in_length  # (B, L)
        parts = (series.values[inside], series.times[inside], series.observed[inside])
        return cls(*parts, series.lengths, series.static)

    @classmethod
    def of_sound_parts(
        cls, values: Tensor, times: Tensor, observed: Tensor, lengths: Tensor, static: Tensor | None = None
    ) -> PackedSeries:
        """Series from parts that were checked when they were written, as those that lie in files and not in memory."""
        return _unchecked(values, times, observed, lengths, static)

    @property
    def batch(self) -> int:
        """The number of series B."""
        return len(self.lengths)

    @property
    def channels(self) -> int:
        """The number of channels D."""
        return self.values.shape[1]

    def __len__(self) -> int:
        return self.batch

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PackedSeries:
        """The same series on another device, or with values and static covariates of another dtype."""
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"values can only become a floating point dtype, found {dtype}.")
        static = self.static
        return _unchecked(
            self.values.to(device=device, dtype=dtype),
            self.times.to(device=device),
            self.observed.to(device=device),
            self.lengths.to(device=device),
            None if static is None else static.to(device=device, dtype=dtype),
        )

    def select(self, index: Tensor | Sequence[int] | slice) -> PackedSeries:
        """Some of the series, in the order of the index.

        Args:
            index: positions, a boolean flag per series, or a slice.
        """
        chosen = torch.arange(self.batch, device=self.lengths.device)[series_index(index, self.lengths.device)]
        lengths = self.lengths[chosen]
        starts = (self.lengths.cumsum(0) - self.lengths)[chosen]  # (b,)
        own = lengths.cumsum(0) - lengths  # (b,)
        total = int(lengths.sum())
        shift = torch.repeat_interleave(starts - own, lengths, output_size=total)  # (t,)
        place = torch.arange(total, device=shift.device) + shift
        static = None if self.static is None else self.static[chosen]
        return _unchecked(self.values[place], self.times[place], self.observed[place], lengths, static)

    def to_series(self, index: Tensor | Sequence[int] | slice = slice(None)) -> TimeSeries:
        """Some of the series as a padded batch."""
        chosen = torch.arange(self.batch, device=self.lengths.device)[series_index(index, self.lengths.device)]
        place, inside = packed_rows(self.lengths, chosen)  # (b, l)
        values = torch.where(inside[..., None], self.values[place], torch.nan)  # (b, l, D)
        times = torch.where(inside, self.times[place], 0)
        observed = self.observed[place] & inside[..., None]
        static = None if self.static is None else self.static[chosen]
        return TimeSeries(values, times, observed, self.lengths[chosen], static)

    def groups(self) -> Iterator[tuple[Tensor, TimeSeries]]:
        """Padded batches of like length, and the positions (b,) of their series; see `like_lengths`."""
        for group in like_lengths(self.lengths):
            yield group, self.to_series(group)


def _unchecked(values: Tensor, times: Tensor, observed: Tensor, lengths: Tensor, static: Tensor | None) -> PackedSeries:
    """Packed series from parts that are known to be sound, without another pass over the data."""
    packed = object.__new__(PackedSeries)
    parts = {"values": values, "times": times, "observed": observed, "lengths": lengths, "static": static}
    for name, part in parts.items():
        object.__setattr__(packed, name, part)
    return packed


def _check_shapes(packed: PackedSeries) -> None:
    values, lengths, static = packed.values, packed.lengths, packed.static
    for name in ("values", "times", "observed", "lengths"):
        if not isinstance(getattr(packed, name), Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, found {type(getattr(packed, name)).__name__}.")
    if lengths.ndim != 1 or lengths.is_floating_point() or lengths.dtype == torch.bool or (lengths < 0).any():
        raise ValueError(f"lengths must be (B,) integers, none below 0; found {lengths.dtype} {tuple(lengths.shape)}.")
    if values.ndim != 2 or packed.observed.shape != values.shape or packed.times.shape != values.shape[:1]:
        found = ", ".join(f"{name} {tuple(getattr(packed, name).shape)}" for name in ("values", "times", "observed"))
        raise ValueError(f"packed series need values (T, D), times (T,) and observed (T, D); found {found}.")
    if int(lengths.sum()) != len(values):
        raise ValueError(f"lengths sum to {int(lengths.sum())}, but there are {len(values)} rows.")
    if static is not None and (static.ndim != 2 or len(static) != len(lengths)):
        raise ValueError(f"static must be ({len(lengths)}, S), one row per series, found {tuple(static.shape)}.")


@torch.no_grad()
def _check_content(packed: PackedSeries) -> None:
    """What `TimeSeries` refuses, named by series and position."""
    times, first = packed.times, (packed.lengths.cumsum(0) - packed.lengths)[packed.lengths > 0]
    back = torch.diff(times, prepend=times[:1]) < 0  # (T,)
    back[first] = False  # the first row of a series
    faults = {
        "its time is not finite; drop the row": ~torch.isfinite(times),
        "its time is before that of the row above; sort each series by time": back,
        "a value is marked as observed but not finite; correct it, or set observed to False there": (
            (packed.observed == 1) & ~torch.isfinite(packed.values)
        ).any(dim=1),
    }
    for fault, where in faults.items():
        if where.any():
            row = int(where.nonzero()[0])
            series = int((packed.lengths.cumsum(0) > row).nonzero()[0])
            position = row - int(packed.lengths[:series].sum())
            raise ValueError(f"series {series}, position {position}: {fault}.")


def _promoted(packed: PackedSeries) -> dict[str, Tensor | None]:
    """The parts in the dtypes that `TimeSeries` gives them: of every row as a series of its own, and of no rows."""
    rows, lengths = (part[:, None] for part in (packed.values, packed.times, packed.observed)), packed.lengths
    flat = TimeSeries(*rows, torch.ones(len(packed.values), dtype=torch.int64, device=lengths.device))
    none = flat.values.new_zeros(len(lengths), 0, 1)
    whole = TimeSeries(none, none[..., 0].double(), none.bool(), 0 * lengths, packed.static)
    parts = {"values": flat.values[:, 0], "times": flat.times[:, 0], "observed": flat.observed[:, 0]}
    return parts | {"lengths": lengths.to(torch.int64), "static": whole.static}
