r"""The event form: channels with clocks of their own drive one linear system, and no grid unites them.

The system x' = A x + sum_c B_c u_c(t) is linear: what the channels add, they add independently, each with its own hold
between its own events. With F(h) = h phi_1(hA) (a unit input held over a gap h) and G(h) = h phi_2(hA) (a ramp from 0
to 1; both of the rule in use), an event of channel c with value v, its own last value v' a time h ago, and the last
event of any channel a time g ago, takes the state to

    x = Abar(g) x + own,        own = F(h) B_c v                              c holds next
                                      (F(h) - G(h)) B_c v' + G(h) B_c v       c is linear
                                      B_c v                                   c is an impulse.

At one time g = 0, Abar(0) = 1, and the order of the channels does not matter. On a grid where all channels are seen at
all times the own terms of a row add up to those of `LSSL`. With the exact rule the state is that of the differential
equation under every channel's own hold, to rounding, because Abar(g) Abar(h) = Abar(g + h); a gbt rule has no such
property, and has its own order.

An infusion (hold previous) runs on the clock of all: with r_c the rate that channel c has been set to, the drive
w = sum_c B_c r_c is constant from one event to the next of whatever channel, so that the state gains F(g) w in every
gap, and a query a time g after the last event gains it too.

The same w answers what a channel does from its own last event until the state is read, its *tail*. Tail zero: nothing,
its hold is completed by its next event. Tail held: its last value goes on, s = x + sum_c F(t - s_c) B_c v_c with s_c
its last time. Since F(h + g) = Abar(g) F(h) + F(g) (exact rule alone), s needs no sum over channels:

    s = Abar(g) s + F(g) w + jump,      jump = F(h) B_c (v - v')     next
                                               G(h) B_c (v - v')     linear
                                               B_c v                 impulse,        w += B_c (v - v') but for impulses.

Everything costs one row of N numbers an event: `recurrence` runs the products F(h) b as rows that are never committed,
from a zero state, and then the scan with what they give as kicks. Its kernels are those of the layers.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ctlssl.discretization import Discretization, Rule
from ctlssl.holds import IMPULSE, LINEAR, NEXT, PREVIOUS, Hold
from ctlssl.layers.event_rows import EventRows, EventState
from ctlssl.state_matrices import StateMatrix
from ctlssl.state_space import StateSpace
from ctlssl.views import State, recurrence

__all__ = ["ChannelHolds", "event_states"]


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelHolds:
    """What each channel is assumed to do between its own events.

    Args:
        holds: one `Hold` a channel, H of them.
        tail: from a channel's own last event until the state is read: "zero" or "held".
    """

    holds: tuple[Hold, ...]
    tail: str = "zero"

    def are(self, hold: Hold, device: torch.device) -> Tensor:
        """Which channels have this hold, (H,) bool."""
        return torch.tensor([member is hold for member in self.holds], device=device)

    @property
    def kinds(self) -> set[Hold]:
        """The holds that some channel has."""
        return set(self.holds)

    def held(self, device: torch.device) -> Tensor:
        """The channels whose last value goes on acting, (H,) bool."""
        if self.tail == "held":
            return ~self.are(IMPULSE, device)
        return self.are(PREVIOUS, device)


def event_states(
    A: StateMatrix, B: Tensor, rule: Rule, holds: ChannelHolds, rows: EventRows, state: EventState
) -> Tensor:
    """The state that each row shows, (B, R, N).

    Args:
        A: state matrix, per unit of time, float64 preferred.
        B: input map (N, H), per unit of time; of impulses per kick.
        rule: how e^{hA} is computed.
        holds: of the channels.
        rows: events and queries.
        state: before the first row.
    """
    device, dtype = rows.value.device, rows.value.dtype
    columns = B.mT.double()  # (H, N)
    into = embedding(rows.channel, columns)  # (B, R, N)
    space = _of_states(A)
    drive = rows.value.new_zeros(*rows.value.shape, A.N)  # (B, R, N)
    goes_on = holds.held(device)  # (H,)

    def gained(hold: Hold, amount: Tensor, gaps: Tensor) -> Tensor:
        asked = torch.ones_like(rows.acts)
        return recurrence(space, Discretization(rule, hold), amount.to(dtype), gaps, None, rows.lengths, asked).y

    def of(hold: Hold) -> Tensor:
        return holds.are(hold, device)[rows.channel] & rows.acts  # (B, R)

    before, after = rows.before.double(), rows.value.double()  # (B, R)
    change = after - before
    held = holds.tail == "held"
    constant = after.new_zeros(())
    if NEXT in holds.kinds:
        constant = torch.where(of(NEXT), change if held else after, constant)
    if LINEAR in holds.kinds:
        drive = drive + gained(LINEAR, torch.where(of(LINEAR), change, 0).unsqueeze(-1) * into, rows.own)
        constant = constant if held else torch.where(of(LINEAR), before, constant)
    if constant.ndim:
        drive = drive + gained(NEXT, constant.unsqueeze(-1) * into, rows.own)
    if IMPULSE in holds.kinds:
        drive = drive + (torch.where(of(IMPULSE), after, 0).unsqueeze(-1) * into).to(dtype)
    if goes_on.any():
        acts = goes_on[rows.channel] & rows.acts  # (B, R)
        first = torch.where(goes_on, state.values, 0).double()  # (B, H)
        turned = torch.where(acts, (after != 0).long() - (before != 0).long(), 0)  # (B, R)
        on = (first != 0).sum(1, keepdim=True) + turned.cumsum(1) - turned  # (B, R), channels that act until the row
        step = torch.where(acts, change, 0).unsqueeze(-1) * into  # (B, R, N)
        drive = drive + gained(NEXT, _drive_before(first @ columns, step, on > 0), rows.gap)
    kicked = State(state.x.to(dtype).unsqueeze(1), torch.zeros_like(state.x, dtype=dtype))
    method = Discretization(rule, IMPULSE)
    return recurrence(space, method, drive, rows.gap, kicked, rows.lengths, ~rows.acts).y


def _drive_before(start: Tensor, step: Tensor, on: Tensor) -> Tensor:
    """The drive w that is constant until each row, (B, R, N): float64 throughout, since its rounding never fades.

    Args:
        start: before the first row, (B, N).
        step: what each row adds, (B, R, N).
        on: (B, R) bool, whether any channel acts until the row; where none does w is 0 without the sum's rounding.
    """
    total = torch.cat([start.unsqueeze(1), step], 1).cumsum(1)[:, :-1]  # (B, R, N)
    # The value alone is taken off: w still has the gradients of the rates that are 0.
    return total - torch.where(on.unsqueeze(-1), 0, total.detach())


def _of_states(A: StateMatrix) -> StateSpace:
    """The system whose inputs and outputs are the states themselves."""
    eye = torch.eye(A.N, dtype=torch.float64, device=A.device)
    return StateSpace(A, eye, eye, eye.new_zeros(A.N), multi_input=True)
