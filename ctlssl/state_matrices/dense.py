"""A state matrix without structure."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ctlssl.state_matrices.base import StateMatrix, as_shift

__all__ = ["Dense"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(StateMatrix):
    """A general matrix: O(N^2) products, O(N^3) solves.

    The stable class is A = K - R R^T with K skew and R square: the symmetric part is never positive.

    Args:
        matrix: A, (..., N, N).

    Raises:
        ValueError: the matrix is not square.

    Example:
        >>> import torch
        >>> Dense(torch.tensor([[-1.0, 0.0], [1.0, -2.0]])).matmul(torch.tensor([1.0, 1.0]))
        tensor([-1., -1.])
    """

    matrix: Tensor = dataclasses.field(metadata={"own": 2})

    def __post_init__(self) -> None:
        if self.matrix.ndim < 2 or self.matrix.shape[-1] != self.matrix.shape[-2]:
            raise ValueError(f"a state matrix is square, (..., N, N); found shape {tuple(self.matrix.shape)}")

    @property
    def N(self) -> int:
        """Number of real state dimensions."""
        return self.matrix.shape[-1]

    def matmul(self, x: Tensor) -> Tensor:
        """Product A x; x (..., N)."""
        dtype = torch.promote_types(self.dtype, x.dtype)
        return (self.matrix.to(dtype) @ x.to(dtype)[..., None])[..., 0]  # (..., N)

    def solve_shifted(self, h: Tensor | complex, x: Tensor) -> Tensor:
        """Solution of (I - h A) y = x by LU with pivoting; h (...), x (..., N)."""
        h = as_shift(h, self)
        shifted = torch.eye(self.N, dtype=self.dtype, device=self.device) - h[..., None, None] * self.matrix
        dtype = torch.promote_types(shifted.dtype, x.dtype)
        batch = torch.broadcast_shapes(shifted.shape[:-2], x.shape[:-1])
        rhs = x.to(dtype).expand(*batch, self.N)[..., None]  # (..., N, 1)
        return torch.linalg.solve(shifted.to(dtype), rhs)[..., 0]  # (..., N)

    def to_dense(self) -> Tensor:
        """The matrix itself, (..., N, N)."""
        return self.matrix

    def scale(self, s: Tensor) -> Dense:
        """The matrix s A; s (...)."""
        return Dense(s[..., None, None] * self.matrix)

    def free(self) -> dict[str, Tensor]:
        """Skew part (its upper triangle is read) and a root of minus the symmetric part, both (..., N, N)."""
        transposed = self.matrix.mT
        values, vectors = torch.linalg.eigh(-(self.matrix + transposed) / 2)
        if values.min() < -1e-9 * values.abs().max():
            raise ValueError(
                f"a trainable dense A needs a symmetric part <= 0; its largest eigenvalue is {-values.min().item():.3g}"
            )
        root = vectors * values.clamp(min=0).sqrt()[..., None, :]  # (..., N, N)
        return {"skew": torch.triu((self.matrix - transposed) / 2, 1), "root": root}

    @classmethod
    def from_free(cls, free: dict[str, Tensor]) -> Dense:
        """A = K - R R^T from `skew` and `root`."""
        upper = torch.triu(free["skew"], 1)
        return cls(upper - upper.mT - free["root"] @ free["root"].mT)
