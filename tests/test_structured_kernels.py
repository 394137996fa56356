"""The fused loops of structured matrices: against their twin, against exact arithmetic, and bit for bit."""

import mpmath
import numpy as np
import pytest
import torch

from ctlssl import hippo
from ctlssl.discretization import Discretization, gbt
from ctlssl.holds import HOLDS
from ctlssl.kernels import plain_torch
from ctlssl.kernels.structured import _structured, _structured_adjoint, structured_bank, structured_states
from ctlssl.state_matrices import DPLR, Dense, Quasiseparable
from ctlssl.state_space import StateSpace
from ctlssl.views import State, recurrence
from tests.contracts import STRUCTURES, generator, random_system, same_bits, wide_gaps
from tests.problems import relative_error

STARTS = [("quasiseparable", name) for name in ("legs", "legt", "lagt")]
STARTS += [("dplr", name) for name in ("legs", "legt", "lagt", "fourier")]
ALPHAS = [0.0, 0.3, 0.5, 0.8, 1.0]


def rounded(rng, *shape):
    """Normal numbers that float32 holds exactly."""
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32).astype(np.float64))


def start(structure, measure, N, groups, rng):
    """A start of the library, its groups a little apart: the class and its fields."""
    A, _ = hippo.start(structure, measure, N)
    apart = 1 + 0.1 * torch.from_numpy(rng.random(groups))
    A = A.scale(apart)
    return type(A), [f.expand(groups, *f.shape[-own:]).clone() for f, own in A._fields()]


def arguments(rng, A, bank, batch=3, length=9, heads=2, kick=False, alpha=0.5, gaps=None):
    """Float64 leaves, kinds and rule; kinds mixes queries and padding in."""
    build, fields = A
    N, G = build(*fields).N, len(fields[0])
    kinds = torch.from_numpy(rng.choice([0, 1, 1, 1, 2], (batch, length)).astype(np.uint8))
    scale = 0.5 if alpha >= 0.5 else 0.02
    gaps = scale * rng.exponential(1.0, (batch, length)) if gaps is None else gaps
    inputs = rounded(rng, batch, length, *((G,) if bank else (G, N)))
    maps = [rounded(rng, G, N), rounded(rng, G, heads, N)] if bank else []
    leaves = [inputs, torch.from_numpy(gaps), rounded(rng, batch, G, N), *maps, *fields]
    return build, leaves, kinds, kick, alpha


def run(build, leaves, kinds, kick, alpha):
    """Outputs or states, and the last state."""
    inputs, gaps, x, *rest = leaves
    if inputs.ndim == 4:
        return structured_states(inputs, gaps, kinds, build(*rest), x, kick, alpha)
    return structured_bank(inputs, gaps, kinds, build(*rest[2:]), *rest[:2], x, kick, alpha)


