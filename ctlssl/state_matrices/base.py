"""What every structure of the state matrix A offers: two products, from which the rest follows."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor

__all__ = ["StateMatrix"]


@dataclasses.dataclass(frozen=True, eq=False)
class StateMatrix(ABC):
    r"""A real square matrix A of the linear system x' = A x + B u, known by its structure.

    A structure is given by its products A x and (I - h A)^-1 x: Euler's methods, the bilinear rule and the
    resolvent of the convolution all follow from these two. Batch dimensions come first in every field.
    States are real: a conjugate pair of eigenvalues takes two real numbers, stored in halves
    (all real parts, then all imaginary parts).
    """

    @property
    @abstractmethod
    def N(self) -> int:
        """Number of real state dimensions."""

    @abstractmethod
    def matmul(self, x: Tensor) -> Tensor:
        """Product A x.

        Args:
            x: states, (..., N); leading dimensions broadcast against the batch of A.
        """

    @abstractmethod
    def solve_shifted(self, h: Tensor | complex, x: Tensor) -> Tensor:
        """Solution of (I - h A) y = x.

        Args:
            h: shift, (...) without the state dimension, real or complex, or one number; unit of time of A.
            x: right-hand sides, (..., N).
        """

    @abstractmethod
    def scale(self, s: Tensor) -> Self:
        """The same structure for s A; s (...) broadcasts into the batch."""

    @abstractmethod
    def free(self) -> dict[str, Tensor]:
        """Unconstrained real parameters whose every value `from_free` maps to a stable matrix.

        Raises:
            ValueError: this matrix is outside the stable class.
        """

    @classmethod
    @abstractmethod
    def from_free(cls, free: dict[str, Tensor]) -> Self:
        """The stable member of the class that belongs to unconstrained parameters."""

    def to_dense(self) -> Tensor:
        """The matrix itself, (..., N, N)."""
        eye = torch.eye(self.N, dtype=self.dtype, device=self.device)
        columns = eye.reshape(self.N, *(1 for _ in self.batch_shape), self.N)  # (N, 1..., N)
        return self.matmul(columns.expand(self.N, *self.batch_shape, self.N)).movedim(0, -1)  # (..., N, N)

    def eigenvalues(self) -> Tensor:
        """Complex eigenvalues, (..., N), in no particular order."""
        return torch.linalg.eigvals(self.to_dense())

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """The same matrix with every field in another dtype or on another device."""
        return self._map(lambda field: field.to(dtype=dtype, device=device))

    def split(self, count: int) -> list[Self]:
        """The matrices of a batch (count,), each in a batch (1,); fields and matrices that all share are repeated."""
        parts = [field.split(1) if field.ndim > own else [field] * count for field, own in self._fields()]
        names = [field.name for field in dataclasses.fields(self)]
        return [dataclasses.replace(self, **dict(zip(names, part, strict=True))) for part in zip(*parts, strict=True)]

    @property
    def batch_shape(self) -> torch.Size:
        """Batch dimensions, without the state."""
        # torch's own function loads its symbolic shapes, and with them sympy: half a second at the first call.
        return torch.Size(np.broadcast_shapes(*(field.shape[: field.ndim - own] for field, own in self._fields())))

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the fields."""
        return next(iter(self._fields()))[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the fields."""
        return next(iter(self._fields()))[0].device

    def _fields(self) -> list[tuple[Tensor, int]]:
        """Each tensor with the number of dimensions that are its own, not the batch's."""
        return [(getattr(self, f.name), f.metadata.get("own", 1)) for f in dataclasses.fields(self)]

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return dataclasses.replace(self, **{f.name: change(getattr(self, f.name)) for f in dataclasses.fields(self)})


def as_shift(h: Tensor | complex, like: StateMatrix) -> Tensor:
    """A shift as a tensor; a number keeps all the digits of the matrix, not those of torch's default dtype."""
    if isinstance(h, Tensor):
        return h.to(like.device)
    kind = torch.complex64 if isinstance(h, complex) else like.dtype
    return torch.tensor(h, dtype=torch.promote_types(like.dtype, kind), device=like.device)


def unsqueezed(h: Tensor | complex) -> Tensor | complex:
    """A shift with room for the state dimension; numbers pass."""
    return h[..., None] if isinstance(h, Tensor) else h
