"""How well a free-running system reconstructs another: measures of the long run, which chaos does not spoil.

Two runs of one chaotic system part after a short time, so that errors of prediction say nothing of the long run. What
can be compared is where a run spends its time, and at which frequencies it moves.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

__all__ = ["spectral_distance", "state_space_divergence"]


def state_space_divergence(truth: np.ndarray, found: np.ndarray, bins: int = 30, pseudocount: float = 1e-6) -> float:
    r"""Kullback-Leibler divergence D_stsp of the occupancies of state space, each axis cut into bins.

        D_stsp = sum_i p_i log(p_i / q_i)

    The box is that of the truth, and all outside is one more bin: a run that leaves the box half of the time has half
    of its share left for the bins inside. Empty bins count by the pseudocount, so values compare at equal bins,
    pseudocount and lengths of runs only; what two runs of the true system are apart is the least to be reached.

    Args:
        truth: (T, D).
        found: (T', D), NaN or infinite rows counted as outside.
        bins: of each axis; 30 is the literature's choice for three dimensions.
        pseudocount: share added to every bin before both are scaled to sum 1.

    Raises:
        ValueError: shapes that do not fit, or more bins than can be held.

    References:
        Koppe, Toutounji, Kirsch, Lis, Durstewitz (2019), Identifying nonlinear dynamical systems via generative
        recurrent neural networks with applications to fMRI, arXiv:1902.07186; Brenner et al. (2022), arXiv:2207.02542.

    Example:
        >>> run = np.random.default_rng(0).uniform(size=(1000, 2))
        >>> state_space_divergence(run, run)
        0.0
    """
    _check(truth, found)
    cells = bins ** truth.shape[1]
    if bins < 1 or cells > 10**8:
        raise ValueError(f"{bins} bins on each of {truth.shape[1]} axes are {cells} cells; take from 1 to 10^8 cells")
    low, high = truth.min(0), truth.max(0)
    p, q = (_occupancy(run, low, high, bins) + pseudocount for run in (truth, found))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def spectral_distance(truth: np.ndarray, found: np.ndarray, smoothing: float = 20.0) -> float:
    r"""Hellinger distance D_H of smoothed power spectra, averaged over the axes: 0 for equal, 1 for disjoint ones.

        D_H = sqrt(1 - sum_f sqrt(p_f q_f)),   p and q scaled to sum 1

    Args:
        truth: (T, D), at equal gaps.
        found: (T', D), at the same gaps; the longer run is cut to the shorter.
        smoothing: standard deviation of the Gaussian that smooths the spectra, in frequencies; 0 leaves them as they
            are.

    Raises:
        ValueError: shapes that do not fit, an axis that does not move, or values that are not finite.

    References:
        Mikhaeil, Monfared, Durstewitz (2022), arXiv:2110.07238; Brenner et al. (2022), arXiv:2207.02542.

    Example:
        >>> run = np.random.default_rng(0).normal(size=(1000, 2))
        >>> round(spectral_distance(run, run), 6)
        0.0
    """
    _check(truth, found)
    rows = min(len(truth), len(found))
    p, q = (_spectrum(run[:rows], smoothing) for run in (truth, found))
    shared = np.sqrt(p * q).sum(0)  # (D,)
    return float(np.sqrt(np.clip(1 - shared, 0, None)).mean())


def _occupancy(run: np.ndarray, low: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """Share of the rows in each cell of the box, and last outside of it, (cells + 1,)."""
    inside = run[((run >= low) & (run <= high)).all(1)]
    place = ((inside - low) / np.where(high > low, high - low, 1) * bins).astype(int).clip(0, bins - 1)
    cell = place @ bins ** np.arange(run.shape[1])
    counts = np.bincount(cell, minlength=bins ** run.shape[1])
    return np.append(counts, len(run) - len(inside)) / len(run)


def _spectrum(run: np.ndarray, smoothing: float) -> np.ndarray:
    """Smoothed power of each frequency, (F, D), columns that sum to 1."""
    spread = run.std(0)
    if not (np.isfinite(run).all() and (spread > 0).all()):
        raise ValueError("a spectrum needs finite values that move on every axis")
    power = np.abs(np.fft.rfft((run - run.mean(0)) / spread, axis=0)) ** 2
    if smoothing:
        power = gaussian_filter1d(power, smoothing, axis=0)
    return power / power.sum(0)


def _check(truth: np.ndarray, found: np.ndarray) -> None:
    if truth.ndim != 2 or found.ndim != 2 or truth.shape[1] != found.shape[1] or not len(truth) or not len(found):
        raise ValueError(f"runs need shapes (rows, axes), with as many axes; found {truth.shape} and {found.shape}")
