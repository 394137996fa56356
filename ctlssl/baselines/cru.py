"""Continuous recurrent units: a latent linear SDE between observations, a Kalman update at them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu
from torch.nn.utils.parametrizations import orthogonal

from ctlssl.baselines.walking import walk
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.encoders import Encoder
from ctlssl.heads import head
from ctlssl.interleaving import take
from ctlssl.model_state import Hidden, ModelState, Pooled, Seen
from ctlssl.series import TimeSeries

__all__ = ["CRU"]


class CRU(Model):
    """A belief N(m, P) about a latent state, which a linear SDE carries between observations and each one corrects.

    The state (p, v) has n = 2 M numbers: p, which is observed, and v, its memory. Its covariance keeps the diagonals of
    its blocks, P_pp, P_vv and P_pv, M numbers each. Between observations dx = A x dt + dB with A = E L E^T, E
    orthogonal, L of 2 x 2 blocks [-a, w; -w, -a] with a > 0, and E[dB dB^T] = E Q E^T dt, Q one number q a block. So

        m(t + h) = F m,    F = E e^{hL} E^T,    P(t + h) = blocks(F P F^T + E N(h) E^T),    N = q (1 - e^{-2ah}) / (2a),

    in closed form for every gap. At a row the encoder gives an observation y of p and its variance r, and with the
    gains K_p = P_pp / (P_pp + r), K_v = P_pv / (P_pp + r) the belief becomes

        p + K_p (y - p),  v + K_v (y - p),    (1 - K_p) P_pp,  P_vv - K_v P_pv,  (1 - K_p) P_pv.

    With `bases` greater than 1 the dynamics are locally linear: L is a mixture of `bases` such matrices, whose weights
    are a softmax of a linear map of m after each update, constant until the next. A forecast is read from the belief
    carried to the query time; one answer a series from the beliefs after its observations.

    Rotations of any frequency w, which make A normal and not symmetric, are more than the fast variant of the paper has
    (L diagonal); the matrices A of the full variant, neither normal nor with a common basis, are not among these.

    Args:
        problem: what is asked.
        width: W, of the encoder, of the features read from a belief, and n, rounded up to an even number.
        bases: matrices L that are mixed.

    Raises:
        ValueError: fewer than one basis.

    References:
        Schirmer et al. (2022), Modeling Irregular Time Series with Continuous Recurrent Units, arXiv:2111.11344.
        Becker et al. (2019), Recurrent Kalman Networks, arXiv:1905.07357 (the factorised covariance and its update).

    >>> model = CRU(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    def __init__(self, problem: Problem, width: int = 32, *, bases: int = 4, dropout: float = 0.5) -> None:
        super().__init__(problem)
        if bases < 1:
            raise ValueError(f"bases is {bases!r}; the dynamics need at least one")
        self.encoder = Encoder(problem, width)
        half = (width + 1) // 2  # M, and of 2 x 2 blocks as many
        self.observation = nn.Sequential(nn.ReLU(), nn.Linear(width, 2 * half))
        self.basis = orthogonal(nn.Linear(2 * half, 2 * half, bias=False))  # E
        spans = problem.horizon / problem.time_scale
        slow, fast = math.log(1 / spans), math.log(10 / spans)  # from one e-fold a horizon
        self.log_decay = nn.Parameter(torch.linspace(slow, fast, half).repeat(bases, 1))  # (bases, M)
        turns = torch.linspace(0.0, 2 * math.pi * 10 / spans, half)
        self.frequency = nn.Parameter(turns * torch.linspace(0.5, 1.0, bases).unsqueeze(1))  # (bases, M)
        self.mixture = nn.Linear(2 * half, bases) if bases > 1 else None
        # without any observation the variance of the state is near 1
        self.log_noise = nn.Parameter(torch.linspace(slow, fast, half) + math.log(2.0))  # (M,)
        self.log_first = nn.Parameter(torch.zeros(2 * half))  # of the variances before the first observation
        self.read = nn.Sequential(nn.Linear(5 * half, width), nn.ReLU())
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
        gaps = (encoded.gaps * encoded.rate.unsqueeze(-1)).unsqueeze(-1)  # (B, R, 1) float64
        y, raw = self.observation(take(encoded.features, committed.position)).chunk(2, dim=-1)  # (B, K, M)
        seen = torch.cat([y, elu(raw) + 1 + 1e-4], dim=-1)  # (B, K, 2 M): the variances are positive
        (kept,) = self.initial_state(series.batch).layers if state is None else state.layers
        start, dynamics = kept.h.to(y.dtype), self.dynamics()

        def step(belief: Tensor, gap: Tensor, y: Tensor) -> Tensor:
            return update(dynamics.carry(belief, gap), *y.chunk(2, dim=-1))

        beliefs = walk(step, start, committed.counts, take(gaps, committed.position), seen)  # (B, K, 5 M)
        before, gap = committed.at_queries(beliefs, start), rows.at_queries(gaps)  # (B, Q, 5 M), (B, Q, 1)
        queries = dynamics.carry(before.flatten(0, 1), gap.flatten(0, 1)).view_as(before)
        hidden = self.read(beliefs)  # (B, K, W)
        pooled = self.head.gather(hidden, committed.inside, None if state is None else state.pooled)
        prediction = self.head.answer(encoded, pooled, self.read(queries))
        layers = (Hidden(committed.at_end(beliefs, start)),)
        return replace(prediction, state=ModelState(encoded.seen, layers, pooled))

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`. The belief has mean 0, learned variances and no correlation."""
        like, width = self.encoder.linear.weight, self.encoder.linear.out_features
        variances = self.log_first.exp().to(like.dtype)  # (2 M,)
        zeros = variances.new_zeros
        belief = torch.cat([zeros(len(variances)), variances, zeros(len(variances) // 2)])  # (5 M,)
        return ModelState(
            Seen.nothing(batch, self.problem.channels, like),
            (Hidden(belief.expand(batch, -1)),),
            None if self.problem.asks_queries else Pooled.nothing(batch, width, like),
        )

    def dynamics(self) -> Dynamics:
        """The linear SDE, formed once for a batch."""
        return Dynamics(self.basis.weight, self.log_decay.exp(), self.frequency, self.log_noise.exp(), self.mixture)


class Dynamics(NamedTuple):
    """The SDE of a belief (p, v, P_pp, P_vv, P_pv), M numbers each.

    Attributes:
        basis: E, (2 M, 2 M); rows are p and then v, columns the two numbers of every block one after the other, first
            all first ones and then all second ones.
        decay: a, (bases, M).
        frequency: w, (bases, M).
        noise: q, (M,).
        mixture: from m to the logits of the bases; None of one.
    """

    basis: Tensor
    decay: Tensor
    frequency: Tensor
    noise: Tensor
    mixture: nn.Module | None

    def carry(self, belief: Tensor, gap: Tensor) -> Tensor:
        """The beliefs (n, 5 M) after gaps (n, 1) float64 without an observation."""
        M = self.noise.shape[0]
        mean, variance = belief[:, : 2 * M], belief[:, 2 * M :]  # (n, 2 M), (n, 3 M)
        decay, frequency = self.decay, self.frequency  # (1, M) of one basis
        if self.mixture is not None:
            weights = self.mixture(mean).softmax(dim=-1)  # (n, bases)
            decay, frequency = weights @ decay, weights @ frequency  # (n, M)
        fall, turn = decay * gap, frequency * gap  # (n, M) float64, as the gaps are
        size = (-fall).exp()
        real, imag = ((size * part).to(mean.dtype).unsqueeze(1) for part in (turn.cos(), turn.sin()))  # (n, 1, M)
        first, second = self.basis.chunk(2, dim=1)  # (2 M, M)
        parts = [first * real - second * imag, first * imag + second * real]  # (n, 2 M, M) of E e^{hL}
        F = torch.cat(parts, dim=-1) @ self.basis.T  # (n, 2 M, 2 M)
        grown = -torch.expm1(-2 * fall) / (2 * decay) * self.noise  # (n, M) float64
        grown = grown.to(mean.dtype).repeat(1, 2) @ self._noise_map.T  # (n, 3 M)
        mean = (F @ mean.unsqueeze(-1)).squeeze(-1)
        return torch.cat([mean, _blocks(F, variance) + grown], dim=-1)

    @property
    def _noise_map(self) -> Tensor:
        """From the diagonal of N (2 M,) to the diagonals of the blocks of E N E^T, (3 M, 2 M)."""
        p, v = self.basis.chunk(2, dim=0)  # (M, 2 M)
        return torch.cat([p * p, v * v, p * v])


def _blocks(F: Tensor, variance: Tensor) -> Tensor:
    """The diagonals of the blocks of F P F^T, (n, 3 M), where P has those of `variance` (n, 3 M) and nothing else."""
    pp, vv, pv = variance.unsqueeze(1).chunk(3, dim=-1)  # (n, 1, M)
    left, right = F.chunk(2, dim=2)  # (n, 2 M, M): what every row takes of p and of v
    half = torch.cat([torch.addcmul(left * pp, right, pv), torch.addcmul(left * pv, right, vv)], dim=2)  # F P
    own = (half * F).sum(dim=2)  # (n, 2 M)
    (from_p, _), (_, to_v) = half.chunk(2, dim=1), F.chunk(2, dim=1)  # (n, M, 2 M)
    return torch.cat([own, (from_p * to_v).sum(dim=2)], dim=1)


def update(belief: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """The beliefs (n, 5 M) after observations y (n, M) of p with variances r (n, M)."""
    p, v, pp, vv, pv = belief.chunk(5, dim=-1)  # (n, M)
    total = pp + r
    of_p, of_v, news = pp / total, pv / total, y - p
    # P_pp r / (P_pp + r): no difference of near numbers, and so never below zero
    return torch.cat([p + of_p * news, v + of_v * news, r * of_p, vv - of_v * pv, r * of_v], dim=-1)
