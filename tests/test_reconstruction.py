"""The measures of reconstruction on runs whose distances can be worked out by hand."""

import math

import numpy as np
import pytest

from ctlssl.reconstruction import spectral_distance, state_space_divergence
from tests.contracts import generator


def sine(frequency, rows=1000, amplitude=1.0):
    """A whole number of periods in a run."""
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(rows) / rows)


def test_a_run_is_like_itself():
    rng = generator("itself")
    run = rng.standard_normal((5000, 3))
    assert state_space_divergence(run, run) == 0
    assert state_space_divergence(run, run[rng.permutation(5000)]) == pytest.approx(0, abs=1e-12)
    assert spectral_distance(run, run) == pytest.approx(0, abs=1e-7)
    assert spectral_distance(run, 3 * run + 1) == pytest.approx(0, abs=1e-7)


def test_divergence_by_hand():
    """Half and half against a quarter and three quarters; half of a run outside leaves half for the bins inside."""
    truth = np.array([[0.0], [1.0]] * 4)
    uneven = np.array([[0.0], [1.0], [1.0], [1.0]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert state_space_divergence(truth, uneven, bins=2) == pytest.approx(expected, abs=1e-5)
    away = np.concatenate([truth, truth + 5.0])
    assert state_space_divergence(truth, away, bins=2) == pytest.approx(math.log(2), abs=1e-4)
    lost = np.concatenate([truth, np.full_like(truth, np.nan)])
    assert state_space_divergence(truth, lost, bins=2) == pytest.approx(math.log(2), abs=1e-4)


def test_divergence_of_a_shift():
    """A uniform run of 10 bins, shifted by one: one tenth of its mass faces a bin with the pseudocount alone."""
    truth = np.arange(0.05, 1, 0.1)[:, None]
    found = truth + 0.1
    expected = 0.1 * math.log(0.1 / 1e-6)
    assert state_space_divergence(truth, found, bins=10) == pytest.approx(expected, abs=1e-3)


def test_every_axis_has_its_bins():
    """Two runs with the same marginals, one on the diagonal of a square and one on all of it."""
    diagonal = np.array([[0.0, 0.0], [1.0, 1.0]] * 2)
    square = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert state_space_divergence(diagonal, square, bins=2) == pytest.approx(math.log(2), abs=1e-4)


def test_spectra_of_sines():
    """Other frequencies share nothing; one that has a share of the power is as far as its root says."""
    one, other = sine(50)[:, None], sine(120)[:, None]
    assert spectral_distance(one, other, smoothing=0) == pytest.approx(1, abs=1e-6)
    mixed = sine(50, amplitude=2.0)[:, None] + other  # powers 4 : 1
    assert spectral_distance(one, mixed, smoothing=0) == pytest.approx(math.sqrt(1 - math.sqrt(0.8)), abs=1e-6)
    both = np.concatenate([one, one], axis=1), np.concatenate([one, other], axis=1)
    assert spectral_distance(*both, smoothing=0) == pytest.approx(0.5, abs=1e-6)


def test_smoothed_spectra():
    """Two lines become two Gaussians: 1 - H^2 = exp(-d^2 / (8 s^2)) at a distance of d."""
    one, other = sine(100)[:, None], sine(110)[:, None]
    expected = math.sqrt(1 - math.exp(-(10**2) / (8 * 5.0**2)))
    assert spectral_distance(one, other, smoothing=5.0) == pytest.approx(expected, abs=1e-3)


def test_longer_runs_are_cut():
    assert spectral_distance(sine(50)[:, None], np.tile(sine(50), 3)[:, None]) == pytest.approx(0, abs=1e-7)


def test_doors():
    run = np.zeros((10, 2))
    with pytest.raises(ValueError, match="as many axes"):
        state_space_divergence(run, run[:, :1])
    with pytest.raises(ValueError, match="cells"):
        state_space_divergence(np.zeros((3, 9)), np.zeros((3, 9)))
    with pytest.raises(ValueError, match="finite values that move"):
        spectral_distance(run, run)
