"""The fused loops against their plain torch twin: values, gradients, and what must not change a bit."""

import numpy as np
import pytest
import torch

from ctlssl.holds import HOLDS
from ctlssl.kernels import diagonal_bank, diagonal_states, plain_torch
from ctlssl.kernels.diagonal import _bank, _bank_adjoint, _states
from tests.contracts import generator, same_bits, wide_gaps
from tests.problems import relative_error

WEIGHTS = {name: (*(w for pair in (h.previous, h.next) for w in pair), h.kick) for name, h in HOLDS.items()}
RULES = {"exact": -1.0, "bilinear": 0.5, "gbt(0.8)": 0.8}


def arguments(rng, hold, rule, batch=3, length=9, channels=2, pairs=3, heads=2, gaps=None):
    """Float64 arguments of a bank, a query and a padded row among them; the first pole is zero."""
    real, imag = -rng.uniform(0.1, 2.0, (channels, pairs)), rng.uniform(-9.0, 9.0, (channels, pairs))
    real[0, 0] = imag[0, 0] = 0.0
    kinds = np.ones((batch, length), np.uint8)
    if length > 2:
        kinds[0, 1], kinds[-1, -1] = 2, 0
    gaps = rng.exponential(0.5, (batch, length)) if gaps is None else gaps
    shapes = ((batch, length, channels), (batch, length, channels))
    u, held = (torch.from_numpy(rng.standard_normal(shape)) for shape in shapes)
    shapes = ((channels, 2 * pairs), (channels, heads, 2 * pairs), (batch, channels, 2 * pairs))
    B, C, x = (torch.from_numpy(rng.standard_normal(shape)) for shape in shapes)
    poles = torch.from_numpy(np.concatenate([real, imag], axis=1))
    held = held if any(WEIGHTS[hold][:2]) else None
    clock = (torch.from_numpy(np.asarray(gaps, dtype=np.float64)), torch.from_numpy(kinds))
    return [u, held, *clock, poles, B, C, x, list(WEIGHTS[hold]), RULES[rule]]


def cast(given, dtype):
    """The same with states, inputs and maps in another precision; gaps and poles stay float64."""
    return [v.to(dtype) if isinstance(v, torch.Tensor) and k in (0, 1, 5, 6, 7) else v for k, v in enumerate(given)]


def values_and_gradients(run, given, clocked=True):
    places = [k for k in (0, 1, 2, 4, 5, 6, 7) if given[k] is not None and (clocked or k != 2)]
    given = list(given)
    for k in places:
        given[k] = given[k].detach().clone().requires_grad_()
    y, last = run(*given)
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    loss = (y * weights).sum() + last.square().sum()
    return [y.detach(), last.detach(), *torch.autograd.grad(loss, [given[k] for k in places])]


def twin(*given):
    with plain_torch():
        return diagonal_bank(*given)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hold", HOLDS)
def test_bank_is_its_twin(hold, rule):
    """Values and all gradients, both precisions, around the lane count and the distance of checkpoints."""
    rng = generator("bank", hold, rule)
    for length, pairs, channels in ((0, 3, 2), (1, 1, 1), (63, 3, 2), (65, 31, 2), (129, 33, 1)):
        given = arguments(rng, hold, rule, 2, length, channels, pairs)
        expected = values_and_gradients(twin, given)
        for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-4)):
            found = values_and_gradients(diagonal_bank, cast(given, dtype))
            for ours, theirs in zip(found, expected, strict=True):
                assert relative_error(ours, theirs) < tolerance


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hold", HOLDS)
def test_gaps_of_1e_minus_9_to_1e9(hold, rule):
    """Against the twin in float64 from the same numbers; the gradients stay finite."""
    rng = generator("wide", hold, rule)
    given = arguments(rng, hold, rule, 1, 40, 2, 4, gaps=wide_gaps(rng, 40)[None])
    given[4][0, 0] = -0.3  # a pole at zero would sum inputs over 1e9 units of time
    single = cast(given, torch.float32)
    reference = values_and_gradients(twin, cast(single, torch.float64))
    for numbers, tolerance in ((cast(single, torch.float64), 1e-12), (single, 1e-5)):
        found = values_and_gradients(diagonal_bank, numbers)
        for ours, theirs in zip(found[:2], reference[:2], strict=True):
            assert relative_error(ours, theirs) < tolerance
        assert all(torch.isfinite(part).all() for part in found)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hold", ["next", "linear", "impulse"])
