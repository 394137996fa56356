"""Events (time, channel, value): records whose channels have clocks of their own, without a grid that unites them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctlssl.elapsed import check_lengths, check_times, in_length
from ctlssl.event_parts import padded, promoted, repeats
from ctlssl.series import TimeSeries, series_index

__all__ = ["Events"]


@dataclass(frozen=True, eq=False)
class Events:
    """A right-padded batch of event lists in the order of time, checked once when it is made.

    Event ``e`` of series ``b`` says that ``channel[b, e]`` had ``value[b, e]`` at ``times[b, e]``. Events of different
    channels at one time may stand in any order; several of one channel at one time are applied as they stand. From
    ``lengths[b]`` on everything is padding and is never read. Memory is in the number of events, whatever the number of
    channels.

    Args:
        times: (B, E) float64, non-decreasing within each length, in one unit of the user's choice.
        channel: (B, E) integers in 0..channels-1.
        value: (B, E) floating point, finite within each length.
        lengths: (B,) int64, the number of events of each series.
        channels: H, how many channels there are.
        known: (B, E) bool, True for what was decided beforehand (planned treatment): it may act on forecasts although
            it lies later than now. None: nothing was.

    Raises:
        TypeError: a part that is not a tensor, or of a dtype that it cannot have.
        ValueError: shapes that do not belong together, times that go back, channels that do not exist, values that are
            not finite; the message names the series and the position.

    Example:
        >>> events = Events(
        ...     times=torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64),
        ...     channel=torch.tensor([[1, 0, 1]]),
        ...     value=torch.tensor([[7.0, 1.5, 8.0]]),
        ...     lengths=torch.tensor([3]),
        ...     channels=2,
        ... )
        >>> events.to_series().values
        tensor([[[0.0000, 7.0000],
                 [1.5000, 8.0000]]])
    """

    times: Tensor
    channel: Tensor
    value: Tensor
    lengths: Tensor
    channels: int
    known: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("times", "channel", "value", "lengths", "known"):
            part = getattr(self, name)
            if part is not None or name != "known":
                object.__setattr__(self, name, promoted(name, part))
        _check_shapes(self)
        _check_content(self)

    @property
    def batch(self) -> int:
        """The number of series B."""
        return self.times.shape[0]

    @property
    def length(self) -> int:
        """The padded number of events E."""
        return self.times.shape[1]

    @property
    def in_length(self) -> Tensor:
        """Which events are real, (B, E) bool."""
        return in_length(self.lengths, self.length)

    def __len__(self) -> int:
        return self.batch

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Events:
        """The same events on another device, or with values of another floating dtype; times stay float64."""
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"values can only become a floating point dtype, found {dtype}.")
        known = None if self.known is None else self.known.to(device=device)
        value = self.value.to(device=device, dtype=dtype)
        parts = (part.to(device=device) for part in (self.times, self.channel))
        return _unchecked(*parts, value, self.lengths.to(device=device), self.channels, known)

    def select(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> Events:
        """Some of the series, the padding trimmed to the longest of them.

        Args:
            index: positions, a boolean flag per series, or a slice.
        """
        index = series_index(index, self.lengths.device)
        lengths = self.lengths[index]
        longest = slice(0, int(lengths.max()) if lengths.numel() else 0)
        parts = (part[index][:, longest] for part in (self.times, self.channel, self.value))
        known = None if self.known is None else self.known[index][:, longest]
        return _unchecked(*parts, lengths, self.channels, known)

    def part(self, start: int, stop: int) -> Events:
        """Events ``start`` to ``stop`` (excluded) of every series: a chunk of a long record.

        Args:
            start: position of the first event.
            stop: position after the last.
        """
        piece = slice(start, stop)
        room = self.times[:, piece].shape[1]
        known = None if self.known is None else self.known[:, piece]
        lengths = (self.lengths - start).clamp(0, room)
        return _unchecked(
            self.times[:, piece], self.channel[:, piece], self.value[:, piece], lengths, self.channels, known
        )

    @classmethod
    def from_flat(
        cls,
        series: Tensor,
        times: Tensor,
        channel: Tensor,
        value: Tensor,
        channels: int,
        batch: int | None = None,
        known: Tensor | None = None,
    ) -> Events:
        """Events from one long list in any order; those of one series at one time keep the order given.

        Args:
            series: (T,) the series of each event, 0..batch-1.
            times: (T,).
            channel: (T,).
            value: (T,).
            channels: H.
            batch: the number of series; None: as many as are named.
            known: (T,) bool or None.

        Raises:
            TypeError: a list that is not a tensor of its kind.
            ValueError: lists of different lengths, or a series that cannot be.

        Example:
            >>> series, times = torch.tensor([1, 0, 1]), torch.tensor([2.0, 1.0, 0.5])
            >>> events = Events.from_flat(series, times, torch.tensor([0, 0, 1]), torch.rand(3), channels=2)
            >>> events.times.tolist(), events.lengths.tolist()
            ([[1.0, 0.0], [0.5, 2.0]], [1, 2])
        """
        lists = {"series": series, "times": times, "channel": channel, "value": value}
        lists |= {} if known is None else {"known": known}
        for name, part in lists.items():
            lists[name] = promoted(name, part, "channel" if name == "series" else None)
            if part.ndim != 1 or len(part) != len(series):
                raise ValueError(f"{name} must be ({len(series)},) like series, found {tuple(part.shape)}.")
        series = lists.pop("series")
        batch = batch if batch is not None else int(series.max()) + 1 if series.numel() else 0
        if series.numel() and not 0 <= int(series.min()) <= int(series.max()) < batch:
            raise ValueError(f"series must be 0..{batch - 1}, found {int(series.min())} to {int(series.max())}.")
        order = torch.argsort(lists["times"].detach(), stable=True)
        order = order[torch.argsort(series[order], stable=True)]
        parts, lengths = padded({name: part[order] for name, part in lists.items()}, series[order], batch)
        return cls(**parts, lengths=lengths, channels=channels)

    @classmethod
    def from_series(cls, series: TimeSeries) -> Events:
        """Every observed cell of a batch as an event of its own.

        Args:
            series: B series of D channels; the events have as many channels.

        Raises:
            TypeError: series of another kind.
        """
        if not isinstance(series, TimeSeries):
            remedy = "; pass its to_series()" if hasattr(series, "to_series") else ""
            raise TypeError(f"events are made of a TimeSeries, found {type(series).__name__}{remedy}.")
        b, row, channel = (series.observed & series.in_length.unsqueeze(-1)).nonzero(as_tuple=True)  # (T,) each
        parts = {"times": series.times[b, row], "channel": channel, "value": series.values[b, row, channel]}
        parts, lengths = padded(parts, b, series.batch)
        return cls(**parts, lengths=lengths, channels=series.channels)

    def to_series(self) -> TimeSeries:
        """The same records on the grid that unites all channels of a series: B x L x H numbers.

        A channel that has several events at one time has a row for each of them.
        """
        b, place = self.in_length.nonzero(as_tuple=True)  # (T,)
        times, channel = self.times[b, place], self.channel[b, place]
        starts = torch.ones_like(b, dtype=torch.bool)
        starts[1:] = (b[1:] != b[:-1]) | (times[1:] != times[:-1])
        instant = starts.cumsum(0) - 1  # (T,)
        rank = repeats(instant * self.channels + channel)  # (T,) earlier events of the channel at this instant
        depth = int(rank.max()) + 1 if rank.numel() else 1
        rows, row = torch.unique(instant * depth + rank, return_inverse=True)  # in the order of time
        owner = torch.empty_like(rows).scatter_(0, row, b)  # (rows,)
        within = torch.arange(len(rows), device=b.device) - torch.searchsorted(owner, owner)
        lengths = torch.bincount(owner, minlength=self.batch)
        shape = (self.batch, int(lengths.max()) if lengths.numel() else 0)
        cell = b, within[row], channel
        return TimeSeries(
            values=self.value.new_zeros(*shape, self.channels).index_put(cell, self.value[b, place]),
            times=self.times.new_zeros(shape).index_put((b, within[row]), times),
            observed=torch.zeros(*shape, self.channels, dtype=torch.bool, device=b.device).index_put(
                cell, torch.ones_like(b, dtype=torch.bool)
            ),
            lengths=lengths,
        )


def _unchecked(
    times: Tensor, channel: Tensor, value: Tensor, lengths: Tensor, channels: int, known: Tensor | None
) -> Events:
    """Events from parts that are known to be sound."""
    events = object.__new__(Events)
    parts = {"times": times, "channel": channel, "value": value, "lengths": lengths, "known": known}
    for name, part in {**parts, "channels": channels}.items():
        object.__setattr__(events, name, part)
    return events


def _check_shapes(events: Events) -> None:
    if events.times.ndim != 2:
        found = tuple(events.times.shape)
        raise ValueError(f"times must be (B, E), found shape {found}; one series is times[None].")
    for name in ("channel", "value", "known"):
        part = getattr(events, name)
        if part is not None and part.shape != events.times.shape:
            raise ValueError(f"{name} must be {tuple(events.times.shape)} like times, found {tuple(part.shape)}.")
    if isinstance(events.channels, bool) or not isinstance(events.channels, int) or events.channels < 1:
        raise ValueError(f"channels counts the channels, at least 1; found {events.channels!r}.")
    for name in ("channel", "value", "lengths", "known"):
        part = getattr(events, name)
        if part is not None and part.device != events.times.device:
            raise ValueError(f"{name} is on {part.device} but times on {events.times.device}; move them to one device.")


@torch.no_grad()
def _check_content(events: Events) -> None:
    check_lengths(events.lengths, events.batch, events.length)
    inside = events.in_length
    check_times(events.times, inside)
    absent = inside & ((events.channel < 0) | (events.channel >= events.channels))
    if absent.any():
        b, e = absent.nonzero()[0].tolist()
        found = events.channel[b, e].item()
        raise ValueError(f"series {b}, position {e}: channel {found} is not in 0..{events.channels - 1}.")
    bad = inside & ~torch.isfinite(events.value)
    if bad.any():
        b, e = bad.nonzero()[0].tolist()
        raise ValueError(f"series {b}, position {e}: value {events.value[b, e].item()} is not finite; drop the event.")
