"""ODE-RNN: a neural ODE between observations, a gated unit at them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ctlssl.baselines.solvers import Field, Solver
from ctlssl.baselines.walking import walk
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.heads import head
from ctlssl.interleaving import take
from ctlssl.model_state import Hidden, ModelState, Pooled, Seen
from ctlssl.series import TimeSeries

__all__ = ["ODERNN"]


class ODERNN(Model):
    """The hidden state follows a neural ODE through each gap and is updated by a gated unit at each observation.

    dh/dt = s * tanh(W2 tanh(W1 h + b1) + b2) between observations, h = GRU(h, x) at them, t in units of the clock and
    one learned speed s a hidden unit. Every series keeps its own clock: with t = t_{k-1} + gap * tau the whole batch
    is solved over tau in [0, 1], each gap a factor of its own field, without a union of time grids. The state flows
    to query times as it does to observations, and the unit reads the query's row; nothing of that is kept.

    The default solver is the classical Runge-Kutta method with `steps` equal steps a gap: no series then depends on
    its neighbours. An adaptive one chooses its steps for the hardest series in the batch (the error norm is the
    maximum over series), so that the neighbours enter within its tolerance.

    Args:
        problem: what is asked.
        width: W, of the encoder, the hidden state and the field's hidden layer.
        method: a fixed or an adaptive solver of torchdiffeq; see `Solver`.
        steps: of a fixed solver in each gap.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance of an adaptive solver.
        dropout: in the head.

    Raises:
        ValueError: for an unknown solver, and in `forward` where an adaptive one cannot finish.

    References:
        Rubanova et al. (2019), Latent Ordinary Differential Equations for Irregularly-Sampled Time Series,
        arXiv:1907.03907.

    >>> import torch
    >>> model = ODERNN(Problem("classification", channels=2, outputs=2), width=8)
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
        method: str = "rk4",
        steps: int = 2,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        self.solver = Solver(method, steps, rtol, atol)
        self.encoder = Encoder(problem, width)
        self.field = Field(width, width, problem.horizon / problem.time_scale)
        self.unit = nn.GRUCell(width, width)
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
        rows, committed = encoded.rows, encoded.rows.compact()
        gaps = (encoded.gaps * encoded.rate.unsqueeze(-1)).unsqueeze(-1).to(encoded.features.dtype)  # (B, R, 1)
        inputs = take(encoded.features, committed.position)  # (B, K, W)
        (kept,) = self.initial_state(series.batch).layers if state is None else state.layers
        start = kept.h.to(inputs.dtype)  # (B, W)
        hidden = walk(self._step, start, committed.counts, inputs, take(gaps, committed.position))  # (B, K, W)
        before = committed.at_queries(hidden, start)  # (B, Q, W)
        x, gap = rows.at_queries(encoded.features), rows.at_queries(gaps)  # (B, Q, W), (B, Q, 1)
        queries = self._step(before.flatten(0, 1), x.flatten(0, 1), gap.flatten(0, 1)).view_as(before)
        pooled = self.head.gather(hidden, committed.inside, None if state is None else state.pooled)
        prediction = self.head.answer(encoded, pooled, queries)
        layers = (Hidden(committed.at_end(hidden, start)),)
        return replace(prediction, state=ModelState(encoded.seen, layers, pooled))

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

    def _step(self, hidden: Tensor, x: Tensor, gap: Tensor) -> Tensor:
        """Flow through the gap, then read the row: (n, W), (n, W), (n, 1) -> (n, W)."""
        if hidden.shape[0] == 0:
            return hidden
        calls = self.field.calls
        flown = self.field.through(self.solver, hidden, gap)
        self.evaluations += self.field.calls - calls
        return self.unit(x, flown)
