"""The integration view: the same system run by an ODE solver, piece by piece between samples."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ctlssl.discretization import Discretization
from ctlssl.state_matrices.diagonal import join_pairs
from ctlssl.state_space import StateSpace
from ctlssl.views.recurrence import recurrence
from ctlssl.views.response import Response, Rows, State

__all__ = ["HeldField", "Integration", "integrate_rates", "integration"]


@dataclasses.dataclass(frozen=True)
class Integration:
    """How to integrate: a solver of torchdiffeq and its tolerances.

    Args:
        method: name of a torchdiffeq solver; fixed-step solvers take `steps` steps a gap.
        rtol: relative tolerance.
        atol: absolute tolerance.
        adjoint: gradients by the adjoint equation instead of through the solver's steps.
        steps: steps a gap of fixed-step solvers.
    """

    method: str = "dopri5"
    rtol: float = 1e-6
    atol: float = 1e-8
    adjoint: bool = False
    steps: int = 8

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.steps > 0):
            raise ValueError(f"tolerances and steps must be positive; found {self}")

    @property
    def fixed(self) -> bool:
        """Whether the solver takes a fixed number of steps a gap."""
        return self.method in _FIXED


def integration(
    system: StateSpace,
    method: Discretization,
    u: Tensor,
    dt: Tensor,
    state: State | None = None,
    lengths: Tensor | None = None,
    is_query: Tensor | None = None,
    solver: Integration = Integration(),
) -> Response:
    r"""Integrate x' = A x + B u over each gap with the input as the method's hold has it.

    Every series runs on its own clock: with s = (t - t_{k-1}) / h_k the equation is dx/ds = h_k (A x + B u(s)) on
    [0, 1], so one call of the solver serves a batch. Exact rules give the same numbers as this view to the
    solver's tolerance; gbt rules to their own order.

    Args:
        system: the continuous system.
        method: the discretization whose hold is taken.
        u: inputs, (B, L, H).
        dt: gap before each row, (B, L), in the unit of time of A.
        state: state before the first row; zeros if None.
        lengths: rows of each series, (B,); L if None.
        is_query: rows that are answered but leave the state as it was, (B, L).
        solver: solver and tolerances.

    Raises:
        ValueError: an unknown solver, or one that cannot finish a gap.

    References:
        Chen (2018), torchdiffeq; Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural ordinary differential equations.
    """
    if u.shape[0] == 0:
        return recurrence(system, method, u, dt, state, lengths, is_query)
    rows = Rows.of(system, u, dt, state, lengths, is_query)
    system = system.to(u.dtype)
    x, shown, evaluations = rows.start.x, [], 0
    for k in range(u.shape[1]):
        # A field of its own for each gap: the adjoint equation asks it again in the backward pass.
        field = HeldField(system, method, rows, k)
        seen = _solve_gap(field, x, solver, k)
        evaluations += field.evaluations
        if method.hold.kick:
            seen = seen + method.hold.kick * system.driven(rows.u[:, k])
        x = torch.where(rows.commits[:, k, None, None], seen, x)
        shown.append(seen)
    states = torch.stack(shown, dim=1) if shown else x.new_zeros(x.shape[0], 0, *x.shape[1:])
    y = torch.where(rows.inside[..., None], system.read(states, rows.u), 0)
    return Response(y, State(x, rows.last), evaluations)


def integrate_rates(
    rates: Tensor, drives: Tensor, rows: Rows, x: Tensor, solver: Integration = Integration()
) -> tuple[Tensor, Tensor]:
    """What each row shows of x' = rate x + drive over one unit of time a row, (B, L, ..., 2 n), and the last state.

    Args:
        rates: complex (B, L, ..., n), constant over a row.
        drives: likewise.
        rows: which rows are committed.
        x: state before the first row, pairs as real numbers (B, ..., 2 n).
        solver: solver and tolerances.

    Raises:
        ValueError: an unknown solver, or one that cannot finish a gap.
    """
    shown = []
    for k in range(rates.shape[1]):
        seen = _solve_gap(_RateField(rates[:, k], drives[:, k]), x, solver, k) if len(x) else x
        x = torch.where(rows.commits[:, k].reshape(-1, *[1] * (x.ndim - 1)), seen, x)
        shown.append(seen)
    return (torch.stack(shown, dim=1) if shown else x.new_zeros(len(x), 0, *x.shape[1:])), x


class _RateField(nn.Module):
    """Rate x + drive, elementwise over pairs."""

    def __init__(self, rate: Tensor, drive: Tensor) -> None:
        super().__init__()
        self.parts = (rate.real, rate.imag, join_pairs(drive))
        self.leaves = list(self.parts)

    def forward(self, s: Tensor, x: Tensor) -> Tensor:
        real, imag, drive = self.parts
        first, second = x.tensor_split(2, dim=-1)
        return torch.cat([real * first - imag * second, imag * first + real * second], dim=-1) + drive


class HeldField(nn.Module):
    """h (A x + B u(s)) over one gap; a module so that the adjoint equation finds the system's tensors."""

    def __init__(self, system: StateSpace, method: Discretization, rows: Rows, row: int) -> None:
        super().__init__()
        self.system, self.hold, self.evaluations = system, method.hold, 0
        self.previous, self.following = rows.held[:, row], rows.u[:, row]  # (B, H)
        self.gap = rows.dt[:, row, None, None].to(rows.u.dtype)  # (B, 1, 1)
        matrices = [value for value in vars(system.A).values() if isinstance(value, Tensor)]
        self.leaves = [*matrices, system.B, self.previous, self.following, self.gap]

    def forward(self, s: Tensor, x: Tensor) -> Tensor:
        """The slope of the state x (B, G, N) at the share s of the gap."""
        self.evaluations += 1
        drive = self.system.driven(self.hold.value(s, self.previous, self.following))  # (B, G, N)
        return self.gap * (self.system.A.matmul(x) + drive)


def _worst_series(x: Tensor) -> Tensor:
    """Error norm: the worst series decides, so that no series hides behind a large batch."""
    return x.reshape(x.shape[0], -1).square().mean(1).max().sqrt()


def _solve_gap(field: HeldField | _RateField, x: Tensor, solver: Integration, position: int) -> Tensor:
    try:
        return _solve(field, x, solver)
    except AssertionError as error:  # the solver's only word where it cannot finish
        reason = str(error).splitlines()[0][:100] if str(error) else "no reason given"
        raise ValueError(
            f"position {position}: {solver.method} gave up ({reason}); loosen the tolerances, look for NaN in the "
            "inputs, or use view='recurrence'"
        ) from error


def _solve(field: HeldField | _RateField, x: Tensor, solver: Integration) -> Tensor:
    from torchdiffeq import odeint, odeint_adjoint

    times = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device).to(x.dtype)
    if solver.fixed:
        arguments = {"options": {"step_size": 1 / solver.steps}}
    else:
        # A solver that steps past the end interpolates back to it, with an error that no tolerance controls.
        options = {"norm": _worst_series, "step_t": times}
        arguments = {"rtol": solver.rtol, "atol": solver.atol, "options": options}
    if not solver.adjoint:
        return odeint(field, x, times, method=solver.method, **arguments)[-1]
    parameters = tuple(p for p in field.leaves if p.requires_grad)
    return odeint_adjoint(field, x, times, method=solver.method, adjoint_params=parameters, **arguments)[-1]


_FIXED = ("euler", "midpoint", "rk4", "explicit_adams", "implicit_adams", "heun2", "heun3")
