"""Events and reading times of each series as rows in the order of time, each with its global and its own gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ctlssl.events import Events

__all__ = ["EventRows", "EventState", "event_rows"]


class EventState(NamedTuple):
    """What a later chunk of events goes on from.

    Attributes:
        x: states, (B, N).
        time: time of the last event of each series, (B,) float64; NaN where there was none.
        times: time of the last event of each channel, (B, H) float64; NaN where there was none.
        values: value of the last event of each channel, (B, H), 0 before the first.
    """

    x: Tensor
    time: Tensor
    times: Tensor
    values: Tensor

    def detach(self) -> EventState:
        """The same state without history, for truncated backpropagation."""
        return EventState(*(part.detach() for part in self))


@dataclass(frozen=True, eq=False)
class EventRows:
    """R rows of B series: events, which are committed, and queries, which are not; padding behind.

    Attributes:
        times: (B, R) float64.
        channel: (B, R), 0 where there is no event.
        value: (B, R), 0 where there is no event.
        before: (B, R) the channel's value before the event, 0 where there is none.
        gap: (B, R) float64, since the last event of any channel.
        own: (B, R) float64, since the last event of the same channel.
        acts: (B, R) bool, the events.
        now: (B, R) bool, the events that the state handed on has seen.
        lengths: (B,) rows before the padding.
        read: (B, K) the row that each output reads: every event of its time stands at or before it.
        present: (B, K) bool, which outputs there are.
        at_events: whether the outputs are at the events, not at queries.
    """

    times: Tensor
    channel: Tensor
    value: Tensor
    before: Tensor
    gap: Tensor
    own: Tensor
    acts: Tensor
    now: Tensor
    lengths: Tensor
    read: Tensor
    present: Tensor
    at_events: bool

    def last_values(self, state: EventState, kicks: Tensor) -> Tensor:
        """The value of every channel at each output, (B, K, H); of an impulse only at its own event.

        Args:
            state: before the first row.
            kicks: (H,) bool, the channels whose events are impulses.
        """
        R, H = self.times.shape[1], len(kicks)
        if not R:
            return state.values.unsqueeze(1)[:, :0]
        channels = torch.arange(H, device=kicks.device)
        keys = torch.where(self.acts, self.channel, H) * (R + 1) + torch.arange(R, device=kicks.device)  # (B, R)
        keys, row = keys.sort(1)
        wanted = (channels * (R + 1) + self.read.unsqueeze(-1)).flatten(1)  # (B, K H)
        place = torch.searchsorted(keys, wanted, right=True) - 1
        row = row.gather(1, place.clamp(min=0))
        owner = keys.gather(1, place.clamp(min=0)) // (R + 1)
        found = (place >= 0) & (owner == channels.repeat(self.read.shape[1]))
        values = torch.where(found, self.value.gather(1, row), state.values.repeat(1, self.read.shape[1]))
        values = values.unflatten(1, (-1, H))  # (B, K, H)
        if not kicks.any():
            return values
        still = kicks.expand_as(values)
        if self.at_events:
            times = self.times.detach()
            own = torch.where(found, times.gather(1, row), torch.nan).unflatten(1, (-1, H))
            still = still & (own != times.gather(1, self.read).unsqueeze(-1))
        return torch.where(still, 0, values)

    def state(self, before: EventState, shown: Tensor) -> EventState:
        """The state after the last event that it may see.

        Args:
            before: the state before the first row.
            shown: states at every row, (B, R, N).
        """
        (B, R), H = self.times.shape, before.times.shape[1]
        if not R:
            return before
        rows = torch.arange(R, device=shown.device)
        last = torch.where(self.now, rows, -1).amax(1, keepdim=True)  # (B, 1)
        place = rows.new_full((B, H + 1), -1)
        place = place.scatter_reduce(1, torch.where(self.now, self.channel, H), rows.expand(B, R), "amax")[:, :H]
        any_, each = last.clamp(min=0), place.clamp(min=0)  # (B, 1), (B, H)
        x = shown.gather(1, any_.unsqueeze(-1).expand(-1, -1, shown.shape[-1]))[:, 0]  # (B, N)
        return EventState(
            x=torch.where(last >= 0, x, before.x),
            time=torch.where(last >= 0, self.times.gather(1, any_), before.time.unsqueeze(1))[:, 0],
            times=torch.where(place >= 0, self.times.gather(1, each), before.times),
            values=torch.where(place >= 0, self.value.gather(1, each), before.values),
        )


def event_rows(
    events: Events,
    query_times: Tensor | None,
    state: EventState,
    now: Tensor | None,
    rate: Tensor,
    first: Tensor,
) -> EventRows:
    """Merge events and queries, events first where both stand at one time.

    Args:
        events: B lists.
        query_times: (B, Q) float64, NaN where there is none; None: read at every event.
        state: before the first event.
        now: (B,) float64: later events act on queries only if they are known, and never on the state; None: all act.
        rate: (B, 1) float64, factor of all gaps.
        first: (B, 1) float64, the own gap of a channel's first event, in units of the times.
    """
    inside, E = events.in_length, events.length
    seen = inside if now is None else inside & (events.times.detach() <= now.unsqueeze(1))
    acts = seen if events.known is None else inside & (seen | events.known)
    asked = events.times.new_zeros(events.batch, 0) if query_times is None else query_times
    present = ~asked.detach().isnan()
    given = torch.cat([events.times, torch.where(present, asked, 0)], 1)  # (B, R)
    kept = torch.cat([acts, present], 1)
    _, order = torch.where(kept, given.detach(), torch.inf).sort(dim=1, stable=True)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    kept = kept.gather(1, order)
    acts, seen = (torch.nn.functional.pad(part, (0, asked.shape[1])).gather(1, order) for part in (acts, seen))
    times = torch.where(kept, given.gather(1, order), 0)
    channel = _dealt(events.channel, order, acts)
    value = _dealt(events.value, order, acts)
    gap = _since_any(times, acts, kept, state.time)
    own, before = _since_own(times, channel, value, acts, state, first)
    position = torch.empty_like(order).scatter_(1, order, place)  # (B, R): where each given row went
    read = _group_ends(times.detach(), acts)[:, :E] if query_times is None else position[:, E:]
    return EventRows(
        times=times,
        channel=channel,
        value=value,
        before=before,
        gap=gap * rate,
        own=own * rate,
        acts=acts,
        now=seen,
        lengths=kept.sum(1),
        read=read,
        present=inside if query_times is None else present,
        at_events=query_times is None,
    )


def _dealt(part: Tensor, order: Tensor, acts: Tensor) -> Tensor:
    """What events (B, E) say, at their rows (B, R), 0 elsewhere."""
    room = order.shape[1] - part.shape[1]
    return torch.where(acts, torch.nn.functional.pad(part, (0, room)).gather(1, order), 0)


def _since_any(times: Tensor, acts: Tensor, kept: Tensor, start: Tensor) -> Tensor:
    """Time since the last event before each row, (B, R); 0 before the first of all and in padding."""
    rows = torch.arange(times.shape[1], device=times.device)
    last = torch.where(acts, rows, -1).cummax(1).values if times.shape[1] else torch.where(acts, rows, -1)
    last = torch.nn.functional.pad(last, (1, 0), value=-1)[:, : times.shape[1]]  # strictly before
    start = start.unsqueeze(1)  # (B, 1)
    handed = torch.where(start.isnan(), times, start)
    return torch.where(kept, times - torch.where(last >= 0, times.gather(1, last.clamp(min=0)), handed), 0)


def _since_own(
    times: Tensor, channel: Tensor, value: Tensor, acts: Tensor, state: EventState, first: Tensor
) -> tuple[Tensor, Tensor]:
    """Time since the last event of the same channel (B, R), and its value then."""
    keys = torch.where(acts, channel, state.times.shape[1])  # (B, R)
    keys, order = keys.sort(dim=1, stable=True)
    same = keys[:, 1:] == keys[:, :-1]
    earlier = torch.full_like(order, -1).scatter_(1, order[:, 1:], torch.where(same, order[:, :-1], -1))
    handed = state.times.gather(1, channel)
    then = torch.where(earlier >= 0, times.gather(1, earlier.clamp(min=0)), handed.nan_to_num(0.0))
    never = (earlier < 0) & handed.isnan()
    own = torch.where(acts, torch.where(never, first, times - then), 0)
    before = torch.where(earlier >= 0, value.gather(1, earlier.clamp(min=0)), state.values.gather(1, channel))
    return own, torch.where(acts, before, 0)


def _group_ends(times: Tensor, acts: Tensor) -> Tensor:
    """For rows that are all events: the last one at the time of each, (B, R)."""
    R = times.shape[1]
    rows = torch.arange(R, device=times.device)
    ends = torch.ones_like(acts)
    ends[:, :-1] = (times[:, 1:] != times[:, :-1]) | ~acts[:, 1:]
    return torch.where(ends, rows, R).flip(1).cummin(1).values.flip(1) if R else rows.expand_as(times)
