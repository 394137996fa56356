"""The trainable class of the LSSL paper: A = -P (D + T^-1) Q with T tridiagonal."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ctlssl.state_matrices.base import StateMatrix, unsqueezed
from ctlssl.state_matrices.tridiagonal import tridiagonal_matmul, tridiagonal_solve

__all__ = ["Quasiseparable"]


@dataclasses.dataclass(frozen=True, eq=False)
class Quasiseparable(StateMatrix):
    r"""A = -P (D + T^{-1}) Q, with P, D, Q diagonal and T tridiagonal: O(N) parameters, products and solves.

    It holds HiPPO-LegS, -LegT and -LagT exactly. A shifted system needs one tridiagonal solve, since
    (I - h A)^{-1} = Q^{-1} (T ((P Q)^{-1} + h D) + h I)^{-1} T P^{-1}.
    Two classes are stable for P, Q > 0 and are the trainable ones:
    T = L L^T + K with L bidiagonal, K skew, and D >= 0 (LegT);
    T = I - E with every row and column sum of |E| at most 1, and D >= -1/2 (LegS, LagT).

    Args:
        P: left diagonal, (..., N).
        D: middle diagonal, (..., N).
        Q: right diagonal, (..., N).
        lower: T[i+1, i], (..., N-1).
        diag: T[i, i], (..., N).
        upper: T[i, i+1], (..., N-1).

    Raises:
        ValueError: shapes that do not fit together.

    References:
        Gu, Johnson, Goel, Saab, Dao, Rudra, Re (2021), LSSL, theorem 11 and appendix E.

    Example:
        >>> import torch
        >>> one = torch.ones(3)
        >>> Quasiseparable(one, -one / 2, one, -one[:2], one, 0 * one[:2]).to_dense()  # HiPPO-LagT
        tensor([[-0.5000, -0.0000, -0.0000],
                [-1.0000, -0.5000, -0.0000],
                [-1.0000, -1.0000, -0.5000]])
    """

    P: Tensor
    D: Tensor
    Q: Tensor
    lower: Tensor
    diag: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        sizes = [field.shape[-1] if field.ndim else 0 for field, _ in self._fields()]
        N = sizes[0]
        if N < 1 or sizes != [N, N, N, N - 1, N, N - 1]:
            raise ValueError(f"P, D, Q, lower, diag, upper need sizes N, N, N, N-1, N, N-1; found {sizes}")

    @property
    def N(self) -> int:
        """Number of real state dimensions."""
        return self.P.shape[-1]

    def matmul(self, x: Tensor) -> Tensor:
        """Product A x with one tridiagonal solve; x (..., N)."""
        right = self.Q * x
        return -self.P * (self.D * right + tridiagonal_solve(self.lower, self.diag, self.upper, right))

    def solve_shifted(self, h: Tensor | complex, x: Tensor) -> Tensor:
        """Solution of (I - h A) y = x with one tridiagonal solve; h (...), x (..., N)."""
        h = unsqueezed(h)
        # Rows scaled by 1 / (1 + |h|) keep the bands of one size from h = 1e-12 to 1e12; no pivoting is needed then.
        row = 1 / (1 + abs(h))
        column = row / (self.P * self.Q) + (h * row) * self.D  # (..., N)
        rhs = row * tridiagonal_matmul(self.lower, self.diag, self.upper, x / self.P)
        bands = (self.lower * column[..., :-1], self.diag * column + h * row, self.upper * column[..., 1:])
        return tridiagonal_solve(*bands, rhs) / self.Q

    def scale(self, s: Tensor) -> Quasiseparable:
        """The matrix s A; s (...)."""
        return dataclasses.replace(self, P=s[..., None] * self.P)

    def free(self) -> dict[str, Tensor]:
        """Logarithms of P and Q, D above its bound, and T in the one of the two stable classes that holds it."""
        if not ((self.P > 0).all() and (self.Q > 0).all()):
            raise ValueError("a trainable quasiseparable A needs P > 0 and Q > 0")
        outer = {"log_P": self.P.log(), "log_Q": self.Q.log()}
        coupling = (-self.lower, 1 - self.diag, -self.upper)
        slack = 1e-9
        if (self.D >= -0.5 - slack).all() and max(bound.max() for bound in _sums(*coupling)) <= 1 + slack:
            names = ("coupling_lower", "coupling_diag", "coupling_upper")
            return outer | {"offset": self.D + 0.5} | dict(zip(names, coupling, strict=True))
        root_diag, root_lower = _bidiagonal_root(self.diag, (self.lower + self.upper) / 2)
        if not (self.D >= -slack).all():
            raise ValueError("a trainable quasiseparable A needs D >= 0, or D >= -1/2 with T close to I")
        skew = (self.upper - self.lower) / 2
        return outer | {"offset": self.D, "root_diag": root_diag, "root_lower": root_lower, "skew": skew}

    @classmethod
    def from_free(cls, free: dict[str, Tensor]) -> Quasiseparable:
        """The stable matrix of either class; the names of the parameters tell which."""
        # Not abs(): its derivative at 0 is 0, and LagT and LegT start exactly at the bound of D.
        offset = torch.where(free["offset"] >= 0, free["offset"], -free["offset"])
        if "skew" in free:
            root, low, skew = free["root_diag"], free["root_lower"], free["skew"]
            diag = root.square() + torch.nn.functional.pad(low.square(), (1, 0))
            off = low * root[..., :-1]
            return cls(free["log_P"].exp(), offset, free["log_Q"].exp(), off - skew, diag, off + skew)
        lower, diag, upper = free["coupling_lower"], free["coupling_diag"], free["coupling_upper"]
        rows, columns = _sums(lower, diag, upper)
        lower = lower * _folded(torch.maximum(rows[..., 1:], columns[..., :-1]))
        diag = diag * _folded(torch.maximum(rows, columns))
        upper = upper * _folded(torch.maximum(rows[..., :-1], columns[..., 1:]))
        return cls(free["log_P"].exp(), offset - 0.5, free["log_Q"].exp(), -lower, 1 - diag, -upper)


def _sums(lower: Tensor, diag: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column sums of the absolute values of a tridiagonal matrix, (..., N) each."""
    low, main, up = lower.abs(), diag.abs(), upper.abs()
    rows = main + torch.nn.functional.pad(low, (1, 0)) + torch.nn.functional.pad(up, (0, 1))
    columns = main + torch.nn.functional.pad(low, (0, 1)) + torch.nn.functional.pad(up, (1, 0))
    return rows, columns


def _folded(total: Tensor) -> Tensor:
    """Factor that keeps sums at most 1: the distance of `total` from 0 on a path folded at 1, over `total`.

    Not min(1, 1 / total): LegS and LagT start at total = 1, from where that has no derivative to come back by.
    """
    above = torch.where(total > 1, total, 1)
    turned = (above + 1) % 4 - 2
    return (1 - torch.where(turned >= 0, turned, -turned)) / above


def _bidiagonal_root(diag: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
    """L with L L^T = the symmetric tridiagonal matrix (diag, off) >= 0, by Cholesky that lets pivots be zero."""
    roots, lows = [], []
    left = torch.zeros_like(diag[..., 0])
    for i in range(diag.shape[-1]):
        rest = diag[..., i] - left.square()
        if (rest < -1e-9).any():
            raise ValueError(f"a trainable T needs a symmetric part >= 0; row {i} leaves {rest.min().item():.3g}")
        roots.append(rest.clamp(min=0).sqrt())
        if i + 1 < diag.shape[-1]:
            left = torch.where(roots[-1] > 0, off[..., i] / roots[-1], 0.0)
            lows.append(left)
    low = torch.stack(lows, -1) if lows else diag[..., :0]
    return torch.stack(roots, -1), low
