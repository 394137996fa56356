"""The HiPPO matrices: entries by their formulas, structured forms, and what the theory says they do."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from numpy.polynomial import legendre

from ctlssl import hippo
from tests.contracts import HIPPO, STRUCTURES
from tests.problems import relative_error

SIZES = [2, 4, 6, 32, 64]


def numpy_matrix(measure, N):
    A, B = {"legs": hippo.legs, "legt": hippo.legt, "lagt": hippo.lagt, "fourier": hippo.fourier}[measure](N)
    assert A.dtype == B.dtype == torch.float64
    assert A.shape == (N, N) and B.shape == (N,)
    return A.numpy(), B.numpy()


def legs_entry(n, k):
    return -math.sqrt(2 * n + 1) * math.sqrt(2 * k + 1) if n > k else -(n + 1.0) if n == k else 0.0


def legt_entry(n, k):
    return -math.sqrt(2 * n + 1) * math.sqrt(2 * k + 1) * (1 if k <= n else (-1) ** (n - k))


def lagt_entry(n, k):
    return -1.0 if n > k else -0.5 if n == k else 0.0


def fourier_entry(n, k):
    b = [1.0 if i == 0 else math.sqrt(2) * (i % 2 == 0) for i in (n, k)]
    rotation = 0.0
    if n // 2 == k // 2 and n != k:
        rotation = math.pi * (n // 2) * (1 if n > k else -1)
    return rotation - b[0] * b[1]


ENTRIES = {"legs": legs_entry, "legt": legt_entry, "lagt": lagt_entry, "fourier": fourier_entry}
INPUTS = {
    "legs": lambda n: math.sqrt(2 * n + 1),
    "legt": lambda n: math.sqrt(2 * n + 1),
    "lagt": lambda n: 1.0,
    "fourier": lambda n: 1.0 if n == 0 else math.sqrt(2) * (n % 2 == 0),
}


@pytest.mark.parametrize("measure", HIPPO)
@pytest.mark.parametrize("N", SIZES)
def test_entries(measure, N):
    A, B = numpy_matrix(measure, N)
    expected = [[ENTRIES[measure](n, k) for k in range(N)] for n in range(N)]
    np.testing.assert_allclose(A, expected, rtol=1e-15, atol=0)
    np.testing.assert_allclose(B, [INPUTS[measure](n) for n in range(N)], rtol=1e-15)


@pytest.mark.parametrize("measure", HIPPO[:3])
def test_odd_sizes_where_no_pairs_are_stored(measure):
    for N in (1, 3, 7):
        A, _ = numpy_matrix(measure, N)
        np.testing.assert_allclose(A, [[ENTRIES[measure](n, k) for k in range(N)] for n in range(N)], rtol=1e-15)


def test_window_scales_time():
    A, B = hippo.legt(8)
    for window in (0.5, 2.0, 7.0):
        wide, input_vector = hippo.legt(8, window)
        torch.testing.assert_close(wide, A / window, rtol=1e-15, atol=0)
        torch.testing.assert_close(input_vector, B / window, rtol=1e-15, atol=0)
    for window in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="window"):
            hippo.legt(8, window)


@pytest.mark.parametrize("N", [2, 8, 20])
def test_legs_eigenvalues_are_the_negative_integers(N):
    A, _ = numpy_matrix("legs", N)
    np.testing.assert_allclose(np.sort(-scipy.linalg.eigvals(A).real), np.arange(1, N + 1), rtol=1e-9)


@pytest.mark.parametrize("measure", HIPPO)
@pytest.mark.parametrize("N", SIZES)
def test_every_measure_is_stable(measure, N):
    A, _ = numpy_matrix(measure, N)
    # The field of values is a bound on the eigenvalues that, unlike them, is well conditioned.
    assert scipy.linalg.eigvalsh((A + A.T) / 2).max() <= 1e-12 * np.abs(A).max()


def test_fourier_has_one_zero_eigenvalue():
    A, _ = numpy_matrix("fourier", 16)
    assert not A[1].any() and not A[:, 1].any()
    assert np.sum(np.abs(scipy.linalg.eigvals(A)) < 1e-12) == 1


@pytest.mark.parametrize("measure", HIPPO)
@pytest.mark.parametrize("N", SIZES)
def test_low_rank_correction_leaves_a_normal_matrix(measure, N):
    A, _ = numpy_matrix(measure, N)
    P = hippo.low_rank_correction(measure, N).numpy()
    assert P.shape == (N, 2 if measure == "legt" else 1)
    normal = A + P @ P.T
    skew = normal + 0.5 * np.eye(N) if measure == "legs" else normal
    assert np.abs(skew + skew.T).max() <= 1e-14 * np.abs(A).max()
    assert np.abs(normal @ normal.T - normal.T @ normal).max() <= 1e-12 * np.abs(normal @ normal.T).max()


@pytest.mark.parametrize("measure", HIPPO)
@pytest.mark.parametrize("N", [*SIZES, 256])
def test_normal_plus_low_rank(measure, N):
    A, B = numpy_matrix(measure, N)
    form = hippo.normal_plus_low_rank(measure, N)
    V = form.basis.numpy()
    assert relative_error(V.T @ V, np.eye(N)) < 1e-12
    imag, real = form.dplr.imag.numpy(), form.dplr.real.numpy()
    assert (imag >= 0).all() and (np.diff(imag) >= 0).all()
    np.testing.assert_array_equal(real, -0.5 if measure == "legs" else 0.0)
    P, Q = form.dplr.P.numpy(), form.dplr.Q.numpy()
    np.testing.assert_array_equal(P, Q)
    blocks = np.block([[np.diag(real), -np.diag(imag)], [np.diag(imag), np.diag(real)]])
    assert relative_error(V @ (blocks - P @ P.T) @ V.T, A) < 1e-12
    assert relative_error(V @ form.B.numpy(), B) < 1e-12
    frequencies = np.sort(np.abs(scipy.linalg.eigvals((A - A.T) / 2).imag))
    np.testing.assert_allclose(np.sort(np.repeat(imag, 2)), frequencies, atol=1e-12 * frequencies.max())


@pytest.mark.parametrize("measure", HIPPO)
def test_pairs_are_turned_to_meet_the_input(measure):
    B = hippo.normal_plus_low_rank(measure, 16).B.numpy()
    assert (B[:8] >= 0).all()
    assert np.abs(B[8:]).max() < 1e-12 * np.abs(B).max()


@pytest.mark.parametrize("measure", HIPPO[:3])
@pytest.mark.parametrize("N", [1, 2, 3, 8, 64, 256])
def test_quasiseparable(measure, N):
    A, B = numpy_matrix(measure, N)
    form, input_vector = hippo.quasiseparable(measure, N)
    assert relative_error(form.to_dense(), A) < 1e-12
    np.testing.assert_array_equal(input_vector.numpy(), B)
    T = np.diag(form.diag.numpy()) + np.diag(form.lower.numpy(), -1) + np.diag(form.upper.numpy(), 1)
    plain = -np.diag(form.P.numpy()) @ (np.diag(form.D.numpy()) + np.linalg.inv(T)) @ np.diag(form.Q.numpy())
    assert relative_error(plain, A) < 1e-12


def test_diagonal_starts_in_closed_form():
    N, n = 64, np.arange(32)
    for measure, real, imag in (
        ("lin", np.full(32, -0.5), np.pi * n),
        ("inv", np.full(32, -0.5), N / np.pi * (N / (2 * n + 1) - 1)),
        ("real", -(n + 1.0), np.zeros(32)),
    ):
        A, B = hippo.diagonal(measure, N)
        np.testing.assert_allclose(A.real, real, rtol=1e-15)
        np.testing.assert_allclose(A.imag, imag, rtol=1e-15)
        np.testing.assert_array_equal(B, np.repeat([1.0, 0.0], 32))
    legs = hippo.diagonal("legs", N)[0].imag.numpy()
    # The two largest frequencies that "inv" was made to imitate: 1303 and 433 against 1283 and 414.
    np.testing.assert_allclose(legs[[-1, -2]], [1303, 433], atol=1.0)
    np.testing.assert_allclose(hippo.diagonal("inv", N)[0].imag.numpy()[:2], [1283, 414], atol=1.0)


@pytest.mark.parametrize("measure", HIPPO)
def test_diagonal_starts_are_the_normal_parts(measure):
    A, B = numpy_matrix(measure, 16)
    found, input_vector = hippo.diagonal(measure, 16)
    np.testing.assert_array_equal(found.real.numpy(), -0.5)
    # Impulse response along B of the skew part shifted to -1/2: independent of the basis.
    normal = (A - A.T) / 2 - 0.5 * np.eye(16)
    for t in (0.1, 1.0, 3.0):
        expected = B @ scipy.linalg.expm(normal * t) @ B
        pairs = (input_vector[:8].numpy() - 1j * input_vector[8:].numpy()) * np.exp(
            (found.real.numpy() + 1j * found.imag.numpy()) * t
        )
        actual = (pairs * (input_vector[:8].numpy() + 1j * input_vector[8:].numpy())).real.sum()
        np.testing.assert_allclose(actual, expected, atol=1e-10 * (B @ B))


@pytest.mark.parametrize("measure", ["legs", "fourier", "inv"])
def test_blocks_repeat_the_smaller_start(measure):
    """Poles, and the answer of all states to the input vector, are those of the small system, J times."""
    (small, b), (A, B) = hippo.start("diagonal", measure, 6), hippo.start("diagonal", measure, 24, blocks=4)
    assert torch.equal(A.poles, small.poles.repeat(4)) and B.shape == (24,)
    one, all_four = torch.linalg.solve(small.to_dense(), b), torch.linalg.solve(A.to_dense(), B)
    expected = torch.cat([part.repeat(4) for part in one.chunk(2)])  # real parts of all blocks come first
    assert torch.allclose(all_four, expected, rtol=1e-12)
    if measure == "legs":
        whole, P = hippo.legs(6)[0], hippo.low_rank_correction("legs", 6)
        truth = np.linalg.eigvals((whole + P @ P.mT).numpy())
        found = np.linalg.eigvals(A.to_dense().numpy())
        order = [np.lexsort((values.real.round(6), values.imag.round(6))) for values in (truth, found)]
        assert np.abs(found[order[1]] - truth[order[0]].repeat(4)).max() < 1e-10


@pytest.mark.parametrize(
    ("structure", "measure"), [(name, measure) for name, s in STRUCTURES.items() for measure in s.measures]
)
def test_start_has_the_structure_asked_for(structure, measure):
    A, B = hippo.start(structure, measure, 12)
    assert type(A) is STRUCTURES[structure].build
    assert A.N == 12 and B.shape == (12,) and B.dtype == A.dtype == torch.float64


@pytest.mark.parametrize("measure", HIPPO)
def test_starts_of_exact_structures_share_one_impulse_response(measure):
    """B^T e^{At} B does not depend on the basis, so dense, dplr and quasiseparable starts must agree."""
    A, B = numpy_matrix(measure, 10)
    for structure in ("dplr", "quasiseparable")[: 1 if measure == "fourier" else 2]:
        form, b = hippo.start(structure, measure, 10)
        for t in (0.05, 0.5, 2.0):
            expected = B @ scipy.linalg.expm(A * t) @ B
            actual = b.numpy() @ scipy.linalg.expm(form.to_dense().numpy() * t) @ b.numpy()
            np.testing.assert_allclose(actual, expected, atol=1e-10 * (B @ B))


def test_what_does_not_exist_is_refused_with_what_does():
    with pytest.raises(ValueError, match="dense, diagonal, dplr, quasiseparable"):
        hippo.start("banded", "legs", 4)
    for structure in ("dense", "dplr", "quasiseparable"):
        with pytest.raises(ValueError, match="legs, legt, lagt"):
            hippo.start(structure, "lin", 4)
    with pytest.raises(ValueError, match="lin, inv, real"):
        hippo.start("diagonal", "chebyshev", 4)
    with pytest.raises(ValueError, match="only a diagonal A starts in blocks; found 2 blocks and structure 'dplr'"):
        hippo.start("dplr", "legs", 8, blocks=2)
    for blocks in (0, 3):
        with pytest.raises(ValueError, match="need N to be a multiple of"):
            hippo.start("diagonal", "legs", 8, blocks=blocks)
    with pytest.raises(ValueError, match="rank 2.*rank 1"):
        hippo.start("quasiseparable", "fourier", 4)
    for call in (
        lambda: hippo.fourier(5),
        lambda: hippo.normal_plus_low_rank("legs", 5),
        lambda: hippo.start("diagonal", "lin", 3),
        lambda: hippo.start("dplr", "legt", 7),
    ):
        with pytest.raises(ValueError, match="even"):
            call()
    for size in (0, -2, 2.0, True, "4"):
        with pytest.raises(ValueError, match="positive integer"):
            hippo.legs(size)


def signal(t):
    return np.sin(1.3 * t) + 0.4 * np.cos(4 * t)


def test_legs_reconstructs_the_whole_past():
    """x' = (A x + B u) / t keeps the Legendre coefficients of all of u on [0, t], by definition of the measure."""
    N, end = 24, 6.0
    A, B = numpy_matrix("legs", N)
    start = 1e-3  # where u is constant to 1e-3, its coefficients are (u, 0, 0, ...)
    first = np.zeros(N)
    first[0] = signal(start / 2)
    run = scipy.integrate.solve_ivp(
        lambda t, x: (A @ x + B * signal(t)) / t, (start, end), first, method="LSODA", rtol=1e-10, atol=1e-12
    )
    s = np.linspace(0.2, 0.98 * end, 50)
    rebuilt = legendre.legval(2 * s / end - 1, run.y[:, -1] * np.sqrt(2 * np.arange(N) + 1))
    np.testing.assert_allclose(rebuilt, signal(s), atol=5e-3)


