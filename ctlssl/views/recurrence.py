"""The recurrence view: one step a row, with that row's own gap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ctlssl.discretization import Discretization
from ctlssl.kernels import diagonal_bank, diagonal_multi, diagonal_row
from ctlssl.kernels.fixed_cache import declare_constant
from ctlssl.kernels.structured import structured_bank, structured_states
from ctlssl.state_matrices import Diagonal
from ctlssl.state_matrices.diagonal import join_pairs
from ctlssl.state_space import StateSpace
from ctlssl.views.response import Response, Rows, State, refuse_growth

__all__ = ["diagonal_maps", "one_row", "recurrence", "rule_of"]

_TABLE_NUMBERS = 2**24
"""Numbers in one table of discretized matrices; longer records are cut into chunks that are recomputed backward."""


def recurrence(
    system: StateSpace,
    method: Discretization,
    u: Tensor,
    dt: Tensor,
    state: State | None = None,
    lengths: Tensor | None = None,
    is_query: Tensor | None = None,
) -> Response:
    r"""Step through x_k = Abar(h_k) x_{k-1} + Bprev(h_k) u_{k-1} + Bnext(h_k) u_k, y_k = C x_k + D u_k.

    Discretized coefficients are formed in float64 and cast: at large gaps the phase of an eigenvalue
    would otherwise be lost. Cost per row: O(N) for gbt rules and for every rule on a diagonal A; exact rules on the
    other structures take one O(N^3) exponential per distinct gap and channel, a dense A one inverse.

    Args:
        system: the continuous system, float64 preferred.
        method: the discretization.
        u: inputs, (B, L, H).
        dt: gap before each row, (B, L), in the unit of time of A.
        state: state before the first row; zeros if None.
        lengths: rows of each series, (B,); L if None.
        is_query: rows that are answered but leave the state as it was, (B, L).

    Raises:
        ValueError: a rule that is not A-stable grew without bound.
    """
    rows = Rows.of(system, u, dt, state, lengths, is_query)
    if isinstance(system.A, Diagonal):
        y, last = _diagonal(system, method, rows)
    elif method.needs_table(system.A):
        x, last = _tabulated(system, method, rows)
        y = system.to(u.dtype).read(x, rows.u)
    else:
        y, last = _structured(system, method, rows)
    if rows.ragged:
        y = torch.where(rows.inside[..., None], y, 0)  # (B, L, H * M)
    response = Response(y, State(last, rows.last))
    refuse_growth(system, method, rows, response)
    return response


def one_row(
    system: StateSpace, method: Discretization, u: Tensor, dt: Tensor, state: State
) -> tuple[Tensor, State] | None:
    """What `recurrence` gives for one committed row a series, or None where its general way must be gone.

    Args:
        system: a system that is remembering.
        method: the discretization, whose rule cannot grow.
        u: inputs, (B, H).
        dt: gap before the row, (B, 1) float64.
        state: state before the row, of the dtype of the inputs.
    """
    if not isinstance(system.A, Diagonal) or not system.remembers or method.rule.growing:
        return None
    found = diagonal_row(u[:, None], state.u, dt, diagonal_maps(system, u.dtype), state.x, *rule_of(method))
    if found is None:
        return None
    return found[0].reshape(u.shape[0], -1), State(found[1], u.clone())


def _drives(system: StateSpace, method: Discretization, rows: Rows) -> tuple[Tensor | None, ...]:
    """B times the inputs weighted for F and for G, and the kick, (B, L, G, N) each, None where not read."""
    system = system.to(rows.u.dtype)
    hold = method.hold
    if hold.kick:
        return None, None, system.driven(hold.kick * rows.u)
    read = range(1 + method.ramped)
    parts = [system.driven(hold.previous[i] * rows.held + hold.next[i] * rows.u) for i in read]
    return parts[0], parts[1] if method.ramped else None, None


def _diagonal(system: StateSpace, method: Discretization, rows: Rows) -> tuple[Tensor, Tensor]:
    """Diagonal A: y (B, L, H * M) and the last state, by a scan that never holds the states of a bank."""
    maps, run = diagonal_maps(system, rows.u.dtype), diagonal_multi if system.multi_input else diagonal_bank
    gaps = rows.dt.to(torch.float64)
    y, last = run(rows.u, rows.start.u, gaps, rows.kinds, *maps, rows.start.x, *rule_of(method))
    return (y if system.multi_input else y.flatten(-2)), last  # (B, L, H * M)


def rule_of(method: Discretization) -> tuple[tuple[float, ...], float]:
    """Weights of the hold and alpha, -1 for the exact rule."""
    hold = method.hold
    return (*hold.previous, *hold.next, hold.kick), getattr(method.rule, "alpha", -1.0)


def diagonal_maps(system: StateSpace, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Eigenvalues (G, 2 n) in float64, B, C and D of a diagonal system, kept while its parameters are the same."""
    return system.derived(("diagonal", dtype), lambda: _diagonal_maps(system, dtype))


