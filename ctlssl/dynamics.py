"""Dynamical systems learned from their trajectories: free runs, and runs held to the data by sparse teacher forcing."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ctlssl.kernels import almost_linear_scan
from ctlssl.layers import AlmostLinearLSSL

__all__ = ["AlmostLinearDynamics"]


@final
class AlmostLinearDynamics(nn.Module):
    r"""An almost-linear flow without inputs, whose first D states are what is observed of a dynamical system.

        z_k = e^{-a h_k} z_{k-1} + h_k phi_1(-a h_k) (W Phi*(z_{k-1}) + b),   s_k = (z_k)_1, ..., (z_k)_D

    Everything that the layer says of its linear regions holds of the system: `system.layer.code(states)` is the
    symbolic sequence of a run, `system.layer.fixed_points()` lists the fixed points and their eigenvalues. A run starts
    from one observation: the other states start at a learned linear map of it.

    Args:
        observed: numbers D observed of the system.
        state_size: states N of the layer, at least D.
        relus: rectified states P, the last ones, among the N - D that are not observed.
        step_range: smallest and largest initial step size: about the share of a state that is new after a unit gap.

    Raises:
        ValueError: sizes that do not fit each other, or a step range that cannot be.

    References:
        Brenner, Hemmer, Monfared, Durstewitz (2024), Almost-linear RNNs yield highly interpretable symbolic codes in
        dynamical systems reconstruction, arXiv:2410.14240.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> system = AlmostLinearDynamics(observed=3, state_size=8, relus=2)
        >>> states = system.generate(torch.zeros(1, 3), dt=1.0, steps=5)
        >>> states.shape, system.layer.code(states).shape
        (torch.Size([1, 5, 8]), torch.Size([1, 5]))
    """

    def __init__(
        self,
        observed: int,
        state_size: int = 20,
        *,
        relus: int = 2,
        step_range: tuple[float, float] = (0.05, 0.5),
    ) -> None:
        super().__init__()
        if not (1 <= observed and 0 <= relus <= state_size - observed):
            raise ValueError(
                f"state_size needs room for what is observed and what is rectified, {observed} + {relus}; found "
                f"{state_size}"
            )
        self.observed = observed
        self.layer = AlmostLinearLSSL(observed, state_size, relus=relus, step_range=step_range)
        self.lift = nn.Parameter(torch.randn(state_size - observed, observed) * observed**-0.5)
        with torch.no_grad():
            self.layer.C.copy_(torch.eye(observed, state_size))
        for part, value in ((self.layer.B, 0.0), (self.layer.D, 0.0)):
            nn.init.constant_(part, value)
        for part in (self.layer.B, self.layer.C, self.layer.D):
            part.requires_grad_(False)

    def start(self, s: Tensor) -> Tensor:
        """States (B, N) that a run starts from, after observations s (B, D)."""
        return torch.cat([s, s @ self.lift.mT], dim=-1)

    def forced(self, s: Tensor, dt: Tensor | float | None, interval: int) -> Tensor:
        """What sparse teacher forcing predicts of each row but the first, (B, L - 1, D).

        The run starts at the first row; at every `interval`-th row after it, once that row is predicted, the observed
        states are overwritten by the data. Between those rows the system runs freely.

        Args:
            s: observations, (B, L, D).
            dt: time since the row before, None (= 1), a number, (L,) or (B, L); that of the first row is not used.
            interval: rows between two times of forcing; 1 predicts every row from the row before it.

        Raises:
            ValueError: shapes that do not fit, or an interval below 1.
        """
        self._check(s)
        if interval < 1:
            raise ValueError(f"interval is a number of rows, at least 1; found {interval}")
        keep, take = self._factors(dt, s)
        states = self._run(self.start(s[:, 0]), keep[:, 1:], take[:, 1:], s[:, :-1], interval)  # (B, L - 1, N)
        return states[..., : self.observed]

    @torch.no_grad()
    def generate(self, start: Tensor, dt: Tensor | float | None = None, steps: int | None = None) -> Tensor:
        """States of a free run, (B, L, N); the first D of N are what is observed.

        Args:
            start: one observation of each series, (B, D), or all states, (B, N); it is not part of the result.
            dt: gap of each step, None (= 1), a number, (L,) or (B, L).
            steps: steps L, where `dt` does not tell.

        Raises:
            ValueError: shapes that do not fit, or a number of steps that nobody tells.
        """
        z = self.start(start) if start.shape[-1] == self.observed else start
        if z.ndim != 2 or z.shape[1] != self.layer.state_size:
            raise ValueError(
                f"start needs shape (batch, {self.observed}) or (batch, {self.layer.state_size}); found "
                f"{tuple(start.shape)}"
            )
        length = dt.shape[-1] if isinstance(dt, Tensor) and dt.ndim else steps
        if length is None or steps not in (None, length):
            raise ValueError(f"steps is {steps}, and the gaps say {length}: one of them has to tell, or both agree")
        return self._run(z, *self._factors(dt, z.new_empty(len(z), length, self.observed)))

    def _factors(self, dt: Tensor | float | None, s: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's coefficients of each row of s, (B, L, N); a gap for all is worked out once."""
        gaps = torch.as_tensor(1.0 if dt is None else dt, dtype=torch.float64, device=s.device)
        while gaps.ndim < 2:
            gaps = gaps[None]
        if gaps.shape[0] not in (1, s.shape[0]) or gaps.shape[1] not in (1, s.shape[1]) or gaps.ndim > 2:
            raise ValueError(f"dt needs shape {tuple(s.shape[:2])} or ({s.shape[1]},); found {tuple(gaps.shape)}")
        if not (gaps.isfinite() & (gaps >= 0)).all():
            raise ValueError("a gap is negative or not finite")
        size = *s.shape[:2], self.layer.state_size
        keep, take = (part.to(s.dtype).expand(size) for part in self.layer.coefficients(gaps))
        return keep, take

    def _run(self, z: Tensor, keep: Tensor, take: Tensor, given: Tensor | None = None, interval: int = 0) -> Tensor:
        layer = self.layer
        return almost_linear_scan(keep, take, take * layer.bias, layer.W, z, layer.relus, given, interval)

    def _check(self, s: Tensor) -> None:
        if s.ndim != 3 or s.shape[2] != self.observed or s.shape[1] < 1:
            raise ValueError(f"observations need shape (batch, rows, {self.observed}); found {tuple(s.shape)}")