@pytest.mark.parametrize("window", [1.0, 3.0])
def test_legt_reconstructs_its_window(window):
    N, end = 20, 4 * window
    A, B = (m.numpy() for m in hippo.legt(N, window))
    slow = lambda t: signal(t / window)  # noqa: E731
    run = scipy.integrate.solve_ivp(
        lambda t, x: A @ x + B * slow(t), (0, end), np.zeros(N), method="LSODA", rtol=1e-10, atol=1e-12
    )
    s = np.linspace(end - 0.95 * window, end - 0.05 * window, 50)
    rebuilt = legendre.legval(2 * (s - end + window) / window - 1, run.y[:, -1] * np.sqrt(2 * np.arange(N) + 1))
    np.testing.assert_allclose(rebuilt, slow(s), atol=2e-2)


def test_lagt_impulse_response_is_laguerre():
    """e^{At} B of LagT are the Laguerre functions L_n(t) e^{-t/2}, in closed form."""
    A, B = numpy_matrix("lagt", 8)
    for t in (0.1, 1.0, 5.0):
        expected = [np.polynomial.laguerre.lagval(t, np.eye(8)[n]) * np.exp(-t / 2) for n in range(8)]
        np.testing.assert_allclose(scipy.linalg.expm(A * t) @ B, expected, atol=1e-12)


def test_legs_impulse_response_is_legendre():
    """e^{At} B of LegS are e^{-t} sqrt(2n+1) P_n(2 e^{-t} - 1) with the sign of the convention, in closed form."""
    A, B = numpy_matrix("legs", 8)
    for t in (0.1, 1.0, 5.0):
        s = np.exp(-t)
        expected = [s * np.sqrt(2 * n + 1) * legendre.legval(2 * s - 1, np.eye(8)[n]) for n in range(8)]
        np.testing.assert_allclose(scipy.linalg.expm(A * t) @ B, expected, atol=1e-12)
