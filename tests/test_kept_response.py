"""LSSL-fixed: what the convolution keeps between calls changes no number, and notices what changes."""

import copy
import threading

import pytest
import torch

from ctlssl.layers.lssl import LSSL
from ctlssl.views import convolution
from ctlssl.views.kept_response import KeptResponse
from tests.contracts import KIND_PARAMS, STRUCTURE_PARAMS, generator, layer_batch, make_layer, same_bits, sampled
from tests.problems import relative_error

METHODS = ["bilinear", "zoh", "foh", "impulse"]


def kept(layer):
    return layer._kept_response._known


@pytest.mark.parametrize(("structure", "method", "multi_input"), sampled(0.3, STRUCTURE_PARAMS, METHODS, KIND_PARAMS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_kept_is_fresh_is_the_recurrence(structure, method, multi_input, dtype):
    """Outputs, final states and gradients of u, C and D; ragged, from a state, of many lengths; the second call too."""
    rng = generator("kept", structure.name, method, multi_input, dtype)
    layer = make_layer(structure.name, method, multi_input, dtype, learn=())
    tolerance = 1e-11 if dtype == torch.float64 else 3e-5
    state = layer(*layer_batch(rng, 2, 3, dtype=dtype))[1].detach()
    for L in (1, 40, 97, 40):
        u, _ = layer_batch(rng, 2, L, dtype=dtype)
        for given in ({}, {"lengths": torch.tensor([L, L // 2])}, {"state": state}):
            fresh = convolution(layer.system(), layer.method, u, torch.full((2, L), 0.2, dtype=torch.float64), **given)
            results = []
            for view in ("recurrence", "convolution", "convolution"):
                leaf = u.clone().requires_grad_()
                layer.zero_grad()
                y, after = layer(leaf, 0.2, view=view, **given)
                (y.square().sum() + after.x.sum()).backward()
                results.append([y, after.x, leaf.grad, *(p.grad.clone() for p in layer.parameters())])
            assert all(same_bits(a, b) for a, b in zip(results[1], results[2], strict=True))
            for found, expected in zip(results[1], results[0], strict=True):
                assert relative_error(found.detach(), expected.detach()) < tolerance
            for found, expected in zip(results[1], (fresh.y, fresh.state.x), strict=False):
                assert relative_error(found.detach(), expected.detach()) < tolerance
    assert kept(layer) is not None


def test_every_change_is_noticed():
    """Weights that are loaded, edited in place or through numpy, and another gap."""
    rng = generator("noticed")
    layer = make_layer("quasiseparable", "bilinear", learn=())
    u, _ = layer_batch(rng, 2, 40)

    def right(dt):
        with torch.no_grad():
            found, expected = (layer(u, dt, view=view)[0] for view in ("convolution", "recurrence"))
        return relative_error(found, expected) < 1e-11

    assert right(0.2) and right(0.2)
    before = kept(layer)
    layer.C.data.mul_(2.0)
    assert right(0.2) and kept(layer) is before, "C is no part of what is kept"
    for change in (
        lambda: layer.log_step.add_(0.3),
        lambda: layer.log_step.numpy().__iadd__(0.1),
        lambda: layer.B.data.mul_(-1.0),
        lambda: layer.A_log_P.add_(0.1),
        lambda: layer.load_state_dict(make_layer("quasiseparable", "bilinear", learn=()).state_dict()),
        lambda: layer.float(),
        lambda: layer.double(),
    ):
        change()
        assert right(0.2)
    assert right(0.3) and right(0.2)
    assert layer(u, 0.2, view="convolution")[0].requires_grad


def test_only_what_is_fixed_is_kept():
    rng = generator("fixed only")
    u, _ = layer_batch(rng, 2, 40)
    for learn in (("A",), ("B",), ("step",), ("A", "B", "step")):
        layer = make_layer("dplr", "bilinear", learn=learn)
        layer(u, 0.2, view="convolution")
        assert kept(layer) is None
        expected = convolution(layer.system(), layer.method, u, torch.full((2, 40), 0.2, dtype=torch.float64)).y
        assert same_bits(layer(u, 0.2, view="convolution")[0], expected)
    layer = make_layer("dplr", "bilinear", learn=())
    dt = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(layer(u, dt, view=view)[0].sum(), dt)[0] for view in ("convolution", "recurrence")]
    assert relative_error(slopes[0], slopes[1]) < 1e-10 and kept(layer) is None


def test_what_inference_mode_kept_can_be_trained_with():
    rng = generator("inference")
    layer = make_layer("quasiseparable", "foh", learn=())
    u, _ = layer_batch(rng, 2, 50)
    with torch.inference_mode():
        first, _ = layer(u, 0.2, view="convolution")
    known = kept(layer)
    y, _ = layer(u, 0.2, view="convolution")
    y.sum().backward()
    assert kept(layer) is known is not None
    assert same_bits(y, first) and layer.C.grad.any()
    with torch.inference_mode():
        shorter, _ = layer(u[:, :23], 0.2, view="convolution")
    y, _ = layer(u[:, :23], 0.2, view="convolution")
    y.sum().backward()
    assert same_bits(y, shorter)


def test_it_is_nobody_elses():
    """A copy keeps for itself; a saved layer keeps nothing; both passes of a bidirectional layer share one."""
    rng = generator("nobody")
    layer = make_layer("quasiseparable", "bilinear", learn=(), bidirectional=True)
    u, _ = layer_batch(rng, 2, 40)
    y, _ = layer(u, 0.2, view="convolution")
    assert kept(layer) is not None
    other = copy.deepcopy(layer)
    assert kept(other) is None
    with torch.no_grad():
        other.log_step += 1.0
    assert not same_bits(other(u, 0.2, view="convolution")[0], y) and same_bits(layer(u, 0.2, view="convolution")[0], y)
    assert not any("kept" in name for name in layer.state_dict())
    assert relative_error(layer(u, 0.2, view="recurrence")[0].detach(), y.detach()) < 1e-11


def test_threads_share_it():
    layer = make_layer("quasiseparable", "bilinear", learn=())
    rng, found = generator("threads"), []
    batches = [layer_batch(rng, 2, L)[0] for L in (40, 97, 130, 64)]
    expected = [layer(u, 0.2, view="convolution")[0].detach() for u in batches]
    layer._kept_response = KeptResponse()

    def run(k):
        for u, y in zip(batches[k:] + batches[:k], expected[k:] + expected[:k], strict=True):
            with torch.no_grad():
                found.append(same_bits(layer(u, 0.2, view="convolution")[0], y))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and all(found)


def test_it_stays_small():
    """Fewer numbers than a Krylov matrix (H, N, L), and hardly more for a record that is four times as long."""
    H, N, sizes = 4, 32, []
    layer = LSSL(H, N, learn=())
    for L in (1000, 4000, 16000):
        layer._kept_response = KeptResponse()
        layer(torch.zeros(1, L, H), 0.1, view="convolution")
        sizes.append(layer._kept_response.numbers)
        assert sizes[-1] < 0.5 * H * N * L
    assert sizes[2] < 2.5 * sizes[0] and sizes[2] < 0.05 * H * N * 16000
