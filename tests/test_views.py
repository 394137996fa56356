"""The three views of one system held against one another and against the slow reference."""

import sys

import numpy as np
import pytest
import scipy.linalg
import torch

from ctlssl import hippo
from ctlssl.discretization import METHODS, Discretization, exact, gbt
from ctlssl.holds import HOLDS, LINEAR, PREVIOUS
from ctlssl.state_space import StateSpace
from ctlssl.views import Integration, State, convolution, integration, recurrence
from tests import problems
from tests.contracts import (
    KIND_PARAMS,
    METHOD_PARAMS,
    STRUCTURE_PARAMS,
    STRUCTURES,
    generator,
    random_system,
    sampled,
    wide_gaps,
)
from tests.problems import Truth, relative_error

CONVOLVED = {name: method for name, method in METHODS.items()} | {
    "gbt(0.8)+previous": Discretization(gbt(0.8), PREVIOUS),
    "gbt(0.3)+linear": Discretization(gbt(0.3), LINEAR),
    "exact+previous": Discretization(exact, PREVIOUS),
}
CONVOLVED_PARAMS = [pytest.param(method, id=name) for name, method in CONVOLVED.items()]
LENGTH = 4096


def uniform_batch(rng, B, L, gap, first=None):
    u = torch.from_numpy(rng.standard_normal((B, L, 2)))
    dt = torch.full((B, L), gap, dtype=torch.float64)
    if first is not None:
        dt[:, 0] = torch.from_numpy(np.asarray(first))
    return u, dt


def random_state(rng, system, B, N=6):
    x = rng.standard_normal((B, system.groups, N))
    return State(torch.from_numpy(x), torch.from_numpy(rng.standard_normal((B, 2))))


def assert_same(found, expected, tolerance):
    for b in range(len(expected.y)):
        assert relative_error(found.y[b].double(), expected.y[b]) < tolerance
        assert relative_error(found.state.x[b].double(), expected.state.x[b]) < tolerance
    np.testing.assert_array_equal(found.state.u.double(), expected.state.u.to(found.state.u.dtype).double())


@pytest.mark.parametrize(
    ("structure", "method", "multi_input"), sampled(0.15, STRUCTURE_PARAMS, CONVOLVED_PARAMS, KIND_PARAMS)
)
def test_convolution_is_recurrence(structure, method, multi_input):
    """One grid; the first gap, the state and the lengths differ from series to series."""
    rng = generator("convolution", structure.name, method.name, multi_input)
    space = random_system(structure, rng, multi_input).space
    gap = 0.02 if method.rule.growing else 0.1
    u, dt = uniform_batch(rng, 3, LENGTH, gap, [gap, 0.0, 1.7 * gap])
    lengths = torch.tensor([LENGTH, LENGTH - 1000, 17])
    state = random_state(rng, space, 3)
    expected = recurrence(space, method, u, dt, state, lengths)
    assert_same(convolution(space, method, u, dt, state, lengths), expected, 1e-9)
    single = State(state.x.float(), state.u.float())
    found = convolution(space, method, u.float(), dt, single, lengths)
    assert found.y.dtype == found.state.x.dtype == torch.float32
    assert_same(found, expected, 1e-4)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_convolution_from_rest(structure):
    """No state and one gap throughout: the path without a separate first step."""
    rng = generator("from rest", structure.name)
    space = random_system(structure, rng, False).space
    for name in ("bilinear", "zoh", "foh", "impulse"):
        u, dt = uniform_batch(rng, 2, 300, 0.1)
        lengths = torch.tensor([300, 0])
        expected = recurrence(space, METHODS[name], u, dt, None, lengths)
        assert_same(convolution(space, METHODS[name], u, dt, None, lengths), expected, 1e-11)
        assert not expected.y[1].any()


STARTS = [
    pytest.param(name, measure, N, L, id=f"{name}-{measure}-{N}", marks=() if N == 32 else pytest.mark.slow)
    for name, structure in STRUCTURES.items()
    for measure in structure.measures
    for N, L in ((32, 512), (64, LENGTH))
    if N == 64 or measure in ("legs", "lin", "fourier")
]


@pytest.mark.parametrize(("structure", "measure", "N", "L"), STARTS)
def test_convolution_is_recurrence_at_the_starts(structure, measure, N, L):
    """The layer's own starts, where matrices are far from normal; fourier has an eigenvalue zero."""
    rng = generator("starts", structure, measure)
    A, B = hippo.start(structure, measure, N)
    C = torch.from_numpy(rng.standard_normal((1, 1, N)))
    space = StateSpace(A, B[None], C, torch.zeros(1, 1, dtype=torch.float64))
    u = torch.from_numpy(rng.standard_normal((1, L, 1)))
    dt = torch.full((1, L), 0.01, dtype=torch.float64)
    for name in ("bilinear", "zoh"):
        expected = recurrence(space, METHODS[name], u, dt)
        assert_same(convolution(space, METHODS[name], u, dt), expected, 1e-9)
        assert_same(convolution(space, METHODS[name], u.float(), dt), expected, 1e-4)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 63, 64, 65])
