"""A matrix memory that learns at every event by one step on a chosen loss, and fades with the clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from ctlssl.layers.inner_losses import INNER_LOSSES, InnerLoss
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.named import named_member
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.layers.retention import RETENTIONS, Retention
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.passes import stepwise_pass
from ctlssl.views.response import Rows

__all__ = ["RobustMemory"]

_NO_DIRECTION = 1e-3  # norm far below which a key says nothing


@final
class RobustMemory(RecurrentLayer):
    r"""Each head keeps a matrix M that maps keys to values: an event corrects it, the gap lets it fade.

        M~_k = retain(M_{k-1}, a h_k)                              the gap h_k, rates a a row of M
        M_k  = M~_k - eta_k psi(M~_k k_k - v_k) k_k^T              one gradient step on the loss l(M k_k - v_k)
        y_k  = C M_k q_k + D u_k

    Keys k and queries q are linear in u and of length 1 (of length 0 at u = 0, where nothing is written or read),
    values v linear, eta = sigmoid(w u + b) lies in (0, 1), psi is the derivative of l: see `INNER_LOSSES` and
    `RETENTIONS`. With the squared loss and decay this is the gated delta rule, with a rate for each row of M.

    **What one reading can do.** Huber's psi is at most the threshold c, so an event changes a head's M by at most
    eta c, whatever it reads. Two memories that differ by it do not grow apart later: psi is the derivative of a convex
    loss and has slopes up to 1, so a step with eta |k|^2 <= 1 does not expand, and every retention contracts. If
    reading k alone is changed, at any size, then at every later row i, in each head,

        |M_i - M'_i| <= (eta_k + eta'_k) c e^{-a (t_i - t_k)} <= 2 c,   a the smallest rate,

    in the Frobenius norm, and y_i moves by at most sqrt(heads) times the norm of C times that. (Elements clipped one by
    one have c sqrt(N) for c.) With the squared loss the bound grows with the reading, and with l_p as its power p - 1.
    D u is not bounded: it hands on what is read, and only in the reading's own row. Keys, queries and eta saturate.

    Args:
        channels: inputs and outputs H.
        state_size: N, size of keys and values: a head's memory has N x N numbers.
        loss: "squared", "huber", "huber_elementwise", "lp", or with fields: {"name": "lp", "power": 1.2}.
        threshold: c at the start, on the scale of the values, which begin at a norm of about 1 for inputs of spread 1.
        learn_threshold: whether each head learns its c.
        retention: "decay", "elastic", "none", or with fields: {"name": "elastic", "sparsity": 0.1}.
        heads: memories side by side.
        step_range: smallest and largest initial rate, one a row of each memory.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, heads, N, N).

    Raises:
        ValueError: counts below 1, a threshold that is not positive or has no part in the loss it is learned for, a
            loss or retention that does not exist, or a step range that cannot be.

    References:
        Behrouz, Razaviyayn, Zhong, Mirrokni (2025), It's all connected: a journey through test-time memorization,
        attentional bias, retention, and online optimization (Miras), arXiv:2504.13173; Yang, Kautz, Hatamizadeh
        (2024), Gated delta networks, arXiv:2412.06464.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = RobustMemory(channels=2, state_size=4)
        >>> u, late = torch.randn(1, 9, 2), torch.zeros(1, 9, 2)
        >>> late[:, 3] = 1e6
        >>> moved = (layer(u + late, dt=0.1)[0] - layer(u, dt=0.1)[0])[:, 4:]
        >>> bool(moved.norm(dim=-1).max() < 2 * torch.linalg.matrix_norm(layer.C, 2))
        True
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        *,
        loss: str | Mapping[str, Any] | InnerLoss = "huber",
        threshold: float = 1.0,
        learn_threshold: bool = False,
        retention: str | Mapping[str, Any] | Retention = "decay",
        heads: int = 1,
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        if min(channels, state_size, heads) < 1:
            found = f"{channels}, {state_size} and {heads}"
            raise ValueError(f"channels, state_size and heads need to be at least 1; found {found}")
        if not 0 < threshold < math.inf:
            raise ValueError(f"threshold needs to be positive and finite; found {threshold}")
        self.loss = named_member(loss, INNER_LOSSES, "inner loss")
        self.retention = named_member(retention, RETENTIONS, "retention")
        if learn_threshold and not self.loss.thresholded:
            raise ValueError(f"{self.loss} has no threshold to learn; use learn_threshold=False")
        self.channels, self.state_size, self.heads = channels, state_size, heads
        self.log_step = nn.Parameter(
            initial_log_steps((heads, state_size), step_range), requires_grad=self.retention.clocked
        )
        self.log_threshold = nn.Parameter(torch.full((heads,), math.log(threshold)), requires_grad=learn_threshold)
        size = heads * state_size
        self.key = nn.Parameter(torch.randn(size, channels) * channels**-0.5)
        self.query = nn.Parameter(torch.randn(size, channels) * channels**-0.5)
        self.value = nn.Parameter(torch.randn(size, channels) * (channels * state_size) ** -0.5)
        self.gate = nn.Parameter(torch.randn(heads, channels) * channels**-0.5)
        self.gate_bias = nn.Parameter(torch.zeros(heads))
        self.C = nn.Parameter(torch.randn(channels, size) * heads**-0.5)
        self.D = nn.Parameter(torch.randn(channels))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(heads, N, N)."""
        return (self.heads, self.state_size, self.state_size)

    def linear_form(self, rows: Rows) -> LinearForm:
        """Each row of M as a state of its own, I - eta w k k^T after what the retention leaves of it.

        The weight w = psi(r) / r, and with elastic retention the share that is left, are those of the trajectory.
        """
        dtype, eye = rows.u.dtype, torch.eye(self.heads * self.state_size, dtype=rows.u.dtype, device=rows.u.device)
        steps, keys, values, eta = parts = self._events(rows)
        memories, _ = stepwise_pass(self._advance, parts, rows, rows.start.x)
        before = torch.cat([rows.start.x[:, None], memories], dim=1)[:, : memories.shape[1]]  # (B, L, G, N, N)
        residual = _recall(self.retention.keep(before, steps), keys) - values  # (B, L, G, N)
        gain = (eta[..., None] * self.loss.weight(residual, self._threshold(dtype))).expand_as(residual)
        written = gain[..., None] * keys[..., None, :]  # (B, L, G, N, N): of a row of M and a key
        kept = (
            torch.eye(self.state_size, dtype=dtype, device=eye.device) - written[..., None] * keys[..., None, None, :]
        )
        kept = (kept * self.retention.factor(before, steps)[..., None, :]).flatten(2, 3)  # (B, L, G N, N, N)
        transition = torch.einsum("blrjk,rs->blrjsk", kept, eye).flatten(4, 5).flatten(2, 3)  # (B, L, S, S)
        drive = torch.einsum("blrj,rh->blrjh", written.flatten(2, 3), self.value.to(dtype)).flatten(
            2, 3
        )  # (B, L, S, H)
        reads = (
            _unit(self._by_head(rows.u, self.query))[..., None, :].expand_as(written).flatten(2, 3)
        )  # (B, L, G N, N)
        read = torch.einsum("or,blrj->blorj", self.C.to(dtype), reads).flatten(3, 4)  # (B, L, H, S)
        feed = self.D.to(dtype).diag().expand(*rows.u.shape[:2], -1, -1)
        return LinearForm(transition, drive, read, feed, rows.start.x.flatten(1))

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return f"{self.channels}, {self.state_size}, loss={self.loss}, retention={self.retention}, heads={self.heads}"

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        memories, last = stepwise_pass(self._advance, self._events(rows), rows, rows.start.x)  # (B, L, G, N, N)
        recalled = _recall(memories, _unit(self._by_head(rows.u, self.query))).flatten(2)  # (B, L, G N)
        return project(recalled, self.C.to(rows.u.dtype)) + self.D * rows.u, last  # (B, L, H)

    def _events(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every row the steps a h, key and value, (B, L, G, N) each, and eta, (B, L, G)."""
        dtype = rows.u.dtype
        eta = torch.sigmoid(project(rows.u, self.gate.to(dtype)) + self.gate_bias.to(dtype))  # (B, L, G)
        keys, values = _unit(self._by_head(rows.u, self.key)), self._by_head(rows.u, self.value)
        return self._steps(rows), keys, values, eta

    def _advance(self, memory: Tensor, steps: Tensor, key: Tensor, value: Tensor, eta: Tensor) -> Tensor:
        """The memory (B, G, N, N) after one row's gap and event."""
        memory = self.retention.keep(memory, steps)
        residual = _recall(memory, key) - value  # (B, G, N)
        slope = self.loss.weight(residual, self._threshold(memory.dtype)) * residual
        return memory - (eta[..., None] * slope)[..., None] * key[..., None, :]

    def _threshold(self, dtype: torch.dtype) -> Tensor:
        """(G, 1)."""
        return self.log_threshold.to(dtype).exp()[:, None]

    def _by_head(self, u: Tensor, matrix: Tensor) -> Tensor:
        """Inputs (B, L, H) through a matrix (G N, H), (B, L, G, N)."""
        return project(u, matrix.to(u.dtype)).unflatten(-1, (self.heads, self.state_size))


def _recall(memory: Tensor, key: Tensor) -> Tensor:
    """M k, (..., N): sums of products, so that a row's bits do not depend on how many there are."""
    return (memory * key[..., None, :]).sum(-1)


def _unit(x: Tensor) -> Tensor:
    """Vectors (..., N) at length 1, those close to 0 left small; no square overflows and no gradient is infinite."""
    size = x.detach().abs().amax(-1, keepdim=True).clamp(min=1)  # (..., 1)
    x = x / size
    return x / (x.square().sum(-1, keepdim=True) + (_NO_DIRECTION / size).square()).sqrt()
