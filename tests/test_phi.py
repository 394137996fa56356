"""The exponential and its phi functions against mpmath and closed forms."""

import math

import numpy as np
import pytest
import torch

from ctlssl.state_matrices.phi import matrix_phi_functions, phi_functions
from tests.contracts import STRUCTURE_PARAMS, generator
from tests.problems import METHODS, block_phi, matrix_functions, phi

SIZES = 10.0 ** np.arange(-12, 6.5, 0.5)
RAYS = {"negative": -1.0, "imaginary": 1j, "between": -math.cos(1.0) + 1j * math.sin(1.0), "steep": -1e-3 + 1j}
EXACT = {"e": lambda z: phi(0, z), "phi1": lambda z: phi(1, z), "phi2": lambda z: phi(2, z)}


def scalar_error(z: np.ndarray) -> np.ndarray:
    """Error of e^z, phi_1, phi_2, relative to their value, or to their size around it where they pass through zero."""
    given = torch.from_numpy(z)
    errors = []
    for k, value in enumerate(phi_functions(given)):
        truth = np.array([complex(phi(k, complex(w))) for w in z])
        floor = 1 / (1 + np.abs(z)) if k else 1e-300
        errors.append(np.abs(value.numpy() - truth) / np.maximum(np.abs(truth), floor))
    return np.array(errors)


@pytest.mark.parametrize("ray", [pytest.param(r, id=name) for name, r in RAYS.items()])
def test_scalar_functions_along_rays(ray):
    z = SIZES * ray
    error = scalar_error(z)
    # The exponential itself magnifies the rounding of z: e^{z(1 + eps)} is off by |z| eps where it is not small.
    allowed = 4e-15 + 2.3e-16 * np.abs(z.real)
    assert (error[0] <= allowed).all(), error[0].max()
    assert (error[1:] <= 4e-15).all(), error[1:].max()


def test_scalar_functions_at_zero_and_around_the_switch():
    assert [v.item() for v in phi_functions(torch.zeros(1, dtype=torch.complex128))] == [1, 1, 0.5]
    angles = np.exp(1j * np.linspace(np.pi / 2, 3 * np.pi / 2, 9))
    for radius in (0.3, 0.999, 1.0, 1.001, 3.0, 2 * np.pi):
        assert scalar_error(radius * angles).max() < 6e-15


def test_scalar_functions_in_float32_and_on_reals():
    x = torch.tensor([0.0, -1e-8, -1e-3, -0.5, -1.0, -30.0])
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 4e-15)):
        z = x.to(dtype)
        for k, value in enumerate(phi_functions(z)):
            assert value.dtype == dtype
            np.testing.assert_allclose(value, [float(phi(k, w).real) for w in z.tolist()], rtol=tolerance)


