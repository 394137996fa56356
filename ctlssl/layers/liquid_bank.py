"""What liquid layers have in common: a diagonal single-input system for each channel, and its step sizes."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor, nn

from ctlssl import hippo
from ctlssl.discretization import Discretization, Rule, named_method
from ctlssl.holds import NEXT
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.state_matrices.diagonal import join_pairs
from ctlssl.step_size import initial_log_steps
from ctlssl.views.response import Rows

__all__ = ["LiquidBank", "rotations"]


class LiquidBank(RecurrentLayer, ABC):
    """A bank of diagonal systems x' = lambda x + b u, y = C x + D u, one a channel, that a member makes liquid.

    Args:
        channels: inputs and outputs H.
        state_size: real state dimensions N of each system, even.
        method: a rule that does not grow, with the hold `next`.
        degree: products of how many inputs, or None.
        measure: start of the eigenvalues and of B.
        step_range: smallest and largest initial step size.

    Raises:
        ValueError: counts below 1, an odd state size, unknown names, a method that can grow or has another hold.
    """

    def __init__(
        self,
        channels: int,
        state_size: int,
        method: str | Rule | Discretization,
        degree: int | None,
        measure: str,
        step_range: tuple[float, float],
    ) -> None:
        super().__init__()
        if min(channels, state_size, 1 if degree is None else degree) < 1:
            found = f"{channels}, {state_size} and {degree}"
            raise ValueError(f"channels, state_size and degree need to be at least 1; found {found}")
        self.channels, self.state_size, self.degree, self.method = channels, state_size, degree, _method(method)
        A, B = hippo.start("diagonal", measure, state_size)
        free, dtype = A.free(), torch.get_default_dtype()
        starts = (free["log_decay"], free["frequency"], B)
        starts = (nn.Parameter(part.to(dtype).expand(channels, -1).clone()) for part in starts)
        self.log_decay, self.frequency, self.B = starts
        self.log_step = nn.Parameter(initial_log_steps((channels,), step_range))
        self.C = nn.Parameter(torch.randn(channels, state_size))
        self.D = nn.Parameter(torch.randn(channels))

    @property
    def _alpha(self) -> float:
        """Alpha of a gbt rule, -1 for the exact one."""
        return getattr(self.method.rule, "alpha", -1.0)

    def _poles(self) -> Tensor:
        """Eigenvalues of the pairs, (H, N) float64."""
        return torch.cat([-self.log_decay.double().exp(), self.frequency.double()], dim=-1)

    def _read(self, x: Tensor, rows: Rows) -> Tensor:
        """C x + D u of states (B, L, H, N)."""
        return ((self.C.double() * x).sum(-1) + self.D.double() * rows.u).to(rows.u.dtype)

    def _as_linear(self, transition: Tensor, unit: Tensor, rows: Rows, start: Tensor) -> LinearForm:
        """Matrices of the rows from those of states that are there once or several times, the first of them driven.

        Args:
            transition: (B, L, S, S), S a multiple of H N.
            unit: what a unit input adds to the pairs of the first states, complex (B, L, H, n).
            rows: the rows.
            start: states before the first row, (B, S).
        """
        own, dtype = torch.eye(self.channels, dtype=torch.float64), rows.u.dtype
        drive = (join_pairs(unit)[..., None] * own[:, None]).flatten(2, 3)  # (B, L, H N, H)
        copies = transition.shape[-1] // drive.shape[2]
        drive = torch.nn.functional.pad(drive, (0, 0, 0, (copies - 1) * drive.shape[2]))
        read = torch.block_diag(*self.C.double()[:, None]).repeat(1, copies)  # (H, S)
        fixed = (part.expand(*rows.u.shape[:2], *part.shape) for part in (read, self.D.double().diag()))
        return LinearForm(*(part.to(dtype) for part in (transition, drive, *fixed, start)))


def _method(method: str | Rule | Discretization) -> Discretization:
    """A discretization with the hold `next` whose rule cannot grow."""
    method = named_method(method)
    if method.hold != NEXT or method.rule.growing:
        raise ValueError(
            f"a liquid step holds the input at the end of the gap and needs a rule that does not grow; found "
            f"{method.name}, take bilinear, backward_euler, zoh or gbt(alpha) with alpha >= 1/2"
        )
    return method


def rotations(z: Tensor) -> Tensor:
    """Numbers (B, L, H, n) as the real matrices that multiply pairs by them, (B, L, H N, H N)."""
    real, imag = torch.diag_embed(z.real), torch.diag_embed(z.imag)
    blocks = torch.cat([torch.cat([real, -imag], -1), torch.cat([imag, real], -1)], -2)  # (B, L, H, N, N)
    eye = torch.eye(z.shape[2], dtype=blocks.dtype)
    return (blocks[:, :, :, :, None] * eye[:, None, :, None]).flatten(4, 5).flatten(2, 3)
