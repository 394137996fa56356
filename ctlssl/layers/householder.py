"""A matrix memory that events reflect: products of Householder steps between decaying flows."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ctlssl.kernels.householder import householder_memory, householder_product
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.layers.signed import sign_gate
from ctlssl.layers.unit_vectors import unit_vectors
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.response import Rows

__all__ = ["HouseholderLSSL"]


@final
class HouseholderLSSL(RecurrentLayer):
    r"""Between events a matrix memory decays with the clock; an event reflects it along a few keys and writes there.

        S <- e^{-h_k} S_{k-1};   then S <- (I - beta_j k_j k_j^T) S + beta_j k_j v_j^T  for j = 1 .. n;   S_k = S
        y_k = W S_k^T q_k + D u_k

    for every head. The unit keys k_j, the values v_j and the query q_k are linear in u_k, and
    beta_j = 1 + sign_gate(w_j u_k + b_j), which reaches 0 and 2. At beta_j = 1 a step replaces what is stored under
    k_j by v_j (the delta rule); at beta_j = 2 it is a reflection, and two of them are a rotation: n = 1 counts modulo
    2, n = 2 counts modulo any number and follows permutations. With `signed=False`, beta_j is between 0 and 1, and no
    such count outlives finite precision. The reflections are jumps: a real flow could not turn the sign of a state.
    The gap h_k is the observed one times the step size. An input of zeros lets the memory decay, and changes nothing
    else in it.

    Args:
        channels: inputs and outputs H.
        state_size: length N of the keys of a head.
        reflections: steps n of an event.
        signed: whether beta_j reaches 2, or only 1.
        heads: memories M, each N by P.
        values: length P of the values of a head; N if None.
        decays: whether the memory decays with the clock at all; without, only events change it.
        step_range: smallest and largest initial step size, one a head; the decay is e^{-step * gap}.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, M, N, P): keys, then
        values.

    Raises:
        ValueError: counts below 1, or a step range that cannot be.

    References:
        Siems, Carstensen, Zela, Hutter, Pontil, Grazzi (2025), DeltaProduct: improving state-tracking in linear RNNs
        via Householder products, arXiv:2502.10297; Grazzi et al. (2025), Unlocking state-tracking in linear RNNs
        through negative eigenvalues, arXiv:2411.12537.

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
        reflections: int = 1,
        signed: bool = True,
        heads: int = 1,
        values: int | None = None,
        decays: bool = True,
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        values = state_size if values is None else values
        if min(channels, state_size, reflections, heads, values) < 1:
            found = f"{channels}, {state_size}, {reflections}, {heads} and {values}"
            raise ValueError(f"channels, state_size, reflections, heads, values need to be at least 1; found {found}")
        self.channels, self.state_size, self.reflections, self.heads = channels, state_size, reflections, heads
        self.values, self.signed, self.decays = values, signed, decays
        N, P, M, n = state_size, values, heads, reflections
        self.log_step = nn.Parameter(initial_log_steps((M,), step_range), requires_grad=decays)
        self.key = nn.Parameter(torch.randn(M, n, N, channels) * channels**-0.5)
        self.value = nn.Parameter(torch.randn(M, n, P, channels) * channels**-0.5)
        self.strength = nn.Parameter(torch.randn(M, n, channels) * channels**-0.5)
        self.strength_bias = nn.Parameter(torch.zeros(M, n))
        self.query = nn.Parameter(torch.randn(M, N, channels) * channels**-0.5)
        self.query_bias = nn.Parameter(torch.randn(M, N))
        self.out = nn.Parameter(torch.randn(channels, M, P) * (M * P) ** -0.5)
        self.D = nn.Parameter(torch.randn(channels))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(M, N, P): heads, keys, values."""
        return (self.heads, self.state_size, self.values)

    def linear_form(self, rows: Rows) -> LinearForm:
        """The memory of all heads as one vector: each row's transition acts on its keys, the same for all values."""
        (B, L), (M, N, P), H = rows.u.shape[:2], self.state_shape, self.channels
        product, writing = householder_product(self._keys(rows.u), self._strengths(rows.u))
        transition = self._decays(rows)[..., None, None] * product  # (B, L, M, N, N)
        heads, eye = (torch.eye(n, dtype=rows.u.dtype, device=rows.u.device) for n in (M, P))
        S = M * N * P
        full = torch.einsum("blmij,mo,pq->blmipojq", transition, heads, eye).reshape(B, L, S, S)
        drive = torch.einsum("blmin,mnph->blmiph", writing, self.value.to(eye.dtype)).reshape(B, L, S, H)
        read = torch.einsum("omp,blmi->blomip", self.out.to(eye.dtype), self._queries(rows.u)).reshape(B, L, H, S)
        return LinearForm(full, drive, read, self.D.diag().to(eye).expand(B, L, H, H), rows.start.x.flatten(1))

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        more = f"reflections={self.reflections}, heads={self.heads}, values={self.values}"
        return f"{self.channels}, {self.state_size}, {more}, signed={self.signed}, decays={self.decays}"

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        u = rows.u
        values = self._linear(self.value, u).reshape(*u.shape[:2], *self.value.shape[:3])  # (B, L, M, n, P)
        given = (self._keys(u), values, self._decays(rows), self._strengths(u), self._queries(u))
        found, last = householder_memory(*given, rows.kinds, rows.start.x)  # (B, L, M, P), (B, M, N, P)
        return self._linear(self.out.flatten(1), found.flatten(2)) + self.D * u, last  # (B, L, H)

    def _decays(self, rows: Rows) -> Tensor:
        """Factors of the memory over each row's gap, (B, L, M)."""
        if not self.decays:
            return rows.u.new_ones(*rows.dt.shape, self.heads)
        return torch.exp(-self._steps(rows)).to(rows.u.dtype)

    def _keys(self, u: Tensor) -> Tensor:
        return unit_vectors(self._linear(self.key, u).reshape(*u.shape[:2], *self.key.shape[:3]))  # (B, L, M, n, N)

    def _strengths(self, u: Tensor) -> Tensor:
        read = self._linear(self.strength, u).reshape(*u.shape[:2], self.heads, self.reflections)
        beta = 1 + sign_gate(read + self.strength_bias.to(u.dtype))
        return beta if self.signed else beta / 2

    def _queries(self, u: Tensor) -> Tensor:
        return self._linear(self.query, u).reshape(*u.shape[:2], *self.query_bias.shape) + self.query_bias

    def _linear(self, matrix: Tensor, u: Tensor) -> Tensor:
        return project(u, matrix.reshape(-1, u.shape[-1]).to(u.dtype))
