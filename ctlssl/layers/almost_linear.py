"""The almost-linear layer: a recurrence with few rectifiers, hence few linear regions, on the clock of the data."""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor, nn

from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.state_matrices.phi import phi_functions
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.passes import stepwise_pass
from ctlssl.views.response import Rows

__all__ = ["AlmostLinearLSSL", "LinearRegions"]

_MOST_RELUS = 16
"""Rectifiers beyond which 2^P regions are too many to list."""


@dataclasses.dataclass(frozen=True, eq=False)
class LinearRegions:
    """The linear regions of an almost-linear layer and the fixed point of each.

    Attributes:
        code: which rectifiers are on, (R, P) boolean, R = 2^P.
        point: the fixed point of each region's linear system, (R, M) float64.
        real: whether it lies in its own region, (R,) boolean; the others are virtual.
        eigenvalues: of the continuous linear system of each region, (R, M) complex; stable where all Re < 0.
    """

    code: Tensor
    point: Tensor
    real: Tensor
    eigenvalues: Tensor


@final
class AlmostLinearLSSL(RecurrentLayer):
    r"""z' = -a z + W phi(z) + b + B u with rectifiers on the last P of M units, stepped over the gap with phi held.

        z_k = e^{-a h_k} z_{k-1} + h_k phi_1(-a h_k) (W phi(z_{k-1}) + b + B u_k),   y_k = C z_k + D u_k
        phi(z) = (z_1, ..., z_{M-P}, max(z_{M-P+1}, 0), ..., max(z_M, 0))

    On equal gaps it is the almost-linear recurrent network, whose linear part is e^{-a h}: in each of 2^P regions, told
    apart by the signs of P units, the step is linear. Fixed points do not depend on the gap. The gap h_k is the
    observed one times the step size; the decay a is positive and W is free, so that a trained map may be chaotic.

    Args:
        channels: inputs and outputs H.
        state_size: M units.
        relus: P, units with a rectifier.
        step_range: smallest and largest initial step size, one in all.
        identity: whether C reads the first H units as they are, so that they can be set to what was observed, and
            there is no D; needs M >= H.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, M).

    Raises:
        ValueError: counts that cannot be, or a step range that cannot be.

    References:
        Brenner, Hess, Monfared, Durstewitz (2024), Almost-linear RNNs yield highly interpretable symbolic codes in
        dynamical systems reconstruction, arXiv:2410.14240. Exponential Euler on the clock of the data is ours.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = AlmostLinearLSSL(channels=2, state_size=5, relus=2)
        >>> y, state = layer(torch.randn(3, 6, 2), torch.rand(3, 6))
        >>> y.shape, layer.regions().point.shape, layer.code(state.x).shape
        (torch.Size([3, 6, 2]), torch.Size([4, 5]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        *,
        relus: int = 2,
        step_range: tuple[float, float] = (1e-3, 1e-1),
        identity: bool = False,
    ) -> None:
        super().__init__()
        if channels < 1 or state_size < 1 or not 0 <= relus <= state_size or (identity and state_size < channels):
            found = f"{channels}, {state_size} and {relus}"
            raise ValueError(
                "channels and state_size need to be at least 1, relus between 0 and state_size, and with identity "
                f"state_size at least channels; found {found}"
            )
        self.channels, self.state_size, self.relus, self.identity = channels, state_size, relus, identity
        M = state_size
        self.log_step = nn.Parameter(initial_log_steps((), step_range))
        self.log_decay = nn.Parameter(torch.full((M,), math.log(0.5)))
        self.W = nn.Parameter(0.1 * torch.randn(M, M) * M**-0.5)
        self.bias = nn.Parameter(torch.zeros(M))
        self.B = nn.Parameter(torch.randn(M, channels) * channels**-0.5)
        self.C = None if identity else nn.Parameter(torch.randn(channels, M) * M**-0.5)
        self.D = None if identity else nn.Parameter(torch.randn(channels))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(M,)."""
        return (self.state_size,)

    def code(self, z: Tensor) -> Tensor:
        """Which rectifiers are on at states z (..., M): (..., P) boolean, the symbol of the linear region."""
        return z[..., self.state_size - self.relus :] > 0

    def regions(self, u: Tensor | None = None) -> LinearRegions:
        """Fixed point and eigenvalues of each of the 2^P regions, in units of the layer's own time.

        Args:
            u: a constant input, (H,); zero if None.

        Raises:
            ValueError: more rectifiers than can be listed.
        """
        if self.relus > _MOST_RELUS:
            raise ValueError(f"2^{self.relus} regions are too many to list; at most {_MOST_RELUS} rectifiers")
        with torch.no_grad():
            P, W, push = self.relus, self.W.double(), self.bias.double()
            if u is not None:
                push = push + self.B.double() @ u.double()
            code = torch.arange(2**P)[:, None].bitwise_and(2 ** torch.arange(P)) > 0  # (R, P)
            on = torch.cat([torch.ones(len(code), self.state_size - P), code.double()], 1).double()  # (R, M)
            systems = W * on[:, None] - self.log_decay.double().exp().diag()  # (R, M, M)
            point = torch.linalg.lstsq(systems, -push.expand(len(code), -1)[..., None]).solution[..., 0]
            real = (self.code(point) == code).all(-1)
            return LinearRegions(code, point, real, torch.linalg.eigvals(systems))

    def linear_form(self, rows: Rows) -> LinearForm:
        """The linear systems of the regions that the trajectory passes, the bias on a state that is always 1."""
        _, states = self._trajectory(rows)
        before = torch.cat([rows.start.x[:, None], states[:, :-1]], 1)[:, : states.shape[1]]  # (B, L, M)
        kept, held = self._coefficients(rows)
        (B, L), M, H, dtype = rows.u.shape[:2], self.state_size, self.channels, rows.u.dtype
        on = torch.ones_like(before)
        on[..., M - self.relus :] = self.code(before).to(dtype)
        whole = rows.u.new_zeros(B, L, M + 1, M + 1)
        whole[..., :M, :M] = torch.diag_embed(kept) + held[..., None] * self.W.to(dtype) * on[..., None, :]
        whole[..., :M, M] = held * self.bias.to(dtype)
        whole[..., M, M] = 1
        drive = torch.cat([held[..., None] * self.B.to(dtype), rows.u.new_zeros(B, L, 1, H)], -2)
        C = torch.eye(H, M, dtype=dtype) if self.C is None else self.C.to(dtype)
        feed = torch.zeros(H, H, dtype=dtype) if self.D is None else self.D.to(dtype).diag()
        read = torch.nn.functional.pad(C, (0, 1)).expand(B, L, H, M + 1)
        start = torch.cat([rows.start.x, rows.start.x.new_ones(B, 1)], 1)
        return LinearForm(whole, drive, read, feed.expand(B, L, H, H), start)

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return f"{self.channels}, {self.state_size}, relus={self.relus}, identity={self.identity}"

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        last, z = self._trajectory(rows)
        if self.C is None:
            return z[..., : self.channels], last
        return project(z, self.C.to(z.dtype)) + self.D * rows.u, last

    def _trajectory(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The last committed state (B, M), and what each row shows (B, L, M)."""
        kept, held = self._coefficients(rows)
        push = held * (self.bias + project(rows.u, self.B.to(rows.u.dtype)))  # (B, L, M)
        linear = torch.ones(self.state_size, dtype=torch.bool)
        linear[self.state_size - self.relus :] = False
        W = self.W.to(rows.u.dtype)

        def advance(z: Tensor, kept: Tensor, held: Tensor, push: Tensor) -> Tensor:
            return kept * z + held * project(torch.where(linear, z, z.clamp(min=0)), W) + push

        z, last = stepwise_pass(advance, (kept, held, push), rows, rows.start.x)
        return last, z

    def _coefficients(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """e^{-a h} and h phi_1(-a h) of each row, (B, L, M)."""
        h, decay = self._steps(rows)[..., None], self.log_decay.double().exp()  # (B, L, 1), (M,)
        kept, held = phi_functions(-h * decay, top=1)
        return kept.to(rows.u.dtype), (h * held).to(rows.u.dtype)
