"""Oscillators against matrix exponentials, backward Euler, their own invariants, and measured orders."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.linalg import expm

from ctlssl.discretization import METHODS
from ctlssl.layers import LinOSS
from ctlssl.layers.oscillator_steps import OSCILLATOR_STEPS, oscillator_step
from ctlssl.state_matrices import Dense
from ctlssl.state_space import StateSpace
from ctlssl.views import recurrence
from tests.contracts import generator, layer_batch

CASES = {"undamped": 0.0, "damped": 0.3, "critical": 2.0, "overdamped": 5.0}  # G, for A = 1
TENSOR = {"dtype": torch.float64}


@pytest.mark.parametrize("G", CASES.values(), ids=CASES)
@pytest.mark.parametrize("h", [1e-9, 1e-3, 0.7, 30.0])
@pytest.mark.parametrize("A", [0.0, 1.0])
def test_the_exact_step_is_the_matrix_exponential(G, h, A):
    M, drive = oscillator_step("exact", *(torch.tensor([value], **TENSOR) for value in (h, A, G)))
    held = np.zeros((3, 3))  # (z, y, w) with w' = 0
    held[:2] = [[-G, -A, 1], [1, 0, 0]]
    expected = expm(h * held)
    assert np.abs(M[0].numpy() - expected[:2, :2]).max() < 1e-12 * max(1, np.abs(expected).max())
    assert np.abs(drive[0].numpy() - expected[:2, 2]).max() < 1e-12 * max(1, np.abs(expected[:2, 2]).max())


def in_60_digits(h, A, G):
    """The exact step (2, 3), its drive last, from the two roots of the characteristic polynomial."""
    with mpmath.workdps(60):
        h, A, G = mpmath.mpf(h), mpmath.mpf(A) + mpmath.mpf(10) ** -30, mpmath.mpf(G)  # never quite critical, nor 0
        root = mpmath.sqrt(mpmath.mpc(G * G / 4 - A))
        slow, fast = -G / 2 + root, -G / 2 - root
        s = ((mpmath.exp(slow * h) - mpmath.exp(fast * h)) / (slow - fast)).real
        c = ((mpmath.exp(slow * h) + mpmath.exp(fast * h)) / 2).real
        y = (1 - c - G / 2 * s) / A
        return np.array([[c - G / 2 * s, -A * s, s], [s, c + G / 2 * s, y]], dtype=float)


@pytest.mark.parametrize("G", CASES.values(), ids=CASES)
def test_the_exact_step_joins_its_formulas_without_a_seam(G):
    """Small to large gaps and stiffness on both sides of the critical one, against the exponential; and slopes."""
    h, A = (torch.from_numpy(part.ravel()) for part in np.meshgrid(10.0 ** np.arange(-6, 2), np.linspace(0, 1.6, 33)))
    A = torch.cat([A, torch.tensor([G * G / 4 + shift for shift in (-1e-2, -1e-9, 0.0, 1e-9, 1e-2)] * 8, **TENSOR)])
    A, h = A.clamp(min=0), torch.cat([h, (10.0 ** torch.arange(-6, 2, **TENSOR)).repeat_interleave(5)])
    M, drive = oscillator_step("exact", h, A, torch.full_like(h, G) if G else 0.0)
    for k in range(len(h)):
        expected = in_60_digits(h[k].item(), A[k].item(), G)
        found = torch.cat([M[k], drive[k, :, None]], 1).numpy()
        size = np.abs(expected) + [[1e-2, 1e-2, 1e-15], [0, 1e-2, 0]]  # of states and forces of size 1
        assert (np.abs(found - expected) <= 1e-13 * size).all(), (h[k], A[k])
    some = [part[::7].clone().requires_grad_() for part in (h, A, torch.full_like(h, G + 1e-3))]
    assert torch.autograd.gradcheck(lambda *given: oscillator_step("exact", *given), some, atol=1e-5, rtol=1e-4)


def test_the_exact_step_at_huge_gaps():
    """Neither the phase nor the energy is lost: closed forms."""
    h, A, none = torch.tensor([1e3, 1e6, 1e9], **TENSOR), torch.tensor([1.7] * 3, **TENSOR), torch.zeros(3, **TENSOR)
    angle = h * A.sqrt()
    for damping in (none, 0.0):
        M, drive = oscillator_step("exact", h, A, damping)
        assert (M[:, 1, 1] - angle.cos()).abs().max() < 1e-15 and (torch.linalg.det(M) - 1).abs().max() < 1e-14
        assert (drive[:, 1] - (1 - angle.cos()) / A).abs().max() < 1e-15
    M, drive = oscillator_step("exact", h, A, none + 3.0)
    assert not M.abs().gt(1e-300).any()
    assert (drive - torch.stack([none, 1 / A], -1)).abs().max() < 1e-15
    for stiffness, damping in ((1.7, 0.0), (1.7, 0.1), (1.0, 2.0), (1.7, 5.0), (0.0, 0.3), (0.0, 0.0), (1e-12, 1e-7)):
        given = [torch.full((7,), value, **TENSOR) for value in (stiffness, damping)]
        leaves = [
            (10.0 ** torch.arange(-9, 10, 3, **TENSOR)).requires_grad_(),
            *(part.requires_grad_() for part in given),
        ]
        for part in (*oscillator_step("exact", *leaves), *oscillator_step("exact", leaves[0], leaves[1] + 1, 0.0)):
            assert part.isfinite().all()
            assert all(
                slope.isfinite().all() for slope in torch.autograd.grad(part.sum(), leaves[:2], retain_graph=True)
            )


def test_determinants_and_dissipation():
    rng = generator("oscillators")
    h, A, G = (torch.from_numpy(10.0 ** rng.uniform(-3, low, 1000)) for low in (2, 1, 1))
    none = torch.zeros_like(G)
    for name, damping, determinant in (
        ("implicit_explicit", none, torch.ones_like(h)),
        ("implicit_explicit", G, 1 / (1 + h * G)),
        ("exact", none, torch.ones_like(h)),
        ("exact", G, torch.exp(-h * G)),
        ("implicit", none, 1 / (1 + h * h * A)),
    ):
        M, _ = oscillator_step(name, h, A, damping)
        found = M[:, 0, 0] * M[:, 1, 1] - M[:, 0, 1] * M[:, 1, 0]
        size = (M[:, 0, 0] * M[:, 1, 1]).abs() + (M[:, 0, 1] * M[:, 1, 0]).abs()
        assert ((found - determinant).abs() <= 1e-12 * size.clamp(min=1)).all(), name
    for damping in (none, G):
        M, _ = oscillator_step("implicit", h, A, damping)
        assert torch.linalg.eigvals(M).abs().max() < 1
    stable = 0.99 * 2 / A.sqrt()
    assert (torch.linalg.eigvals(oscillator_step("implicit_explicit", stable, A, none)[0]).abs() <= 1 + 1e-9).all()


def test_energy_over_a_long_time():
    """Unforced: kept by the exact step, bounded by the symplectic one, lost by the implicit one."""
    h, A = torch.tensor([0.1], **TENSOR), torch.tensor([1.0], **TENSOR)
    energies = {}
    for name in OSCILLATOR_STEPS:
        M, x = oscillator_step(name, h, A, 0 * A)[0][0], torch.tensor([0.0, 1.0], **TENSOR)
        seen = []
        for _ in range(5000):
            x = M @ x
            seen.append((x @ x).item())
        energies[name] = seen
    assert max(abs(e - 1) for e in energies["exact"]) < 1e-10
    assert 0.9 < min(energies["implicit_explicit"]) and max(energies["implicit_explicit"]) < 1.12
    assert energies["implicit"][-1] < 1e-10


@pytest.mark.parametrize("damped", [False, True])
def test_implicit_is_backward_euler_of_the_same_system(damped):
    layer = LinOSS(3, 8, damped=damped, step_range=(0.1, 1.0)).double()
    u, dt = layer_batch(generator("euler", damped), 2, 9)
    A, G = layer.log_stiffness.exp(), layer.log_damping.exp() if damped else torch.zeros(4)
    m, step = 4, layer.log_step.exp()
    matrix, B = torch.zeros(8, 8, **TENSOR), torch.zeros(8, 3, **TENSOR)
    for i in range(m):
        matrix[i, i], matrix[i, m + i], matrix[m + i, i] = -G[i] * step[i], -A[i] * step[i], step[i]
        B[i] = step[i] * layer.B[i]
    C = torch.cat([torch.zeros(3, m, **TENSOR), layer.C], 1)
    space = StateSpace(Dense(matrix), B, C, layer.D, multi_input=True)
    expected = recurrence(space, METHODS["backward_euler"], u, dt).y
    assert (layer(u, dt)[0] - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("method", ["implicit", "implicit_explicit"])
def test_first_order(method):
    """Against the exact step of the same parameters, the input held, the grid made finer."""
    exact = LinOSS(2, 6, method="exact", damped=True, step_range=(0.2, 0.5)).double()
    rough = LinOSS(2, 6, method=method, damped=True, step_range=(0.2, 0.5)).double()
    rough.load_state_dict(exact.state_dict())
    u, dt = layer_batch(generator("order", method), 2, 5, channels=2)
    errors = []
    for parts in (32, 64):
        given = u.repeat_interleave(parts, 1), (dt / parts).repeat_interleave(parts, 1)
        errors.append((rough(*given)[0] - exact(*given)[0]).abs().max().item())
    assert abs(math.log2(errors[0] / errors[1]) - 1) < 0.15


def test_growth_is_refused():
    layer, u = LinOSS(2, 4, method="implicit_explicit", step_range=(1.0, 1.0)), torch.ones(1, 200, 2)
    with pytest.raises(ValueError, match=r"times sqrt\(A\) is 94.2, and 2 is the limit"):
        layer(u, 30.0)
    assert layer(u, 0.3)[0].isfinite().all()
    assert layer(u * torch.nan, 30.0)[0].isnan().all()  # what was no number before is not its doing


def test_doors():
    with pytest.raises(ValueError, match="the state even; found 2 and 5"):
        LinOSS(2, 5)
    with pytest.raises(ValueError, match="there are implicit, implicit_explicit, exact"):
        LinOSS(2, 4, method="leapfrog")
