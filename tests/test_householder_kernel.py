"""The fused loop of the Householder memory: against a loop in numpy and its plain torch twin, with all gradients."""

import numpy as np
import pytest
import torch

from ctlssl.kernels import householder_memory, plain_torch
from ctlssl.kernels.householder import householder_product
from tests.contracts import generator

NAMES = ("keys", "values", "decays", "betas", "queries", "x")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def draw(*key, B=2, L=7, M=2, n=2, N=3, P=4, dtype=torch.float64):
    """Unit keys, decays and strengths of real rows, and kinds of every sort, in the order of the arguments."""
    rng = generator(*key)
    keys = rng.standard_normal((B, L, M, n, N))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    values, queries = rng.standard_normal((B, L, M, n, P)), rng.standard_normal((B, L, M, N))
    decays, betas = rng.uniform(0.5, 1.0, (B, L, M)), rng.uniform(0.0, 2.0, (B, L, M, n))
    kinds = torch.from_numpy(rng.choice(3, (B, L), p=[0.1, 0.7, 0.2]).astype(np.uint8))
    parts = [torch.from_numpy(part).to(dtype) for part in (keys, values, decays, betas, queries)]
    return *parts, kinds, torch.from_numpy(rng.standard_normal((B, M, N, P))).to(dtype)


def numpy_memory(keys, values, decays, betas, queries, kinds, x):
    """The definition, one number of steps after another."""
    shown, end = np.zeros((*queries.shape[:3], x.shape[3])), x.copy()
    for b, k, m in np.ndindex(queries.shape[:3]):
        S = decays[b, k, m] * end[b, m]
        for j in range(keys.shape[3]):
            key, beta = keys[b, k, m, j], betas[b, k, m, j]
            S = (np.eye(len(key)) - beta * np.outer(key, key)) @ S + beta * np.outer(key, values[b, k, m, j])
        if kinds[b, k]:
            shown[b, k, m] = S.T @ queries[b, k, m]
        if kinds[b, k] == 1:
            end[b, m] = S
    return shown, end


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [{}, {"n": 1, "M": 1, "N": 1, "P": 1}, {"L": 130, "n": 3, "N": 5}])
def test_against_numpy(size, dtype, plain):
    given = draw("memory", size, dtype=dtype, **size)
    expected = numpy_memory(*(part.double().numpy() if part.is_floating_point() else part.numpy() for part in given))
    if plain:
        with plain_torch():
            found = householder_memory(*given)
    else:
        found = householder_memory(*given)
    shown = torch.where((given[5] > 0)[..., None, None], found[0], 0)
    for mine, truth in zip((shown, found[1]), expected, strict=True):
        assert np.abs(mine.double().numpy() - truth).max() <= TOLERANCE[dtype] * max(1.0, np.abs(truth).max())


def gradients(given, weights, create_graph=False):
    """Of a sum of squares of both results, padding left out, by all numbers."""
    inputs = [part.clone().requires_grad_() for part in given if part.is_floating_point()]
    *front, x = inputs
    shown, end = householder_memory(*front, given[5], x)
    shown = torch.where((given[5] > 0)[..., None, None], shown, 0)
    loss = (weights[0] * shown.square()).sum() + (weights[1] * end.square()).sum()
    return inputs, torch.autograd.grad(loss, inputs, create_graph=create_graph)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_over_tiles(dtype):
    """More rows than lie between two memories that are kept; those of float64 by finite differences too."""
    given = draw("tiles", L=150, n=3, dtype=dtype)
    weights = [torch.rand(2, 150, 2, 4, dtype=dtype), torch.rand(2, 2, 3, 4, dtype=dtype)]
    _, found = gradients(given, weights)
    with plain_torch():
        _, expected = gradients([part.double() if part.is_floating_point() else part for part in given], weights)
    for name, mine, truth in zip(NAMES, found, expected, strict=True):
        assert (mine.double() - truth).abs().max() <= 10 * TOLERANCE[dtype] * truth.abs().max(), name


def test_gradients_by_finite_differences():
    given = draw("differences", L=4)
    *front, kinds, x = [part.requires_grad_() if part.is_floating_point() else part for part in given]
    assert torch.autograd.gradcheck(lambda *parts: householder_memory(*parts[:-1], kinds, parts[-1]), (*front, x))


def test_second_derivatives_are_those_of_the_twin():
    given = draw("second", L=4)
    weights = [torch.rand(2, 4, 2, 4, dtype=torch.float64), torch.rand(2, 2, 3, 4, dtype=torch.float64)]
    found = []
    for plain in (False, True):
        if plain:
            with plain_torch():
                inputs, first = gradients(given, weights, create_graph=True)
        else:
            inputs, first = gradients(given, weights, create_graph=True)
        found.append(torch.autograd.grad(sum(part.square().sum() for part in first), inputs))
    assert all(torch.allclose(mine, truth, atol=1e-11) for mine, truth in zip(*found, strict=True))


def test_the_operator_obeys_torch():
    given = draw("opcheck", L=3)
    operator = torch.ops.ctlssl.householder.default
    torch.library.opcheck(operator, (*given, False))
    leaves = [part.requires_grad_() if part.is_floating_point() else part for part in given]
    torch.library.opcheck(operator, (*leaves, True))


def test_torch_func():
    given = draw("func", L=5)
    _, (expected, *_) = gradients(given, (1.0, 1.0))
    seen = (given[5] > 0)[..., None, None]

    def loss(keys):
        shown, end = householder_memory(keys, *given[1:])
        return torch.where(seen, shown, 0).square().sum() + end.square().sum()

    assert torch.allclose(torch.func.grad(loss)(given[0]), expected, atol=1e-11)


def test_a_row_has_the_same_bits_in_any_company():
    given = draw("bits", B=3, L=40, dtype=torch.float32)
    shown, end = householder_memory(*given)
    alone, ended = householder_memory(*(part[1:2] for part in given))
    assert torch.equal(alone, shown[1:2]) and torch.equal(ended, end[1:2])
    committed = given[5][1] == 1
    kept, ended = householder_memory(*(part[1:2, committed] for part in given[:6]), given[6][1:2])
    assert torch.equal(kept, shown[1:2, committed]) and torch.equal(ended, end[1:2])


def test_threads_change_no_bit():
    given = draw("threads", B=8, L=100, M=4, N=8, P=8)
    threads = torch.get_num_threads()
    weights = [torch.rand(8, 100, 4, 8, dtype=torch.float64), torch.rand(8, 4, 8, 8, dtype=torch.float64)]
    try:
        torch.set_num_threads(1)
        _, one = gradients(given, weights)
        torch.set_num_threads(3)
        _, three = gradients(given, weights)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_steps_written_as_one_product():
    keys, _, _, betas, *_ = draw("product", n=3)
    product, W = householder_product(keys, betas)
    eye = torch.eye(3, dtype=keys.dtype)
    expected = eye
    for j in range(3):
        expected = (eye - betas[..., j, None, None] * keys[..., j, :, None] * keys[..., j, None, :]) @ expected
    assert torch.allclose(product, expected, atol=1e-14)
    assert torch.allclose(eye - W @ keys, expected, atol=1e-14)


@pytest.mark.parametrize("shape", [{"L": 0}, {"B": 0}])
def test_nothing_to_do(shape):
    given = draw("nothing", **shape)
    shown, end = householder_memory(*given)
    assert shown.shape == (*given[4].shape[:3], 4) and torch.equal(end, given[6])
    inputs, found = gradients(given, (1.0, 1.0))
    assert all(part.shape == value.shape for part, value in zip(inputs, found, strict=True))
