"""A layer that selects by content, on the clock of the observations."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.layers.step_gate import StepGate
from ctlssl.state_matrices import Diagonal
from ctlssl.state_matrices.diagonal import join_pairs, multiply, split_pairs
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.passes import elementwise_pass
from ctlssl.views.response import Rows

__all__ = ["SelectiveLSSL"]

METHODS = ("trapezoid", "zoh")


@final
class SelectiveLSSL(RecurrentLayer):
    r"""Step size, rotation, input and output maps depend on the input; all time is observed gap times step size.

        Delta_k = gap_k step softplus(w u_k + b),    alpha_k = exp(Delta_k (-a + i theta_k)),  theta_k = pi tanh(W u_k)
        trapezoid:  h_k = alpha_k h_{k-1} + (1 - lambda_k) Delta_k alpha_k B_{k-1} u_{k-1} + lambda_k Delta_k B_k u_k
        zoh:        h_k = alpha_k h_{k-1} + Delta_k phi_1(Delta_k (-a + i theta_k)) B_k u_k
        y_k = Re(conj(C_k) h_k) + D u_k

    Each channel has its own state h of N / 2 complex numbers, its own decay a and its own Delta; B_k, C_k, theta_k and
    lambda_k = sigmoid(v u_k) are made from all channels of the row and shared. The trapezoid is the step of Mamba-3;
    its input terms grow with the gap without bound, those of zoh do not: hence zoh is the default on a real clock.

    Args:
        channels: inputs and outputs H.
        state_size: N real dimensions of each channel's state, even.
        method: "zoh" or "trapezoid".
        step_range: smallest and largest initial step size, one a channel.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, H, N).

    Raises:
        ValueError: an odd or empty state, an unknown method, or a step range that cannot be.

    References:
        Gu, Dao (2023), Mamba, arXiv:2312.00752. Lahoti et al. (2026), Mamba-3, arXiv:2603.15569, for the trapezoid
        and the rotation; the factor of the observed gap is ours.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = SelectiveLSSL(channels=2, state_size=8)
        >>> y, state = layer(torch.randn(3, 5, 2), torch.rand(3, 5))
        >>> y.shape, state.x.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 2, 8]))
    """

    dynamics = frozenset({"log_step", "log_decay"})

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        *,
        method: str = "zoh",
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        if channels < 1 or state_size < 1 or state_size % 2:
            found = f"{channels} and {state_size}"
            raise ValueError(f"channels and state_size need to be at least 1, and the state even; found {found}")
        if method not in METHODS:
            raise ValueError(f"no method {method!r} of a selective layer; there are {', '.join(METHODS)}")
        self.channels, self.state_size, self.method_name = channels, state_size, method
        scale = channels**-0.5
        self.log_step = nn.Parameter(initial_log_steps((channels,), step_range))
        self.log_decay = nn.Parameter(torch.full((channels,), math.log(0.5)))
        self.gate = StepGate(channels, channels)
        self.rotation = nn.Parameter(torch.randn(state_size // 2, channels) * scale)
        self.B = nn.Parameter(torch.randn(state_size, channels) * scale)
        self.C = nn.Parameter(torch.randn(state_size, channels) * scale)
        self.D = nn.Parameter(torch.randn(channels))
        self.mixture = nn.Parameter(torch.zeros(channels)) if method == "trapezoid" else None

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(H, N)."""
        return self.channels, self.state_size

    def linear_form(self, rows: Rows) -> LinearForm:
        """States of all channels, and with the trapezoid the last input below them."""
        alpha, now, before = self._coefficients(rows)  # (B, L, H, n)
        (B, L, H), N, dtype = alpha.shape[:3], self.state_size, rows.u.dtype
        S, held = H * N, before is not None
        whole = rows.u.new_zeros(B, L, S + H * held, S + H * held)
        drive, read = rows.u.new_zeros(B, L, S + H * held, H), rows.u.new_zeros(B, L, H, S + H * held)
        turns, C = Diagonal(alpha.real, alpha.imag).to_dense(), project(rows.u, self.C.to(dtype))
        for h in range(H):
            own = slice(h * N, (h + 1) * N)
            whole[:, :, own, own] = turns[:, :, h]
            drive[:, :, own, h] = join_pairs(now[:, :, h])
            read[:, :, h, own] = C
            if held:
                whole[:, :, own, S + h] = join_pairs(before[:, :, h])
                drive[:, :, S + h, h] = 1
        feed, start = self.D.to(dtype).diag().expand(B, L, H, H), rows.start.x.flatten(1)
        return LinearForm(whole, drive, read, feed, torch.cat([start, rows.start.u], 1) if held else start)

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return f"{self.channels}, {self.state_size}, method={self.method_name!r}"

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        alpha, now, before = self._coefficients(rows)  # (B, L, H, n)
        drive = now * rows.u[..., None]
        if before is not None:
            drive = drive + before * rows.held[..., None]
        h, last = elementwise_pass(alpha, drive, rows, split_pairs(rows.start.x))
        C = project(rows.u, self.C.to(rows.u.dtype))  # (B, L, N)
        return (join_pairs(h) * C[:, :, None]).sum(-1) + self.D * rows.u, join_pairs(last)

    def _coefficients(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
        """Factors of h_{k-1}, of u_k and of u_{k-1}, (B, L, H, n) complex; the last None where nothing is held."""
        dtype, u = rows.u.dtype, rows.u.double()
        delta = (self._steps(rows) * self.gate(rows.u, None))[..., None]  # (B, L, H, 1)
        turn = math.pi * torch.tanh(project(u, self.rotation.double()))[:, :, None]  # (B, L, 1, n)
        decay = self.log_decay.double().exp()[:, None]  # (H, 1)
        kept, half = torch.exp(-delta * decay), delta * turn / 2
        sine, cosine = torch.sin(half), torch.cos(half)
        real, imag = kept * (1 - 2 * sine * sine), 2 * kept * sine * cosine  # (B, L, H, n)
        alpha = torch.complex(real.to(dtype), imag.to(dtype))
        now = split_pairs(project(rows.u, self.B.to(dtype)))[:, :, None]  # (B, L, 1, n)
        if self.mixture is None:
            # alpha - 1 without loss near 0; the decay keeps the quotient's divisor away from 0.
            less, size = torch.expm1(-delta * decay) - 2 * kept * sine * sine, decay * decay + turn * turn
            held = (imag * turn - less * decay) / size, -(imag * decay + less * turn) / size
            return alpha, multiply(torch.complex(*(part.to(dtype) for part in held)), now), None
        # Not torch.sigmoid, which rounds a number by its place in memory.
        share = (1 + torch.tanh(project(u, self.mixture.double()[None]) / 2))[..., None] / 2  # (B, L, 1, 1)
        past = split_pairs(project(rows.held, self.B.to(dtype)))[:, :, None]
        before = multiply(alpha, past) * ((1 - share) * delta).to(dtype)
        return alpha, (share * delta).to(dtype) * now, before