def test_convolution_at_short_lengths(length):
    rng = generator("short", length)
    for structure in STRUCTURES.values():
        space = random_system(structure, rng, False).space
        for name in ("bilinear", "foh"):
            u, dt = uniform_batch(rng, 2, length, 0.3, [0.3, 1.1])
            for state in (None, random_state(rng, space, 2)):
                expected = recurrence(space, METHODS[name], u, dt, state)
                assert_same(convolution(space, METHODS[name], u, dt, state), expected, 1e-10)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_gradients_of_the_convolution(structure):
    """With respect to u, the system and the state; compared with the recurrence, which is gradchecked elsewhere."""
    rng = generator("convolution gradients", structure.name)
    space = random_system(structure, rng, False).space
    state = random_state(rng, space, 2)
    u, dt = uniform_batch(rng, 2, 70, 0.1, [0.1, 0.5])
    weight = torch.from_numpy(rng.standard_normal((2, 70, 4)))
    for name in ("bilinear", "foh"):
        gradients = []
        for view in (convolution, recurrence):
            fields = [field.clone().requires_grad_() for field, _ in space.A._fields()]
            leaves = [m.clone().requires_grad_() for m in (space.B, space.C, space.D, u, state.x, state.u)]
            system = StateSpace(structure.build(*fields), *leaves[:3])
            found = view(system, METHODS[name], leaves[3], dt, State(*leaves[4:]))
            loss = (found.y * weight).sum() + found.state.x.square().sum()
            gradients.append(torch.autograd.grad(loss, [*fields, *leaves], allow_unused=True))
        for ours, theirs in zip(*gradients, strict=True):
            if theirs is None:
                assert ours is None or not ours.any()
            else:
                assert relative_error(ours, theirs) < 1e-9


def test_convolution_refuses_irregular_grids_and_queries():
    rng = generator("refusals")
    space = random_system(STRUCTURES["diagonal"], rng, False).space
    u, dt = uniform_batch(rng, 2, 10, 0.1)
    dt[1, 6] = 0.2
    with pytest.raises(ValueError, match=r"series 1, position 6.*recurrence"):
        convolution(space, METHODS["zoh"], u, dt)
    dt[1, 6] = 0.1
    flags = torch.zeros(2, 10, dtype=torch.bool)
    flags[0, 2] = True
    with pytest.raises(ValueError, match="recurrence"):
        convolution(space, METHODS["zoh"], u, dt, is_query=flags)
    dt[1, 6] = 0.2  # beyond the length, gaps are padding
    convolution(space, METHODS["zoh"], u, dt, lengths=torch.tensor([10, 6]))


@pytest.mark.parametrize(("structure", "hold", "multi_input"), sampled(0.4, STRUCTURE_PARAMS, [*HOLDS], KIND_PARAMS))
def test_integration_is_the_exact_recurrence(structure, hold, multi_input):
    rng = generator("integration", structure.name, hold, multi_input)
    space = random_system(structure, rng, multi_input).space
    method = Discretization(exact, HOLDS[hold])
    u = torch.from_numpy(rng.standard_normal((2, 5, 2)))
    dt = torch.from_numpy(rng.exponential(0.4, (2, 5)))
    dt[1, 2] = 0.0
    lengths, is_query = torch.tensor([5, 4]), torch.zeros(2, 5, dtype=torch.bool)
    is_query[0, 1] = True
    state = random_state(rng, space, 2)
    expected = recurrence(space, method, u, dt, state, lengths, is_query)
    found = integration(space, method, u, dt, state, lengths, is_query, Integration("dopri5", rtol=1e-9, atol=1e-11))
    assert found.evaluations > 0 and expected.evaluations == 0
    assert_same(found, expected, 1e-6)
    fixed = integration(space, method, u, dt, state, lengths, is_query, Integration("rk4", steps=32))
    assert_same(fixed, expected, 1e-3)


