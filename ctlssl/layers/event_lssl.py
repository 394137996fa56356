"""The linear state-space layer that reads events: channels with clocks of their own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from ctlssl import hippo
from ctlssl.discretization import Discretization, Rule, named_method
from ctlssl.events import Events
from ctlssl.holds import IMPULSE, Hold
from ctlssl.layers.event_doors import (
    check_event_queries,
    check_event_state,
    check_not_before,
    read_event_rate,
    read_first,
    read_holds,
    read_now,
)
from ctlssl.layers.event_form import event_states
from ctlssl.layers.event_rows import EventRows, EventState, event_rows
from ctlssl.layers.formation import half_lives
from ctlssl.state_matrices import STRUCTURES, Diagonal, StateMatrix
from ctlssl.state_space import StateSpace, project
from ctlssl.step_size import initial_log_steps

__all__ = ["EventLSSL"]


class EventLSSL(nn.Module):
    r"""One system that reads events (time, channel, value): x' = A x + sum_c B_c u_c(t), y = C x + D u.

    Each event moves x by the time since the last event of any channel, and adds the term of its own channel with the
    time since the last event of that channel as the step of its hold. On a grid where all channels are seen at all
    times the layer is `LSSL(multi_input=True)`, whose parameters it has under the same names. Memory grows with
    events times states, and with outputs at the times that are asked for; never with events times channels.

    Holds: "next" (a value holds back to the channel's own last event), "linear" (a straight line from there), "impulse"
    (a dose), "previous" (a rate that acts from its event on, until it is set anew: an infusion). A query reads the
    state at any time and changes nothing.

    Args:
        channels: inputs H.
        state_size: real state dimensions N.
        outputs: outputs M of a map of its own without D; None: one a channel, with feed-through D of its last value.
        structure: of A; "diagonal" is O(N) an event for every method. The others are O(N) an event for gbt methods,
            and one N x N exponential for every distinct gap, O(N^3), for exact ones.
        measure: start of A: "legs", "legt", "lagt", "fourier"; diagonal also "lin", "inv", "real".
        method: name, rule or `Discretization`; its hold serves where `holds` is None.
        holds: one hold for all channels, or one for each.
        tail: what a channel does from its own last event until the state is read: "zero", nothing, or "held", its last
            value goes on (exact methods).
        step_range: smallest and largest initial step size.
        learn: which of "A", "B", "step" are trained (C and D always are).

    Raises:
        ValueError: unknown names, or options that exclude one another.

    References:
        Smith, Warrington, Linderman (2023), S5, for one system with many inputs. Superposition of the inputs of a
        linear system; Hochbruck, Ostermann (2010), Exponential integrators, for phi functions.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = EventLSSL(channels=3, state_size=8, holds=("next", "impulse", "previous"), outputs=5)
        >>> times = torch.tensor([[0.0, 0.5, 0.5, 2.0]], dtype=torch.float64)
        >>> channel, value = torch.tensor([[0, 1, 2, 0]]), torch.tensor([[1.0, 3.0, 0.2, 1.5]])
        >>> events = Events(times, channel, value, lengths=torch.tensor([4]), channels=3)
        >>> y, state = layer(events, query_times=torch.tensor([[1.0, 9.0]], dtype=torch.float64))
        >>> y.shape, state.times
        (torch.Size([1, 2, 5]), tensor([[2.0000, 0.5000, 0.5000]], dtype=torch.float64))
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 64,
        outputs: int | None = None,
        structure: str = "diagonal",
        measure: str = "legs",
        method: str | Rule | Discretization = "zoh",
        holds: str | Hold | Sequence[str | Hold] | None = None,
        tail: str = "zero",
        step_range: tuple[float, float] = (1e-3, 1e-1),
        learn: Collection[str] = ("A", "B", "step"),
    ) -> None:
        super().__init__()
        _check_options(channels, outputs, structure, learn)
        self.channels, self.state_size, self.outputs = channels, state_size, channels if outputs is None else outputs
        self.structure, self.measure, self.learn = structure, measure, tuple(learn)
        self.method = named_method(method)
        self.holds = read_holds(holds, tail, self.method, channels)
        A, _ = hippo.start(structure, measure, state_size)
        self._matrix_names = tuple(free := A.free())
        for key, value in free.items():
            self._add(f"A_{key}", value, "A" in learn)
        steps = (state_size // 2,) if isinstance(A, Diagonal) else ()
        log_step = initial_log_steps(steps, step_range)
        B = torch.randn(state_size, channels) * channels**-0.5
        # A kick has no length: the start gives it the weight of one unit of time.
        B = torch.where(self._kicks(), B * _per_state(log_step.exp()), B)
        self._add("log_step", log_step, "step" in learn)
        self._add("B", B, "B" in learn)
        self.C = nn.Parameter(torch.randn(self.outputs, state_size) * state_size**-0.5)
        self.D = nn.Parameter(torch.randn(channels)) if outputs is None else None

    def forward(
        self,
        events: Events,
        query_times: Tensor | None = None,
        state: EventState | None = None,
        now: Tensor | float | None = None,
        rate: Tensor | float = 1.0,
        first: Tensor | float = 1.0,
    ) -> tuple[Tensor, EventState]:
        """Outputs at queries or at every event, and the state after the last event.

        An output sees every event of its own time, so that the order of events at one time does not matter.

        Args:
            events: B lists of events.
            query_times: (B, Q) float64, NaN where there is none, in any order; None: an output at every event.
            state: what an earlier call returned; None: nothing has happened.
            now: a time, or one a series (B,): of later events only those that are `known` act, on queries after them
                and not on the state: give them again when they have happened. None: all events act.
            rate: factor of all gaps, a number or one a series (B,).
            first: the own gap of a channel's first event, in the unit of the times, a number or one a series (B,).

        Returns:
            y (B, Q, M) or (B, E, M), zeros where there is no query or event, and the state.

        Raises:
            ValueError: events of other channels, times before the state's last event, shapes that cannot be.
        """
        if not isinstance(events, Events) or events.channels != self.channels:
            found = f"{events.channels} channels" if isinstance(events, Events) else type(events).__name__
            raise ValueError(f"the layer reads Events of {self.channels} channels; found {found}")
        query_times, first = check_event_queries(query_times, events), read_first(first, events)
        now, rate = read_now(now, events, query_times), read_event_rate(rate, events)
        if state is None:
            state = self.initial_state(events.batch)
        else:
            state = check_event_state(state, events.batch, self.state_size, self.channels)
            check_not_before(state, events, query_times, now)
        dtype = torch.promote_types(torch.promote_types(events.value.dtype, self.C.dtype), torch.float32)
        state = state._replace(x=state.x.to(dtype), values=state.values.to(dtype))
        rows = event_rows(events.to(dtype=dtype), query_times, state, now, rate, first)
        with torch.autocast(events.times.device.type, enabled=False):  # half precision would lose the phases
            A, B = self._continuous()
            shown = event_states(A, B, self.method.rule, self.holds, rows, state)  # (B, R, N)
            place = rows.read.unsqueeze(-1).expand(-1, -1, self.state_size)
            y = self._read(shown.gather(1, place), rows, state)
        return torch.where(rows.present.unsqueeze(-1), y, 0), rows.state(state, shown)

    def initial_state(self, batch: int) -> EventState:
        """The state of a number of series to which nothing has happened."""
        never = torch.full((batch, self.channels), torch.nan, dtype=torch.float64, device=self.C.device)
        zeros = self.C.new_zeros
        return EventState(zeros(batch, self.state_size), never.new_full((batch,), torch.nan), never, zeros(never.shape))

    def system(self) -> StateSpace:
        """The continuous system in clock units, float64: A' = step A and B' = step B (B' = B for impulses).

        Raises:
            ValueError: a layer with an output map of its own, whose outputs are not those of its channels.
        """
        if self.D is None:
            raise ValueError("a system has an output a channel: outputs=None")
        A, B = self._continuous()
        return StateSpace(A, B, self.C.double(), self.D.double(), multi_input=True)

    def timescales(self) -> Tensor:
        """Half-lives ln 2 / |Re lambda| of the modes, (1, N) float64, in clock units, ascending; of A alone.

        Example:
            >>> layer = EventLSSL(3, 4, outputs=2, measure="lin", step_range=(0.1, 0.1))
            >>> layer.timescales()  # Re lambda = -1/2 times the step
            tensor([[13.8629, 13.8629, 13.8629, 13.8629]], dtype=torch.float64)
        """
        with torch.no_grad():
            return half_lives(self._continuous()[0], groups=1)

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        holds = sorted(hold.name for hold in self.holds.kinds)
        return (
            f"{self.channels}, state_size={self.state_size}, outputs={self.outputs}, structure={self.structure!r}, "
            f"measure={self.measure!r}, method={self.method.name!r}, holds={'/'.join(holds)}, "
            f"tail={self.holds.tail!r}, learn={self.learn}"
        )

    def _continuous(self) -> tuple[StateMatrix, Tensor]:
        """A and B (N, H) in clock units, float64."""
        free = {name: getattr(self, f"A_{name}").double() for name in self._matrix_names}
        A, step, B = STRUCTURES[self.structure].from_free(free), self.log_step.double().exp(), self.B.double()
        A = A.scale_pairs(step) if step.ndim else A.scale(step)
        return A, torch.where(self._kicks(), B, B * _per_state(step))

    def _read(self, x: Tensor, rows: EventRows, state: EventState) -> Tensor:
        """C x + D u of states (B, K, N), (B, K, M)."""
        y = project(x, self.C.to(x.dtype))
        return y if self.D is None else y + self.D * rows.last_values(state, self._kicks())

    def _kicks(self) -> Tensor:
        """The channels whose events are impulses, (H,) bool."""
        device = self.C.device if "C" in self._parameters else None
        return self.holds.are(IMPULSE, device)

    def _add(self, name: str, value: Tensor, learned: bool) -> None:
        value = value.detach().to(torch.get_default_dtype()).clone()
        self.register_parameter(name, nn.Parameter(value)) if learned else self.register_buffer(name, value)


def _per_state(step: Tensor) -> Tensor:
    """Step sizes shaped to multiply B: one a conjugate pair (N, 1), or one in all."""
    return torch.cat([step, step]).unsqueeze(1) if step.ndim else step


def _check_options(channels: int, outputs: int | None, structure: str, learn: Collection[str]) -> None:
    if channels < 1 or (outputs is not None and outputs < 1):
        raise ValueError(f"channels and outputs must be at least 1; found {channels} and {outputs}")
    if structure not in STRUCTURES:
        raise ValueError(f"unknown structure {structure!r}; choose one of {', '.join(STRUCTURES)}")
    if isinstance(learn, str) or [name for name in learn if name not in ("A", "B", "step")]:
        raise ValueError(f"learn takes any of 'A', 'B', 'step' as a tuple; found {learn!r}")
