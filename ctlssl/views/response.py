"""What every view takes and gives: the state, the response, and the rows of a batch."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.state_space import StateSpace

__all__ = ["Response", "Rows", "State", "refuse_growth"]


class State(NamedTuple):
    """The state of a layer between two observations.

    Attributes:
        x: states, (B, G, N): one group a channel in a bank, one group in all with multiple inputs.
        u: the last input, (B, H), which a hold may need; zeros before the first.
    """

    x: Tensor
    u: Tensor

    def detach(self) -> State:
        """The same state without history, for truncated backpropagation."""
        return State(self.x.detach(), self.u.detach())


@dataclasses.dataclass(frozen=True, eq=False)
class Response:
    """Outputs of a view.

    Attributes:
        y: outputs, (B, L, H * M), zeros in the padding.
        state: the state after the last observation of each series.
        evaluations: evaluations of A x + B u by a solver; 0 where none ran.
    """

    y: Tensor
    state: State
    evaluations: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A batch made ready for a view: padding silenced, and the last committed input before each row.

    Attributes:
        u: inputs, (B, L, H), zeros in the padding.
        held: input of the last observation before each row, (B, L, H).
        dt: gaps, (B, L) float64, zeros in the padding.
        commits: rows that change the state, (B, L): observations within the length.
        inside: rows within the length, (B, L).
        start: the state before the first row.
        last: input of the last observation, (B, H).
    """

    u: Tensor
    held: Tensor
    dt: Tensor
    commits: Tensor
    inside: Tensor
    start: State
    last: Tensor

    @classmethod
    def of(
        cls,
        system: StateSpace,
        u: Tensor,
        dt: Tensor,
        state: State | None,
        lengths: Tensor | None,
        is_query: Tensor | None,
    ) -> Rows:
        """Read u (B, L, H), dt (B, L), the state handed in, lengths (B,) and is_query (B, L)."""
        B, L, _ = u.shape
        places = torch.arange(L, device=u.device)
        inside = (places < (L if lengths is None else lengths[:, None])).expand(B, L)
        commits = inside if is_query is None else inside & ~is_query
        if lengths is not None:
            u = torch.where(inside[..., None], u, 0)
            dt = torch.where(inside, dt, 0)
        if state is None:
            state = State(u.new_zeros(B, system.groups, system.A.N), u.new_zeros(B, system.channels))
        before = torch.where(commits, places + 1, 0).cummax(1).values  # (B, L), 0 = the state handed in
        inputs = torch.cat([state.u.to(u.dtype)[:, None], u], dim=1)  # (B, 1 + L, H)
        before = torch.cat([before.new_zeros(B, 1), before], dim=1)  # (B, 1 + L)
        committed = inputs.gather(1, before[..., None].expand(-1, -1, u.shape[-1]))
        start = State(state.x.to(u.dtype), state.u.to(u.dtype))
        return cls(u, committed[:, :-1], dt, commits, inside, start, committed[:, -1])


def refuse_growth(system: StateSpace, method: Discretization, rows: Rows, response: Response) -> None:
    """Refuse outputs or states that a rule which is not A-stable has blown up.

    Raises:
        ValueError: naming the largest growth factor of a forward step, max |1 + h lambda|.
    """
    if not method.rule.growing or not rows.u.detach().isfinite().all():
        return
    if not all(part.detach().isfinite().all() for part in (response.y, response.state.x)):
        factor = (1 + rows.dt.detach().max() * system.poles().detach()).abs().max().item()
        raise ValueError(
            f"{method.name} grew without bound: max |1 + h lambda| is {factor:.3g} at the largest gap times the step "
            "size; use a rule with alpha >= 1/2, or zoh"
        )
