"""What every view takes and gives: the state, the response, and the rows of a batch."""

from __future__ import annotations

import dataclasses
from functools import cached_property
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
        dt: gaps, (B, L) float64, zeros in the padding.
        start: the state before the first row.
        lengths: rows of each series, (B,), or None where there is no padding.
        is_query: rows that leave the state as it was, (B, L), or None where there is none.
    """

    u: Tensor
    dt: Tensor
    start: State
    lengths: Tensor | None
    is_query: Tensor | None

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
        if state is None:
            state = State(u.new_zeros(u.shape[0], system.groups, system.A.N), u.new_zeros(u.shape[0], system.channels))
        return cls.after(state, u, dt, lengths, is_query)

    @classmethod
    def after(
        cls, state: State, u: Tensor, dt: Tensor, lengths: Tensor | None = None, is_query: Tensor | None = None
    ) -> Rows:
        """The rows that follow a state: u (B, L, H), dt (B, L), lengths (B,) and is_query (B, L)."""
        if lengths is not None:
            inside = torch.arange(u.shape[1], device=u.device) < lengths[:, None]  # (B, L)
            u = torch.where(inside[..., None], u, 0)
            dt = torch.where(inside, dt, 0)
        return cls(u, dt, State(state.x.to(u.dtype), state.u.to(u.dtype)), lengths, is_query)

    def part(self, begin: int, end: int, state: State) -> Rows:
        """The rows from `begin` to before `end`, after a state."""
        lengths = None if self.lengths is None else (self.lengths - begin).clamp(0, end - begin)
        is_query = None if self.is_query is None else self.is_query[:, begin:end]
        return Rows(self.u[:, begin:end], self.dt[:, begin:end], state, lengths, is_query)

    @property
    def ragged(self) -> bool:
        """Whether there may be padding."""
        return self.lengths is not None

    @cached_property
    def inside(self) -> Tensor:
        """Rows within the length, (B, L)."""
        B, L, _ = self.u.shape
        if self.lengths is None:
            return torch.ones((), dtype=torch.bool, device=self.u.device).expand(B, L)
        return torch.arange(L, device=self.u.device) < self.lengths[:, None]

    @cached_property
    def commits(self) -> Tensor:
        """Rows that change the state, (B, L): observations within the length."""
        return self.inside if self.is_query is None else self.inside & ~self.is_query

    @property
    def kinds(self) -> Tensor:
        """0 padding, 1 committed, 2 a query, (B, L) uint8."""
        if self.always_commits:
            return torch.ones(self.u.shape[:2], dtype=torch.uint8, device=self.u.device)
        return torch.where(self.commits, 1, torch.where(self.inside, 2, 0)).to(torch.uint8)

    @cached_property
    def held(self) -> Tensor:
        """The input of the last observation before each row, (B, L, H)."""
        place = torch.where(self.commits, torch.arange(1, self.u.shape[1] + 1, device=self.u.device), 0)
        before = torch.nn.functional.pad(place.cummax(1).values, (1, 0))[:, :-1]  # 0 is the state handed in
        inputs = torch.cat([self.start.u[:, None], self.u], dim=1)  # (B, 1 + L, H)
        return inputs.gather(1, before[..., None].expand(-1, -1, self.u.shape[-1]))

    @property
    def last(self) -> Tensor:
        """The input of the last observation, (B, H)."""
        if self.u.shape[1] == 0:
            return self.start.u
        if self.always_commits and not self.start.u.requires_grad:
            return self.u[:, -1].clone()  # a view would keep all rows, and change with them
        place = torch.where(self.commits, torch.arange(1, self.u.shape[1] + 1, device=self.u.device), 0)
        newest = place.amax(1)  # (B,), 0 where there is none
        chosen = self.u.gather(1, (newest - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.u.shape[-1]))[:, 0]
        return torch.where(newest[:, None] > 0, chosen, self.start.u)

    @property
    def always_commits(self) -> bool:
        """Whether there is neither padding nor a query."""
        return self.lengths is None and self.is_query is None


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
