"""What every layer that steps from row to row with its own clock has in common, beside the mathematics of its step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ctlssl.layers.inputs import (
    check_inputs,
    check_lengths,
    check_queries,
    check_state,
    full_precision,
    one_column,
    read_gaps,
)
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.packed import run_packed
from ctlssl.layers.single_rows import check_one_row, own_state, peek_rows
from ctlssl.views import Integration, State
from ctlssl.views.response import Rows

__all__ = ["RecurrentLayer"]

_PIECE, _SHORTEST = 2**17, 16
"""Numbers of one coefficient of all rows of a piece, and the fewest rows that a piece has."""


class RecurrentLayer(nn.Module, ABC):
    r"""A layer of irregular series that goes through time step by step, called as `LSSL` is.

    A member has `log_step`, the logarithms of the step sizes that gaps are multiplied by, the shape of its state, what
    one pass over the rows gives, and that pass as a linear recurrence. Doors, queries, padding, chunks, `step` and
    `peek` are here.

    Attributes:
        channels: inputs H.
        log_step: logarithms of the step sizes, any shape.
        views: names of the views that the layer has.
        bidirectional: False: every member is causal.
        growing: whether a step may grow without bound at large gaps.
        dynamics: names of the parameters that make the flow between events; small changes of these change the layer
            much, so `fit` lets them learn at `dynamics_rate` and does not decay them.
        fastest_rate: the largest |eigenvalue| in units of the clock, where the layer is growing.
    """

    channels: int
    log_step: Tensor
    views: tuple[str, ...] = ("recurrence",)
    bidirectional: bool = False
    growing: bool = False
    dynamics: frozenset[str] = frozenset()
    fastest_rate: float | None = None

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Of one series' state."""

    @property
    def held_shape(self) -> tuple[int, ...]:
        """Of what one series holds of its inputs: the last one."""
        return (self.channels,)

    @abstractmethod
    def _run(self, rows: Rows, view: str | Integration) -> tuple[Tensor, Tensor]:
        """Outputs (B, L, O), whatever they are in the padding, and the state after the last committed row."""

    @abstractmethod
    def linear_form(self, rows: Rows) -> LinearForm:
        """What `_run` gives for committed rows without padding, as matrices of each row: see `as_recurrence`."""

    def forward(
        self,
        u: Tensor,
        dt: Tensor | float | None = None,
        lengths: Tensor | None = None,
        state: State | None = None,
        is_query: Tensor | None = None,
        rate: Tensor | float = 1.0,
        view: str | Integration = "auto",
    ) -> tuple[Tensor, State]:
        """Outputs at every row, and the state after the last observation.

        Args:
            u: inputs, (B, L, H); the content of padding is never read.
            dt: time since the previous observation, in units of the clock: None (= 1), a number, (L,) or (B, L).
                Of a query: time since the last observation before it.
            lengths: rows of each series, (B,); L if None.
            state: what an earlier call returned; the initial state if None.
            is_query: rows that are answered but leave the state untouched, (B, L) or (L,), boolean.
            rate: factor of all gaps, a number or one a series (B,).
            view: "auto", which is the recurrence, one of `views`, or an `Integration` with its tolerances.

        Returns:
            y (B, L, O), zeros in the padding, and the state.

        Raises:
            ValueError: shapes, gaps or lengths that cannot be, or a view that the layer does not have.
        """
        rows = self.read_rows(u, dt, lengths, state, is_query, rate)
        if ("integration" if isinstance(view, Integration) else view) not in ("auto", *self.views):
            raise ValueError(f"{type(self).__name__} has the views auto, {', '.join(self.views)}; found {view!r}")
        with full_precision(u.device.type):
            y, x, held = self._in_pieces(rows) if view in ("auto", "recurrence") else self._piece(rows, view)
        if rows.ragged:
            y = torch.where(rows.inside[..., None], y, 0)  # (B, L, O)
        return y, State(x, held)

    def read_rows(
        self,
        u: Tensor,
        dt: Tensor | float | None = None,
        lengths: Tensor | None = None,
        state: State | None = None,
        is_query: Tensor | None = None,
        rate: Tensor | float = 1.0,
    ) -> Rows:
        """The arguments of `forward`, found sound: padding silenced, gaps (B, L) in float64.

        Raises:
            ValueError: shapes, gaps or lengths that cannot be.
        """
        u = check_inputs(u, self.channels, self.log_step.dtype)
        lengths, is_query = check_lengths(lengths, u), check_queries(is_query, u)
        gaps = read_gaps(dt, rate, u, lengths)
        state = check_state(state, len(u), self.state_shape, self.held_shape)
        return Rows.after(self.initial_state(len(u)) if state is None else state, u, gaps, lengths, is_query)

    def step(self, u: Tensor, dt: Tensor | float | None, state: State) -> tuple[Tensor, State]:
        """One observation: y_k (B, O) and the new state.

        Args:
            u: input, (B, H).
            dt: time since the previous observation, None (= 1), a number or (B,).
            state: the state before it.

        Raises:
            ValueError: shapes that do not fit.
        """
        check_one_row(u, self.channels, state, self._own_state)
        y, state = self(u[:, None], one_column(dt, len(u)), state=state)
        return y[:, 0], state

    def peek(self, state: State, dt: Tensor | float, u: Tensor | None = None) -> Tensor:
        """Outputs a time after the last observation, the state left as it is.

        Args:
            state: the state after the last observation.
            dt: time since it, a number, (B,), or (B, Q) for several times a series.
            u: input at that time, (B, H) or (B, Q, H); None holds the last input.

        Returns:
            (B, O), or (B, Q, O) for several times.

        Raises:
            ValueError: shapes that do not fit.
        """
        return peek_rows(self, self._own_state(state), dt, u)

    def packed(
        self,
        u: Tensor,
        dt: Tensor | float | None,
        lengths: Tensor,
        state: State | None = None,
        is_query: Tensor | None = None,
        rate: Tensor | float = 1.0,
    ) -> tuple[Tensor, State]:
        """What `forward` gives for series one after another, without padding: see `run_packed`."""
        return run_packed(self, u, dt, lengths, state, is_query, rate)

    def initial_state(self, batch: int) -> State:
        """The state of a number of series before their first observation."""
        return State(
            self.log_step.new_zeros(batch, *self.state_shape), self.log_step.new_zeros(batch, *self.held_shape)
        )

    def _in_pieces(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, last state and what is held, a piece of the rows after another.

        What a step is made of takes many numbers a row: a piece is as long as the cache allows, and on the way back it
        is run again, from the state before it. Memory is that of inputs, outputs and these states.
        """
        B, L = rows.u.shape[:2]
        size = max(_SHORTEST, _PIECE // max(1, B * self._row_numbers))
        if L <= size:
            return self._piece(rows, "recurrence")
        state, outputs = rows.start, []
        for begin in range(0, L, size):
            end = min(begin + size, L)

            def run(x: Tensor, u: Tensor, begin: int = begin, end: int = end) -> tuple[Tensor, Tensor, Tensor]:
                return self._piece(rows.part(begin, end, State(x, u)), "recurrence")

            if torch.is_grad_enabled():
                y, *state = checkpoint(run, *state, use_reentrant=False, preserve_rng_state=False)
            else:
                y, *state = run(*state)
            outputs.append(y)
        return torch.cat(outputs, dim=1), *state

    @property
    def _row_numbers(self) -> int:
        """Numbers of the coefficients of one row."""
        return math.prod(self.state_shape)

    def _piece(self, rows: Rows, view: str) -> tuple[Tensor, Tensor, Tensor]:
        return *self._run(rows, view), self._held(rows)

    def _steps(self, rows: Rows) -> Tensor:
        """Gap times step size, (B, L, *shape of log_step) float64."""
        gaps = rows.dt.to(torch.float64).reshape(*rows.dt.shape, *[1] * self.log_step.ndim)
        return gaps * self.log_step.double().exp()

    def _held(self, rows: Rows) -> Tensor:
        """What is held of the inputs after the last committed row, (B, *held_shape)."""
        return rows.last

    def _own_state(self, state: State) -> State:
        return own_state(state, self.state_shape, self.held_shape)