def values_and_gradients(build, leaves, *rest):
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    y, last = run(build, leaves, *rest)
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    loss = (y * weights).sum() + last.square().sum()
    return [y.detach(), last.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def assert_close(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < tolerance


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("structure", "measure"), STARTS)
def test_loops_are_their_twin(structure, measure, alpha):
    """Values and all gradients, both precisions, around the lane count and the distance of kept states."""
    rng = generator("structured", structure, measure, alpha)
    cases = (
        (0, 3, 6, False),
        (1, 1, 2, True),
        (63, 3, 6, False),
        (64, 9, 4, True),
        (65, 2, 8, True),
        (129, 8, 4, False),
    )
    for length, groups, N, kick in cases:
        for bank, G in ((True, groups), (False, 1)):
            given = arguments(rng, start(structure, measure, N, G, rng), bank, 3, length, kick=kick, alpha=alpha)
            with plain_torch():
                expected = values_and_gradients(*given)
            assert_close(values_and_gradients(*given), expected, 1e-11)
            single = [given[1][0].float(), *given[1][1:]]
            assert_close(values_and_gradients(given[0], single, *given[2:]), expected, 1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_any_rank_and_size(alpha):
    """P apart from Q, ranks 1 to 3, one pair and more; quasiseparable matrices down to one state."""
    rng = generator("ranks", alpha)
    for rank, pairs in ((1, 1), (1, 4), (2, 5), (3, 2)):
        fields = [-rng.uniform(0.1, 1, (3, pairs)), rng.uniform(-5, 5, (3, pairs))]
        fields += [rng.standard_normal((3, 2 * pairs, rank)) / 4 for _ in range(2)]
        given = arguments(rng, (DPLR, [torch.from_numpy(field) for field in fields]), True, alpha=alpha)
        with plain_torch():
            expected = values_and_gradients(*given)
        assert_close(values_and_gradients(*given), expected, 1e-11)
    for N in (1, 2, 3):
        A = STRUCTURES["quasiseparable"].member(rng, N, (3,))[0]
        given = arguments(rng, (Quasiseparable, [f for f, _ in A._fields()]), True, alpha=alpha)
        with plain_torch():
            expected = values_and_gradients(*given)
        assert_close(values_and_gradients(*given), expected, 1e-11)


@pytest.mark.parametrize("multi_input", [False, True], ids=["bank", "multi-input"])
@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("structure", ["quasiseparable", "dplr"])
def test_view_is_the_dense_system(structure, hold, multi_input):
    """The same matrices as `Dense`, which steps by inverses: every hold and rule, with state, lengths and queries."""
    rng = generator("dense", structure, hold, multi_input)
    space = random_system(STRUCTURES[structure], rng, multi_input).space
    dense = StateSpace(Dense(space.A.to_dense()), space.B, space.C, space.D, multi_input)
    u, dt = rounded(rng, 3, 70, 2), torch.from_numpy(rng.exponential(0.3, (3, 70)))
    state = State(rounded(rng, 3, space.groups, space.A.N), rounded(rng, 3, 2))
    rest = (torch.tensor([70, 33, 0]), torch.from_numpy(rng.random((3, 70)) < 0.2))
    for alpha in ALPHAS:
        method, gaps = Discretization(gbt(alpha), HOLDS[hold]), dt if alpha >= 0.5 else dt / 30
        expected = recurrence(dense, method, u, gaps, state, *rest)
        for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
            given = State(state.x.to(dtype), state.u.to(dtype))
            found = recurrence(space, method, u.to(dtype), gaps, given, *rest)
            assert found.y.dtype == found.state.x.dtype == dtype
            assert_close((found.y, *found.state), (expected.y, *expected.state), tolerance)


def exactly(A, B, u, h, alpha):
    """States after each row with 40 digits, (L, N): A (N, N), B (N,), u and h (L,)."""
    with mpmath.workdps(40):
        A, B, x = mpmath.matrix(A.tolist()), mpmath.matrix(B.tolist()), mpmath.zeros(len(B), 1)
        eye, states = mpmath.eye(len(B)), []
        for gap, w in zip(map(mpmath.mpf, h), map(mpmath.mpf, u), strict=True):
            moved = x + (1 - mpmath.mpf(alpha)) * gap * (A * x) + gap * w * B
            x = mpmath.lu_solve(eye - mpmath.mpf(alpha) * gap * A, moved)
            states.append([float(value) for value in x])
    return np.array(states)


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
@pytest.mark.parametrize(("structure", "measure"), STARTS)
def test_gaps_of_1e_minus_9_to_1e9(structure, measure, alpha):
    """Against exact arithmetic from the same numbers; the gradients stay finite."""
    rng = generator("wide", structure, measure, alpha)
    N, L = 8, 40
    A, B = hippo.start(structure, measure, N)
    gaps, u, C = wide_gaps(rng, L), rounded(rng, L), rounded(rng, N)
    truth = exactly(A.to_dense().numpy(), B.numpy(), u.tolist(), gaps.tolist(), alpha) @ C.numpy()
    fields = [field[None] for field, _ in A._fields()]
    x = torch.zeros(1, 1, N, dtype=torch.float64)
    leaves = [u[None, :, None], torch.from_numpy(gaps)[None], x, B[None], C[None, None], *fields]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        given = [leaves[0].to(dtype), *leaves[1:]]
        y, _, *gradients = values_and_gradients(type(A), given, torch.ones(1, L, dtype=torch.uint8), False, alpha)
        assert relative_error(y[0, :, 0, 0], torch.from_numpy(truth)) < tolerance
        assert all(torch.isfinite(part).all() for part in gradients)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("bank", [True, False], ids=["bank", "states"])
@pytest.mark.parametrize("structure", ["quasiseparable", "dplr"])
def test_first_derivatives(structure, bank, alpha):
    rng = generator("derivatives", structure, bank, alpha)
    for kick in (False, True):
        A = STRUCTURES[structure].member(rng, 4, (2 if bank else 1,))[0]
        given = arguments(rng, (type(A), [f for f, _ in A._fields()]), bank, 2, 4, kick=kick, alpha=alpha)
        build, leaves, *rest = given
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        assert torch.autograd.gradcheck(lambda *leaves: run(build, leaves, *rest), leaves)  # noqa: B023


def test_no_bit_depends_on_padding_neighbours_queries_or_threads():
    rng = generator("structured bits")
    for structure in ("quasiseparable", "dplr"):
        build, leaves, kinds, *rule = arguments(rng, start(structure, "legs", 6, 5, rng), True, 12, 70)
        leaves[0] = leaves[0].float()
        expected = values_and_gradients(build, leaves, kinds, *rule)
        spoiled = [leaves[0].clone(), leaves[1].clone(), *leaves[2:]]
        spoiled[0][kinds == 0], spoiled[1][kinds == 0] = float("nan"), float("inf")
        for ours, theirs in zip(values_and_gradients(build, spoiled, kinds, *rule), expected, strict=True):
            assert same_bits(ours, theirs)
        alone = [leaf[2:3] for leaf in leaves[:3]] + leaves[3:]
        found = run(build, alone, kinds[2:3], *rule)
        for ours, theirs in zip(found, expected[:2], strict=True):
            assert same_bits(ours, theirs[2:3])
        y, last = run(build, leaves, torch.where(kinds == 2, 0, kinds), *rule)
        assert same_bits(torch.where((kinds == 1)[..., None, None], expected[0], 0), y)
        assert same_bits(expected[1], last)


@pytest.mark.parametrize("structure", ["quasiseparable", "dplr"])
def test_no_bit_depends_on_threads(structure):
    rng = generator("structured threads", structure)
    threads = torch.get_num_threads()
    try:
        for bank, G in ((True, 17), (False, 1)):
            given = arguments(rng, start(structure, "legs", 8, G, rng), bank, 40, 70 if bank else 300)
            results = []
            for count in (1, 3):
                torch.set_num_threads(count)
                results.append(values_and_gradients(*given))
            for ours, theirs in zip(*results, strict=True):
                assert same_bits(ours, theirs)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("structure", ["quasiseparable", "dplr"])
def test_in_chunks_to_the_last_bit(structure):
    """The state of one call is the start of the next."""
    rng = generator("structured chunks", structure)
    build, leaves, kinds, *rule = arguments(rng, start(structure, "legs", 6, 3, rng), True, 2, 100)
    whole, end = run(build, leaves, kinds, *rule)
    first, x = run(build, [leaves[0][:, :37], leaves[1][:, :37], *leaves[2:]], kinds[:, :37], *rule)
    later = [leaves[0][:, 37:], leaves[1][:, 37:], x, *leaves[3:]]
    second, last = run(build, later, kinds[:, 37:], *rule)
    assert same_bits(torch.cat([first, second], dim=1), whole) and same_bits(last, end)


@pytest.mark.parametrize("structure", ["quasiseparable", "dplr"])
def test_expanded_and_strided_inputs(structure):
    rng = generator("structured strides", structure)
    build, leaves, kinds, *rule = arguments(rng, start(structure, "legs", 4, 3, rng), True, 3, 6)
    leaves[0] = leaves[0][:1].expand(3, -1, -1)
    leaves[1] = leaves[1].repeat_interleave(2, dim=1)[:, ::2]
    leaves[4] = leaves[4].transpose(1, 2).contiguous().transpose(1, 2)
    leaves[5] = leaves[5][:1].expand(3, *leaves[5].shape[1:])
    found = run(build, leaves, kinds, *rule)
    assert_close(found, run(build, [leaf.contiguous() for leaf in leaves], kinds, *rule), 1e-15)
    shared = [leaf[0] if k > 4 else leaf for k, leaf in enumerate(leaves)]
    alike = [leaf[:1].expand_as(leaf) if k > 4 else leaf for k, leaf in enumerate(leaves)]
    assert_close(run(build, shared, kinds, *rule), run(build, alike, kinds, *rule), 1e-15)


def test_a_singular_pivot_gives_large_numbers():
    """T = 0 makes I - h A singular without end; what comes out is finite."""
    zero, one = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    A = Quasiseparable(one, zero, one, zero[:, :2], zero, zero[:, :2])
    inputs, kinds = torch.ones(1, 2, 1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.uint8)
    for alpha in (0.0, 0.5):
        y, _ = structured_bank(inputs, 0 * inputs[..., 0], kinds, A, one, one[:, None], one[:, None], False, alpha)
        assert torch.isfinite(y).all()


def operator_arguments(rng, structure, bank):
    build, leaves, kinds, kick, alpha = arguments(rng, start(structure, "legs", 4, 2, rng), bank, 2, 3)
    inputs, gaps, x, *rest = leaves
    B, C = rest[:2] if bank else (None, None)
    fields = torch.cat([field.flatten(1) for field in rest[2 * bank :]], dim=1)
    rank = build(*rest[2 * bank :]).P.shape[-1] if build is DPLR else 0
    inputs = inputs[..., None] if bank else inputs
    leaves = [None if v is None else v.requires_grad_() for v in (inputs, x, gaps, fields, B, C)]
    return [*leaves[:3], kinds, *leaves[3:], structure, rank, kick, alpha]


@pytest.mark.parametrize("structure", ["quasiseparable", "dplr"])
def test_operators_obey_torch(structure):
    rng = generator("structured opcheck", structure)
    for bank in (True, False):
        torch.library.opcheck(_structured, (*operator_arguments(rng, structure, bank), True))


@pytest.mark.parametrize("structure", ["quasiseparable", "dplr"])
def test_second_derivatives_are_the_twins(structure):
    """Keeping the graph of a backward pass takes the twin; the fused adjoint itself refuses."""
    rng = generator("structured second", structure)
    build, leaves, kinds, *rule = arguments(rng, start(structure, "legs", 2, 1, rng), True, 1, 3)
    kinds[:] = 1
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradgradcheck(lambda *leaves: run(build, leaves, kinds, *rule)[0], leaves)
    given = operator_arguments(rng, structure, True)
    y, last, kept = (part.detach() for part in _structured(*given, True))
    found = _structured_adjoint(y.requires_grad_(), last, kept, *given, False)
    with pytest.raises(RuntimeError, match="plain_torch"):
        found[0].sum().backward()
