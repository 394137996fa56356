"""Neural ODE: gated units summarise the observations, an ordinary differential equation goes on from there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ctlssl.baselines.solvers import Field, Solver
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.heads import gather, head
from ctlssl.interleaving import take
from ctlssl.model_state import Hidden, ModelState, Seen
from ctlssl.series import TimeSeries

__all__ = ["NeuralODE"]


class NeuralODE(Model):
    """One initial value from the observations, and a path of a neural ODE from the last of them.

    h_k = GRU(h_{k-1}, x_k) over the observations, z(t_K) = P h_K at the last one, and dz/dt = s * tanh(W2 tanh(W1 z +
    b1) + b2) from there. Unlike in an ODE-RNN nothing is solved between observations. A forecast is read from z at the
    query time, on a path from the last observation before it; all queries are solved at once, each gap a factor of its
    own field. One answer a series is read from z one horizon later, the network's depth.

    Args:
        problem: what is asked.
        width: W, of the encoder, of h and of z.
        method: a fixed or an adaptive solver of torchdiffeq; see `Solver`.
        steps: of a fixed solver from the last observation to a query.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance of an adaptive solver.
        dropout: in the head.

    Raises:
        ValueError: for an unknown solver, and in `forward` where an adaptive one cannot finish.

    References:
        Chen et al. (2018), Neural Ordinary Differential Equations, arXiv:1806.07366.

    >>> model = NeuralODE(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape, model.evaluations  # 8 steps of 4 evaluations
    (torch.Size([1, 2]), 32)
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        method: str = "rk4",
        steps: int = 8,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(problem)
        self.solver = Solver(method, steps, rtol, atol)
        self.encoder = Encoder(problem, width)
        self.unit = nn.GRU(width, width, batch_first=True)
        self.start = nn.Linear(width, width)
        self.field = Field(width, width, problem.horizon / problem.time_scale)
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
        inputs = take(encoded.features, committed.position)  # (B, K, W)
        (kept,) = self.initial_state(series.batch).layers if state is None else state.layers
        before = kept.h.to(inputs.dtype)  # (B, W)
        # Padding follows the last observation, so that nothing flows from it to what is read.
        hidden = self.unit(inputs, before.unsqueeze(0))[0] if series.batch else inputs  # (B, K, W)
        end, calls = committed.at_end(hidden, before), self.field.calls  # (B, W)
        if self.problem.asks_queries:
            gaps = rows.at_queries((encoded.gaps * encoded.rate.unsqueeze(-1)).unsqueeze(-1)).to(end.dtype)  # (B, Q, 1)
            begin = self.start(committed.at_queries(hidden, before)).flatten(0, 1)  # (B Q, W)
            queries = self.field.through(self.solver, begin, gaps.flatten(0, 1)).view(*gaps.shape[:2], end.shape[1])
            prediction = self.head(encoded, hidden, committed.inside, queries)
        else:
            horizon = end.new_full((series.batch, 1), self.problem.horizon / self.problem.time_scale)
            reached = self.field.through(self.solver, self.start(end), horizon).unsqueeze(1)  # (B, 1, W)
            one = torch.ones(reached.shape[:2], dtype=torch.bool, device=reached.device)
            prediction = self.head.answer(encoded, gather(reached, one), reached)
        self.evaluations += self.field.calls - calls
        return replace(prediction, state=ModelState(encoded.seen, (Hidden(end),)))

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`."""
        like, width = self.encoder.linear.weight, self.encoder.linear.out_features
        return ModelState(Seen.nothing(batch, self.problem.channels, like), (Hidden(like.new_zeros(batch, width)),))

    def extra_repr(self) -> str:
        """The solver."""
        return f"solver={self.solver}"