@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_of_the_integration(adjoint):
    rng = generator("integration gradients", adjoint)
    structure = STRUCTURES["dense"]
    A, _ = structure.member(rng, 3)
    u, dt = torch.from_numpy(rng.standard_normal((1, 4, 1))), torch.from_numpy(rng.exponential(0.4, (1, 4)))
    start = torch.from_numpy(rng.standard_normal((1, 1, 3)))
    B, C = torch.from_numpy(rng.standard_normal((1, 3))), torch.from_numpy(rng.standard_normal((1, 1, 3)))
    gradients = []
    for view in (
        lambda *rows: integration(*rows, solver=Integration("dopri5", 1e-10, 1e-12, adjoint=adjoint)),
        recurrence,
    ):
        leaves = [v.clone().requires_grad_() for v in (A.matrix, B, C, u, dt, start)]
        space = StateSpace(structure.build(leaves[0]), leaves[1], leaves[2], torch.zeros(1, 1, dtype=torch.float64))
        found = view(space, METHODS["foh"], leaves[3], leaves[4], State(leaves[5], torch.ones(1, 1).double()))
        gradients.append(torch.autograd.grad(found.y.square().sum(), leaves))
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-6


def test_integration_of_gbt_converges_at_its_order():
    """A gbt step is not the integral: refining the grid under one smooth input closes the distance at order 2."""
    rng = generator("gbt and integration")
    space = random_system(STRUCTURES["dplr"], rng, False).space
    distances, steps = [], []
    for L in (20, 40, 80):
        times = np.linspace(0, 2, L + 1)[1:]
        u = torch.from_numpy(np.sin(2 * times))[None, :, None].expand(1, L, 2)
        dt = torch.full((1, L), 2 / L, dtype=torch.float64)
        truth = integration(space, METHODS["foh"], u, dt, solver=Integration(rtol=1e-9, atol=1e-11))
        found = recurrence(space, METHODS["trapezoid"], u, dt)
        distances.append((found.y - truth.y).abs().max().item())
        steps.append(2 / L)
    assert problems.observed_order(np.array(steps), np.array(distances)) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("structure", "name", "truth"), sampled(0.5, STRUCTURE_PARAMS, METHOD_PARAMS))
def test_recurrence_with_lengths_and_queries(structure, name, truth):
    """Rows past the length are zeros and change nothing; an empty series hands its state on unchanged."""
    rng = generator("lengths", structure.name, name)
    system = random_system(structure, rng, False)
    u, dt = rng.standard_normal((4, 7, 2)), rng.exponential(0.3, (4, 7))
    lengths = np.array([7, 4, 1, 0])
    is_query = rng.random((4, 7)) < 0.3
    state = random_state(rng, system.space, 4)
    y, x, last = system.simulate(truth, u, dt, (state.x.numpy(), state.u.numpy()), lengths, is_query)
    spoiled, gaps = torch.from_numpy(u.copy()), torch.from_numpy(dt.copy())
    for b, length in enumerate(lengths):
        spoiled[b, length:], gaps[b, length:] = float("nan"), float("inf")
    found = recurrence(
        system.space, METHODS[name], spoiled, gaps, state, torch.from_numpy(lengths), torch.from_numpy(is_query)
    )
    assert relative_error(found.y, y) < 1e-12
    assert relative_error(found.state.x, x) < 1e-12
    np.testing.assert_array_equal(found.state.u, last)
    np.testing.assert_array_equal(found.state.x[3], state.x[3])


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("name", ["bilinear", "zoh", "foh", "impulse"])
def test_first_and_second_derivatives(structure, name):
    """In u, dt, A, B, C, D and the state, with a query and a length in the batch."""
    rng = generator("derivatives", structure.name, name)
    A, _ = structure.member(rng, 4)
    fields = [field for field, _ in A._fields()]
    shapes = ((2, 4), (2, 1, 4), (2, 1), (2, 3, 2), (2, 2, 4), (2, 2))
    others = [torch.from_numpy(rng.standard_normal(shape)) for shape in shapes]
    dt = torch.from_numpy(rng.uniform(0.1, 1.0, (2, 3)))
    leaves = [leaf.clone().requires_grad_() for leaf in (*fields, *others, dt)]
    is_query = torch.tensor([[False, True, False], [False, False, False]])
    lengths = torch.tensor([3, 2])

    def outputs(*leaves):
        *fields, B, C, D, u, x, last, dt = leaves
        space = StateSpace(structure.build(*fields), B, C, D)
        found = recurrence(space, METHODS[name], u, dt, State(x, last), lengths, is_query)
        return found.y, found.state.x

    assert torch.autograd.gradcheck(outputs, leaves)
    if structure.name == "diagonal" and name == "zoh":
        assert torch.autograd.gradgradcheck(outputs, leaves)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("budget", [1, 400])
