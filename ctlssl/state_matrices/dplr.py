"""Diagonal plus low rank: the exact HiPPO matrices in O(N)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ctlssl.state_matrices.base import StateMatrix, unsqueezed
from ctlssl.state_matrices.diagonal import Diagonal

__all__ = ["DPLR"]


@dataclasses.dataclass(frozen=True, eq=False)
class DPLR(StateMatrix):
    r"""A = Lambda - P Q^T with Lambda diagonal in conjugate pairs and P, Q real of rank r.

    Shifted systems are solved by Woodbury's identity. With Q = P and Re Lambda <= 0 the matrix is stable:
    its symmetric part is Re Lambda - P P^T <= 0; that is the trainable class.

    Args:
        real: Re lambda, (..., n), N = 2 n, per unit of time.
        imag: Im lambda, (..., n).
        P: left factor, (..., N, r).
        Q: right factor, (..., N, r).

    Raises:
        ValueError: shapes that do not fit together.

    References:
        Gu, Goel, Re (2022), S4; Goel, Gu, Donahue, Re (2022) for Q = P.
    """

    real: Tensor
    imag: Tensor
    P: Tensor = dataclasses.field(metadata={"own": 2})
    Q: Tensor = dataclasses.field(metadata={"own": 2})

    def __post_init__(self) -> None:
        Diagonal(self.real, self.imag)
        if self.P.ndim < 2 or self.P.shape != self.Q.shape or self.P.shape[-2] != self.N:
            found = f"P {tuple(self.P.shape)} and Q {tuple(self.Q.shape)}"
            raise ValueError(f"P and Q need one shape (..., N, r) with N = {self.N}; found {found}")

    @property
    def N(self) -> int:
        """Number of real state dimensions."""
        return 2 * self.real.shape[-1]

    @property
    def diagonal(self) -> Diagonal:
        """The diagonal part Lambda."""
        return Diagonal(self.real, self.imag)

    def matmul(self, x: Tensor) -> Tensor:
        """Product A x; x (..., N)."""
        low_rank = (self.P * (self.Q * x[..., None]).sum(-2, keepdim=True)).sum(-1)  # (..., N)
        return self.diagonal.matmul(x) - low_rank

    def solve_shifted(self, h: Tensor | complex, x: Tensor) -> Tensor:
        """Solution of (I - h A) y = x in O(N r^2) by Woodbury; h (...), x (..., N)."""
        base = self.diagonal.solve_shifted(h, x)  # (..., N)
        columns = [self.diagonal.solve_shifted(h, p) for p in self.P.unbind(-1)]
        solved = torch.stack(columns, dim=-1)  # (..., N, r)
        h = unsqueezed(h)
        small = self.Q.mT.to(solved.dtype) @ solved  # (..., r, r)
        rank = small.shape[-1]
        small = torch.eye(rank, dtype=small.dtype, device=small.device) + unsqueezed(h) * small
        inner = (self.Q * base[..., None]).sum(-2) * h  # (..., r)
        dtype = torch.promote_types(inner.dtype, small.dtype)
        small, inner = small.to(dtype), inner.to(dtype)
        weights = inner / small[..., 0] if rank == 1 else _solve(small, inner)  # (..., r)
        return base - (solved * weights[..., None, :]).sum(-1)

    def scale(self, s: Tensor) -> DPLR:
        """The matrix s A; s (...)."""
        P = s[..., None, None] * self.P
        return DPLR(s[..., None] * self.real, s[..., None] * self.imag, P, self.Q.expand(P.shape))

    def free(self) -> dict[str, Tensor]:
        """Decay -Re lambda (read by its absolute value), frequency, and the one low-rank factor."""
        if not torch.equal(self.P, self.Q) or not (self.real <= 0).all():
            raise ValueError("a trainable DPLR A needs Q = P and Re lambda <= 0; this one has not")
        return {"decay": -self.real, "frequency": self.imag, "factor": self.P}

    @classmethod
    def from_free(cls, free: dict[str, Tensor]) -> DPLR:
        """A = Lambda - P P^T with Re lambda = -|decay|."""
        decay = free["decay"]
        # Not abs(): its derivative at 0 is 0, and the skew measures (LegT, LagT, Fourier) start exactly there.
        return cls(torch.where(decay >= 0, -decay, decay), free["frequency"], free["factor"], free["factor"])


def _solve(matrix: Tensor, rhs: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-1])
    return torch.linalg.solve(matrix, rhs.expand(*batch, rhs.shape[-1])[..., None])[..., 0]  # (..., r)
