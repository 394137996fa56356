"""The liquid layer in its convolution forms: linear systems driven by products of neighbouring inputs."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ctlssl.discretization import Discretization, Rule
from ctlssl.kernels.causal_convolution import causal_convolution
from ctlssl.kernels.liquid_twin import linear_factors
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.liquid_bank import LiquidBank, rotations
from ctlssl.state_matrices.diagonal import join_pairs, multiply, split_pairs
from ctlssl.views import Integration, State
from ctlssl.views.convolution import check_one_gradient, newest_last, uniform_gap
from ctlssl.views.passes import committed_before, elementwise_pass
from ctlssl.views.powers import DiagonalPowers
from ctlssl.views.response import Rows

__all__ = ["LiquidKernelLSSL"]

_KERNELS = ("kb", "pb")


@final
class LiquidKernelLSSL(LiquidBank):
    r"""The terms of a liquid layer that multiply neighbouring inputs, w^p_k = u_k u_{k-1} ... u_{k-p+1}, p <= P.

        "kb"  y_k = C sum_{p <= P} sum_{i <= k} Abar^{k-i} Bbar^p w^p_i + D u_k
        "pb"  y_k = C sum_{i <= k} Abar^{k-i} Bbar u_i + C sum_{2 <= p <= P} sum_{k-lags < i <= k} Bbar^p w^p_i + D u_k

    elementwise in the complex basis of each channel's diagonal system: the kernel of products of p inputs is the
    linear kernel times Bbar^{p-1} ("kb"), or is constant over some rows ("pb"). Products reach back over the rows that
    were observed; an input before the first one is 0. On one gap the sums are convolutions (view="convolution"); on any
    grid Abar and Bbar are those of each row's gap, and "kb" is the recurrence x_k = Abar_k x_{k-1} + sum of
    Bbar_k^p w^p_k. Nothing here can grow: the factors of the state do not depend on the input.

    Args:
        channels: inputs and outputs H.
        state_size: real state dimensions N of each channel's system, even.
        kernel: "kb" or "pb".
        degree: P, the most inputs in a product.
        lags: rows over which products count in "pb", the present one among them; not read by "kb".
        method: a rule with the hold `next` and no growth of its own: "bilinear", "backward_euler", "zoh", gbt(alpha)
            from alpha = 1/2 on.
        measure: HiPPO measure of the start: "legs", "legt", "lagt", "fourier", "lin", "inv", "real".
        step_range: smallest and largest initial step size.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, H, S): N states,
        P - 1 products of the last inputs, and for "pb" what the last lags - 1 rows added.

    Raises:
        ValueError: counts below 1, an odd state size, unknown names, a method that can grow or has another hold.

    References:
        Hasani, Lechner, Wang, Chahine, Amini, Rus (2022), Liquid structural state-space models, arXiv:2209.12951,
        proposition 1 and algorithm 1; in causal form.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer, u = LiquidKernelLSSL(channels=2, state_size=4, degree=3), torch.randn(3, 50, 2)
        >>> y, state = layer(u, 0.5)
        >>> torch.allclose(layer(u, 0.5, view="convolution")[0], y, atol=1e-4)
        True
    """

    views = ("recurrence", "convolution")

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        *,
        kernel: str = "kb",
        degree: int = 2,
        lags: int = 8,
        method: str | Rule | Discretization = "bilinear",
        measure: str = "legs",
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__(channels, state_size, method, degree, measure, step_range)
        if kernel not in _KERNELS or lags < 1:
            raise ValueError(f"kernel is one of {', '.join(_KERNELS)}, lags at least 1; found {kernel!r} and {lags}")
        self.kernel, self.lags = kernel, lags

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(H, S)."""
        return (self.channels, sum(self._parts))

    def linear_form(self, rows: Rows) -> LinearForm:
        """The linear systems, driven by each input times the earlier ones, and for "pb" what the last rows added."""
        decay, powers = self._coefficients(self._steps(rows))  # (B, L, H, n)
        x, products, window = self._split(rows.start.x)
        earlier, _ = self._products(rows, products)  # P of (B, L, H)
        kept = powers if self.kernel == "kb" else powers[:1]
        unit = sum(before[..., None] * power for before, power in zip(earlier, kept, strict=False))
        system = self._as_linear(rotations(decay), unit, rows, x.flatten(1))
        if self.kernel == "kb":
            return system
        dtype, H, N, K = rows.u.dtype, self.channels, self.state_size, self.lags
        added = sum(b * v for b, v in zip(earlier[1:], self._shown(powers[1:]), strict=True)) + torch.zeros_like(rows.u)
        size = H * (N + K)
        transition = decay.real.new_zeros(*rows.u.shape[:2], size, size)
        transition[:, :, : H * N, : H * N] = system.transition
        shift = torch.eye(K, dtype=torch.float64).roll(1, 0).tril(-1)
        transition[:, :, H * N :, H * N :] = torch.kron(torch.eye(H, dtype=torch.float64), shift)
        first = torch.nn.functional.pad(torch.diag_embed(added)[:, :, :, None], (0, 0, 0, K - 1)).flatten(2, 3)
        drive = torch.cat([system.drive, first.to(dtype)], dim=2)  # (B, L, S, H)
        sums = torch.eye(H, dtype=dtype).repeat_interleave(K, 1).expand(*rows.u.shape[:2], H, H * K)
        start = torch.nn.functional.pad(window, (0, 1)).flatten(1).to(dtype)
        read, start = torch.cat([system.read, sums], -1), torch.cat([system.start, start], -1)
        return LinearForm(transition.to(dtype), drive, read, system.feed, start)

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        options = f"kernel={self.kernel!r}, degree={self.degree}, lags={self.lags}, method={self.method.name!r}"
        return f"{self.channels}, {self.state_size}, {options}"

    @property
    def _parts(self) -> tuple[int, int, int]:
        """Numbers of a channel's states, products, and rows of "pb"."""
        return self.state_size, self.degree - 1, self.lags - 1 if self.kernel == "pb" else 0

    def _split(self, x: Tensor) -> list[Tensor]:
        """States (B, H, N), products (B, H, P - 1) and rows (B, H, lags - 1), float64."""
        return list(x.double().split(self._parts, dim=-1))

    def _coefficients(self, steps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Abar, and Bbar^p for p = 1 ... P, complex (..., H, n), of steps (..., H)."""
        b = split_pairs(self.B.double())  # (H, n)
        decay, unit = linear_factors(steps, split_pairs(self._poles()), b, self._alpha)
        powers = [unit]
        while len(powers) < self.degree:
            powers.append(multiply(powers[-1], unit))
        return decay, powers

    def _products(self, rows: Rows, first: Tensor) -> tuple[list[Tensor], Tensor]:
        """What u_k is multiplied by in w^p_k, p = 1 ... P, (B, L, H) each, and the last products, (B, H, P - 1)."""
        u = rows.u.double()
        earlier, last = [torch.ones_like(u)], []
        for p in range(self.degree - 1):
            before, newest = committed_before(earlier[-1] * u, rows, first[..., p])
            earlier.append(before)
            last.append(newest)
        return earlier, torch.stack(last, -1) if last else first

    def _shown(self, powers: list[Tensor]) -> list[Tensor]:
        """C times pairs, (..., H) each."""
        return [(self.C.double() * join_pairs(power)).sum(-1) for power in powers]

    def _run(self, rows: Rows, view: str | Integration) -> tuple[Tensor, Tensor]:
        return self._convolved(rows) if view == "convolution" else self._stepped(rows)

    def _stepped(self, rows: Rows) -> tuple[Tensor, Tensor]:
        decay, powers = self._coefficients(self._steps(rows))  # (B, L, H, n)
        x, first, window = self._split(rows.start.x)
        earlier, products = self._products(rows, first)
        inputs = [before * rows.u.double() for before in earlier]  # w^p, (B, L, H)
        kept = powers if self.kernel == "kb" else powers[:1]
        drive = sum(w[..., None] * power for w, power in zip(inputs, kept, strict=False))
        states, last = elementwise_pass(decay, drive, rows, split_pairs(x))
        y = self._read(join_pairs(states), rows)
        if self.kernel == "pb":
            added, window = self._windowed(inputs, self._shown(powers[1:]), rows, window)
            y = y + added.to(y.dtype)
        return y, torch.cat([join_pairs(last), products, window], -1).to(y.dtype)

    def _windowed(self, inputs: list[Tensor], shown: list[Tensor], rows: Rows, window: Tensor) -> tuple[Tensor, Tensor]:
        """What products of two and more add to y over the last rows (B, L, H), and the last rows' parts of it."""
        value = sum(w * c for w, c in zip(inputs[1:], shown, strict=True)) + torch.zeros_like(inputs[0])
        total, last = value, []
        for lag in range(self.lags - 1):
            value, newest = committed_before(value, rows, window[..., lag])
            total = total + value
            last.append(newest)
        return total, torch.stack(last, -1) if last else window

    def _convolved(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The first row stepped, the others by convolutions with the kernels of their one gap."""
        if rows.is_query is not None and rows.is_query.any():
            raise ValueError("the convolution view has no state between samples; use view='recurrence' for queries")
        check_one_gradient(rows.dt)
        lengths = rows.inside.sum(1).expand(len(rows.u))
        if not rows.u.numel() or rows.u.shape[1] == 1:
            return self._stepped(rows)
        gap = uniform_gap(rows.dt, rows.inside.expand(rows.dt.shape))
        opening = Rows.after(rows.start, rows.u[:, :1], rows.dt[:, :1], lengths.clamp(max=1))
        y, x = self._stepped(opening)
        rest = Rows.after(State(x, opening.last), rows.u[:, 1:], rows.dt[:, 1:], (lengths - 1).clamp(min=0))
        later, x = self._on_grid(rest, gap)
        return torch.cat([y, later], dim=1), x

    def _on_grid(self, rows: Rows, gap: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and states after rows of one gap."""
        decay, powers = self._coefficients(gap * self.log_step.double().exp())  # (H, n)
        x, first, window = self._split(rows.start.x)
        earlier, products = self._products(rows, first)
        inputs = [before * rows.u.double() for before in earlier]  # w^p, (B, L, H)
        kept = len(powers) if self.kernel == "kb" else 1
        w = torch.stack(inputs[:kept], -1)  # (B, L, H, K)
        maps = torch.stack([join_pairs(power) for power in powers[:kept]], -1)  # (H, N, K)
        L, C, steps = w.shape[1], self.C.double()[:, None], DiagonalPowers(decay)
        kernel, dtype = steps.terms(C, maps, L), rows.u.dtype  # (H, 1, K, L)
        x = x.permute(1, 2, 0)  # (H, N, B)
        fading = steps.terms(C, steps.columns(x, 0), L).permute(2, 3, 0, 1)[..., 0]  # (B, L, H)
        y = causal_convolution(w.to(dtype), kernel.to(dtype))[..., 0] + (fading + self.D.double() * rows.u).to(dtype)
        if self.kernel == "pb":
            added, window = self._windowed(inputs, self._shown(powers[1:]), rows, window)
            y = y + added.to(dtype)
        late = newest_last(w, rows.lengths).flip(1)  # (B, L, H, K), the last row first
        last = torch.einsum("hnlk,blhk->bhn", steps.large_steps(maps, L), late)
        last = last + steps.advanced(x, rows.lengths).permute(2, 0, 1)
        return y, torch.cat([last, products, window], -1).to(dtype)