def test_scalar_gradients():
    z = torch.tensor(
        [0, 1e-12, 1e-7j, -1e-3, -0.5 + 0.1j, -0.9j, -1.1, -3 + 2j, 20j, -30], dtype=torch.complex128
    ).requires_grad_()
    assert torch.autograd.gradcheck(phi_functions, (z,))
    x = torch.tensor([0.0, -1e-9, -0.999, -1.001, -8.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(phi_functions, (x,))
    assert torch.autograd.gradgradcheck(phi_functions, (x,))
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(value, zero, retain_graph=True)[0].item() for value in phi_functions(zero)]
    np.testing.assert_allclose(slopes, [1, 1 / 2, 1 / 6], rtol=1e-15)


def test_scalar_gradients_are_finite_at_any_size():
    z = torch.from_numpy(np.concatenate([SIZES * ray for ray in RAYS.values()] + [-1e9 + 0j * SIZES])).requires_grad_()
    sum(value.abs().square().sum() for value in phi_functions(z)).backward()
    assert torch.isfinite(torch.view_as_real(z.grad)).all()


def matrix_error(A: np.ndarray, h: float) -> tuple[float, float]:
    """Largest relative error of e, phi1, phi2; and that of e - I."""
    truth = matrix_functions(A, EXACT | {"change": lambda z: phi(0, z) - 1}, h)
    found = dict(zip(EXACT, matrix_phi_functions(torch.from_numpy(h * A)), strict=True))
    worst = max(np.abs(found[k].numpy() - truth[k]).max() / max(np.abs(truth[k]).max(), 1e-300) for k in EXACT)
    change = np.abs(found["e"].numpy() - np.eye(len(A)) - truth["change"]).max() / np.abs(truth["change"]).max()
    return worst, change


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_matrix_functions_at_every_norm(structure):
    rng = generator("matrix functions", structure.name)
    for draw in range(2):
        _, A = structure.member(rng, 6)
        A = A / np.abs(A).sum(0).max()
        for exponent in range(-9, 10):
            h = 10.0**exponent
            truth = matrix_functions(A, EXACT, h)
            found = dict(zip(EXACT, matrix_phi_functions(torch.from_numpy(h * A)), strict=True))
            for k in ("phi1", "phi2"):
                assert np.abs(found[k].numpy() - truth[k]).max() < 1e-12 * np.abs(truth[k]).max(), (k, h, draw)
            # Once e^{hA} is small it is a factor in front of a state, so what counts is the size of the states.
            assert np.abs(found["e"].numpy() - truth["e"]).max() < 1e-12 * max(np.abs(truth["e"]).max(), 1), (h, draw)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_matrix_exponential_keeps_its_distance_from_one(structure):
    """Norms of .03 to .05, where torch.matrix_exp is off by 4e-9 relative to e - I, and the rest of 1e-6 to 1."""
    rng = generator("change", structure.name)
    _, A = structure.member(rng, 6)
    A = A / np.abs(A).sum(0).max()
    for h in [0.03, 0.035, 0.04, 0.045, 0.05, *10.0 ** np.linspace(-6, 0, 13)]:
        _, change = matrix_error(A, h)
        assert change < 1e-14 + 3e-16 / h, h


def test_matrix_functions_agree_with_the_augmented_exponential():
    rng = generator("augmented")
    for N in (1, 3, 8):
        A = rng.standard_normal((N, N)) - 2 * np.eye(N)
        for h in (1e-6, 0.1, 1.0, 4.0):
            found = matrix_phi_functions(torch.from_numpy(h * A))
            for value, truth in zip(found, block_phi(A, h), strict=True):
                assert np.abs(value.numpy() - truth).max() < 1e-12 * np.abs(truth).max()


def test_matrices_without_a_basis_of_eigenvectors():
    shift = np.eye(4, k=1)
    for h in (1e-9, 0.3, 1.0, 50.0, 1e3):
        powers = [np.linalg.matrix_power(h * shift, j) for j in range(4)]
        for k, value in enumerate(matrix_phi_functions(torch.from_numpy(h * shift))):
            truth = sum(power / math.factorial(j + k) for j, power in enumerate(powers))
            np.testing.assert_allclose(value, truth, rtol=1e-12, atol=1e-13 * h**3)
    zero = matrix_phi_functions(torch.zeros(2, 3, 3, dtype=torch.float64))
    for value, scale in zip(zero, (1, 1, 0.5), strict=True):
        np.testing.assert_array_equal(value, scale * np.eye(3)[None].repeat(2, 0))


def test_matrices_of_mixed_norms_in_one_call():
    rng = generator("mixed")
    A = rng.standard_normal((5, 5))
    A = A - A.T - np.eye(5)
    h = 10.0 ** rng.permutation(np.arange(-6.0, 4.0))
    together = matrix_phi_functions(torch.from_numpy(h[:, None, None] * A))
    for i, s in enumerate(h):
        for value, alone in zip(together, matrix_phi_functions(torch.from_numpy(s * A)), strict=True):
            np.testing.assert_allclose(value[i], alone, rtol=1e-13, atol=1e-15)
    for value in matrix_phi_functions(torch.zeros(0, 5, 5, dtype=torch.float64)):
        assert value.shape == (0, 5, 5)


def test_matrix_gradients():
    rng = generator("matrix gradients")
    Z = torch.from_numpy(rng.standard_normal((3, 3, 3)) * np.array([1e-3, 0.5, 4.0])[:, None, None]).requires_grad_()
    assert torch.autograd.gradcheck(matrix_phi_functions, (Z,))
    zero = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(matrix_phi_functions, (zero,))


@pytest.mark.parametrize("kind", ["random", "defective", "zero", "scalar"])
def test_the_reference_agrees_with_itself(kind):
    """The two independent truths, eigen-decomposition in many digits and the augmented exponential, coincide."""
    A = {
        "random": generator("reference").standard_normal((5, 5)) - 2 * np.eye(5),
        "defective": np.tril(-np.ones((6, 6)), -1) - 0.5 * np.eye(6),  # LagT, one Jordan block
        "zero": np.zeros((3, 3)),
        "scalar": -2.0 * np.eye(3),
    }[kind]
    scalars = METHODS["foh"].scalars()
    for h in (1e-3, 0.7, 5.0):
        found = matrix_functions(A, {k: scalars[k] for k in ("abar", "early", "late")}, h)
        e, phi1, phi2 = block_phi(A, h)
        for value, truth in ((found["abar"], e), (found["early"], phi1 - phi2), (found["late"], phi2)):
            np.testing.assert_allclose(value, truth, rtol=1e-11, atol=1e-14)
