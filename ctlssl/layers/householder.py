"""A matrix memory that is reflected at events and decays between them."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.layers.signed import sign_gate
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.passes import stepwise_pass
from ctlssl.views.response import Rows

__all__ = ["HouseholderLSSL", "unit_vectors"]


@final
class HouseholderLSSL(RecurrentLayer):
    r"""A memory S of keys and values: products of Householder steps at an event, decay with the clock between events.

        before row k:      S <- e^{-h_k} S,  h_k the gap times the step size of the head
        for j = 1 .. n_h:  S <- (I - beta_j k_j k_j^T) S + beta_j k_j v_j^T
        y_k = W S^T q_k + D u_k

    Keys k_j (of length 1), values v_j, queries q and beta_j = 1 + sign_gate(w_j u_k + b_j) are made from the row. With
    beta 2 a step is a reflection and two are a rotation, which a flow with real eigenvalues cannot do: so they are
    jumps at events. `signed=False` has half of that, up to 1, and no negative eigenvalue: the delta rule.

    Args:
        channels: inputs and outputs H.
        state_size: K, the length of a key.
        values: V, the length of a value; K if None.
        heads: memories side by side.
        reflections: n_h steps an event.
        signed: whether beta reaches up to 2, or stays below 1.
        decays: whether S decays with the clock at all; without, only events change it.
        step_range: smallest and largest initial step size, one a head; the decay is e^{-step * gap}.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, heads, K, V).

    Raises:
        ValueError: counts below 1, or a step range that cannot be.

    References:
        Siems, Carstensen, Zela, Hutter, Pontil, Grazzi (2025), DeltaProduct, arXiv:2502.10297. Grazzi, Siems, Franke,
        Zela, Hutter, Pontil (2025), arXiv:2411.12537, for the range of beta.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = HouseholderLSSL(channels=2, state_size=4, reflections=2)
        >>> y, state = layer(torch.randn(3, 5, 2), torch.rand(3, 5))
        >>> y.shape, state.x.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 1, 4, 4]))
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        *,
        values: int | None = None,
        heads: int = 1,
        reflections: int = 1,
        signed: bool = True,
        decays: bool = True,
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        values = state_size if values is None else values
        if min(channels, state_size, values, heads, reflections) < 1:
            found = f"{channels}, {state_size}, {values}, {heads} and {reflections}"
            raise ValueError(f"channels, state_size, values, heads, reflections need to be at least 1; found {found}")
        self.channels, self.state_size, self.values, self.heads = channels, state_size, values, heads
        self.reflections, self.signed, self.decays = reflections, signed, decays
        scale, steps = channels**-0.5, heads * reflections
        self.log_step = nn.Parameter(initial_log_steps((heads,), step_range), requires_grad=decays)
        self.key = nn.Parameter(torch.randn(steps * state_size, channels) * scale)
        self.value = nn.Parameter(torch.randn(steps * values, channels) * scale)
        self.query = nn.Parameter(torch.randn(heads * state_size, channels) * scale)
        self.gate = nn.Parameter(torch.randn(steps, channels) * scale)
        self.gate_bias = nn.Parameter(torch.zeros(steps))
        self.out = nn.Parameter(torch.randn(channels, heads * values) * (heads * values) ** -0.5)
        self.D = nn.Parameter(torch.randn(channels))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(heads, K, V)."""
        return self.heads, self.state_size, self.values

    def linear_form(self, rows: Rows) -> LinearForm:
        """The memory as one long vector: its columns are multiplied alike."""
        M, G, q = self._coefficients(rows)
        (B, L), (heads, K, V), H, dtype = rows.u.shape[:2], self.state_shape, self.channels, rows.u.dtype
        whole, eye = rows.u.new_zeros(B, L, heads, K, V, heads, K, V), torch.eye(V, dtype=dtype)
        for h in range(heads):
            whole[:, :, h, :, :, h] = torch.einsum("blij,vw->blivjw", M[:, :, h], eye)
        value = self.value.to(dtype).reshape(heads, self.reflections, V, H)
        drive = torch.einsum("blhjk,hjvc->blhkvc", G, value)
        read = torch.einsum("ohv,blhk->blohkv", self.out.to(dtype).reshape(H, heads, V), q)
        S, feed = heads * K * V, self.D.to(dtype).diag().expand(B, L, H, H)
        whole, drive = whole.reshape(B, L, S, S), drive.reshape(B, L, S, H)
        return LinearForm(whole, drive, read.reshape(B, L, H, S), feed, rows.start.x.flatten(1))

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        more = f"values={self.values}, heads={self.heads}, reflections={self.reflections}"
        return f"{self.channels}, {self.state_size}, {more}, signed={self.signed}, decays={self.decays}"

    @property
    def _row_numbers(self) -> int:
        return self.heads * self.state_size * (self.state_size + self.values)

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        M, G, q = self._coefficients(rows)
        value = self._made(self.value, rows, self.values)  # (B, L, heads, n_h, V)
        written = (G[..., None] * value[..., None, :]).sum(-3)  # (B, L, heads, K, V)
        S, last = stepwise_pass(_step, (M, written), rows, rows.start.x)
        found = (S * q[..., None]).sum(-2).flatten(-2)  # (B, L, heads V)
        return project(found, self.out.to(found.dtype)) + self.D * rows.u, last

    def _made(self, matrix: Tensor, rows: Rows, size: int) -> Tensor:
        """A linear map of the row for each head and step, (B, L, heads, n_h, size)."""
        return project(rows.u, matrix.to(rows.u.dtype)).unflatten(-1, (self.heads, -1, size))

    def _coefficients(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """The whole jump and decay (B, L, heads, K, K), where values go (B, L, heads, n_h, K), queries (.., K)."""
        keys = unit_vectors(self._made(self.key, rows, self.state_size))
        gate = self._made(self.gate, rows, 1) + self.gate_bias.to(rows.u.dtype).unflatten(0, (self.heads, -1, 1))
        beta = (1 + sign_gate(gate)) * (1.0 if self.signed else 0.5)  # (B, L, heads, n_h, 1)
        M = torch.eye(self.state_size, dtype=keys.dtype, device=keys.device).expand(*keys.shape[:3], -1, -1)
        where: list[Tensor] = []
        for j in range(self.reflections):
            k, pushed = keys[..., j, :], (beta * keys)[..., j, :]  # (B, L, heads, K)
            M = M - pushed[..., None] * (k[..., None] * M).sum(-2, keepdim=True)
            where = [g - pushed * (k * g).sum(-1, keepdim=True) for g in where] + [pushed]
        if self.decays:
            M = M * torch.exp(-self._steps(rows)).to(M.dtype)[..., None, None]
        return M, torch.stack(where, dim=-2), self._made(self.query, rows, self.state_size)[..., 0, :]


def unit_vectors(x: Tensor) -> Tensor:
    """Vectors (..., K) of length 1; those shorter than about 1e-9 stay short, and 0 stays 0.

    Example:
        >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    # Divided by the largest entry first: a square must not overflow.
    largest = x.detach().abs().amax(-1, keepdim=True).clamp(min=1.0)
    x = x / largest
    return x / (x.square().sum(-1, keepdim=True) + 1e-18).sqrt()


def _step(S: Tensor, M: Tensor, written: Tensor) -> Tensor:
    """One row: S (B, heads, K, V)."""
    return M @ S + written
