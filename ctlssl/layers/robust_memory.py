"""A memory that a single reading can move only so far."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ctlssl.layers.householder import unit_vectors
from ctlssl.layers.inner_losses import LOSSES, RETENTIONS, check_loss
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.passes import stepwise_pass
from ctlssl.views.response import Rows

__all__ = ["RobustMemory"]


@final
class RobustMemory(RecurrentLayer):
    r"""A matrix memory M (V, K), updated by one gradient step on an inner loss of M k - v, with a retention in between.

        before row k:  M <- retention of M over h_k, the gap times the step size of the head
        at row k:      M <- M - eta_k w(r) r k_k^T,   r = M k_k - v_k
        y_k = W M q_k

    Keys k and queries q have length 1 and eta = sigmoid(...) lies below 1, so that whatever stands in a row, it moves
    M by at most eta |w(r) r|. With "huber" that is at most `threshold`, and decays from then on: no reading, however
    far out, moves later outputs further than |W| threshold e^{-h}. With "squared" (the delta rule) the move
    grows with the reading, with "lp" like its power p - 1. There is no direct path from u to y: it would pass an
    outlier on. Weights w(r) = l'(r) / r are those of `ctlssl.layers.inner_losses`.

    Args:
        channels: inputs and outputs H.
        state_size: K, the length of a key.
        values: V, the length of a value; K if None.
        heads: memories side by side.
        loss: "huber", "squared" or "lp".
        threshold: residual where Huber's line begins; p - 1 of lp.
        retention: "decay" (M' = -M), "elastic" (M' = -M - floor sign M, which forgets small entries altogether) or
            "none", in units of the head's own time.
        floor: of "elastic".
        step_range: smallest and largest initial step size, one a head.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, heads, V, K).

    Raises:
        ValueError: counts below 1, names that do not exist, thresholds that cannot be.

    References:
        Behrouz, Razaviyayn, Zhong, Mirrokni (2025), It's all connected (Miras), arXiv:2504.13173. Retention over the
        observed gap is ours.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = RobustMemory(channels=2, state_size=4)
        >>> u = torch.randn(1, 5, 2)
        >>> u[0, 2] = 1e6
        >>> layer(u)[0].abs().max() < 10
        tensor(True)
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        *,
        values: int | None = None,
        heads: int = 1,
        loss: str = "huber",
        threshold: float = 1.0,
        retention: str = "decay",
        floor: float = 0.1,
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        values = state_size if values is None else values
        if min(channels, state_size, values, heads) < 1:
            found = f"{channels}, {state_size}, {values} and {heads}"
            raise ValueError(f"channels, state_size, values and heads need to be at least 1; found {found}")
        check_loss(loss, retention, threshold, floor)
        self.channels, self.state_size, self.values, self.heads = channels, state_size, values, heads
        self.loss, self.threshold, self.retention, self.floor = loss, float(threshold), retention, float(floor)
        scale = channels**-0.5
        self.log_step = nn.Parameter(initial_log_steps((heads,), step_range), requires_grad=retention != "none")
        self.key = nn.Parameter(torch.randn(heads * state_size, channels) * scale)
        self.value = nn.Parameter(torch.randn(heads * values, channels) * scale)
        self.query = nn.Parameter(torch.randn(heads * state_size, channels) * scale)
        self.gate = nn.Parameter(torch.zeros(heads, channels))
        self.gate_bias = nn.Parameter(torch.zeros(heads))
        self.out = nn.Parameter(torch.randn(channels, heads * values) * (heads * values) ** -0.5)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(heads, V, K)."""
        return self.heads, self.values, self.state_size

    def linear_form(self, rows: Rows) -> LinearForm:
        """Along the trajectory of this batch: weights and retention as factors, those of a memory of 0 being 0."""
        M, shape = rows.start.x, self.state_shape
        k, v, q, eta, h = self._coefficients(rows)
        (B, L), (heads, V, K), H, dtype = rows.u.shape[:2], shape, self.channels, rows.u.dtype
        S, value = heads * V * K, self.value.to(dtype).reshape(heads, V, H)
        eye, transitions, drives = torch.eye(S, dtype=dtype).reshape(*shape, *shape), [], []
        for i in range(L):
            kept = RETENTIONS[self.retention](M, h[:, i], self.floor)  # (B, heads, V, K)
            factor = torch.where(M == 0, 0, kept / torch.where(M == 0, 1, M))
            r = (kept * k[:, i, :, None]).sum(-1) - v[:, i]  # (B, heads, V)
            w = (eta[:, i] * LOSSES[self.loss](r, self.threshold)).expand_as(r)
            pull = torch.einsum("bhv,bhk,bhj->bhvkj", w, k[:, i], k[:, i])  # on the row of M that v names
            whole = eye - torch.einsum("bhvkj,hg,vw->bhvkgwj", pull, torch.eye(heads).to(dtype), torch.eye(V).to(dtype))
            transitions.append(whole.reshape(B, S, S) * factor.reshape(B, 1, S))
            drives.append(torch.einsum("bhv,bhk,hvc->bhvkc", w, k[:, i], value).reshape(B, S, H))
            M = self._advance(M, k[:, i], v[:, i], eta[:, i], h[:, i])
        read = torch.einsum("ohv,blhk->blohvk", self.out.to(dtype).reshape(H, heads, V), q).reshape(B, L, H, S)
        maps = torch.stack(transitions, 1), torch.stack(drives, 1), read, rows.u.new_zeros(B, L, H, H)
        return LinearForm(*maps, rows.start.x.flatten(1))

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        losses = f"loss={self.loss!r}, threshold={self.threshold}, retention={self.retention!r}, floor={self.floor}"
        return f"{self.channels}, {self.state_size}, values={self.values}, heads={self.heads}, {losses}"

    @property
    def _row_numbers(self) -> int:
        return self.heads * (self.values + 2 * self.state_size)

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        *given, q, eta, h = self._coefficients(rows)
        M, last = stepwise_pass(self._advance, (*given, eta, h), rows, rows.start.x)
        found = (M * q[..., None, :]).sum(-1).flatten(-2)  # (B, L, heads V)
        return project(found, self.out.to(found.dtype)), last

    def _advance(self, M: Tensor, k: Tensor, v: Tensor, eta: Tensor, h: Tensor) -> Tensor:
        """One row: M (B, heads, V, K), k (B, heads, K), v (B, heads, V), eta (B, heads, 1), h (B, heads, 1, 1)."""
        M = RETENTIONS[self.retention](M, h, self.floor)
        r = (M * k[..., None, :]).sum(-1) - v  # (B, heads, V)
        return M - (eta * LOSSES[self.loss](r, self.threshold) * r)[..., None] * k[..., None, :]

    def _coefficients(self, rows: Rows) -> tuple[Tensor, ...]:
        """Keys, values, queries, eta (B, L, heads, 1) and times (B, L, heads, 1, 1) of each row."""
        u = rows.u
        k, v, q = (
            project(u, m.to(u.dtype)).unflatten(-1, (self.heads, -1)) for m in (self.key, self.value, self.query)
        )
        eta = (1 + torch.tanh((project(u, self.gate.to(u.dtype)) + self.gate_bias) / 2)) / 2  # (B, L, heads)
        h = self._steps(rows).to(u.dtype)[..., None, None]
        return unit_vectors(k), v, unit_vectors(q), eta[..., None], h
