r"""The exponential and its phi functions, of numbers and of matrices.

phi_1(z) = (e^z - 1) / z and phi_2(z) = (phi_1(z) - 1) / z: what an input held constant, or in a straight line,
adds to x' = z x over a unit of time. Both are entire: phi_1(0) = 1, phi_2(0) = 1/2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctlssl.state_matrices.diagonal import multiply

__all__ = ["matrix_phi_functions", "phi_functions"]

_SCALAR_RADIUS, _SCALAR_TERMS = 0.25, 12  # 4^-12 / 14! = 7e-19: below the rounding of float64
_MATRIX_RADIUS, _MATRIX_TERMS = 4.0, 34  # 4^33 / 35! = 7e-21: below the rounding of float64


def phi_functions(z: Tensor, top: int = 2) -> tuple[Tensor, ...]:
    r"""e^z, phi_1(z), ..., phi_top(z), elementwise, with phi_{k+1}(z) = (phi_k(z) - 1/k!) / z.

    Near zero a Taylor series stands for the quotients: dividing by z would lose all digits there and give NaN at
    z = 0, which is a legal eigenvalue. The derivative, phi_k' = phi_k - k phi_{k+1}, loses none either.

    Args:
        z: real or complex, any shape; float64 or complex128 for full accuracy.
        top: highest order.

    References:
        Hochbruck, Ostermann (2010), Exponential integrators.

    Example:
        >>> import torch
        >>> [value.item() for value in phi_functions(torch.zeros(1, dtype=torch.float64))]
        [1.0, 1.0, 0.5]
    """
    return _exported(z, top) if torch.compiler.is_exporting() else _Phi.apply(z, top)


def _exported(z: Tensor, top: int) -> tuple[Tensor, ...]:
    """The same without a look at the numbers, for a program of tensors: both forms, of which each number takes one."""
    near = z.abs() < _SCALAR_RADIUS
    values, divisor = [z.exp()], torch.where(near, 1, z)
    for k in range(top):
        values.append((values[-1] - 1 / math.factorial(k)) / divisor)
    series = _taylor(torch.where(near, z, 0), top)
    return tuple(torch.where(near, exact, value) for value, exact in zip(values, series, strict=True))


class _Phi(torch.autograd.Function):
    """The derivatives are functions of the same family, so the backward pass is this function, one order higher."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, top: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(z)
        values = [z.exp()]
        for k in range(top):
            values.append((values[-1] - 1 / math.factorial(k)) / z)
        near = z.abs() < _SCALAR_RADIUS
        if near.any():
            for value, exact in zip(values, _taylor(z[near], top), strict=True):
                value[near] = exact
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        values = _Phi.apply(z, len(grads))
        near = z.abs() < 1
        divisor = torch.where(near, 1, z)
        slopes = [values[0]]
        for k, value in enumerate(values[1:-1], start=1):
            # The first form cancels at large |z|, the second (from z phi_k = phi_{k-1} - 1/(k-1)!) at small.
            slopes.append(torch.where(near, value - k * values[k + 1], (slopes[-1] - value) / divisor))
        return sum(grad * slope.conj() for grad, slope in zip(grads, slopes, strict=True)), None


def _taylor(z: Tensor, top: int) -> list[Tensor]:
    """The same functions by the series of the highest, and phi_k = z phi_{k+1} + 1/k! downwards."""
    last = torch.full_like(z, 1 / math.factorial(_SCALAR_TERMS + top))
    for k in range(_SCALAR_TERMS + top - 1, top - 1, -1):
        last = multiply(last, z) + 1 / math.factorial(k)
    values = [last]
    for k in range(top - 1, -1, -1):
        values.append(multiply(values[-1], z) + 1 / math.factorial(k))
    return values[::-1]


def matrix_phi_functions(Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""e^Z, phi_1(Z) and phi_2(Z) of square matrices, by Taylor series, scaling and repeated doubling.

    phi_1(2Z) = (e^Z + I) phi_1(Z) / 2 and phi_2(2Z) = ((e^Z + I) phi_2(Z) + phi_1(Z)) / 4.
    Each matrix is scaled by its own norm: one that is scaled too far would lose e^Z - I to rounding.

    Args:
        Z: (..., N, N), float64 for full accuracy.

    References:
        Al-Mohy, Higham (2009), A new scaling and squaring algorithm for the matrix exponential.
        Skaflestad, Wright (2009), The scaling and modified squaring method for matrix functions related to exp.

    Example:
        >>> import torch
        >>> E, phi1, phi2 = matrix_phi_functions(torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64))
        >>> phi2
        tensor([[0.5000, 0.1667],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    # Rows one after another: a product rounds by how its factors are laid out, which may depend on how many there are.
    flat = Z.reshape(-1, *Z.shape[-2:]).contiguous()  # (U, N, N)
    doublings = (_size(flat.detach()) / _MATRIX_RADIUS).log2().ceil().clamp(min=0).nan_to_num(posinf=0).long()  # (U,)
    parts, places = [], []
    for count in doublings.unique().tolist() or [0]:  # [0] for an empty batch
        place = (doublings == count).nonzero()[:, 0]
        parts.append(torch.stack(_doubled(flat[place] * 2.0**-count, count)))  # (3, U', N, N)
        places.append(place)
    order = torch.cat(places).argsort()
    e, phi1, phi2 = torch.cat(parts, dim=1)[:, order].reshape(3, *Z.shape)
    return e, phi1, phi2


def _size(Z: Tensor) -> Tensor:
    """How large Z (U, N, N) is to a power series, (U,).

    Powers of a matrix far from normal are smaller than its norm says, and each doubling too many doubles the error of
    what decays slowly. The norm still has a say: it bounds the rounding inside the series.
    """
    square = Z @ Z
    norm, second, third = (power.abs().sum(-2).amax(-1) for power in (Z, square, square @ Z))
    return torch.maximum(norm / 4, torch.maximum(second ** (1 / 2), third ** (1 / 3)))


def _doubled(Z: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    eye = torch.eye(Z.shape[-1], dtype=Z.dtype, device=Z.device)
    phi2 = eye * (1 / math.factorial(_MATRIX_TERMS + 1))
    for k in range(_MATRIX_TERMS, 1, -1):
        phi2 = phi2 @ Z + eye * (1 / math.factorial(k))
    phi1 = phi2 @ Z + eye
    e = phi1 @ Z + eye
    for _ in range(count):
        more = e + eye
        phi2 = (more @ phi2 + phi1) / 4
        phi1 = more @ phi1 / 2
        e = e @ e
    return e, phi1, phi2
