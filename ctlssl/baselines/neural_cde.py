"""Neural controlled differential equation, driven by the encoded observations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ctlssl.baselines.solvers import Solver
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.heads import head
from ctlssl.interleaving import Committed, take
from ctlssl.series import TimeSeries

if TYPE_CHECKING:
    from torchcde.interpolation_base import InterpolationBase

__all__ = ["NeuralCDE"]


class NeuralCDE(Model):
    """The hidden state follows dz = f(z) dX, where the control X runs through the encoded observations.

    X has the time since the series began, in horizons, as its first channel and learned linear features of the
    encoder's inputs beside it. It is parametrised by the number of the observation, not by time: every series keeps
    its own clock and no union of time grids is needed, since a controlled equation does not change when its control
    is run through at another speed. With either control z at an observation depends on nothing after it:

    - "hermite": cubic Hermite splines with backward differences, smooth, one piece an interval;
    - "rectilinear": time goes on while the features rest, then the features go to the new observation; two pieces an
      interval, hence twice the evaluations. Here what happens within an interval does not depend on its end either.

    Behind its last observation a control rests. To a query the control goes on from the last observation before it,
    as to a next and last one; nothing of that is kept.

    Args:
        problem: what is asked.
        width: W, of the hidden state and the field's hidden layer.
        control: "hermite" or "rectilinear".
        control_channels: of X beside time; the field writes `width * (control_channels + 1)` numbers.
        method: a fixed or an adaptive solver of torchdiffeq; see `Solver`. An adaptive one chooses its steps for the
            hardest series of a batch, so that the neighbours enter within its tolerance.
        steps: of a fixed solver in each piece of the control.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance of an adaptive solver.
        dropout: in the head.

    Raises:
        ValueError: for an unknown control or solver, and in `forward` where an adaptive one cannot finish.

    References:
        Kidger et al. (2020), Neural Controlled Differential Equations for Irregular Time Series, arXiv:2005.08926.
        Morrill et al. (2021), Neural Controlled Differential Equations for Online Prediction Tasks, arXiv:2106.11028.

    >>> model = NeuralCDE(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape, model.evaluations  # 2 intervals of 4 evaluations, and torchcde's check of shapes
    (torch.Size([1, 2]), 9)
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        control: str = "hermite",
        control_channels: int = 10,
        method: str = "rk4",
        steps: int = 1,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        if control not in _CONTROLS:
            raise ValueError(f"control {control!r} is unknown; it is one of {', '.join(_CONTROLS)}")
        self.control, self.solver = control, Solver(method, steps, rtol, atol)
        self.encoder = Encoder(problem, control_channels)
        self.start = nn.Linear(control_channels + 1, width)
        self.field = _Field(width, control_channels + 1)
        self.head = head(problem, width, dropout)

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: object | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`."""
        check_request(self.problem, series, query_times, state)
        encoded = self.encoder(series, query_times, rate)
        rows, committed = encoded.rows, encoded.rows.compact()
        control = torch.cat([encoded.elapsed.unsqueeze(-1), encoded.features], dim=-1)  # (B, R, C)
        knots = take(control, _rest_at_last(committed))  # (B, K, C), one more where K is 1
        hidden = self._solve(knots, self.start(knots[:, 0]))[:, : committed.position.shape[1]]  # (B, K, W)
        queries = self._queries(committed, knots, hidden, rows.at_queries(control))  # (B, Q, W)
        return self.head(encoded, hidden, committed.inside, queries)

    def extra_repr(self) -> str:
        """The control and the solver."""
        return f"control={self.control!r}, solver={self.solver}"

    def _queries(self, committed: Committed, knots: Tensor, hidden: Tensor, at: Tensor) -> Tensor:
        """Go on from the last observation before each query to the control (B, Q, C) at it: (B, Q, W)."""
        some = (committed.before_query >= 0).unsqueeze(-1)  # (B, Q, 1)
        place = committed.before_query.clamp(min=0)
        origin = torch.where(some, take(knots, place), at)  # (B, Q, C)
        begin = torch.where(some, take(hidden, place), self.start(at))  # (B, Q, W)
        segment = torch.stack([origin, at], dim=2).flatten(0, 1)  # (B Q, 2, C)
        return self._solve(segment, begin.flatten(0, 1))[:, -1].view_as(begin)

    def _solve(self, knots: Tensor, begin: Tensor) -> Tensor:
        """The hidden state at every knot of n controls, (n, K, C) -> (n, K, W), from (n, W) at the first."""
        if knots.shape[0] == 0:
            return begin.unsqueeze(1).expand(-1, knots.shape[1], -1)
        import torchcde  # here, so that the package does not load a solver for those who need none

        calls, (path, times) = self.field.calls, _CONTROLS[self.control](knots)
        keywords = self.solver.keywords(jumps=None if self.control == "hermite" else path.grid_points[1:-1])
        with self.solver.explained():
            states = torchcde.cdeint(path, self.field, begin, times, adjoint=False, **keywords)  # (n, K, W)
        self.evaluations += self.field.calls - calls
        return states


class _Path:
    """A path on pieces of length 1, whose slope on a piece is a polynomial in the time since it began.

    torchcde's own looks a slope up by an index into all pieces, whose gradient is as large as all of them: with as many
    lookups as pieces a training step would be quadratic in the length.

    Args:
        path: of torchcde.
        powers: coefficients of the slope, the constant one first, (n, pieces, C) each.
    """

    def __init__(self, path: InterpolationBase, *powers: Tensor) -> None:
        self.grid_points, self.evaluate = path.grid_points, path.evaluate
        self._powers = [power.unbind(dim=-2) for power in powers]

    def derivative(self, t: Tensor) -> Tensor:
        """The slope (n, C) at a time."""
        last = len(self._powers[0]) - 1
        piece = min(max(int(torch.bucketize(t.detach(), self.grid_points)) - 1, 0), last)
        since, slope = t - self.grid_points[piece], self._powers[-1][piece]
        for power in self._powers[-2::-1]:
            slope = power[piece] + slope * since
        return slope


def _hermite(knots: Tensor) -> tuple[_Path, Tensor]:
    """The spline through knots (n, K, C), and where on it they are, (K,)."""
    import torchcde

    coefficients = torchcde.hermite_cubic_coefficients_with_backward_differences(knots)  # a, b, 2 c, 3 d
    path = _Path(torchcde.CubicSpline(coefficients), *coefficients.chunk(4, dim=-1)[1:])
    return path, path.grid_points


def _rectilinear(knots: Tensor) -> tuple[_Path, Tensor]:
    """The polygon in which the first channel goes before the others, and where on it the knots (n, K, C) are, (K,)."""
    import torchcde

    corners = torchcde.linear_interpolation_coeffs(knots, rectilinear=0)
    path = _Path(torchcde.LinearInterpolation(corners), corners.diff(dim=-2))
    return path, path.grid_points[::2]


_CONTROLS = {"hermite": _hermite, "rectilinear": _rectilinear}


class _Field(nn.Module):
    """f(z) of dz = f(z) dX, bounded by tanh; `prod` applies it to dX and counts."""

    def __init__(self, width: int, control: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width * control), nn.Tanh())
        self.calls = 0

    def prod(self, t: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        self.calls += 1
        field = self.body(z).view(*z.shape, slope.shape[-1])  # (n, W, C)
        return (field @ slope.unsqueeze(-1)).squeeze(-1)  # (n, W)


def _rest_at_last(committed: Committed) -> Tensor:
    """Rows of the control's knots, (B, K) with K >= 2: after its last observation a series stays there."""
    last = (committed.counts - 1).clamp(min=0).unsqueeze(-1)  # (B, 1)
    knots = torch.arange(max(committed.position.shape[1], 2), device=last.device)  # (K,)
    return torch.gather(committed.position, 1, torch.minimum(knots.expand(last.shape[0], -1), last))
