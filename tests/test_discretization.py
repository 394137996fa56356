"""Every structure, method and kind of system on irregular gaps, against the slow reference."""

import itertools

import numpy as np
import pytest
import torch

from ctlssl.discretization import METHODS, Discretization, exact, gbt, named_method
from ctlssl.holds import HOLDS, LINEAR, NEXT, PREVIOUS
from ctlssl.state_matrices import Dense
from ctlssl.state_space import StateSpace
from ctlssl.views import State, recurrence
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
from tests.problems import Truth, observed_order, relative_error, sines_response

UNNAMED = {
    "gbt(0.3)": (Discretization(gbt(0.3)), Truth(0.3, problems.NEXT, 1)),
    "gbt(0.8)+previous": (Discretization(gbt(0.8), PREVIOUS), Truth(0.8, problems.PREVIOUS, 1)),
    "gbt(0.7)+linear": (Discretization(gbt(0.7), LINEAR), Truth(0.7, problems.LINEAR, 1)),
    "exact+previous": (Discretization(exact, PREVIOUS), Truth("exact", problems.PREVIOUS, 1)),
    "bilinear+previous": (Discretization(gbt(0.5), PREVIOUS), Truth(0.5, problems.PREVIOUS, 1)),
    "gbt(0.7)+impulse": (Discretization(gbt(0.7), HOLDS["impulse"]), Truth(0.7, problems.IMPULSE, None)),
}
ALL = {name: (METHODS[name], truth) for name, truth in problems.METHODS.items()} | UNNAMED
ALL_PARAMS = [pytest.param(*pair, id=name) for name, pair in ALL.items()]
STABLE = {name: pair for name, pair in ALL.items() if pair[1].rule == "exact" or pair[1].rule >= 0.5}
STABLE_PARAMS = [pytest.param(*pair, id=name) for name, pair in STABLE.items()]
ORDERED_PARAMS = [pytest.param(*pair, id=name) for name, pair in ALL.items() if pair[1].order]


def run_against_reference(system, method, truth, gaps, rng, dtype):
    """Errors of outputs and states on a batch of two with different gaps, a state handed in, and a query."""
    B, L = gaps.shape
    u, (x, last) = rng.standard_normal((B, L, 2)), (rng.standard_normal((B, s, 6)) for s in (len(system.groups), 1))
    u, x, last = (v.astype(np.float32).astype(np.float64) for v in (u, x, last[:, 0, :2]))
    is_query = np.zeros((B, L), dtype=bool)
    is_query[0, 3] = is_query[1, L - 1] = True
    expected = system.simulate(truth, u, gaps, (x, last), None, is_query)
    found = recurrence(
        system.space,
        method,
        torch.from_numpy(u).to(dtype),
        torch.from_numpy(gaps),
        State(torch.from_numpy(x).to(dtype), torch.from_numpy(last).to(dtype)),
        is_query=torch.from_numpy(is_query),
    )
    assert found.y.dtype == found.state.x.dtype == dtype
    # One series at a time: the contract's measure is over one series.
    outputs = max(relative_error(found.y[b], expected[0][b]) for b in range(B))
    states = max(relative_error(found.state.x[b], expected[1][b]) for b in range(B))
    np.testing.assert_array_equal(found.state.u, expected[2])
    return max(outputs, states)


@pytest.mark.parametrize(
    ("structure", "method", "truth", "multi_input"), sampled(0.45, STRUCTURE_PARAMS, ALL_PARAMS, KIND_PARAMS)
)
def test_irregular_gaps(structure, method, truth, multi_input):
    rng = generator("irregular", structure.name, method.name, multi_input)
    system = random_system(structure, rng, multi_input)
    gaps = rng.exponential(0.3, (2, 9)).astype(np.float32).astype(np.float64)
    gaps[:, 4] = 0.0
    assert run_against_reference(system, method, truth, gaps, rng, torch.float64) < 1e-12
    assert run_against_reference(system, method, truth, gaps, rng, torch.float32) < 1e-5


