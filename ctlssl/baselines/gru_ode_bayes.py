"""GRU-ODE-Bayes: a gated ODE between observations, an update by the channels that were observed at them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ctlssl.baselines.solvers import Solver
from ctlssl.baselines.walking import walk
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoded, Encoder
from ctlssl.heads import head
from ctlssl.interleaving import Committed, take
from ctlssl.model_state import Hidden, ModelState, Pooled, Seen
from ctlssl.series import TimeSeries

__all__ = ["GRUODEBayes"]

_REACH = 2.5  # e-folds in one step: every Runge-Kutta method of order 4 still contracts
_LEAST_SCALE = 0.05  # of a normalised value that an observation is expected with


class GRUODEBayes(Model):
    """The hidden state follows the flow of a gated unit, and jumps where something is observed.

    Between observations dh/dt = s (1 - z(h)) (g(h) - h) with z = sigmoid(U_z h + b_z), r = sigmoid(U_r h + b_r),
    g = tanh(U_g (r h) + b_g) and one learned speed s a unit; |h| stays below 1. At an observation h gives a Gaussian
    N(m_d, v_d) of every channel, and h = GRU(h, q), where q_d = relu(W_d [x_d, m_d, v_d, (x_d - m_d) / v_d] + b_d) for
    the channels observed and 0 for the others. What `Encoder` makes of the row (ages of the channels, gap, filled
    values) is read beside q. A forecast is read from h at the query time, before any jump.

    Every series keeps its own clock: with t = t_{k-1} + gap * tau the whole batch is solved over tau in [0, 1]. The
    flow contracts at rates up to s, which a fixed explicit solver follows for 2.5 / s a step; a gap longer than that
    in all its steps is cut there for the unit, which by then is close to its rest.

    In training `Prediction.penalty` is `jumps` times the mean negative log likelihood of the observed values before
    their jump and, `bayes` times it, the divergence from the posterior to what h says after the jump: where p before
    is N(m, v^2), an observation x with standard deviation `noise` has the posterior N(w x + (1 - w) m, w noise^2),
    w = v^2 / (v^2 + noise^2).

    Args:
        problem: what is asked.
        width: W, of the encoder and the hidden state.
        prepared: numbers q_d a channel.
        jumps: weight of the loss before jumps; with 0 there is no penalty.
        bayes: weight of the divergence after jumps relative to it.
        noise: standard deviation of a normalised observation.
        method: a fixed or an adaptive solver of torchdiffeq; see `Solver`.
        steps: of a fixed solver in each gap.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance of an adaptive solver.
        dropout: in the head.

    Raises:
        ValueError: for an unknown solver, a negative weight or a noise that is not positive, and in `forward` where
            an adaptive solver cannot finish.

    References:
        De Brouwer et al. (2019), GRU-ODE-Bayes: Continuous Modeling of Sporadically-Observed Time Series,
        arXiv:1905.12374.

    >>> model = GRUODEBayes(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape, model.evaluations  # 3 gaps of 2 steps of 4 evaluations
    (torch.Size([1, 2]), 24)
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        prepared: int = 4,
        jumps: float = 0.1,
        bayes: float = 0.1,
        noise: float = 0.1,
        method: str = "rk4",
        steps: int = 2,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        if not (jumps >= 0 and bayes >= 0 and noise > 0):
            raise ValueError(f"weights are not negative and noise is positive; found {jumps=}, {bayes=}, {noise=}")
        self.solver = Solver(method, steps, rtol, atol)
        self.jumps, self.bayes, self.noise = jumps, bayes, noise
        self.encoder = Encoder(problem, width)
        self.field = _GatedField(width, problem.horizon / problem.time_scale)
        self.expected = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * problem.channels))
        bound = 1 / math.sqrt(4)
        self.weight = nn.Parameter(torch.empty(problem.channels, 4, prepared).uniform_(-bound, bound))  # (D, 4, P)
        self.bias = nn.Parameter(torch.full((problem.channels, prepared), 0.1))  # (D, P)
        self.unit = nn.GRUCell(problem.channels * prepared + width, width)
        self.head = head(problem, width, dropout)

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: ModelState | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`."""
        check_request(self.problem, series, query_times, state, None if state is None else self.initial_state(0))
        encoded = self.encoder(series, query_times, rate, None if state is None else state.seen)
        rows, committed, calls = encoded.rows, encoded.rows.compact(), self.field.calls
        gaps = (encoded.gaps * encoded.rate.unsqueeze(-1)).unsqueeze(-1)  # (B, R, 1)
        (kept,) = self.initial_state(series.batch).layers if state is None else state.layers
        start = kept.h.to(encoded.features.dtype)  # (B, W)
        read = [take(part, committed.position) for part in (gaps, encoded.features, rows.values, rows.observed)]
        states = walk(self._step, start.repeat(1, 2), committed.counts, *read)
        flown, hidden = states.chunk(2, dim=-1)  # (B, K, W) each
        before, gap = committed.at_queries(hidden, start), rows.at_queries(gaps)  # (B, Q, W), (B, Q, 1)
        queries = self._flow(before.flatten(0, 1), gap.flatten(0, 1)).view_as(before)
        self.evaluations += self.field.calls - calls
        pooled = self.head.gather(hidden, committed.inside, None if state is None else state.pooled)
        prediction = self.head.answer(encoded, pooled, queries)
        layers = (Hidden(committed.at_end(hidden, start)),)
        penalty = self._penalty(encoded, committed, flown, hidden) if self.training and self.jumps else None
        return replace(prediction, state=ModelState(encoded.seen, layers, pooled), penalty=penalty)

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`."""
        like, width = self.encoder.linear.weight, self.encoder.linear.out_features
        return ModelState(
            Seen.nothing(batch, self.problem.channels, like),
            (Hidden(like.new_zeros(batch, width)),),
            None if self.problem.asks_queries else Pooled.nothing(batch, width, like),
        )

    def extra_repr(self) -> str:
        """The solver."""
        return f"solver={self.solver}"

    def _step(self, states: Tensor, gap: Tensor, x: Tensor, values: Tensor, observed: Tensor) -> Tensor:
        """The states before the jump at the next observation and after it, (n, 2 W), from the same at the last."""
        flown = self._flow(states.chunk(2, dim=-1)[1], gap)  # (n, W)
        read = torch.cat([self._prepare(flown, values, observed), x], dim=-1)
        return torch.cat([flown, self.unit(read, flown)], dim=-1)

    def _flow(self, hidden: Tensor, gap: Tensor) -> Tensor:
        """H (n, W) after gaps (n, 1) of the clock."""
        if hidden.shape[0] == 0:
            return hidden
        pace = (gap * self.field.log_speed.double().exp()).clamp(max=_REACH * self.solver.steps)  # (n, W)
        pace = pace.to(hidden.dtype)
        return self.solver.flow(lambda h: self.field(h, pace), hidden)

    def _expect(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation that h (..., W) gives every channel, (..., D) each."""
        mean, raw = self.expected(hidden).chunk(2, dim=-1)
        return mean, softplus(raw) + _LEAST_SCALE

    def _prepare(self, hidden: Tensor, values: Tensor, observed: Tensor) -> Tensor:
        """What the jump reads of n rows (n, D), 0 for what was not observed: (n, D P)."""
        mean, scale = self._expect(hidden)  # (n, D)
        values = values.to(mean.dtype)
        given = torch.stack([values, mean, scale, (values - mean) / scale], dim=-1)  # (n, D, 4)
        prepared = torch.einsum("ndi,dip->ndp", given, self.weight) + self.bias
        return torch.where(observed.unsqueeze(-1), prepared.relu(), torch.zeros_like(prepared)).flatten(1)

    def _penalty(self, encoded: Encoded, committed: Committed, flown: Tensor, hidden: Tensor) -> Tensor:
        """The weighted mean over the observed values of each series, (B,)."""
        values, observed = (take(part, committed.position) for part in (encoded.rows.values, encoded.rows.observed))
        values = values.to(hidden.dtype)  # (B, K, D)
        mean, scale = self._expect(flown)
        cost = 0.5 * ((values - mean) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)
        if self.bayes:
            share = scale.square() / (scale.square() + self.noise**2)  # (B, K, D): of the observation
            spread, centre = share.sqrt() * self.noise, share * values + (1 - share) * mean
            said, width = self._expect(hidden)
            ratio = spread / width
            divergence = 0.5 * (ratio.square() + ((centre - said) / width).square() - 1) - ratio.log()
            cost = cost + self.bayes * divergence
        inside = observed & committed.inside.unsqueeze(-1)
        cost = torch.where(inside, cost, torch.zeros_like(cost)).flatten(1).sum(1)  # (B,)
        return self.jumps * cost / inside.flatten(1).sum(1).clamp(min=1)


class _GatedField(nn.Module):
    """(1 - z) (g - h) of a gated unit without input; counts its calls."""

    def __init__(self, width: int, spans: float) -> None:
        super().__init__()
        self.gates, self.candidate = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.log_speed = nn.Parameter(torch.linspace(0.0, math.log(10.0), width) - math.log(spans))  # (W,)
        self.calls = 0

    def forward(self, hidden: Tensor, pace: Tensor) -> Tensor:
        """dh/dtau at h (n, W), where dt = gap dtau and pace = gap * s."""
        self.calls += 1
        stay, reset = self.gates(hidden).sigmoid().chunk(2, dim=-1)
        return pace * (1 - stay) * (self.candidate(reset * hidden).tanh() - hidden)
