"""Every structure against the same matrix in plain numpy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from ctlssl import hippo
from ctlssl.state_matrices import DPLR, Dense, Diagonal, Quasiseparable
from tests.contracts import STRUCTURE_PARAMS, STRUCTURES, generator
from tests.problems import relative_error

SHIFTS = {
    "zero": 0.0,
    "tiny": 1e-12,
    "one": 0.7,
    "huge": 1e9,
    "complex": 0.3 + 0.8j,
    "complex_huge": 2e8 - 3e8j,
    "imaginary": 5j,
    "unit_circle": (1 - np.exp(0.4j)) / (1 + np.exp(0.4j)),
}
STARTS = [
    pytest.param(name, measure, id=f"{name}-{measure}")
    for name, structure in STRUCTURES.items()
    for measure in structure.measures
]
SHIFT_PARAMS = [pytest.param(h, id=name) for name, h in SHIFTS.items()]


def solve_reference(A: np.ndarray, h: complex, x: np.ndarray) -> np.ndarray:
    """(I - hA)^-1 x, rows scaled first so that numpy's own solve stays accurate at h = 1e9."""
    s = 1 / (1 + abs(h))
    return np.linalg.solve(s * np.eye(len(A)) - (s * h) * A, s * x)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("N", [2, 6, 16])
