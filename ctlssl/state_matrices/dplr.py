"""Diagonal plus low rank: the exact HiPPO matrices in O(N)."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from ctlssl.state_matrices.base import StateMatrix, as_shift
from ctlssl.state_matrices.diagonal import Diagonal

__all__ = ["DPLR"]


@dataclasses.dataclass(frozen=True, eq=False)
class DPLR(StateMatrix):
    r"""A = Lambda - P Q^T with Lambda diagonal in conjugate pairs and P, Q real of rank r.

    Shifted systems are solved by block elimination (Woodbury's identity, made safe for eigenvalues near 0).
    With Q = P and Re Lambda <= 0 the matrix is stable, since its symmetric part is Re Lambda - P P^T <= 0; that is
    the trainable class.

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
        """Solution of (I - h A) y = x in O(N r^2); h (...), x (..., N).

        The pair of the smallest eigenvalue is not eliminated first, as Woodbury's identity would: where Lambda is
        (nearly) singular and only P Q^T damps, as in the Fourier measure, that loses h |P|^2 in relative accuracy.
        It joins the small dense system of the low-rank part instead.
        """
        h = as_shift(h, self)
        last = self._kept_back()  # (..., n)
        both = torch.cat([last, last], dim=-1)  # (..., N)
        base = torch.where(both, 0, self.diagonal.solve_shifted(h, x))  # (..., N)
        columns = [torch.where(both, 0, self.diagonal.solve_shifted(h, p)) for p in self.P.unbind(-1)]
        solved = torch.stack(columns, dim=-1)  # (..., N, r)
        P = torch.stack([_pair(p, last) for p in self.P.unbind(-1)], dim=-1)  # (..., 2, r)
        Q = torch.stack([_pair(q, last) for q in self.Q.unbind(-1)], dim=-2)  # (..., r, 2)
        re, im = (torch.where(last, part, 0).sum(-1) for part in (self.real, self.imag))
        wide = h[..., None, None]  # (..., 1, 1)
        row = 1 / (1 + wide.abs())  # one size for all rows of the small system
        eye = torch.eye(self.P.shape[-1], dtype=self.dtype, device=self.device)
        corner = torch.stack([1 - h * re, h * im, -h * im, 1 - h * re], dim=-1).unflatten(-1, (2, 2))
        blocks = (row * corner, row * wide * P, -Q, eye + wide * (self.Q.mT.to(solved.dtype) @ solved))
        parts = _spread(row[..., 0] * _pair(x, last), (self.Q * base[..., None]).sum(-2))
        rhs = torch.cat(parts, dim=-1)  # (..., 2 + r)
        small = _solve(_assembled(*blocks), rhs)
        pair, weights = small[..., :2], small[..., 2:]
        y = base - ((h[..., None, None] * solved) * weights[..., None, :]).sum(-1)
        return y + torch.where(last[..., None, :], pair[..., None], 0).flatten(-2)

    def _kept_back(self) -> Tensor:
        """Which pair has the smallest eigenvalue, one True in each (..., n)."""
        size = (self.real.square() + self.imag.square()).detach()
        return torch.arange(size.shape[-1], device=self.device) == size.argmin(-1, keepdim=True)

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


def _pair(x: Tensor, chosen: Tensor) -> Tensor:
    """The two real entries of one pair, (..., 2)."""
    return torch.where(chosen[..., None, :], x.unflatten(-1, (2, -1)), 0).sum(-1)


def _spread(*parts: Tensor) -> list[Tensor]:
    """Parts (..., k_i) with one batch shape and dtype, to be joined along the last dimension."""
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    dtype = functools.reduce(torch.promote_types, (part.dtype for part in parts))
    return [part.to(dtype).expand(*batch, part.shape[-1]) for part in parts]


def _assembled(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The block matrix [[a, b], [c, d]]."""
    flat = _spread(*(block.flatten(-2) for block in (a, b, c, d)))
    a, b, c, d = (part.unflatten(-1, block.shape[-2:]) for part, block in zip(flat, (a, b, c, d), strict=True))
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def _solve(matrix: Tensor, rhs: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-1])
    dtype = torch.promote_types(matrix.dtype, rhs.dtype)
    rhs = rhs.to(dtype).expand(*batch, rhs.shape[-1])[..., None]
    return torch.linalg.solve(matrix.to(dtype), rhs)[..., 0]