def test_first_derivatives(hold, rule):
    rng = generator("derivatives", hold, rule)
    given = arguments(rng, hold, rule, 2, 4, 2, 2)
    given[2][0, 0], given[2][0, 2] = 1e-3, 4.0
    places = [k for k in (0, 1, 2, 4, 5, 6, 7) if given[k] is not None]

    def run(*leaves):
        full = list(given)
        for k, leaf in zip(places, leaves, strict=True):
            full[k] = leaf
        return diagonal_bank(*full)

    assert torch.autograd.gradcheck(run, [given[k].clone().requires_grad_() for k in places])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_are_their_twin(dtype):
    rng = generator("states", dtype)
    for length, n, ramp, kick, rule in ((0, 3, True, False, "exact"), (65, 33, True, False, "exact")) + (
        (7, 32, False, True, "exact"), (17, 5, False, False, "bilinear"),
    ):  # fmt: skip
        numbers = [torch.from_numpy(rng.standard_normal((2, length, 1, 2 * n))).to(dtype) for _ in range(2)]
        poles = torch.from_numpy(np.concatenate([-rng.uniform(0.1, 1, (1, n)), rng.uniform(-5, 5, (1, n))], 1))
        x, gaps = torch.from_numpy(rng.standard_normal((2, 1, 2 * n))).to(dtype), rng.exponential(0.5, (2, length))
        kinds = torch.from_numpy(rng.integers(1, 3, (2, length)).astype(np.uint8))
        results = []
        for plain in (False, True):
            leaves = [v.clone().requires_grad_() for v in (*numbers, torch.from_numpy(gaps), poles, x)]
            given = (leaves[0], leaves[1] if ramp else None, leaves[2], kinds, leaves[3], leaves[4], kick, RULES[rule])
            if plain:
                with plain_torch():
                    shown, last = diagonal_states(*given)
            else:
                shown, last = diagonal_states(*given)
            loss = shown.square().sum() + last.sum()
            grads = torch.autograd.grad(loss, leaves, allow_unused=True)
            results.append([shown.detach(), last.detach(), *(g for g in grads if g is not None and g.numel())])
        for ours, theirs in zip(*results, strict=True):
            assert relative_error(ours, theirs) < (1e-11 if dtype == torch.float64 else 2e-4)


def test_no_bit_depends_on_padding_neighbours_or_threads():
    rng = generator("bits")
    given = cast(arguments(rng, "linear", "exact", 6, 70, 5, 7), torch.float32)
    expected = values_and_gradients(diagonal_bank, given)
    spoiled = list(given)
    spoiled[0], spoiled[2] = given[0].clone(), given[2].clone()
    spoiled[0][-1, -1], spoiled[2][-1, -1] = 1e30, 7.0
    for ours, theirs in zip(values_and_gradients(diagonal_bank, spoiled), expected, strict=True):
        assert same_bits(ours, theirs)
    alone = [v[:1] if k in (0, 1, 2, 3, 7) else v for k, v in enumerate(given)]
    assert same_bits(diagonal_bank(*alone)[0], expected[0][:1])
    threads = torch.get_num_threads()
    large = cast(arguments(rng, "next", "exact", 40, 70, 5, 7), torch.float32)
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(values_and_gradients(diagonal_bank, large))
        for ours, theirs in zip(*results, strict=True):
            assert same_bits(ours, theirs)
    finally:
        torch.set_num_threads(threads)


def test_expanded_and_strided_inputs():
    rng = generator("strides")
    given = arguments(rng, "linear", "exact", 3, 6, 2, 3)
    given[0] = given[0][:1].expand(3, -1, -1)
    given[2] = given[2].repeat_interleave(2, dim=1)[:, ::2]
    given[6] = given[6].transpose(0, 1).contiguous().transpose(0, 1)
    for ours, theirs in zip(diagonal_bank(*given), twin(*given), strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_operators_obey_torch():
    rng = generator("opcheck")
    given = arguments(rng, "linear", "exact", 2, 3, 2, 2)
    leaves = [v.requires_grad_() if k in (0, 1, 2, 4, 5, 6, 7) else v for k, v in enumerate(given)]
    torch.library.opcheck(_bank, (*leaves, True))
    drive = torch.ones(2, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    start = torch.zeros(2, 1, 4, dtype=torch.float64)
    torch.library.opcheck(_states, (drive, None, *leaves[2:4], leaves[4][:1].detach(), start, False, -1.0, True))


def test_second_derivatives_are_the_twins():
    """Keeping the graph of a backward pass takes the twin; the fused adjoint itself refuses."""
    rng = generator("second")
    given = arguments(rng, "next", "exact", 1, 3, 1, 1, 1)
    u, poles = given[0].clone().requires_grad_(), given[4].clone().requires_grad_()

    def run(u, poles):
        return diagonal_bank(u, *given[1:4], poles, *given[5:])[0]

    assert torch.autograd.gradgradcheck(run, (u, poles))
    _, _, kept = _bank(*given, True)
    gy = torch.ones(1, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    found = _bank_adjoint(gy, torch.zeros_like(given[7]), kept, *given, False)
    with pytest.raises(RuntimeError, match="plain_torch"):
        found[0].sum().backward()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_the_room_for_checkpoints_is_what_the_loops_fill(length):
    from ctlssl.kernels import diagonal, loops

    for keep in (True, False):
        assert diagonal._checkpoints(torch.zeros(2, 3, 4), length, keep).shape[1] == loops.checkpoints(length, keep)
