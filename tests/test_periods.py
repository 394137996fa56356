"""Periods: the periodogram against scipy and against a linear state space, and oscillations that are found again."""

import numpy as np
import pytest
import torch
from scipy.signal import lombscargle

import ctlssl
from ctlssl.periods import power, rhythms, strongest_frequency
from ctlssl.state_matrices import Diagonal
from ctlssl.state_space import StateSpace
from ctlssl.views import recurrence


def nights(seed, days=400, rows=120):
    """Times in days, by night alone, as a telescope has them."""
    draw = np.random.default_rng(seed)
    return np.sort(draw.choice(days, rows, replace=False) + 0.2 * draw.random(rows))


def test_power_is_that_of_scipy():
    draw, times = np.random.default_rng(1), nights(0)
    values, frequencies = 3 + draw.standard_normal(len(times)), draw.uniform(0.01, 5.0, 50)
    theirs = lombscargle(times, values, 2 * np.pi * frequencies, normalize=True, floating_mean=True)
    np.testing.assert_allclose(power(times, values, frequencies), theirs, rtol=1e-6, atol=1e-9)


def test_its_sums_are_the_last_state_of_an_undamped_state_space():
    draw, times = np.random.default_rng(2), nights(3)
    values, frequencies = draw.standard_normal(len(times)), np.array([0.3, 1.7, 4.01])
    turns = torch.from_numpy(2 * np.pi * frequencies)
    system = StateSpace(
        A=Diagonal(torch.zeros(3, dtype=torch.float64), turns),
        B=torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64),
        C=torch.ones(1, 1, 6, dtype=torch.float64),
        D=torch.zeros(1, 1, dtype=torch.float64),
    )
    gaps = torch.from_numpy(np.diff(times, prepend=times[0])).unsqueeze(0)
    driven = torch.from_numpy(values).view(1, -1, 1)
    state = recurrence(system, ctlssl.discretization.named_method("impulse"), driven, gaps).state.x.reshape(-1)  # (6,)
    sums = np.exp(2j * np.pi * np.outer(frequencies, times[-1] - times)) @ values
    np.testing.assert_allclose(state[:3].numpy() + 1j * state[3:].numpy(), sums, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("frequency", [0.0041, 0.31, 1.93, 6.2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_frequency_is_found_again(frequency, seed):
    draw, times = np.random.default_rng(seed), nights(seed, days=1500, rows=300)
    values = 10 + np.sin(2 * np.pi * frequency * times + 1) + 0.3 * draw.standard_normal(len(times))
    assert strongest_frequency(times, values, shortest=0.1) == pytest.approx(frequency, abs=0.2 / 1500)


def test_the_shape_does_not_depend_on_the_origin_and_is_that_of_the_wave():
    times = np.sort(np.random.default_rng(4).uniform(0, 300, 400))
    phases = 2 * np.pi * 0.37 * times
    found = rhythms(times, 5 + 2 * np.cos(phases + 0.4) + 0.5 * np.cos(2 * phases - 1.0), 1, 3, shortest=0.5)[0]
    np.testing.assert_allclose(np.abs(found.shape), [2.0, 0.5, 0.0], atol=0.02)
    turned = found.shape[1] * np.exp(-2j * np.angle(found.shape[0]))  # where the first harmonic is at its crest
    assert np.angle(turned) == pytest.approx(-1.0 - 2 * 0.4, abs=0.02)
    assert found.left < 1e-2 and found.half < 0.05


def test_a_double_period_shows_at_half_the_frequency():
    times = np.sort(np.random.default_rng(5).uniform(0, 300, 400))
    phases = 2 * np.pi * 0.4 * times
    found = rhythms(times, np.cos(phases) + 0.3 * np.cos(phases / 2), 1, 2, shortest=0.5)[0]
    assert found.frequency == pytest.approx(0.4, abs=1e-3) and found.half == pytest.approx(0.3, abs=0.03)


def test_an_outlier_makes_no_period():
    times = nights(6)
    values = np.sin(2 * np.pi * 0.21 * times)
    values[17] = 30.0
    assert rhythms(times, values, 1, 2, shortest=0.5)[0].frequency == pytest.approx(0.21, abs=1e-3)


def test_what_has_no_period_has_none():
    assert rhythms(np.empty(0), np.empty(0), 2, 2, shortest=0.5) == []
    assert rhythms(np.array([1.0]), np.array([2.0]), 2, 2, shortest=0.5) == []
    assert rhythms(np.array([1.0, 1.0]), np.array([2.0, 3.0]), 2, 2, shortest=0.5) == []
    assert rhythms(np.arange(5.0), np.full(5, 2.0), 2, 2, shortest=0.5) == []


def test_huge_spans_stay_within_memory():
    times = np.array([0.0, 1e-9, 1.0, 1e9, 1e9 + 1])
    found = rhythms(times, np.array([0.0, 1.0, 0.5, -1.0, 2.0]), 2, 2, shortest=0.04)
    assert all(np.isfinite([item.frequency, item.half, item.left]).all() for item in found)


def test_what_a_period_explains_leaves_no_other():
    times = np.sort(np.random.default_rng(0).uniform(0, 20, 5))  # two harmonics and a mean go through five values
    found = rhythms(times, np.random.default_rng(1).normal(size=5), 3, 2, shortest=0.5)
    assert len(found) == 1 and found[0].left < 1e-20
