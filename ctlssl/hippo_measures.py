"""Matrices of the HiPPO measures: plain formulas.

All functions use the convention x' = A x + B u, so that every A here is stable, and work in float64.

References:
    Gu, Dao, Ermon, Rudra, Ré (2020), HiPPO: recurrent memory with optimal polynomial projections.
    Gu, Johnson, Timalsina, Rudra, Ré (2022), How to train your HiPPO: state space models with generalized orthogonal
    basis projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["MEASURES", "fourier", "lagt", "legs", "legt", "low_rank_correction", "of_measure"]


def check_size(N: int, even: bool = False) -> None:
    """Refuse a state size that is no positive integer, or odd where conjugate pairs are stored."""
    if isinstance(N, bool) or not isinstance(N, (int, np.integer)) or N < 1:
        raise ValueError(f"state size must be a positive integer, found {N!r}")
    if even and N % 2:
        raise ValueError(
            f"state size must be even, because states are stored as conjugate pairs; found N = {N}: use {N + 1}"
        )


def _roots(N: int) -> np.ndarray:
    """Norms of the Legendre polynomials, sqrt(2n + 1)."""
    check_size(N)
    return np.sqrt(2.0 * np.arange(N) + 1.0)  # (N,)


def legs(N: int) -> tuple[Tensor, Tensor]:
    """Scaled Legendre measure, A[n, k] = -sqrt(2n+1) sqrt(2k+1) below the diagonal, -(n+1) on it; B[n] = sqrt(2n+1).

    Args:
        N: state size.

    Returns:
        A (N, N) with eigenvalues -1, ..., -N, and B (N,).

    Example:
        >>> A, B = legs(3)
        >>> A.diagonal()
        tensor([-1., -2., -3.], dtype=torch.float64)
    """
    s = _roots(N)
    A = -np.tril(np.outer(s, s), -1) - np.diag(np.arange(N) + 1.0)  # (N, N)
    return torch.from_numpy(A), torch.from_numpy(s)


def legt(N: int, window: float = 1.0) -> tuple[Tensor, Tensor]:
    """Translated Legendre measure on the last `window` units of time.

    A[n, k] = -sqrt(2n+1) sqrt(2k+1) / window * (1 if k <= n else (-1)^(n-k)), B[n] = sqrt(2n+1) / window.

    Args:
        N: state size.
        window: length of the window, in the units of time of the system.

    Returns:
        A (N, N), B (N,).

    Raises:
        ValueError: if the window is not a positive finite number.

    Example:
        >>> A, B = legt(2, window=2.0)
        >>> A
        tensor([[-0.5000,  0.8660],
                [-0.8660, -1.5000]], dtype=torch.float64)
    """
    s = _roots(N)
    if not (math.isfinite(window) and window > 0):
        raise ValueError(f"window must be a positive finite length of time, found {window!r}")
    n = np.arange(N)
    alternating = (-1.0) ** (n[:, None] - n)  # (N, N)
    A = -np.where(n[:, None] >= n, 1.0, alternating) * np.outer(s, s) / window  # (N, N)
    return torch.from_numpy(A), torch.from_numpy(s / window)


def lagt(N: int) -> tuple[Tensor, Tensor]:
    """Translated Laguerre measure: A = -1/2 on the diagonal, -1 below it; B = 1.

    Args:
        N: state size.

    Returns:
        A (N, N), B (N,).

    Example:
        >>> lagt(2)[0]
        tensor([[-0.5000,  0.0000],
                [-1.0000, -0.5000]], dtype=torch.float64)
    """
    check_size(N)
    A = np.full((N, N), -1.0)
    A = np.tril(A, -1) - 0.5 * np.eye(N)  # (N, N)
    return torch.from_numpy(A), torch.ones(N, dtype=torch.float64)


def fourier(N: int) -> tuple[Tensor, Tensor]:
    """Truncated Fourier basis on a sliding window: rotations at frequencies pi j, minus B B^T.

    The basis is ordered 1, (the sine of frequency 0, identically zero), cos 1, sin 1, cos 2, sin 2, ...; the second
    coordinate is never driven, so that A has one eigenvalue that is exactly zero.

    Args:
        N: state size, even.

    Returns:
        A (N, N), B = (1, 0, sqrt 2, 0, sqrt 2, 0, ...) (N,).

    Raises:
        ValueError: if N is odd.

    Example:
        >>> fourier(4)[1]
        tensor([1.0000, 0.0000, 1.4142, 0.0000], dtype=torch.float64)
    """
    check_size(N, even=True)
    B = np.zeros(N)
    B[0::2] = math.sqrt(2.0)
    B[0] = 1.0
    A = -np.outer(B, B)  # (N, N)
    cosines = np.arange(0, N, 2)
    A[cosines, cosines + 1] -= np.pi * (cosines // 2)
    A[cosines + 1, cosines] += np.pi * (cosines // 2)
    return torch.from_numpy(A), torch.from_numpy(B)


MEASURES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "legs": legs,
    "legt": legt,
    "lagt": lagt,
    "fourier": fourier,
}


def of_measure(measure: str, N: int) -> tuple[Tensor, Tensor]:
    """The matrices (A, B) of a measure by its name."""
    if measure not in MEASURES:
        raise ValueError(f"no HiPPO measure {measure!r}; there are {', '.join(MEASURES)}")
    return MEASURES[measure](N)


def low_rank_correction(measure: str, N: int) -> Tensor:
    """Columns P with A + P P^T = c I + K, where K is skew: c = -1/2 for legs, 0 for the other measures.

    Args:
        measure: "legs", "legt", "lagt" or "fourier".
        N: state size.

    Returns:
        P (N, r), r = 2 for legt (one column per parity; a single one at N = 1) and 1 otherwise.

    Raises:
        ValueError: if there is no such measure.

    Example:
        >>> low_rank_correction("legt", 3)
        tensor([[1.0000, 0.0000],
                [0.0000, 1.7321],
                [2.2361, 0.0000]], dtype=torch.float64)
    """
    _, B = of_measure(measure, N)
    if measure == "legt":
        parity = torch.arange(N) % 2  # (N,)
        return torch.stack([torch.where(parity == p, B, 0.0) for p in range(min(N, 2))], dim=-1)  # (N, 2)
    return (B if measure == "fourier" else B * math.sqrt(0.5))[:, None]  # (N, 1)