@pytest.mark.parametrize(
    ("structure", "method", "truth", "multi_input"), sampled(0.3, STRUCTURE_PARAMS, STABLE_PARAMS, KIND_PARAMS)
)
def test_gaps_of_1e_minus_9_to_1e9_in_one_series(structure, method, truth, multi_input):
    rng = generator("wide", structure.name, method.name, multi_input)
    system = random_system(structure, rng, multi_input)
    gaps = np.stack([wide_gaps(rng, 10) for _ in range(2)]).astype(np.float32).astype(np.float64)
    assert run_against_reference(system, method, truth, gaps, rng, torch.float64) < 1e-12
    assert run_against_reference(system, method, truth, gaps, rng, torch.float32) < 1e-5


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("name", [name for name in problems.METHODS if name in STABLE])
def test_gradients_are_finite_at_any_gap(structure, name):
    rng = generator("wide gradients", structure.name, name)
    system = random_system(structure, rng, False).space
    for dtype in (torch.float32, torch.float64):
        fields = [field.clone().requires_grad_() for field, _ in system.A._fields()]
        leaves = [*fields, *(m.clone().requires_grad_() for m in (system.B, system.C, system.D))]
        u = torch.from_numpy(rng.standard_normal((1, 19, 2))).to(dtype).requires_grad_()
        dt = torch.from_numpy(wide_gaps(rng, 19))[None].requires_grad_()
        space = StateSpace(structure.build(*fields), *leaves[-3:])
        recurrence(space, METHODS[name], u, dt).y.square().mean().backward()
        for leaf in (*leaves, u, dt):
            assert torch.isfinite(leaf.grad).all()


def smooth_problem(structure, rng):
    """A small system, its closed-form solution under two sines, and grids that are never uniform."""
    A, truth = structure.member(rng, 4)
    B = rng.standard_normal(4)
    C, D = torch.eye(4, dtype=torch.float64)[None], torch.zeros(1, 4, dtype=torch.float64)
    space = StateSpace(A, torch.from_numpy(B)[None], C, D)
    return space, truth, B


@pytest.mark.parametrize(("structure", "method", "truth"), sampled(0.4, STRUCTURE_PARAMS, ORDERED_PARAMS))
def test_observed_order_is_the_declared_one(structure, method, truth):
    rng = generator("order", structure.name, method.name)
    space, A, B = smooth_problem(structure, rng)
    assert method.order == truth.order
    omegas, end = np.array([1.3, 2.9]), 2.0
    solution = sines_response(A, B, omegas, np.array([end]))[0]
    jitter = rng.uniform(-0.3, 0.3, 25)
    steps, errors = [], []
    for L in (100, 200, 400, 800):
        # The same pattern of unequal gaps is repeated, so that refining changes the size of the gaps alone.
        times = end * (np.arange(1, L + 1) + np.append(np.resize(jitter, L - 1), 0.0)) / L
        u = np.sin(omegas * times[:, None]).sum(-1)
        gaps = torch.from_numpy(np.diff(times, prepend=0.0))[None]
        found = recurrence(space, method, torch.from_numpy(u)[None, :, None], gaps)
        steps.append(end / L)
        errors.append(np.abs(found.y[0, -1].numpy() - solution).max())
    slope = observed_order(np.array(steps), np.array(errors))
    assert abs(slope - truth.order) < 0.15, (slope, errors)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("hold", list(HOLDS.values()), ids=list(HOLDS))
