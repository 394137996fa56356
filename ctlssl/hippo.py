"""Initial state matrices of the HiPPO framework, in each structure, and one table of starts.

The plain formulas `legs`, `legt`, `lagt`, `fourier` and `low_rank_correction` are in `hippo_measures` and offered here
too. The convention is x' = A x + B u, so that every A is stable; everything is float64.

References:
    Gu, Johnson, Goel, Saab, Dao, Rudra, Ré (2021), Combining recurrent, convolutional and continuous-time models with
    linear state-space layers.
    Gu, Goel, Ré (2022), Efficiently modeling long sequences with structured state spaces.
    Gu, Gupta, Goel, Ré (2022), On the parameterization and initialization of diagonal state space models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctlssl.hippo_measures import MEASURES, check_size, fourier, lagt, legs, legt, low_rank_correction, of_measure
from ctlssl.state_matrices import DPLR, Dense, Diagonal, Quasiseparable, StateMatrix

__all__ = [
    "NormalPlusLowRank",
    "diagonal",
    "fourier",
    "lagt",
    "legs",
    "legt",
    "low_rank_correction",
    "normal_plus_low_rank",
    "quasiseparable",
    "start",
]


@dataclass(frozen=True, eq=False)
class NormalPlusLowRank:
    """A HiPPO system in the real Schur basis of its normal part: A = basis @ dplr.to_dense() @ basis.T.

    Attributes:
        dplr: rotations in conjugate pairs, minus P P^T.
        B: input vector in the new basis, basis.T @ B_hippo, (N,).
        basis: orthogonal matrix, (N, N).
    """

    dplr: DPLR
    B: Tensor
    basis: Tensor


def _pair_basis(K: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (n,) and orthonormal pairs (2, n, N) that turn a skew K (N, N) into rotations, slowest first."""
    from scipy.linalg import schur  # here, so that the package does not load scipy for those who need no start

    T, Z = schur(K, output="real")  # (N, N), (N, N)
    below = np.append(np.diag(T, -1), 0.0)
    first, single = [], []
    i = 0
    while i < len(K):
        if below[i] != 0.0:
            first.append((i, i + 1))
            i += 2
        else:  # an eigenvalue 0: a skew matrix of even size has an even number of them
            single.append(i)
            i += 1
    first += list(zip(single[0::2], single[1::2], strict=True))
    z = Z.T[np.array(first).T]  # (2, n, N)
    frequency = np.einsum("ni,ij,nj->n", z[1], K, z[0])  # (n,)
    z[:, frequency < 0] = z[::-1, frequency < 0]
    z = z[:, np.argsort(np.abs(frequency), kind="stable")]
    # A pair is fixed up to a rotation; we turn it so that the input enters by the first coordinate alone, which makes
    # the result independent of the arbitrary phases that the eigenvalue routine returns.
    b = z @ B  # (2, n)
    size = np.hypot(b[0], b[1])
    c, s = np.where(size > 1e-12 * np.linalg.norm(B), b / np.where(size > 0, size, 1.0), [[1.0], [0.0]])
    z = np.stack([c[:, None] * z[0] + s[:, None] * z[1], c[:, None] * z[1] - s[:, None] * z[0]])  # (2, n, N)
    return np.sort(np.abs(frequency)), z


def normal_plus_low_rank(measure: str, N: int) -> NormalPlusLowRank:
    """HiPPO matrix as rotations minus a low-rank term, A = V (Lambda - P P^T) V^T with V orthogonal.

    Pairs are ordered by frequency, slowest first, and each is turned so that its part of B is (|b|, 0).

    Args:
        measure: "legs", "legt", "lagt" or "fourier".
        N: state size, even.

    Returns:
        The structured matrix, B and the basis.

    Raises:
        ValueError: if N is odd or there is no such measure.

    Example:
        >>> form = normal_plus_low_rank("legs", 4)
        >>> form.dplr.imag
        tensor([0.5565, 4.6033], dtype=torch.float64)
        >>> A, _ = legs(4)
        >>> torch.allclose(form.basis @ form.dplr.to_dense() @ form.basis.T, A)
        True
    """
    check_size(N, even=True)
    A, B = of_measure(measure, N)
    P = low_rank_correction(measure, N)  # (N, r)
    frequency, pairs = _pair_basis(((A - A.T) / 2).numpy(), B.numpy())
    basis = torch.from_numpy(np.ascontiguousarray(pairs.reshape(N, N).T))  # (N, N)
    imag = torch.from_numpy(frequency)  # (N/2,)
    real = torch.full_like(imag, -0.5 if measure == "legs" else 0.0)
    factor = basis.T @ P  # (N, r)
    return NormalPlusLowRank(DPLR(real, imag, factor, factor), basis.T @ B, basis)


