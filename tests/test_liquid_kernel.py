"""The fused liquid loop against its twin, finite differences, and itself in other company."""

import pytest
import torch
from torch.autograd import gradcheck

from ctlssl.kernels.liquid import liquid_bank, liquid_twin
from tests.contracts import generator, wide_gaps

WAYS = [(alpha, guard) for alpha in (-1.0, 0.5, 1.0) for guard in (True, False)]


def drawn(seed, B=3, L=70, H=2, n=3, dtype=torch.float64, size=1.0):
    rng = generator("liquid kernel", seed, B, L)

    def real(*shape):
        return torch.from_numpy(rng.standard_normal(shape))

    kinds = torch.from_numpy(rng.choice(3, (B, L), p=[0.1, 0.7, 0.2])).to(torch.uint8)
    poles = torch.complex(-real(n).exp(), 3 * real(n))
    maps = [torch.complex(real(H, n), real(H, n)) for _ in range(2)]
    x = torch.complex(real(B, H, n), real(B, H, n))
    gaps = torch.from_numpy(rng.exponential(0.5, (B, L)))
    return [(size * real(B, L, H)).to(dtype), 0.3 * real(H).exp(), gaps, kinds, poles, *maps, x]


def learned(given):
    return [t.requires_grad_() if t.dtype != torch.uint8 else t for t in given]


@pytest.mark.parametrize(("alpha", "guard"), WAYS)
def test_twin(alpha, guard):
    given = learned(drawn(alpha, size=1.0 if guard else 0.2))
    inputs = [t for t in given if t.requires_grad]
    found, expected = liquid_bank(*given, alpha, guard), liquid_twin(*given, alpha, guard)
    slopes = [torch.randn_like(part) for part in expected]
    results = [torch.autograd.grad(run, inputs, slopes) for run in (found, expected)]
    for mine, theirs in (*zip(found, expected, strict=True), *zip(*results, strict=True)):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        assert (mine - theirs).abs().max() <= 1e-10 * theirs.abs().max()


@pytest.mark.parametrize(("alpha", "guard"), WAYS)
def test_finite_differences(alpha, guard):
    given = learned(drawn(alpha, B=1, L=4, n=2))
    assert gradcheck(lambda *tensors: liquid_bank(*tensors, alpha, guard), given)


@pytest.mark.parametrize("alpha", [-1.0, 0.5])
def test_gaps_of_eighteen_decades(alpha):
    given = drawn("wide", B=1, L=19, dtype=torch.float32)
    given[2] = torch.from_numpy(wide_gaps(generator("gaps"), 19))[None]
    exact = [given[0].double(), *given[1:]]
    given, exact = learned(given), learned(exact)
    y, last = liquid_bank(*given, alpha, True)
    expected, end = liquid_twin(*exact, alpha, True)
    assert (y - expected).abs().max() <= 1e-5 * expected.abs().max() and (last - end).abs().max() <= 1e-12
    (y.square().sum() + last.abs().sum()).backward()
    assert all(t.grad.isfinite().all() for t in given if t.requires_grad)


def test_neighbours_threads_and_padding_change_no_bit():
    given = drawn("bits", B=8, L=200, H=5, dtype=torch.float32)
    expected, before = liquid_bank(*given, 0.5, True), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, liquid_bank(*given, 0.5, True), expected))
    finally:
        torch.set_num_threads(before)
    alone = [part[2:3] if i in (0, 2, 3, 7) else part for i, part in enumerate(given)]
    assert all(
        torch.equal(mine, theirs[2:3]) for mine, theirs in zip(liquid_bank(*alone, 0.5, True), expected, strict=True)
    )
    wild = given[0].clone()
    wild[given[3] == 0] = float("nan")
    assert torch.equal(liquid_bank(wild, *given[1:], 0.5, True)[0], expected[0])


@pytest.mark.parametrize(("B", "L"), [(0, 3), (2, 0), (1, 1), (1, 64), (1, 65)])
def test_sizes(B, L):
    given = learned(drawn("sizes", B=B, L=L))
    y, last = liquid_bank(*given, 0.5, True)
    expected, end = liquid_twin(*given, 0.5, True)
    assert torch.allclose(y, expected, atol=1e-12) and torch.allclose(last, end, atol=1e-12)
    (y.sum() + last.real.sum()).backward()
