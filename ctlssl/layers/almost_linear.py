"""The almost-linear recurrent layer: linear but for a few rectified states, so that its regions can be listed."""

from __future__ import annotations

import dataclasses
from typing import final

import torch
from torch import Tensor, nn

from ctlssl.kernels import almost_linear_scan, rectified, rectifier_slopes
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.state_matrices.phi import phi_functions
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.response import Rows

__all__ = ["AlmostLinearLSSL", "FixedPoints"]

_MOST_RELUS_LISTED = 12


@dataclasses.dataclass(frozen=True, eq=False)
class FixedPoints:
    """The fixed point of each linear region, R = 2^P of them; row r is the region whose code is r.

    Attributes:
        state: where the flow of the region stands still, (R, N); not finite where the region has no single such point.
        real: whether it lies in its own region, (R,); one that does not is virtual: the flow never gets there.
        eigenvalues: of the flow in the region, per unit of the clock, (R, N) complex; a fixed point is stable where
            all real parts are negative.
        multipliers: eigenvalues of one step of the layer in the region, (R, N) complex; inside the unit circle where
            the step is stable.
    """

    state: Tensor
    real: Tensor
    eigenvalues: Tensor
    multipliers: Tensor


@final
class AlmostLinearLSSL(RecurrentLayer):
    r"""A piecewise linear flow with rectified units P of N, stepped from observation to observation (AL-RNN).

        z' = step (-a z + W Phi*(z) + b + B u),   Phi*(z) = (z_1, ..., z_{N-P}, max(z_{N-P+1}, 0), ..., max(z_N, 0))
        z_k = e^{-a h_k} z_{k-1} + h_k phi_1(-a h_k) (W Phi*(z_{k-1}) + b + B u_k),   y_k = C z_k + D u_k

    The second line is the exponential Euler step of the first over the gap h_k, the observed one times the step size.
    At equal gaps it is an AL-RNN, z_k = A z_{k-1} + W' Phi*(z_{k-1}) + h' with a diagonal A; its fixed points are those
    of the flow at any gap. The signs of the P rectified states name one of 2^P regions in which all is linear: a
    trajectory is a sequence of these codes, and each region has its own fixed point and eigenvalues.

    Where W makes the flow chaotic or unstable, rounding grows from row to row as any small difference does: float32 is
    near float64 only for as long as the flow itself can be foretold. At the start W is small enough not to.

    Args:
        channels: inputs and outputs H.
        state_size: states N.
        relus: rectified states P, the last ones, from 0 (a linear layer) to N.
        step_range: smallest and largest initial step size; a state by itself decays as e^{-step * gap} at the start.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, N).

    Raises:
        ValueError: counts below 1, more rectified states than states, or a step range that cannot be.

    References:
        Brenner, Hemmer, Monfared, Durstewitz (2024), Almost-linear RNNs yield highly interpretable symbolic codes in
        dynamical systems reconstruction, arXiv:2410.14240; Hochbruck, Ostermann (2010), Exponential integrators.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = AlmostLinearLSSL(channels=2, state_size=6, relus=2)
        >>> y, state = layer(torch.randn(3, 5, 2), torch.rand(3, 5))
        >>> y.shape, layer.code(state.x).shape, layer.fixed_points().real.sum() > 0
        (torch.Size([3, 5, 2]), torch.Size([3]), tensor(True))
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 64,
        *,
        relus: int = 2,
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        if channels < 1 or state_size < 1:
            raise ValueError(f"channels and state_size need to be at least 1; found {channels} and {state_size}")
        if not 0 <= relus <= state_size:
            raise ValueError(f"relus is between 0 and state_size, {state_size}; found {relus}")
        self.channels, self.state_size, self.relus = channels, state_size, relus
        self.log_step = nn.Parameter(initial_log_steps((state_size,), step_range))
        self.log_decay = nn.Parameter(torch.zeros(state_size))
        self.W = nn.Parameter(torch.randn(state_size, state_size) * 0.3 * state_size**-0.5)
        self.bias = nn.Parameter(torch.zeros(state_size))
        self.B = nn.Parameter(torch.randn(state_size, channels) * channels**-0.5)
        self.C = nn.Parameter(torch.randn(channels, state_size) * state_size**-0.5)
        self.D = nn.Parameter(torch.randn(channels))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(N,)."""
        return (self.state_size,)

    def code(self, z: Tensor) -> Tensor:
        """The linear region of each state z (..., N): bit i is set where rectified state i is above 0, (...) int64.

        Raises:
            ValueError: more rectified states than an integer has bits.
        """
        if self.relus > 62:
            raise ValueError(f"the codes of {self.relus} rectified states do not fit an integer; at most 62 do")
        on = z[..., self.state_size - self.relus :] > 0  # (..., P)
        return (on * 2 ** torch.arange(self.relus, device=z.device)).sum(-1)

    def regions(self) -> Tensor:
        """Slope of Phi* in each linear region, the diagonals of D_Omega: (2^P, N), row r of the region of code r.

        Raises:
            ValueError: more regions than can be listed.
        """
        if self.relus > _MOST_RELUS_LISTED:
            raise ValueError(f"2^{self.relus} regions are too many to list; at most 2^{_MOST_RELUS_LISTED} are")
        codes = torch.arange(2**self.relus, device=self.W.device)[:, None]
        slopes = self.W.new_ones(2**self.relus, self.state_size)
        slopes[:, self.state_size - self.relus :] = (codes >> torch.arange(self.relus, device=codes.device)) % 2
        return slopes

    @torch.no_grad()
    def fixed_points(self, u: Tensor | None = None, dt: float = 1.0) -> FixedPoints:
        """Of every region the fixed point (diag(a) - W D_Omega)^-1 (b + B u), in float64.

        Args:
            u: a constant input, (H,); zeros if None.
            dt: gap of the step whose multipliers are given.

        Raises:
            ValueError: an input of another shape, or more regions than can be listed.
        """
        if u is not None and u.shape != (self.channels,):
            raise ValueError(f"u needs shape ({self.channels},), one constant input; found {tuple(u.shape)}")
        a, W, slopes = self.log_decay.double().exp(), self.W.double(), self.regions().double()
        drive = self.bias.double() if u is None else self.bias.double() + self.B.double() @ u.double()  # (N,)
        flow = W * slopes[:, None] - a.diag()  # (R, N, N)
        state, failed = torch.linalg.solve_ex(-flow, drive.expand(len(flow), -1))
        state[failed != 0] = torch.nan
        # Rounding puts a point that lies on a border on either side.
        real = state.isfinite().all(-1) & (self.code(state) == torch.arange(len(flow), device=state.device))
        keep, take = self.coefficients(torch.tensor(dt, dtype=torch.float64, device=W.device))  # (N,)
        eigenvalues = torch.linalg.eigvals(self.log_step.double().exp()[:, None] * flow)
        multipliers = torch.linalg.eigvals(keep.diag() + take[:, None] * W * slopes[:, None])
        return FixedPoints(state, real, eigenvalues, multipliers)

    def coefficients(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """e^{-a h} and h phi_1(-a h) of gaps dt (...), each (..., N) float64."""
        h = dt.to(torch.float64)[..., None] * self.log_step.double().exp()
        keep, phi = phi_functions(-self.log_decay.double().exp() * h, top=1)
        return keep, h * phi

    def linear_form(self, rows: Rows) -> LinearForm:
        """The matrices of the regions that the states pass through; a constant 1 stands below the states, for b."""
        (B, L, H), N, dtype = rows.u.shape, self.state_size, rows.u.dtype
        states, _ = self.trajectory(rows)
        before = torch.cat([rows.start.x[:, None], states[:, :-1]], dim=1)[:, :L]  # (B, L, N)
        slopes = rectifier_slopes(before, self.relus)
        keep, take = (part.to(dtype) for part in self.coefficients(rows.dt))  # (B, L, N)
        transition = before.new_zeros(B, L, N + 1, N + 1)
        transition[..., :N, :N] = torch.diag_embed(keep) + take[..., None] * self.W.to(dtype) * slopes[..., None, :]
        transition[..., :N, N] = take * self.bias.to(dtype)
        transition[..., N, N] = 1
        drive = before.new_zeros(B, L, N + 1, H)
        drive[..., :N, :] = take[..., None] * self.B.to(dtype)
        read = nn.functional.pad(self.C.to(dtype), (0, 1)).expand(B, L, H, N + 1)
        feed = self.D.to(dtype).diag().expand(B, L, H, H)
        return LinearForm(transition, drive, read, feed, nn.functional.pad(rows.start.x, (0, 1), value=1.0))

    def trajectory(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The state that each row shows, (B, L, N), and the one after the last committed row, (B, N)."""
        dtype, W = rows.u.dtype, self.W.to(rows.u.dtype)
        keep, take = (part.to(dtype) for part in self.coefficients(rows.dt))  # (B, L, N)
        add = take * (project(rows.u, self.B.to(dtype)) + self.bias.to(dtype))  # (B, L, N)
        if rows.always_commits:
            states = almost_linear_scan(keep, take, add, W, rows.start.x, self.relus)
            return states, states[:, -1] if states.shape[1] else rows.start.x
        commits = rows.commits[..., None]  # (B, L, 1)
        passed = torch.where(commits, keep, 1), torch.where(commits, take, 0), torch.where(commits, add, 0)
        states = almost_linear_scan(*passed, W, rows.start.x, self.relus)
        before = torch.cat([rows.start.x[:, None], states[:, :-1]], dim=1)[:, : states.shape[1]]  # (B, L, N)
        shown = keep * before + take * project(rectified(before, self.relus), W) + add
        return torch.where(commits, states, shown), states[:, -1] if states.shape[1] else rows.start.x

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return f"{self.channels}, {self.state_size}, relus={self.relus}"

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        z, last = self.trajectory(rows)
        return project(z, self.C.to(z.dtype)) + self.D * rows.u, last  # (B, L, H)
