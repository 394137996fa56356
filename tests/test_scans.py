"""Compiled scans against a numpy loop, their twins, finite differences and themselves in other company."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ctlssl.kernels import block_scan, linear_scan, plain_torch
from tests.contracts import generator

KINDS = ("real", "complex", "block")


def drawn(kind, shape, dtype=torch.float64, grad=False):
    """Arguments of a scan of a kind, (B, L, ...) and (B, ...), with factors near the unit circle."""
    rng = generator("scan", kind, shape)
    B, L, *rest = shape

    def draw(*size, scale=1.0):
        real = torch.from_numpy(scale * rng.standard_normal(size)).to(dtype)
        return torch.complex(real, torch.from_numpy(scale * rng.standard_normal(size)).to(dtype)) if complexes else real

    complexes = kind == "complex"
    ends = (2,) if kind == "block" else ()
    factors = draw(B, L, *rest, *ends, *ends, scale=0.6)
    given = factors, draw(B, L, *rest, *ends), draw(B, *rest, *ends)
    return tuple(t.requires_grad_() for t in given) if grad else given


def scan(kind):
    return block_scan if kind == "block" else linear_scan


def by_hand(kind, a, b, x):
    a, b, x = (t.detach().numpy() for t in (a, b, x))
    states = []
    for k in range(b.shape[1]):
        x = (np.einsum("...ij,...j->...i", a[:, k], x) if kind == "block" else a[:, k] * x) + b[:, k]
        states.append(x)
    return np.stack(states, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 7, 2, 5), (1, 1, 1), (2, 65, 513), (4, 3, 1030)], ids=str)
def test_states_and_gradients_are_those_of_the_twin_and_of_numpy(kind, shape):
    given = drawn(kind, shape, grad=True)
    found = scan(kind)(*given)
    expected = by_hand(kind, *given)
    assert np.abs(found.detach().numpy() - expected).max() <= 1e-13 * max(1, np.abs(expected).max())
    slope = torch.randn_like(found)
    mine = torch.autograd.grad(found, given, slope)
    with plain_torch():
        theirs = torch.autograd.grad(scan(kind)(*given), given, slope)
    for one, other in zip(mine, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max().clamp(min=1)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_to_second_order(kind):
    given = drawn(kind, (2, 4, 3), grad=True)
    assert gradcheck(scan(kind), given)
    assert gradgradcheck(scan(kind), given)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_threads_and_neighbours_change_no_bit(kind):
    a, b, x = drawn(kind, (6, 40, 700), torch.float32)
    expected, before = scan(kind)(a, b, x), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(scan(kind)(a, b, x), expected)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(scan(kind)(a[2:3], b[2:3], x[2:3]), expected[2:3])
    strided = b.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous() and torch.equal(scan(kind)(a, strided, x), expected)
    alike = a[:, :1].expand_as(a)
    assert torch.equal(scan(kind)(alike, b, x), scan(kind)(alike.contiguous(), b, x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)], ids=str)
def test_nothing_to_do(kind, shape):
    given = drawn(kind, shape, grad=True)
    found = scan(kind)(*given)
    assert found.shape == given[1].shape
    for slope, own in zip(torch.autograd.grad(found.abs().sum(), given, allow_unused=True), given, strict=True):
        assert slope is None or (slope.shape == own.shape and slope.eq(0).all())
