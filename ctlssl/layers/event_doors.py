"""The public door of the event form: what may come in beside the events, and what is said when something else does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctlssl.discretization import Discretization, exact
from ctlssl.events import Events
from ctlssl.holds import HOLDS, IMPULSE, PREVIOUS, Hold
from ctlssl.layers.event_form import ChannelHolds
from ctlssl.layers.event_rows import EventState

__all__ = [
    "check_event_queries",
    "check_event_state",
    "check_not_before",
    "read_event_rate",
    "read_first",
    "read_holds",
    "read_now",
]


def read_holds(
    holds: str | Hold | Sequence[str | Hold] | None, tail: str, method: Discretization, channels: int
) -> ChannelHolds:
    """The hold of each channel: that of the method, one for all, or one each.

    Raises:
        ValueError: an unknown name, a wrong number of them, or a rule that cannot follow a held tail.
    """
    named = method.hold if holds is None else holds
    each = [named] * channels if isinstance(named, str | Hold) else list(named)
    if len(each) != channels:
        raise ValueError(f"holds need one for all or one for each of the {channels} channels; found {len(each)}")
    members = tuple(member if isinstance(member, Hold) else HOLDS.get(member) for member in each)
    wrong = [given for given, member in zip(each, members, strict=True) if member not in HOLDS.values()]
    if wrong:
        raise ValueError(f"unknown hold {wrong[0]!r}; choose one of {', '.join(HOLDS)}")
    if tail not in ("zero", "held"):
        raise ValueError(f"tail says what a channel does after its own last event, 'zero' or 'held'; found {tail!r}")
    if tail == "held" and method.rule != exact and set(members) - {IMPULSE, PREVIOUS}:
        raise ValueError(
            f"tail='held' needs an exact rule (zoh, foh): {method.rule.name} over two gaps is not {method.rule.name} "
            "over their sum, so what a channel has held cannot be followed on the clock of all; use tail='zero'"
        )
    return ChannelHolds(members, tail)


def check_event_queries(query_times: Tensor | None, events: Events) -> Tensor | None:
    """Query times (B, Q), finite or NaN."""
    if query_times is None:
        return None
    if not isinstance(query_times, Tensor) or query_times.dtype != torch.float64:
        found = query_times.dtype if isinstance(query_times, Tensor) else type(query_times).__name__
        raise ValueError(f"query_times need a float64 tensor, NaN where there is none; found {found}")
    if query_times.ndim != 2 or len(query_times) != events.batch:
        raise ValueError(f"query_times need shape ({events.batch}, queries); found {tuple(query_times.shape)}")
    if (infinite := query_times.detach().isinf()).any():
        series, position = infinite.nonzero()[0].tolist()
        raise ValueError(f"series {series}, query {position}: the time is infinite; use NaN where there is no query")
    return query_times


def read_now(now: Tensor | float | None, events: Events, query_times: Tensor | None) -> Tensor | None:
    """The time of each series after which only known events act, (B,) float64."""
    if now is None:
        return None
    if query_times is None:
        raise ValueError("now divides what was read from what is planned, for queries later than it: give query_times")
    now = _float64("now", now, events)
    if tuple(now.shape) not in ((), (events.batch,)) or not now.isfinite().all():
        raise ValueError(f"now needs a finite number or one a series, ({events.batch},); found {now!r:.80}")
    return now.expand(events.batch)


def read_event_rate(rate: Tensor | float, events: Events) -> Tensor:
    """The factor of all gaps, (B, 1) float64."""
    rate = _float64("rate", rate, events)
    if tuple(rate.shape) not in ((), (events.batch,)):
        raise ValueError(f"rate needs to be a number or one a series, ({events.batch},); found {tuple(rate.shape)}")
    if not bool(((rate > 0) & rate.isfinite()).all()):
        raise ValueError("rate multiplies elapsed times: it must be positive and finite")
    return rate.expand(events.batch).unsqueeze(1)


def read_first(first: Tensor | float, events: Events) -> Tensor:
    """The own gap of a channel's first event, (B, 1) float64."""
    gap = _float64("first", first, events)
    if tuple(gap.shape) not in ((), (events.batch,)) or not bool(((gap >= 0) & gap.isfinite()).all()):
        raise ValueError(
            f"first is the gap of a channel's first event: a number of at least 0, or one a series, "
            f"({events.batch},); found {first!r:.80}"
        )
    return gap.expand(events.batch).unsqueeze(1)


def check_event_state(state: EventState, batch: int, states: int, channels: int) -> EventState:
    """A state that belongs to this layer and batch."""
    parts = EventState._fields
    if not (isinstance(state, tuple) and len(state) == len(parts) and all(isinstance(part, Tensor) for part in state)):
        raise ValueError(f"state needs what forward or initial_state returned; found {type(state).__name__}")
    expected = {"x": (batch, states), "time": (batch,), "times": (batch, channels), "values": (batch, channels)}
    for (name, shape), part in zip(expected.items(), state, strict=True):
        if tuple(part.shape) != shape:
            raise ValueError(f"state needs {name} of shape {shape}; found {tuple(part.shape)}")
    return EventState(*state)


@torch.no_grad()
def check_not_before(state: EventState, events: Events, query_times: Tensor | None, now: Tensor | None) -> None:
    """Refuse events, queries and a now that are earlier than the last event of the state handed in."""
    start = state.time.unsqueeze(1)  # (B, 1)
    times = {"event": torch.where(events.in_length, events.times, torch.inf)}
    times |= {} if query_times is None else {"query": query_times}
    times |= {} if now is None else {"now,": now.unsqueeze(1)}
    for kind, given in times.items():
        early = given < start
        if early.any():
            series, position = early.nonzero()[0].tolist()
            raise ValueError(
                f"series {series}: {kind} {position} at {given[series, position].item()} is earlier than "
                f"{start[series, 0].item()}, the last event of the state; go on from an earlier state"
            )


def _float64(name: str, number: Tensor | float, events: Events) -> Tensor:
    try:
        return torch.as_tensor(number, dtype=torch.float64, device=events.times.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} needs real numbers; found {number!r:.60}") from error