def quasiseparable(measure: str, N: int) -> tuple[Quasiseparable, Tensor]:
    """HiPPO matrix in the form A = -P (D + T^-1) Q with P, D, Q diagonal and T tridiagonal.

    Args:
        measure: "legs", "legt" or "lagt".
        N: state size.

    Returns:
        The structured matrix and B (N,).

    Raises:
        ValueError: for fourier, which is not of this form, or if there is no such measure.

    Example:
        >>> A, B = quasiseparable("legs", 3)
        >>> torch.allclose(A.to_dense(), legs(3)[0])
        True
    """
    if measure == "fourier":
        raise ValueError(
            "the fourier measure has no form -P (D + T^-1) Q: cut inside a pair, its lower triangle has rank 2, an "
            "inverse tridiagonal matrix has rank 1; use measure legs, legt or lagt, or another structure"
        )
    _, B = of_measure(measure, N)
    n = torch.arange(N, dtype=torch.float64)
    ones, zeros = torch.ones(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
    if measure == "legt":
        ends = zeros.clone()
        ends[0] += 0.5
        ends[-1] += 0.5  # both halves fall on the same entry at N = 1
        return Quasiseparable(B, zeros, B.clone(), -0.5 * ones[1:], ends, 0.5 * ones[1:]), B
    # The inverse of this T is the lower triangle of ones; D corrects its diagonal.
    D = {"legs": -n / (2 * n + 1), "lagt": -0.5 * ones}[measure]
    return Quasiseparable(B, D, B.clone(), -ones[1:], ones, zeros[1:]), B


def _normal_part(measure: str, N: int) -> tuple[Diagonal, Tensor]:
    form = normal_plus_low_rank(measure, N)
    return Diagonal(torch.full_like(form.dplr.imag, -0.5), form.dplr.imag), form.B


def _closed_form(eigenvalues: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]) -> Callable:
    def build(measure: str, N: int) -> tuple[Diagonal, Tensor]:
        check_size(N, even=True)
        real, imag = eigenvalues(np.arange(N // 2, dtype=np.float64), N)  # (N/2,), (N/2,)
        B = torch.cat([torch.ones(N // 2, dtype=torch.float64), torch.zeros(N // 2, dtype=torch.float64)])  # (N,)
        return Diagonal(torch.from_numpy(real), torch.from_numpy(imag)), B

    return build


DIAGONALS: dict[str, Callable[[str, int], tuple[Diagonal, Tensor]]] = {
    **dict.fromkeys(MEASURES, _normal_part),
    "lin": _closed_form(lambda n, N: (np.full_like(n, -0.5), np.pi * n)),
    "inv": _closed_form(lambda n, N: (np.full_like(n, -0.5), N / np.pi * (N / (2 * n + 1) - 1))),
    "real": _closed_form(lambda n, N: (-(n + 1), np.zeros_like(n))),
}


def diagonal(measure: str, N: int) -> tuple[Diagonal, Tensor]:
    """Diagonal starts in conjugate pairs, n = 0, ..., N/2 - 1.

    legs: the normal part of the HiPPO matrix; legt, lagt, fourier: their skew part, moved to Re = -1/2;
    lin: -1/2 + i pi n; inv: -1/2 + i N/pi (N/(2n+1) - 1); real: -(n+1).

    Args:
        measure: "legs", "legt", "lagt", "fourier", "lin", "inv" or "real".
        N: state size, even: each pair takes two.

    Returns:
        The diagonal matrix, and B (N,): the HiPPO vector in the basis of the pairs where there is one, else 1 for every
        pair (real parts 1, imaginary parts 0).

    Raises:
        ValueError: if N is odd or there is no such measure.

    Example:
        >>> diagonal("lin", 6)[0].imag
        tensor([0.0000, 3.1416, 6.2832], dtype=torch.float64)
    """
    if measure not in DIAGONALS:
        raise ValueError(f"no diagonal start {measure!r}; there are {', '.join(DIAGONALS)}")
    return DIAGONALS[measure](measure, N)


def _dense(measure: str, N: int) -> tuple[Dense, Tensor]:
    A, B = of_measure(measure, N)
    return Dense(A), B


def _dplr(measure: str, N: int) -> tuple[DPLR, Tensor]:
    form = normal_plus_low_rank(measure, N)
    return form.dplr, form.B


STARTS: dict[str, Callable[[str, int], tuple[StateMatrix, Tensor]]] = {
    "dense": _dense,
    "diagonal": diagonal,
    "dplr": _dplr,
    "quasiseparable": quasiseparable,
}


def start(structure: str, measure: str, N: int, blocks: int = 1) -> tuple[StateMatrix, Tensor]:
    """Initial state matrix of a structure, and its input vector.

    Args:
        structure: "dense", "diagonal", "dplr" or "quasiseparable".
        measure: "legs", "legt", "lagt", "fourier" (not quasiseparable); for diagonal also "lin", "inv", "real".
        N: state size, even for the structures that store conjugate pairs.
        blocks: J equal starts of size N / J side by side, as in S5; of a diagonal A.

    Returns:
        The state matrix and B (N,), float64.

    Raises:
        ValueError: for a pair that does not exist, naming those that do, or blocks that do not fit.

    References:
        Smith, Warrington, Linderman (2023), Simplified state space layers for sequence modeling, arXiv:2208.04933, for
        the blocks.

    Example:
        >>> A, B = start("dplr", "legs", 8)
        >>> type(A).__name__, tuple(B.shape)
        ('DPLR', (8,))
        >>> start("diagonal", "lin", 8, blocks=2)[0].imag
        tensor([0.0000, 3.1416, 0.0000, 3.1416], dtype=torch.float64)
    """
    if structure not in STARTS:
        raise ValueError(f"no structure {structure!r}; there are {', '.join(STARTS)}")
    if blocks == 1:
        return STARTS[structure](measure, N)
    if structure != "diagonal":
        raise ValueError(f"only a diagonal A starts in blocks; found {blocks} blocks and structure {structure!r}")
    if blocks < 1 or N % (2 * blocks):
        raise ValueError(f"{blocks} blocks of conjugate pairs need N to be a multiple of {2 * blocks}; found N = {N}")
    A, B = diagonal(measure, N // blocks)
    parts = [part.repeat(blocks) for part in (A.real, A.imag, *B.chunk(2))]  # (N/2,) each
    return Diagonal(*parts[:2]), torch.cat(parts[2:])