def test_long_records_in_chunks(structure, budget, monkeypatch):
    """Tables of dense steps that do not fit are made again chunk by chunk, with the same outputs and gradients."""
    rng = generator("chunks", structure.name)
    space = random_system(structure, rng, False).space
    dt = torch.from_numpy(rng.exponential(0.4, (2, 11)))
    lengths, is_query = torch.tensor([11, 6]), torch.from_numpy(rng.random((2, 11)) < 0.3)
    u = torch.from_numpy(rng.standard_normal((2, 11, 2)))
    state = random_state(rng, space, 2)
    for name in ("zoh", "foh", "impulse"):
        results = []
        for numbers in (2**24, budget):
            monkeypatch.setattr(sys.modules["ctlssl.views.recurrence"], "_TABLE_NUMBERS", numbers)
            fields = [field.clone().requires_grad_() for field, _ in space.A._fields()]
            leaves = [m.clone().requires_grad_() for m in (space.B, space.C, space.D, u, dt, state.x, state.u)]
            system = StateSpace(structure.build(*fields), *leaves[:3])
            found = recurrence(system, METHODS[name], *leaves[3:5], State(*leaves[5:]), lengths, is_query)
            loss = found.y.square().sum() + found.state.x.sum()
            gradients = torch.autograd.grad(loss, [*fields, *leaves], allow_unused=True)
            results.append([found.y, found.state.x, *(g for g in gradients if g is not None)])
        for ours, theirs in zip(*results, strict=True):
            assert relative_error(ours.detach(), theirs.detach()) < 1e-12


def test_unknown_solvers_and_tolerances_are_refused():
    with pytest.raises(ValueError, match="positive"):
        Integration(rtol=0.0)
    system = random_system(STRUCTURES["dense"], generator("solver"), False).space
    u, dt = torch.ones(1, 2, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="leapfrog"):
        integration(system, METHODS["zoh"], u, dt, solver=Integration("leapfrog"))


def test_exact_against_the_reference_on_a_stiff_start():
    """LegS at N = 16 over gaps of 1e-3 to 10, in all three exact structures, against 60 digits."""
    rng = generator("stiff")
    dense, _ = hippo.legs(16)
    gaps = 10.0 ** rng.uniform(-3, 1, 6)
    u = rng.standard_normal((6, 1))
    truth = Truth("exact", problems.NEXT, 1)
    for structure in ("dense", "dplr", "quasiseparable"):
        A, B = hippo.start(structure, "legs", 16)
        basis = hippo.normal_plus_low_rank("legs", 16).basis if structure == "dplr" else torch.eye(16).double()
        C = torch.from_numpy(rng.standard_normal((1, 3, 16)))
        space = StateSpace(A, B[None], C @ basis, torch.zeros(1, 3, dtype=torch.float64))
        original = (dense.numpy(), hippo.legs(16)[1].numpy()[:, None], C[0].numpy(), np.zeros((3, 1)))
        expected = problems.simulate(*original, truth, u, gaps)
        found = recurrence(space, METHODS["zoh"], torch.from_numpy(u)[None], torch.from_numpy(gaps)[None])
        assert relative_error(found.y[0], expected.y) < 1e-12


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt"])
@pytest.mark.parametrize("structure", ["dense", "dplr", "quasiseparable"])
def test_exact_rules_at_full_size(structure, measure):
    """N = 64 and gaps of 1e-9 to 1e9 in one series: what doubling too often would cost is seen only here."""
    rng = generator("full size", structure, measure)
    N, L = 64, 19
    dense, vector = hippo.start("dense", measure, N)
    A, B = dense.to_dense().numpy(), vector.numpy()
    C, u = rng.standard_normal((1, N)), rng.standard_normal(L)
    gaps = wide_gaps(rng, L)
    x, expected = np.zeros(N), []
    for k in range(L):
        if gaps[k] < 500:
            block = scipy.linalg.expm(gaps[k] * np.block([[A, B[:, None]], [np.zeros((1, N + 1))]]))
            x = block[:N, :N] @ x + block[:N, N] * u[k]
        else:  # nothing is left of the past: the steady state
            x = -np.linalg.solve(A, B) * u[k]
        expected.append(C @ x)
    start, vector = hippo.start(structure, measure, N)
    basis = hippo.normal_plus_low_rank(measure, N).basis if structure == "dplr" else torch.eye(N).double()
    outputs = torch.from_numpy(C)[None] @ basis
    space = StateSpace(start, vector[None], outputs, torch.zeros(1, 1, dtype=torch.float64))
    found = recurrence(space, METHODS["zoh"], torch.from_numpy(u)[None, :, None], torch.from_numpy(gaps)[None])
    assert relative_error(found.y[0], np.array(expected)) < 1e-12
