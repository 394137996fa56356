"""Log neural controlled differential equation: one step of an ODE for each window of observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctlssl.baselines.log_signature import LogSignature, log_signatures
from ctlssl.baselines.solvers import Solver
from ctlssl.baselines.walking import walk
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.heads import head
from ctlssl.interleaving import Committed, take
from ctlssl.series import TimeSeries

__all__ = ["LogNCDE"]


class LogNCDE(Model):
    r"""The log-ODE method of depth 2 for dz = f(z) dX: a window of the control enters by its log-signature alone.

    Over a window of `window` steps from one observation to the next, with the increments L_i of the control over it
    and its Levy areas A_ij, z moves over s in [0, 1] along

        dz/ds = sum_i L_i f^i(z) + sum_{i<j} A_ij [f^i, f^j](z),   [f^i, f^j] = J_{f^j} f^i - J_{f^i} f^j,

    f^i being the columns of f. As A is antisymmetric, the second sum is sum_j J_{f^j} v_j, v_j = sum_i A_ij f^i: one
    Jacobian-vector product a column, taken forwards through the layers of f. Nothing has to be learned for the areas,
    and a window costs about three times what an interval of a Neural CDE costs.

    X is a polygon through the time since the series began, in horizons, and learned linear features of the encoder's
    inputs. Every series keeps its own clock, as the equation does not change with the speed at which its control is
    run through. z is known where a window ends, and at the last observation, where the last window may end early;
    these states are pooled. A query has a window of its own, from the last such place through the observations up to it
    and on to the query's row: it depends on nothing after it, and nothing of it is kept. No state goes from chunk to
    chunk, since a chunk would have to end where a window does.

    The paper's penalty on the norms of the weights (Lip(2) regularisation) belongs to a loss, and is not taken here;
    f is bounded by tanh, and f and its Jacobian are smooth.

    Args:
        problem: what is asked.
        width: W, of the hidden state and the field's hidden layer.
        window: steps between observations in one window; 1 leaves no area and is a linear control.
        control_channels: of X beside time; the field writes `width * (control_channels + 1)` numbers.
        method: a fixed or an adaptive solver of torchdiffeq; see `Solver`. An adaptive one chooses its steps for the
            hardest series of a batch, so that the neighbours enter within its tolerance.
        steps: of a fixed solver in each window.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance of an adaptive solver.
        dropout: in the head.

    Raises:
        ValueError: for a window below 1 or an unknown solver, and in `forward` where an adaptive one cannot finish.

    References:
        Walker, McLeod, Qin, Cheng, Li, Lyons (2024), Log neural controlled differential equations: the Lie brackets
        make a difference, arXiv:2402.18512.
        Morrill, Salvi, Kidger, Foster (2021), Neural rough differential equations for long time series,
        arXiv:2009.08295.

    >>> model = LogNCDE(Problem("classification", channels=2, outputs=2), width=8, window=2)
    >>> seen = torch.ones(1, 5, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 5, 2), torch.arange(5).view(1, 5), seen, torch.tensor([5]))
    >>> model(series).logits.shape, model.evaluations  # 2 windows of 4 evaluations
    (torch.Size([1, 2]), 8)
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        window: int = 4,
        control_channels: int = 10,
        method: str = "rk4",
        steps: int = 1,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        if window < 1:
            raise ValueError(f"window is {window}; a window has at least one step from an observation to the next")
        self.window, self.solver = window, Solver(method, steps, rtol, atol)
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
        knots = take(control, committed.position)  # (B, K, C)
        steps = torch.where(committed.inside[:, 1:, None], knots.diff(dim=1), 0)  # (B, K - 1, C)
        signatures = log_signatures(steps, self.window)  # (B, M, w + 1, ...)
        windows = (committed.counts - 1).clamp(min=0).add(self.window - 1) // self.window  # (B,) that have a step
        begin = self.start(knots[:, 0])  # (B, W)
        whole = (part[:, :, -1] for part in signatures)  # (B, M, C), (B, M, C, C)
        ends = walk(lambda z, *parts: self._flow(z, LogSignature(*parts)), begin, windows, *whole)  # (B, M, W)
        hidden = torch.cat([begin.unsqueeze(1), ends], dim=1)  # (B, V, W): where a window begins, and the last one ends
        known = torch.arange(hidden.shape[1], device=windows.device) <= windows.unsqueeze(1)  # (B, V)
        known = known & (committed.counts > 0).unsqueeze(1)
        queries = self._queries(committed, knots, hidden, signatures, rows.at_queries(control))  # (B, Q, W)
        return self.head(encoded, hidden, known, queries)

    def extra_repr(self) -> str:
        """The window and the solver."""
        return f"window={self.window}, solver={self.solver}"

    def _queries(
        self, committed: Committed, knots: Tensor, hidden: Tensor, signatures: LogSignature, at: Tensor
    ) -> Tensor:
        """Go on from the beginning of the window of each query to the control (B, Q, C) at it: (B, Q, W)."""
        some = (committed.before_query >= 0).unsqueeze(-1)  # (B, Q, 1)
        last = committed.before_query.clamp(min=0)  # (B, Q)
        begin = torch.where(some, take(hidden, last // self.window), self.start(at))  # (B, Q, W)
        step = torch.where(some, at - take(knots, last), 0)  # (B, Q, C)
        row = torch.arange(len(at), device=at.device).unsqueeze(1)  # (B, 1)
        until = LogSignature(*(part[row, last // self.window, last % self.window] for part in signatures))
        ahead = LogSignature(*(part.flatten(0, 1) for part in until.followed_by(step)))
        return self._flow(begin.flatten(0, 1), ahead).view_as(begin)

    def _flow(self, begin: Tensor, signature: LogSignature) -> Tensor:
        """The state (n, W) at the end of a window, from its beginning (n, W)."""
        if begin.shape[0] == 0:
            return begin
        from torchdiffeq import odeint  # here, so that the package does not load a solver for those who need none

        def slope(s: Tensor, z: Tensor) -> Tensor:
            self.evaluations += 1
            return self.field(z, *signature)

        with self.solver.explained():
            return odeint(slope, begin, begin.new_tensor([0.0, 1.0]), **self.solver.keywords())[-1]


class _Field(nn.Module):
    """What drives z over a window: f, bounded by tanh, along the increments, its Lie brackets along the areas."""

    def __init__(self, width: int, control: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width * control)

    def columns(self, z: Tensor) -> Tensor:
        """f^i(z) as the columns of (n, W, C)."""
        return self._columns(self.inner(z))

    def forward(self, z: Tensor, increment: Tensor, area: Tensor) -> Tensor:
        """The slope (n, W) at z (n, W) for increments (n, C) and areas (n, C, C)."""
        before = self.inner(z)  # (n, V)
        field = self._columns(before)  # (n, W, C)
        gate = torch.sigmoid(before)
        silu_slope = gate * (1 + before * (1 - gate))  # (n, V)
        directions = field @ area  # (n, W, C): v_j in column j
        pushed = silu_slope.unsqueeze(-1) * (self.inner.weight @ directions)  # (n, V, C)
        weight = self.outer.weight.view(*field.shape[1:], -1)  # (W, C, V)
        turned = pushed.permute(2, 0, 1) @ weight.permute(1, 2, 0)  # (C, n, W): column j turned by its own rows
        brackets = ((1 - field.square()) * turned.permute(1, 2, 0)).sum(dim=-1)  # (n, W)
        return (field @ increment.unsqueeze(-1)).squeeze(-1) + brackets

    def _columns(self, before: Tensor) -> Tensor:
        hidden = nn.functional.silu(before)  # (n, V)
        return torch.tanh(self.outer(hidden)).unflatten(-1, (self.inner.in_features, -1))  # (n, W, C)