def test_exact_rules_have_the_semigroup_property(structure, hold):
    """A gap cut in two, with the input that the hold implies at the cut, leads to the same state."""
    rng = generator("semigroup", structure.name, hold.name)
    space = random_system(structure, rng, False).space
    u = torch.from_numpy(rng.standard_normal((1, 6, 2)))
    dt = torch.from_numpy(rng.exponential(0.5, (1, 6)))
    whole = recurrence(space, Discretization(exact, hold), u, dt)
    for k, part in ((1, 0.3), (3, 0.9), (5, 1e-6)):
        between = torch.tensor([[[hold.value(part, a, b) for a, b in zip(u[0, k - 1], u[0, k], strict=True)]]])
        cut = torch.cat([u[:, :k], between.to(u), u[:, k:]], dim=1)
        gaps = torch.cat([dt[:, :k], part * dt[:, k : k + 1], (1 - part) * dt[:, k : k + 1], dt[:, k + 1 :]], dim=1)
        split = recurrence(space, Discretization(exact, hold), cut, gaps)
        kept = [j for j in range(7) if j != k]
        assert relative_error(split.y[:, kept], whole.y) < 1e-12
        assert relative_error(split.state.x, whole.state.x) < 1e-12


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_bilinear_is_not_a_semigroup(structure):
    """Half a step twice is more accurate than one whole step: the property above is no accident of the test."""
    rng = generator("no semigroup", structure.name)
    space = random_system(structure, rng, False).space
    u = torch.ones(1, 1, 2, dtype=torch.float64)
    once = recurrence(space, METHODS["bilinear"], u, torch.ones(1, 1, dtype=torch.float64))
    twice = recurrence(space, METHODS["bilinear"], u.expand(1, 2, 2), torch.full((1, 2), 0.5, dtype=torch.float64))
    assert relative_error(twice.y[:, -1], once.y[:, -1]) > 1e-3


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize(("method", "truth"), ALL_PARAMS)
def test_gap_zero(structure, method, truth):
    """An impulse adds B u; the other holds leave x and replace the held input."""
    rng = generator("gap zero", structure.name, method.name)
    system = random_system(structure, rng, False)
    u = torch.from_numpy(rng.standard_normal((1, 1, 2)))
    state = State(torch.from_numpy(rng.standard_normal((1, 2, 6))), torch.from_numpy(rng.standard_normal((1, 2))))
    after = recurrence(system.space, method, u, torch.zeros(1, 1, dtype=torch.float64), state).state
    added = u[0, 0, :, None] * system.space.B if truth.hold == problems.IMPULSE else 0.0
    torch.testing.assert_close(after.x[0], state.x[0] + added, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(after.u, u[:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_stability_of_the_rules(structure):
    """alpha >= 1/2 and the exponential never grow, whatever the gap; 1/2 keeps the circle, 1 and exact forget."""
    rng = generator("stability", structure.name)
    space = random_system(structure, rng, False).space
    silence = torch.zeros(1, 1, 2, dtype=torch.float64)
    eye = torch.eye(6, dtype=torch.float64)[:, None].expand(6, 2, 6)
    for method in (METHODS["bilinear"], METHODS["backward_euler"], METHODS["zoh"], Discretization(gbt(0.7))):
        for h in 10.0 ** np.arange(-9, 10, 3):
            start = State(eye, torch.zeros(6, 2, dtype=torch.float64))
            step = recurrence(space, method, silence.expand(6, 1, 2), torch.full((6, 1), h, dtype=torch.float64), start)
            radius = torch.linalg.eigvals(step.state.x.permute(1, 2, 0)).abs().max().item()
            assert radius <= 1 + 1e-9
            if h == 1e9 and method.rule != gbt(0.7):
                assert radius == pytest.approx(1.0 if method.name == "bilinear" else 0.0, abs=1e-6)


def test_forward_euler_names_its_growth():
    space = random_system(STRUCTURES["diagonal"], generator("growth"), False).space
    u, dt = torch.ones(1, 400, 2, dtype=torch.float64), torch.full((1, 400), 1e3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"\|1 \+ h lambda\|"):
        recurrence(space, METHODS["forward_euler"], u, dt)


def test_large_phases_keep_their_digits():
    """|lambda| h = 1e6 on the imaginary axis in float32: the phase must be formed in float64."""
    real, imag = torch.tensor([[-1e-7]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    space = StateSpace(STRUCTURES["diagonal"].build(real, imag), one, one[None], torch.zeros(1, 1).double())
    h = 1e6 + np.arange(8) / 7
    start = State(torch.tensor([[[1.0, 0.0]]]).expand(8, 1, 2), torch.zeros(8, 1))
    found = recurrence(space, METHODS["impulse"], torch.zeros(8, 1, 1), torch.from_numpy(h)[:, None], start)
    np.testing.assert_allclose(found.y[:, 0, 0], np.exp(-1e-7 * h) * np.cos(h), atol=1e-6)


def test_exact_rules_take_eigenvalues_that_are_zero():
    """An integrator: x = h u, in every hold; dividing by lambda would give NaN."""
    zero = torch.zeros(1, 1, dtype=torch.float64)
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    u, dt = torch.tensor([[[2.0], [4.0]]], dtype=torch.float64), torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    expected = {"next": [2.0, 4.0], "previous": [0.0, 1.0], "linear": [1.0, 2.5], "impulse": [2.0, 6.0]}
    for A, (name, values) in itertools.product(
        (STRUCTURES["diagonal"].build(zero, zero), Dense(torch.zeros(2, 2, dtype=torch.float64))), expected.items()
    ):
        space = StateSpace(A, one, one[None], zero)
        found = recurrence(space, Discretization(exact, HOLDS[name]), u, dt)
        np.testing.assert_allclose(found.y[0, :, 0], values, rtol=1e-15)


def test_names_and_rules_resolve():
    assert named_method("zoh") is METHODS["zoh"]
    assert named_method(gbt(0.3)) == Discretization(gbt(0.3), NEXT)
    assert named_method(UNNAMED["exact+previous"][0]).name == "exact+previous"
    assert [method.name for method in METHODS.values()] == list(METHODS) == list(problems.METHODS)
    with pytest.raises(ValueError, match="forward_euler, backward_euler|forward_euler, bilinear"):
        named_method("leapfrog")
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="alpha"):
            gbt(alpha)


@pytest.mark.parametrize(("name", "truth"), METHOD_PARAMS)
def test_the_table_of_methods(name, truth):
    method = METHODS[name]
    assert method.hold.name == truth.hold
    assert method.order == truth.order
    assert method.rule is exact if truth.rule == "exact" else method.rule.alpha == truth.rule
