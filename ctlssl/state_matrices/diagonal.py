"""Diagonal state matrices: conjugate pairs of eigenvalues, stored as real numbers."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ctlssl.state_matrices.base import StateMatrix, unsqueezed

__all__ = ["Diagonal", "join_pairs", "multiply", "split_pairs"]


def join_pairs(z: Tensor) -> Tensor:
    """Complex pairs (..., n) as real states (..., 2 n): all real parts, then all imaginary parts."""
    return torch.cat([z.real, z.imag], dim=-1)  # (..., N)


def split_pairs(x: Tensor) -> Tensor:
    """Real states (..., 2 n) as complex pairs (..., n)."""
    return torch.complex(*x.tensor_split(2, dim=-1))  # (..., n)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Product of complex numbers, in real arithmetic.

    torch's own product rounds an element by its place in memory (vector lanes one way, what is left over another), so
    an output would change its last bit when rows are added to the series.
    """
    if not (a.is_complex() and b.is_complex()):
        return a * b
    return torch.complex(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


@dataclasses.dataclass(frozen=True, eq=False)
class Diagonal(StateMatrix):
    r"""Eigenvalues lambda_j and their conjugates, as one real matrix of 2 x 2 rotations.

    A = [[diag Re lambda, -diag Im lambda], [diag Im lambda, diag Re lambda]], so that with
    z = x[:n] + i x[n:] the product is lambda z. The stable class is Re lambda = -exp(free) < 0.

    Args:
        real: Re lambda, (..., n), per unit of time, N = 2 n.
        imag: Im lambda, (..., n), radians per unit of time.

    Raises:
        ValueError: the two shapes differ.

    References:
        Gupta, Gu, Berant (2022), diagonal state spaces; Gu, Gupta, Goel, Re (2022), S4D.

    Example:
        >>> import torch
        >>> Diagonal(torch.tensor([-0.5]), torch.tensor([2.0])).to_dense()
        tensor([[-0.5000, -2.0000],
                [ 2.0000, -0.5000]])
    """

    real: Tensor
    imag: Tensor

    def __post_init__(self) -> None:
        if self.real.shape != self.imag.shape or self.real.ndim < 1:
            found = f"{tuple(self.real.shape)} and {tuple(self.imag.shape)}"
            raise ValueError(f"real and imaginary parts need one shape (..., n); found {found}")

    @property
    def N(self) -> int:
        """Number of real state dimensions, twice the pairs."""
        return 2 * self.real.shape[-1]

    @property
    def poles(self) -> Tensor:
        """One eigenvalue of each pair, complex (..., n)."""
        return torch.complex(self.real, self.imag)

    def matmul(self, x: Tensor) -> Tensor:
        """Product A x; x (..., N), real or complex."""
        first, second = x.tensor_split(2, dim=-1)
        halves = (self.real * first - self.imag * second, self.imag * first + self.real * second)
        return torch.cat(halves, dim=-1)  # (..., N)

    def solve_shifted(self, h: Tensor | complex, x: Tensor) -> Tensor:
        """Solution of (I - h A) y = x in O(N); h (...), x (..., N)."""
        h = unsqueezed(h)
        if not x.is_complex() and not (isinstance(h, complex) or (isinstance(h, Tensor) and h.is_complex())):
            return join_pairs(split_pairs(x) / (1 - h * self.poles))
        # A complex right-hand side or shift mixes the pair: both eigenvalues are solved for by themselves.
        first, second = x.tensor_split(2, dim=-1)
        plus = (first + 1j * second) / (1 - h * self.poles)
        minus = (first - 1j * second) / (1 - h * self.poles.conj())
        return torch.cat([(plus + minus) / 2, (plus - minus) / 2j], dim=-1)  # (..., N)

    def eigenvalues(self) -> Tensor:
        """Complex eigenvalues, (..., N): the poles, then their conjugates."""
        return torch.cat([self.poles, self.poles.conj()], dim=-1)

    def scale(self, s: Tensor) -> Diagonal:
        """The matrix s A; s (...)."""
        return Diagonal(s[..., None] * self.real, s[..., None] * self.imag)

    def scale_pairs(self, s: Tensor) -> Diagonal:
        """Each pair by its own factor; s (..., n)."""
        return Diagonal(s * self.real, s * self.imag)

    def free(self) -> dict[str, Tensor]:
        """Logarithm of the decay -Re lambda, and the frequency Im lambda, both (..., n)."""
        if not (self.real < 0).all():
            raise ValueError(f"a trainable diagonal A needs Re lambda < 0; found {self.real.max().item():.3g}")
        return {"log_decay": (-self.real).log(), "frequency": self.imag}

    @classmethod
    def from_free(cls, free: dict[str, Tensor]) -> Diagonal:
        """Eigenvalues -exp(log_decay) + i frequency."""
        return cls(-free["log_decay"].exp(), free["frequency"])