def _diagonal_maps(system: StateSpace, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Eigenvalues (G, 2 n) in float64, B, C and D."""
    cast = system.to(dtype)
    poles = join_pairs(system.A.poles.to(torch.complex128)).expand(system.groups, -1)  # (G, 2 n)
    if not system.remembers:
        return poles, cast.B, cast.C, cast.D
    maps = tuple(part.detach() for part in (poles, cast.B, cast.C, cast.D))
    declare_constant(*maps)
    return maps


def _structured(system: StateSpace, method: Discretization, rows: Rows) -> tuple[Tensor, Tensor]:
    """A gbt rule by the structure's own solves, O(N) a row: y (B, L, H * M) and the last state, float64 inside."""
    cast, hold, alpha = system.to(rows.u.dtype), method.hold, method.rule.alpha
    before, now = (constant + alpha * ramp for constant, ramp in (hold.previous, hold.next))
    w = (hold.kick or now) * rows.u
    w = w + before * rows.held if before else w  # (B, L, H), what B multiplies
    given = (rows.dt.to(torch.float64), rows.kinds, system.A)
    if system.multi_input:
        x, last = structured_states(cast.driven(w), *given, rows.start.x, bool(hold.kick), alpha)
        return cast.read(x, rows.u), last.to(x.dtype)
    y, last = structured_bank(w, *given, system.B, system.C, rows.start.x, bool(hold.kick), alpha)
    return (y + cast.D * rows.u[..., None]).flatten(-2), last.to(y.dtype)


def _tabulated(system: StateSpace, method: Discretization, rows: Rows) -> tuple[Tensor, Tensor]:
    """Dense steps, discretized once a distinct gap.

    Rows go in chunks whose gathered matrices are made again in the backward pass; a table too large to be kept is
    made again with them.
    """
    B, L = rows.dt.shape
    A = system.A.to_dense().to(torch.float64)
    A = A if A.ndim == 3 else A[None]  # (G or 1, N, N)
    drives = _drives(system, method, rows)
    gaps, place = _distinct(rows.dt)
    kept = gaps.numel() * A.numel() <= _TABLE_NUMBERS
    table = _table(A, method, gaps, rows.u.dtype) if kept else None
    size = max(1, _TABLE_NUMBERS // (max(B, 1) * A.numel()))
    x, shown = rows.start.x, []
    for start in range(0, L, size):
        part = slice(start, start + size)
        pieces = [None if d is None else d[:, part] for d in drives]
        arguments = (table, place[:, part]) if kept else (A, method, rows.dt[:, part])
        chunk = _walk if kept else _discretize_and_walk
        if size >= L:
            return chunk(*arguments, rows.commits, x, *pieces)
        run = (chunk, *arguments, rows.commits[:, part], x, *pieces)
        seen, x = checkpoint(*run, use_reentrant=False, preserve_rng_state=False)
        shown.append(seen)
    return (torch.cat(shown, dim=1) if shown else _stacked(shown, x)), x


def _distinct(dt: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct gaps (U,) and the place of each row's gap among them (B, L)."""
    if dt.requires_grad:  # equal gaps need gradients of their own
        return dt.reshape(-1), torch.arange(dt.numel(), device=dt.device).reshape(dt.shape)
    return dt.unique(return_inverse=True)


def _table(A: Tensor, method: Discretization, gaps: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Abar, F and, where the hold reads it, G of each gap, (U, G, N, N)."""
    matrices = method.rule.matrices(A, gaps.to(torch.float64)[:, None])
    return tuple(m.to(dtype) for m in (matrices if method.ramped else matrices[:2]))


def _discretize_and_walk(A: Tensor, method: Discretization, dt: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    gaps, place = _distinct(dt)
    return _walk(_table(A, method, gaps, rest[1].dtype), place, *rest)


def _walk(
    table: tuple[Tensor, ...],
    place: Tensor,
    commits: Tensor,
    x: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    kick: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Steps through discretized matrices; returns what each row shows, (B, L, G, N), and the last state."""
    shown = []
    for k in range(place.shape[1]):
        seen = (table[0][place[:, k]] @ x[..., None])[..., 0]  # (B, G, N)
        if kick is not None:
            seen = seen + kick[:, k]
        for matrix, drive in zip(table[1:], (first, second), strict=False):
            if drive is not None:
                seen = seen + (matrix[place[:, k]] @ drive[:, k, ..., None])[..., 0]
        x = torch.where(commits[:, k, None, None], seen, x)
        shown.append(seen)
    return _stacked(shown, x), x


def _stacked(shown: list[Tensor], x: Tensor) -> Tensor:
    return torch.stack(shown, dim=1) if shown else x.new_zeros(x.shape[0], 0, *x.shape[1:])