def test_dense_form_and_product(structure, N):
    rng = generator("product", structure.name, N)
    A, truth = structure.member(rng, N)
    x = rng.standard_normal((5, N))
    assert A.N == N
    assert A.batch_shape == ()
    assert relative_error(A.to_dense(), truth) < 1e-12
    assert relative_error(A.matmul(torch.from_numpy(x)), x @ truth.T) < 1e-12
    z = x + 1j * rng.standard_normal((5, N))
    product = A.matmul(torch.from_numpy(z)).numpy()
    assert relative_error(product.real, (z @ truth.T).real) < 1e-12
    assert relative_error(product.imag, (z @ truth.T).imag) < 1e-12


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("h", SHIFT_PARAMS)
def test_shifted_solve(structure, h):
    rng = generator("solve", structure.name, repr(h))
    A, truth = structure.member(rng, 8)
    x = rng.standard_normal((3, 8))
    expected = np.stack([solve_reference(truth, h, row) for row in x])
    shift = torch.tensor(h, dtype=torch.complex128 if isinstance(h, complex) else torch.float64)
    for given in (h, shift, shift.expand(3)):
        y = A.solve_shifted(given, torch.from_numpy(x))
        assert y.is_complex() == np.iscomplexobj(expected)
        assert relative_error(y.real, expected.real) < 1e-11
        if y.is_complex():
            assert relative_error(y.imag, expected.imag) < 1e-11
    z = torch.from_numpy(x + 1j * x[::-1])
    y = A.solve_shifted(h, z).numpy()
    expected = np.stack([solve_reference(truth, h, row) for row in z.numpy()])
    assert np.abs(y - expected).max() < 1e-11 * np.abs(expected).max()


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_shift_zero_is_the_identity(structure):
    rng = generator("identity", structure.name)
    A, _ = structure.member(rng, 6)
    x = torch.from_numpy(rng.standard_normal(6))
    torch.testing.assert_close(A.solve_shifted(0.0, x), x, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_batches_broadcast(structure):
    rng = generator("batch", structure.name)
    N, H, L = 6, 3, 4
    A, truth = structure.member(rng, N, (H,))
    assert A.batch_shape == (H,)
    assert A.to_dense().shape == (H, N, N)
    x, h = rng.standard_normal((L, H, N)), rng.uniform(0, 3, (L, 1))
    product, solution = A.matmul(torch.from_numpy(x)), A.solve_shifted(torch.from_numpy(h), torch.from_numpy(x))
    assert product.shape == solution.shape == (L, H, N)
    assert relative_error(product, np.einsum("hij,lhj->lhi", truth, x)) < 1e-12
    expected = [[solve_reference(truth[c], h[k, 0], x[k, c]) for c in range(H)] for k in range(L)]
    assert relative_error(solution, np.array(expected)) < 1e-12
    one, single = structure.member(rng, N)
    assert relative_error(one.matmul(torch.from_numpy(x)), x @ single.T) < 1e-12
    lone = one.solve_shifted(torch.from_numpy(h), torch.from_numpy(x[0, 0]))
    assert relative_error(lone, np.array([[solve_reference(single, s, x[0, 0])] for s in h[:, 0]])) < 1e-12


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_scale(structure):
    rng = generator("scale", structure.name)
    A, truth = structure.member(rng, 6)
    s = rng.uniform(0.1, 5, 3)
    scaled = A.scale(torch.from_numpy(s))
    assert type(scaled) is type(A)
    assert relative_error(scaled.to_dense(), s[:, None, None] * truth) < 1e-12
    per_channel, dense = structure.member(rng, 6, (3,))
    assert relative_error(per_channel.scale(torch.from_numpy(s)).to_dense(), s[:, None, None] * dense) < 1e-12
    x = rng.standard_normal((3, 6))
    solved = scaled.solve_shifted(0.4, torch.from_numpy(x))
    expected = np.stack([solve_reference(s[i] * truth, 0.4, x[i]) for i in range(3)])
    assert relative_error(solved, expected) < 1e-12


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_eigenvalues(structure):
    rng = generator("eigenvalues", structure.name)
    A, truth = structure.member(rng, 6)
    found = A.eigenvalues().numpy()
    assert found.shape == (6,)
    for value in scipy.linalg.eigvals(truth):
        assert np.abs(found - value).min() < 1e-9 * np.abs(found).max()


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_free_parameters_round_trip(structure):
    rng = generator("round trip", structure.name)
    A, truth = structure.member(rng, 6, (2,))
    free = A.free()
    assert all(value.dtype == torch.float64 for value in free.values())
    assert relative_error(type(A).from_free(free).to_dense(), truth) < 1e-10


@pytest.mark.parametrize(("structure", "measure"), STARTS)
@pytest.mark.parametrize("N", [2, 8, 64])
def test_starts_survive_the_round_trip(structure, measure, N):
    A, B = hippo.start(structure, measure, N)
    free = A.free()
    again = type(A).from_free(free).to_dense().numpy()
    assert B.shape == (N,)
    assert relative_error(again, A.to_dense()) < 1e-10
    assert scipy.linalg.eigvals(again).real.max() < 1e-9 * np.abs(again).max()


@pytest.mark.parametrize(("structure", "measure"), STARTS)
def test_free_parameters_receive_gradients_at_the_start(structure, measure):
    A, _ = hippo.start(structure, measure, 8)
    free = {name: value.clone().requires_grad_() for name, value in A.free().items()}
    rng = generator("gradient", structure, measure)
    weight = torch.from_numpy(rng.standard_normal((8, 8)))
    (type(A).from_free(free).to_dense() * weight).sum().backward()
    for name, value in free.items():
        assert value.grad is not None and torch.isfinite(value.grad).all(), name


def stability_draws(structure, rng, N, scale):
    """Random free parameters: drawn in the shapes that random members and starts have, of any size."""
    templates = [structure.member(rng, N)[0]] + [hippo.start(structure.name, m, N)[0] for m in structure.measures]
    for template in templates:
        noise = {name: scale * torch.from_numpy(rng.standard_normal(v.shape)) for name, v in template.free().items()}
        yield type(template).from_free(noise)
        yield type(template).from_free({name: value + noise[name] for name, value in template.free().items()})


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 3.0])
def test_free_parameters_are_always_stable(structure, scale):
    rng = generator("stable", structure.name, scale)
    for _ in range(10):
        for A in stability_draws(structure, rng, 8, scale):
            dense = A.to_dense().numpy()
            assert np.isfinite(dense).all()
            assert scipy.linalg.eigvals(dense).real.max() <= 1e-9 * max(np.abs(dense).max(), 1)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_float32(structure):
    rng = generator("float32", structure.name)
    A, truth = structure.member(rng, 8)
    single = A.to(torch.float32)
    assert single.dtype == torch.float32
    x = rng.standard_normal((4, 8)).astype(np.float32)
    product = single.matmul(torch.from_numpy(x))
    assert product.dtype == torch.float32
    assert relative_error(product, x @ truth.T) < 2e-5
    for h in (0.0, 1e-9, 0.7, 1e9):
        solved = single.solve_shifted(torch.tensor(h, dtype=torch.float32), torch.from_numpy(x))
        assert solved.dtype == torch.float32
        assert relative_error(solved, np.stack([solve_reference(truth, h, row) for row in x])) < 2e-5


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt"])
@pytest.mark.parametrize("N", [64, 256])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_quasiseparable_starts_need_no_pivoting(measure, N, dtype, tolerance):
    A, B = hippo.quasiseparable(measure, N)
    A, dense = A.to(dtype), hippo.start("dense", measure, N)[0].to_dense().numpy()
    rng = generator("pivoting", measure, N)
    x = rng.standard_normal(N)
    given = torch.from_numpy(x).to(dtype)
    for h in 10.0 ** np.arange(-9, 10, 3):
        solved = A.solve_shifted(torch.tensor(h, dtype=dtype), given)
        assert relative_error(solved, solve_reference(dense, h, given.double().numpy())) < tolerance


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_gradients(structure):
    rng = generator("gradcheck", structure.name)
    A, _ = structure.member(rng, 4)
    fields = [field.detach().clone().requires_grad_() for field, _ in A._fields()]
    x = torch.from_numpy(rng.standard_normal((2, 4))).requires_grad_()
    h = torch.tensor([0.3, 1.7], dtype=torch.float64, requires_grad=True)
    z = torch.complex(h.detach(), h.detach().flip(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *f: structure.build(*f).matmul(x), (x, *fields))
    assert torch.autograd.gradcheck(lambda h, x, *f: structure.build(*f).solve_shifted(h, x), (h, x, *fields))
    assert torch.autograd.gradcheck(lambda h, x, *f: structure.build(*f).solve_shifted(h, x), (z, x, *fields))
    assert torch.autograd.gradcheck(lambda *f: structure.build(*f).to_dense(), fields)


def test_bad_shapes_are_refused():
    one = torch.ones(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="square"):
        Dense(torch.ones(2, 3))
    with pytest.raises(ValueError, match="real and imaginary"):
        Diagonal(one, one[:3])
    with pytest.raises(ValueError, match="P and Q"):
        DPLR(one[:2], one[:2], torch.ones(3, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match="sizes"):
        Quasiseparable(one, one, one, one, one, one)


def test_matrices_outside_the_stable_class_are_refused():
    one = torch.ones(2, dtype=torch.float64)
    outside = (
        Dense(torch.eye(2, dtype=torch.float64)),
        Diagonal(0 * one, one),
        DPLR(-one, one, torch.ones(4, 1).double(), -torch.ones(4, 1).double()),
        Quasiseparable(one, -0.9 * one, one, one[:1], one, one[:1]),
    )
    for A in outside:
        with pytest.raises(ValueError, match="trainable"):
            A.free()
