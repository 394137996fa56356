"""The kernels of the convolution view: against many digits, their plain twins, finite differences, odd lengths."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from ctlssl import hippo
from ctlssl.discretization import METHODS, Discretization, exact, gbt
from ctlssl.holds import HOLDS
from ctlssl.kernels.block_sums import block_sums, block_twin
from ctlssl.kernels.causal_convolution import causal_convolution, causal_twin, fast_length, pieces
from ctlssl.state_matrices import Diagonal
from ctlssl.state_space import StateSpace
from ctlssl.views import State, convolution
from ctlssl.views.krylov import impulse_response
from ctlssl.views.powers import DensePowers, DiagonalPowers
from tests.contracts import KIND_PARAMS, STRUCTURE_PARAMS, STRUCTURES, generator, random_system, same_bits, sampled
from tests.problems import relative_error

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 127, 128, 129, 1023, 1024, 1025]
RULES = {"exact": exact} | {f"gbt({alpha})": gbt(alpha) for alpha in (0.0, 0.3, 0.5, 0.8, 1.0)}


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape))


def step_matrices(A, gap, method):
    """Abar, and what B is multiplied by for the input before and the input of the row, in numpy."""
    eye, hold = np.eye(len(A)), method.hold
    if method.rule is exact:
        block = np.zeros((3 * len(A), 3 * len(A)))
        block[: len(A), : len(A)] = gap * A
        block[: len(A), len(A) : 2 * len(A)] = block[len(A) : 2 * len(A), 2 * len(A) :] = eye
        top = scipy.linalg.expm(block)[: len(A)]
        power, held, ramp = top[:, : len(A)], gap * top[:, len(A) : 2 * len(A)], gap * top[:, 2 * len(A) :]
    else:
        alpha = method.rule.alpha
        resolvent = np.linalg.inv(eye - alpha * gap * A)
        power, held = resolvent @ (eye + (1 - alpha) * gap * A), gap * resolvent
        ramp = alpha * held
    early = hold.previous[0] * held + hold.previous[1] * ramp
    return power, early, hold.next[0] * held + hold.next[1] * ramp + hold.kick * eye


def slow_kernel(group, gap, method, L):
    """C Abar^l Bbar (O, I, L) one step at a time."""
    A, B, C, _ = group
    power, early, late = step_matrices(A, gap, method)
    x, terms = late @ B, []
    for l in range(L):  # noqa: E741
        terms.append(C @ x)
        x = power @ x + (early @ B if l == 0 else 0)
    return np.stack(terms, axis=-1)


@pytest.mark.parametrize(
    ("structure", "rule", "hold", "multi_input"),
    sampled(0.3, STRUCTURE_PARAMS, [*RULES], [*HOLDS], KIND_PARAMS),
)
def test_kernel_is_one_step_after_the_other(structure, rule, hold, multi_input):
    rng = generator("kernel", structure.name, rule, hold, multi_input)
    system = random_system(structure, rng, multi_input)
    method = Discretization(RULES[rule], HOLDS[hold])
    gap = 0.02 if method.rule.growing else 0.3
    response = impulse_response(system.space, method, torch.tensor(gap, dtype=torch.float64))
    for L in (1, 2, 3, 64, 65):
        found = response.kernel(system.space.outputs, L)
        expected = np.stack([slow_kernel(group, gap, method, L) for group in system.groups])
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("poles", ["fourier", "slow", "fast"])
def test_long_diagonal_kernel_against_many_digits(poles):
    """20,000 terms: rounding must not gather with l; an eigenvalue 0 stays where it is."""
    rng = generator("many digits", poles)
    imag = np.array([0.0, 2 * np.pi, 40 * np.pi]) if poles == "fourier" else rng.uniform(0, 300, 3)
    real = {"fourier": np.array([0.0, -1e-3, -1e-2]), "slow": -np.array([1e-4, 1e-2, 1.0]), "fast": -np.full(3, 700.0)}
    A = Diagonal(torch.from_numpy(real[poles]), torch.from_numpy(imag))
    B, C = draw(rng, 1, 6), draw(rng, 1, 1, 6)
    space = StateSpace(A, B, C, torch.zeros(1, 1, dtype=torch.float64))
    L, h = 20_000, 0.01
    gap = torch.tensor(h, dtype=torch.float64)
    for name in ("zoh", "bilinear"):
        found = impulse_response(space, METHODS[name], gap).kernel(C, L)[0, 0, 0]
        with mpmath.workdps(40):
            places, expected = [0, 1, 2, 127, 128, 4096, 16383, 16384, L - 1], []
            terms = []
            for j in range(3):
                z = mpmath.mpf(h) * mpmath.mpc(real[poles][j], imag[j])
                power = mpmath.exp(z) if name == "zoh" else (1 + z / 2) / (1 - z / 2)
                held = (mpmath.expm1(z) / z if z else mpmath.mpf(1)) if name == "zoh" else 1 / (1 - z / 2)
                b, c = mpmath.mpc(*B[0, j::3].tolist()), mpmath.mpc(*C[0, 0, j::3].tolist())
                terms.append((mpmath.conj(c) * b * h * held, power))
            for place in places:
                expected.append(float(mpmath.re(sum(weight * power**place for weight, power in terms))))
        scale = found.abs().max().item()
        np.testing.assert_allclose(found[places], expected, rtol=0, atol=2e-12 * scale)


@pytest.mark.parametrize("gap", [1e-6, 1e-2, 1.0, 1e3, 1e9])
@pytest.mark.parametrize(("structure", "measure"), [("dplr", "fourier"), ("quasiseparable", "legs"), ("dplr", "legs")])
def test_structured_kernel_against_many_digits(structure, measure, gap):
    """Starts far from normal, from gaps that hardly move to gaps that leave nothing."""
    rng = generator("structured", structure, measure, gap)
    N, L = 12, 40
    A, B = hippo.start(structure, measure, N)
    C = draw(rng, 1, 1, N)
    space = StateSpace(A, B[None], C, torch.zeros(1, 1, dtype=torch.float64))
    for alpha in (0.5, 1.0):
        step = torch.tensor(gap, dtype=torch.float64)
        found = impulse_response(space, Discretization(gbt(alpha)), step).kernel(C, L)[0, 0, 0]
        with mpmath.workdps(60):
            matrix, h = mpmath.matrix(A.to_dense().tolist()), mpmath.mpf(gap)
            resolvent = (mpmath.eye(N) - alpha * h * matrix) ** -1
            power = resolvent * (mpmath.eye(N) + (1 - alpha) * h * matrix)
            x, row, expected = h * (resolvent * mpmath.matrix(B.tolist())), mpmath.matrix([C[0, 0].tolist()]), []
            for _ in range(L):
                expected.append(float((row * x)[0]))
                x = power * x
        assert relative_error(found, np.array(expected)) < 1e-12


@pytest.mark.parametrize("length", LENGTHS)
def test_causal_convolution_of_any_length(length):
    rng = generator("causal", length)
    for G, O, I in ((3, 1, 1), (2, 3, 1), (1, 2, 3)):  # noqa: E741
        u, kernel = draw(rng, 2, length, G, I), draw(rng, G, O, I, length)
        expected = np.zeros((2, length, G, O))
        for b, g, o, i in np.ndindex(2, G, O, I):
            expected[b, :, g, o] += scipy.signal.convolve(u[b, :, g, i], kernel[g, o, i], method="direct")[:length]
        assert relative_error(causal_convolution(u, kernel), expected) < 1e-13
        assert relative_error(causal_twin(u, kernel), expected) < 1e-13
        assert relative_error(causal_convolution(u.float(), kernel.float()).double(), expected) < 1e-5


@pytest.mark.parametrize("length", LENGTHS)
def test_final_state_of_any_length(length):
    """Sums of blocks of any size, and the powers that join them, against one step after the other."""
    rng = generator("final", length)
    for width in (1, 4, 16, 64):
        u, table = draw(rng, 3, length, 2, 2), draw(rng, 2, 5, width, 2)
        assert relative_error(block_sums(u, table), block_twin(u, table)) < 1e-13
    matrix, poles = draw(rng, 2, 4, 4) / 4, torch.complex(draw(rng, 2, 2), draw(rng, 2, 2)) / 2
    blocks, x = draw(rng, 2, 4, length, 3), torch.zeros(2, 4, 3, dtype=torch.float64)
    rotations = Diagonal(poles.real, poles.imag).to_dense()
    for powers, dense in ((DensePowers(matrix), matrix), (DiagonalPowers(poles), rotations)):
        x = torch.zeros_like(x)
        for j in range(length):
            x = dense @ (dense @ x) + blocks[:, :, j]
        assert relative_error(powers.summed(blocks, 1), x) < 1e-12


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 100])
def test_powers_of_both_forms(count):
    rng = generator("powers", count)
    poles = torch.complex(draw(rng, 2, 2), draw(rng, 2, 2)) / 4
    dense = Diagonal(poles.real, poles.imag).to_dense()
    for outputs, inputs in ((1, 1), (3, 1), (1, 40), (2, 2)):
        c, x = draw(rng, 2, outputs, 4), draw(rng, 2, 4, inputs)
        expected = torch.stack([c @ torch.linalg.matrix_power(dense, l) @ x for l in range(count)], dim=-1)  # noqa: E741
        for powers in (DensePowers(dense), DiagonalPowers(poles)):
            assert relative_error(powers.terms(c, x, count), expected) < 1e-12
    x, exponents = draw(rng, 2, 4, 3), torch.tensor([0, 1, count])
    for powers in (DensePowers(dense), DiagonalPowers(poles)):
        for b, exponent in enumerate(exponents.tolist()):
            expected = torch.linalg.matrix_power(dense, exponent) @ x
            assert relative_error(powers.advanced(x, exponents)[..., b], expected[..., b]) < 1e-12


@pytest.mark.parametrize("shape", [(2, 9, 2, 1, 1), (2, 6, 1, 2, 1), (3, 5, 1, 2, 2)])
def test_derivatives_of_the_operators(shape):
    """First and second, and none asked of one argument."""
    rng = generator("operators", shape)
    B, L, G, O, I = shape  # noqa: E741
    u, kernel, table = draw(rng, B, L, G, I), draw(rng, G, O, I, L), draw(rng, G, 3, 4, I)
    for operator, other in ((causal_convolution, kernel), (block_sums, table)):
        leaves = [u.clone().requires_grad_(), other.clone().requires_grad_()]
        assert torch.autograd.gradcheck(operator, leaves)
        assert torch.autograd.gradgradcheck(operator, leaves)
        assert torch.autograd.gradcheck(operator, (u, leaves[1]))
        assert torch.autograd.gradcheck(operator, (leaves[0], other))


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("name", ["bilinear", "zoh", "foh", "impulse"])
def test_derivatives_of_the_view(structure, name):
    """In u, the gap, A, B, C, D and the state, by finite differences."""
    rng = generator("derivatives", structure.name, name)
    A, _ = structure.member(rng, 4)
    fields = [field for field, _ in A._fields()]
    others = [draw(rng, *shape) for shape in ((2, 4), (2, 2, 4), (2, 2), (2, 6, 2), (2, 2, 4), (2, 2))]
    gap = torch.tensor(0.3, dtype=torch.float64)
    leaves = [leaf.clone().requires_grad_() for leaf in (*fields, *others, gap)]
    lengths = torch.tensor([6, 3])

    def outputs(*leaves):
        *fields, B, C, D, u, x, last, gap = leaves
        space = StateSpace(structure.build(*fields), B, C, D)
        found = convolution(space, METHODS[name], u, gap.expand(2, 6), State(x, last), lengths)
        rested = convolution(space, METHODS[name], u, gap.expand(2, 6), None, lengths)
        return found.y, found.state.x, rested.y, rested.state.x

    assert torch.autograd.gradcheck(outputs, leaves)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_padding_and_threads_leave_no_trace(structure):
    rng = generator("no trace", structure.name)
    space = random_system(structure, rng, False).space
    u, dt = draw(rng, 3, 130, 2), torch.full((3, 130), 0.1, dtype=torch.float64)
    lengths = torch.tensor([130, 77, 0])
    spoiled, gaps = u.clone(), dt.clone()
    for b, length in enumerate(lengths.tolist()):
        spoiled[b, length:], gaps[b, length:] = float("nan"), float("inf")
    for name in ("bilinear", "foh"):
        for state in (None, State(draw(rng, 3, 2, 6), draw(rng, 3, 2))):
            expected = convolution(space, METHODS[name], u, dt, state, lengths)
            found = convolution(space, METHODS[name], spoiled, gaps, state, lengths)
            assert same_bits(found.y, expected.y) and same_bits(found.state.x, expected.state.x)
            assert same_bits(found.state.u, expected.state.u)
            threads = torch.get_num_threads()
            try:
                torch.set_num_threads(3 - min(threads, 2))
                found = convolution(space, METHODS[name], u, dt, state, lengths)
            finally:
                torch.set_num_threads(threads)
            assert same_bits(found.y, expected.y) and same_bits(found.state.x, expected.state.x)


def test_second_derivatives_of_the_view():
    rng = generator("second derivatives")
    fields = STRUCTURES["diagonal"].member(rng, 4)[0]
    leaves = [leaf.clone().requires_grad_() for leaf in (fields.real, fields.imag, draw(rng, 1, 5, 1))]
    B, C, D = draw(rng, 1, 4), draw(rng, 1, 1, 4), draw(rng, 1, 1)
    dt = torch.full((1, 5), 0.3, dtype=torch.float64)

    def outputs(real, imag, u):
        found = convolution(StateSpace(Diagonal(real, imag), B, C, D), METHODS["zoh"], u, dt)
        return found.y, found.state.x

    assert torch.autograd.gradgradcheck(outputs, leaves)


def test_pieces_cover_everything_once():
    for series, groups, numbers in ((1, 1, 1), (7, 5, 2**18), (3, 4, 2**21), (100, 64, 100)):
        seen = np.zeros((series, groups), int)
        for part in pieces(series, groups, numbers):
            seen[part] += 1
        assert (seen == 1).all()


def test_fast_lengths_are_long_enough_and_smooth():
    for least in (1, 2, 31, 32, 33, 100, 255, 256, 257, 8191, 32767, 32769, 99999):
        length = fast_length(least)
        assert least <= length <= max(32, 1.13 * least)
        for prime in (2, 3, 5):
            while length % prime == 0:
                length //= prime
        assert length == 1 or least <= 32
