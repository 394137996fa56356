"""Latent ODE: a recognition ODE-RNN reads a series backwards, a latent neural ODE runs forward from its start."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gaussian_nll_loss, softplus

from ctlssl.baselines.solvers import Field, Solver
from ctlssl.baselines.walking import walk
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoded, Encoder
from ctlssl.heads import head
from ctlssl.interleaving import Committed, take
from ctlssl.series import TimeSeries

__all__ = ["LatentODE"]

_FIRST_SPREAD = math.log(math.expm1(0.1))  # softplus of it: the posterior is narrow at the start, and samples inform
_STEADY = 2.0  # horizons from the first observation, after which a path slows down
_LEAST_RATE = 1e-4  # of a channel in a horizon, whose logarithm stays finite


class LatentODE(Model):
    """A path z(t) of a neural ODE, whose start z(t_1) is inferred from the observations.

    An ODE-RNN with its own field walks from the last observation back to the first; from its state come the mean and
    the standard deviation of z(t_1), a diagonal Gaussian. dz/dt = s * tanh(W2 tanh(W1 z + b1) + b2) is solved from
    there once for all times that are asked: on a grid of `grid` steps a horizon, with cubic Hermite interpolation
    between its points. So a series costs no more the more often it is observed, and no time of one series is a step of
    another. t is the time since the first observation; from two horizons on the path slows down, dt being divided by
    t / (2 horizons), so that times of any size are reached in steps that the field allows. A forecast is read from z at
    the query time; one answer a series from the path at its observations.

    A query between observations is answered from those before it: the recognition network is run once for each such
    beginning of a series, and once a series where all queries come after its end. A series read backwards cannot go on
    from a state, and the model keeps none.

    In training z(t_1) is one draw, and `Prediction.penalty` holds minus the bound's terms beside the answer's own:
    the divergence from the prior N(0, 1); the Gaussian likelihood of the observations along the path; and with
    `poisson` the likelihood of the times of observation under a Poisson process for every channel, of intensity
    softplus(V z(t) + c), log p = sum_i log lambda(t_i) - int lambda dt from the first observation to the last. In
    evaluation mode z(t_1) is the mean.

    Args:
        problem: what is asked.
        width: W, of the encoder, of the recognition network and of z.
        method: a fixed or an adaptive solver of torchdiffeq; see `Solver`.
        steps: of a fixed solver in each gap of the recognition network.
        grid: steps of the latent path in a horizon.
        kl: weight of the divergence, in nats, beside the summed loss of a series. The published experiments fix a
            standard deviation of 0.01 for an observation, which leaves it a weight as small.
        reconstruction: weight of the mean negative log likelihood of an observation; None is 1 for forecasts, which
            are the same in kind, and 0.01 for one answer a series, as published.
        poisson: weight of the log likelihood of the times; 0 leaves the process out.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance of an adaptive solver.
        dropout: in the head.

    Raises:
        ValueError: for an unknown solver, a grid without steps or a negative weight, and in `forward` where an
            adaptive solver cannot finish.

    References:
        Rubanova et al. (2019), Latent Ordinary Differential Equations for Irregularly-Sampled Time Series,
        arXiv:1907.03907.
        Chen et al. (2018), Neural Ordinary Differential Equations, arXiv:1806.07366.

    >>> model = LatentODE(Problem("classification", channels=2, outputs=2, horizon=4.0), width=8).train()
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> prediction = model(series)
    >>> prediction.logits.shape, prediction.penalty.shape
    (torch.Size([1, 2]), torch.Size([1]))
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        method: str = "rk4",
        steps: int = 2,
        grid: int = 32,
        kl: float = 0.01,
        reconstruction: float | None = None,
        poisson: float = 0.0,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        if reconstruction is None:
            reconstruction = 1.0 if problem.kind == "forecasting" else 0.01
        for name, value in {"kl": kl, "reconstruction": reconstruction, "poisson": poisson}.items():
            if not value >= 0:
                raise ValueError(f"{name} is {value!r}; a weight of the loss is not negative")
        if grid < 1:
            raise ValueError(f"grid is {grid!r}; the path needs at least one step a horizon")
        self.solver, self.grid = Solver(method, steps, rtol, atol), grid
        self.kl, self.poisson = kl, poisson
        self.reconstruction = reconstruction
        self.encoder = Encoder(problem, width)
        self.recognition = nn.ModuleDict(
            {
                "field": Field(width, width, problem.horizon / problem.time_scale),
                "unit": nn.GRUCell(width, width),
                "posterior": nn.Linear(width, 2 * width),
            }
        )
        self.flow = Field(width, width, 1.0)  # its clock is the horizon
        self.intensity = nn.Linear(width, problem.channels) if poisson else None
        self.decoder = nn.Linear(width, 2 * problem.channels) if self.reconstruction else None
        self.head = head(problem, width, dropout)
        with torch.no_grad():
            self.recognition["posterior"].bias[width:].fill_(_FIRST_SPREAD)

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
        committed, calls = encoded.rows.compact(), self._calls()
        begun = _beginnings(encoded, committed)
        elapsed = take(encoded.elapsed.unsqueeze(-1), committed.position).squeeze(-1)[begun.series]  # (P, K)
        inside = torch.arange(elapsed.shape[1], device=elapsed.device) < begun.counts.unsqueeze(1)  # (P, K)
        elapsed = _slowed(torch.where(inside, elapsed, torch.zeros_like(elapsed)))
        if self.problem.asks_queries and not (self.training and (self.poisson or self.reconstruction)):
            elapsed = elapsed[:, :0]  # nothing is read at the observations
        mean, spread = self._recognise(encoded, committed, begun)  # (P, W)
        start = mean + spread * torch.randn_like(mean) if self.training else mean
        asked = encoded.rows.at_queries(encoded.elapsed.unsqueeze(-1)).squeeze(-1)  # (B, Q)
        asked = _slowed(torch.where(encoded.rows.query_present, asked, torch.zeros_like(asked)))
        path = self._solve(
            start, max((float(part.detach().max()) for part in (elapsed, asked) if part.numel()), default=0.0)
        )
        width = start.shape[1]
        walked = path.at(elapsed, torch.arange(len(start), device=start.device).unsqueeze(1))  # (P, K, W or W + D)
        queries = path.at(asked, begun.of_query)[..., :width]  # (B, Q, W)
        prediction = self.head(encoded, walked[..., :width], inside, queries)
        self.evaluations += self._calls() - calls
        if not self.training:
            return prediction
        penalty = self.kl * _divergence(mean, spread)  # (P,)
        penalty = penalty + self._likelihoods(encoded, committed, begun, walked, inside)
        total = penalty.new_zeros(series.batch).index_add(0, begun.series, penalty)  # (B,)
        return replace(prediction, penalty=total)

    def extra_repr(self) -> str:
        """The solver."""
        return f"solver={self.solver}, grid={self.grid}"

    def _calls(self) -> int:
        return self.recognition["field"].calls + self.flow.calls

    def _recognise(self, encoded: Encoded, committed: Committed, begun: _Beginnings) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z at the first observation, (P, W) each, from the last one back to it."""
        gaps = (encoded.gaps * encoded.rate.unsqueeze(-1)).unsqueeze(-1).to(encoded.features.dtype)  # (B, R, 1)
        position = committed.position[begun.series]  # (P, K)
        place = begun.counts.unsqueeze(1) - 1 - torch.arange(position.shape[1], device=position.device)
        rows = torch.gather(position, 1, place.clamp(min=0))  # (P, K), the last observation first
        # the gap of an observation lies before it, and so after the one read first
        gaps = nn.functional.pad(take(gaps[begun.series], rows), (0, 0, 1, 0))[:, :-1]
        inputs = take(encoded.features[begun.series], rows)  # (P, K, W)
        start = inputs.new_zeros(len(rows), inputs.shape[2])
        hidden = walk(self._step, start, begun.counts, gaps, inputs)  # (P, K, W)
        final = take(hidden, (begun.counts - 1).clamp(min=0).unsqueeze(1)).squeeze(1)  # (P, W), 0 without any
        mean, raw = self.recognition["posterior"](final).chunk(2, dim=-1)
        return mean, softplus(raw)

    def _step(self, hidden: Tensor, gap: Tensor, x: Tensor) -> Tensor:
        """Of the recognition network: back through a gap (n, 1), then one observation x (n, W)."""
        return self.recognition["unit"](x, self.recognition["field"].through(self.solver, hidden, gap))

    def _solve(self, start: Tensor, until: float) -> _Path:
        """The path from z (P, W) at the first observations, with the integrals of the intensities beside it."""
        width, speed = start.shape[1], self.flow.log_speed.exp()  # (W,)

        def slope(state: Tensor) -> Tensor:
            moved = self.flow(state[..., :width], speed)
            return moved if self.intensity is None else torch.cat([moved, self._rates(state[..., :width])], dim=-1)

        if self.intensity is not None:
            start = torch.cat([start, start.new_zeros(len(start), self.problem.channels)], dim=1)
        times = [j / self.grid for j in range(max(1, math.ceil(until * self.grid)) + 1)]
        states = self.solver.path(slope, start, times) if len(start) else start.new_zeros(len(times), *start.shape)
        return _Path(start.new_tensor(times), states.transpose(0, 1), slope(states).transpose(0, 1))

    def _rates(self, z: Tensor) -> Tensor:
        """Observations of each channel in a horizon, (..., D)."""
        return softplus(self.intensity(z)) + _LEAST_RATE

    def _likelihoods(
        self, encoded: Encoded, committed: Committed, begun: _Beginnings, walked: Tensor, inside: Tensor
    ) -> Tensor:
        """Minus the weighted log likelihoods of what was observed, and when, (P,)."""
        width, rows = self.flow.log_speed.shape[0], encoded.rows
        if self.decoder is None and self.intensity is None:
            return walked.new_zeros(len(walked))
        seen = take(rows.observed, committed.position)[begun.series] & inside.unsqueeze(-1)  # (P, K, D)
        hidden, total = walked[..., :width], walked.new_zeros(len(walked))
        if self.decoder is not None:
            values = take(rows.values.to(hidden.dtype), committed.position)[begun.series]  # (P, K, D)
            mean, raw = self.decoder(hidden).chunk(2, dim=-1)
            cost = gaussian_nll_loss(mean, values, softplus(raw).square(), eps=1e-4, reduction="none")
            cost = torch.where(seen, cost, torch.zeros_like(cost)).flatten(1).sum(1)  # (P,)
            total = total + self.reconstruction * cost / seen.flatten(1).sum(1).clamp(min=1)
        if self.intensity is not None:
            later = seen & (torch.arange(seen.shape[1], device=seen.device) > 0).view(1, -1, 1)
            rates = torch.where(later, self._rates(hidden), torch.ones_like(seen, dtype=hidden.dtype))
            ends = take(walked[..., width:], (begun.counts - 1).clamp(min=0).unsqueeze(1)).squeeze(1)  # (P, D)
            total = total - self.poisson * (rates.log().sum(dim=(1, 2)) - ends.sum(dim=1))
        return total


class _Beginnings(NamedTuple):
    """The P beginnings of series from which something is answered.

    Attributes:
        series: (P,) of which series.
        counts: (P,) its first so many observations.
        of_query: (B, Q) from which of the P a query is answered.
    """

    series: Tensor
    counts: Tensor
    of_query: Tensor


def _beginnings(encoded: Encoded, committed: Committed) -> _Beginnings:
    counts, present = committed.counts, encoded.rows.query_present
    batch = torch.arange(len(counts), device=counts.device)
    if present.shape[1] == 0:
        return _Beginnings(batch, counts, batch.unsqueeze(1).expand_as(present))
    read = torch.where(present, committed.before_query + 1, counts.unsqueeze(1))  # (B, Q)
    room = committed.position.shape[1] + 1
    keys, of_query = torch.unique(batch.unsqueeze(1) * room + read, return_inverse=True)
    return _Beginnings(keys // room, keys % room, of_query)


class _Path(NamedTuple):
    """P paths at the points of one grid: times (G,), states and slopes (P, G, S)."""

    times: Tensor
    states: Tensor
    slopes: Tensor

    def at(self, time: Tensor, which: Tensor) -> Tensor:
        """Cubic Hermite interpolation at times (N, M) of the paths `which` (N, M): (N, M, S)."""
        which = which.expand_as(time)
        left = (torch.searchsorted(self.times, time.detach().contiguous(), right=True) - 1).clamp(
            0, len(self.times) - 2
        )
        step = (self.times[left + 1] - self.times[left]).unsqueeze(-1)  # (N, M, 1)
        s = (time - self.times[left]).unsqueeze(-1) / step
        first, second = self.states[which, left], self.states[which, left + 1]  # (N, M, S)
        leaving, arriving = step * self.slopes[which, left], step * self.slopes[which, left + 1]
        rise = second - first
        return first + s * (leaving + s * (3 * rise - 2 * leaving - arriving + s * (leaving + arriving - 2 * rise)))


def _slowed(elapsed: Tensor) -> Tensor:
    """The clock of a path at times in horizons: t up to _STEADY, and then _STEADY (1 + log(t / _STEADY))."""
    beyond = (elapsed / _STEADY).clamp(min=1.0)
    return elapsed.clamp(max=_STEADY) + _STEADY * beyond.log()


def _divergence(mean: Tensor, spread: Tensor) -> Tensor:
    """KL(N(mean, spread^2) || N(0, 1)) of (P, W), summed: (P,)."""
    return 0.5 * (mean.square() + spread.square() - 1 - 2 * spread.log()).sum(dim=-1)
