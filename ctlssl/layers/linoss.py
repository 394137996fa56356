"""Forced harmonic oscillators as a layer, stepped by the observed gap."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.oscillator_steps import OSCILLATOR_STEPS, oscillator_step
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.passes import block_pass
from ctlssl.views.response import Rows

__all__ = ["LinOSS"]


@final
class LinOSS(RecurrentLayer):
    r"""Oscillators y'' = -A y - G y' + B u with diagonal A >= 0, and outputs C y + D u.

    With z = y', gaps h_k times the step size of each oscillator, and w = B u_k over the gap before row k:

        implicit:           z_k = z_{k-1} + h (-A y_k - G z_k + w),      y_k = y_{k-1} + h z_k
        implicit_explicit:  z_k = z_{k-1} + h (-A y_{k-1} - G z_k + w),  y_k = y_{k-1} + h z_k
        exact:              the solution of the equation

    The implicit one loses energy at every gap and is stable at all. The implicit-explicit one keeps the volume of phase
    space (determinant 1 without damping) and is stable while h^2 A < 4; it may grow at larger gaps. The exact one is
    right at any gap: without damping it keeps energy and phase of the unforced oscillator, so it is the one for a
    clock with long gaps.

    Args:
        channels: inputs and outputs H.
        state_size: N real dimensions, even: N / 2 oscillators, the state being (z, y).
        method: "implicit", "implicit_explicit" or "exact".
        damped: whether G > 0 is learned; else G = 0.
        step_range: smallest and largest initial step size, one an oscillator.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, N / 2, 2).

    Raises:
        ValueError: an odd or empty state, an unknown method, or a step range that cannot be; states of the
            implicit-explicit step that grew without bound.

    References:
        Rusch, Rus (2025), Oscillatory state-space models, arXiv:2410.03943. Boyer, Rusch, Rus (2025), Learning to
        dissipate energy in oscillatory state-space models, arXiv:2505.12171, for the damping.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = LinOSS(channels=2, state_size=8, method="exact")
        >>> y, state = layer(torch.randn(3, 5, 2), torch.rand(3, 5))
        >>> y.shape, state.x.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 4, 2]))
    """

    dynamics = frozenset({"log_step", "log_stiffness", "log_damping", "B"})

    def __init__(
        self,
        channels: int,
        state_size: int = 64,
        *,
        method: str = "implicit",
        damped: bool = False,
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        if channels < 1 or state_size < 1 or state_size % 2:
            found = f"{channels} and {state_size}"
            raise ValueError(f"channels and state_size need to be at least 1, and the state even; found {found}")
        if method not in OSCILLATOR_STEPS:
            raise ValueError(f"no method {method!r} of oscillators; there are {', '.join(OSCILLATOR_STEPS)}")
        self.channels, self.state_size, self.method_name, self.damped = channels, state_size, method, damped
        self.growing = method == "implicit_explicit"
        m = state_size // 2
        self.log_step = nn.Parameter(initial_log_steps((m,), step_range))
        # Angular frequencies of up to pi in a unit of the oscillator's own time.
        self.log_stiffness = nn.Parameter(2 * (math.pi * (torch.arange(m) + 1.0) / m).log())
        self.log_damping = nn.Parameter(torch.full((m,), math.log(0.5))) if damped else None
        self.B = nn.Parameter(torch.randn(m, channels) * channels**-0.5)
        self.C = nn.Parameter(torch.randn(channels, m) * m**-0.5)
        self.D = nn.Parameter(torch.randn(channels))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(N / 2, 2): z = y' and y of each oscillator."""
        return self.state_size // 2, 2

    @property
    def fastest_rate(self) -> float:
        """The largest angular frequency, in units of the clock."""
        stiffness, damping = self._oscillators()
        return (self.log_step.double().exp() * (stiffness.sqrt() + damping)).max().item()

    def linear_form(self, rows: Rows) -> LinearForm:
        """The oscillators' matrices as blocks, and their drives times B."""
        M, drive = self._coefficients(rows)  # (B, L, m, 2, 2), (B, L, m, 2)
        (B, L, m), H, dtype = M.shape[:3], self.channels, rows.u.dtype
        whole = M.new_zeros(B, L, m, 2, m, 2)
        for i in range(m):
            whole[:, :, i, :, i] = M[:, :, i]
        drives = drive[..., None] * self.B[:, None].to(dtype)  # (B, L, m, 2, H)
        read = torch.stack([torch.zeros_like(self.C), self.C], -1).to(dtype).reshape(H, 2 * m)
        maps = read.expand(B, L, H, 2 * m), self.D.to(dtype).diag().expand(B, L, H, H)
        S = 2 * m
        return LinearForm(whole.reshape(B, L, S, S), drives.reshape(B, L, S, H), *maps, rows.start.x.flatten(1))

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return f"{self.channels}, {self.state_size}, method={self.method_name!r}, damped={self.damped}"

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        M, drive = self._coefficients(rows)
        b = drive * project(rows.u, self.B.to(rows.u.dtype))[..., None]  # (B, L, m, 2)
        x, last = block_pass(M, b, rows, rows.start.x)
        if self.growing:
            self._refuse_growth(rows, x)
        return project(x[..., 1], self.C.to(rows.u.dtype)) + self.D * rows.u, last

    def _refuse_growth(self, rows: Rows, x: Tensor) -> None:
        if x.detach().isfinite().all() or not all(part.isfinite().all() for part in (rows.u, *rows.start)):
            return
        stiffness, _ = self._oscillators()
        largest = (self._steps(rows) * stiffness.sqrt()).max().item()
        raise ValueError(
            f"the implicit-explicit step grew without bound: the largest gap times step size times sqrt(A) is "
            f'{largest:.3g}, and 2 is the limit; use method="exact" or "implicit", or a smaller step_range'
        )

    def _oscillators(self) -> tuple[Tensor, Tensor | float]:
        """Stiffness A (m,) float64, and damping G, the same or 0."""
        return self.log_stiffness.double().exp(), 0.0 if self.log_damping is None else self.log_damping.double().exp()

    def _coefficients(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Matrices (B, L, m, 2, 2) and drives of w = 1 (B, L, m, 2), in the dtype of the inputs."""
        return oscillator_step(self.method_name, self._steps(rows), *self._oscillators(), rows.u.dtype)
