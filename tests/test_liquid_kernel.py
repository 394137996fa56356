"""The convolution forms of the liquid layer against their definitions, computed by loops."""

import itertools

import numpy as np
import pytest
import torch

from ctlssl.layers import LiquidKernelLSSL, LiquidLSSL
from tests.contracts import generator, layer_batch
from tests.test_liquid import numbers, row

KERNELS = [
    pytest.param({"kernel": kernel, "degree": degree, "method": method, "lags": 3}, id=f"{kernel}, {degree}, {method}")
    for kernel, degree, method in itertools.product(("kb", "pb"), (1, 2, 4), ("bilinear", "zoh"))
]


def build(**options):
    torch.default_generator.manual_seed(1)
    layer = LiquidKernelLSSL(2, 4, **{"step_range": (0.2, 1.0), "measure": "lin"} | options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def naive(layer, options, u, dt):
    """The definitions, with Abar and Bbar of each row's gap."""
    poles, b, c, D, steps = numbers(layer)
    y = np.zeros(u.shape)
    for s, h, j, k in itertools.product(range(u.shape[0]), range(2), range(poles.shape[1]), range(u.shape[1])):
        rows = [row(options, poles[h, j], b[h, j], steps[h] * float(dt[s, i]), 1.0, False) for i in range(k + 1)]
        total = 0.0
        for p, i in itertools.product(range(1, options["degree"] + 1), range(k + 1)):
            if i - p + 1 < 0:
                continue
            product = np.prod([float(u[s, i - q, h]) for q in range(p)]) * rows[i][2] ** p
            if options["kernel"] == "kb" or p == 1:
                total += np.prod([rows[q][0] for q in range(i + 1, k + 1)]) * product
            elif k - i < options["lags"]:
                total += product
        y[s, k, h] += (c[h, j].conjugate() * total).real
    return torch.from_numpy(y) + D * u


@pytest.mark.parametrize("options", KERNELS)
def test_definition(options):
    layer, (u, dt) = build(**options), layer_batch(generator("definition", options), 2, 7, channels=2)
    expected = naive(layer, options, u, dt)
    assert (layer(u, dt)[0] - expected).abs().max() <= 1e-12 * expected.abs().max()
    expected = naive(layer, options, u, torch.full_like(dt, 0.7))
    assert (layer(u, 0.7, view="convolution")[0] - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("options", KERNELS)
def test_convolution_goes_on_from_a_state(options):
    layer, (u, _) = build(**options), layer_batch(generator("state", options), 3, 30, channels=2)
    lengths = torch.tensor([30, 4, 0])
    _, state = layer(u[:, :5], 0.4)
    found, after = layer(u, 0.4, lengths, state, view="convolution")
    expected, last = layer(u, 0.4, lengths, state)
    for mine, theirs in ((found, expected), (after.x, last.x), (after.u, last.u)):
        assert (mine - theirs).abs().max() <= 1e-11 * theirs.abs().max()


@pytest.mark.parametrize("options", KERNELS)
def test_causal(options):
    layer, (u, _) = build(**options), layer_batch(generator("causal", options), 1, 12, channels=2)
    other = u.clone()
    other[:, 8:] += 1
    for view in ("recurrence", "convolution"):
        one, two = (layer(part, 0.5, view=view)[0] for part in (u, other))
        assert (one[:, :8] - two[:, :8]).abs().max() <= 1e-13 * one.abs().max()
        assert (one[:, 8:] - two[:, 8:]).abs().max() > 1e-3


def test_first_product_of_the_liquid_layer():
    """One order is the linear system, which every liquid layer is where inputs are small."""
    u, dt = layer_batch(generator("linear"), 2, 20, channels=2)
    linear, cut = build(degree=1), LiquidLSSL(2, 4, degree=1).double()
    cut.load_state_dict(linear.state_dict())
    expected = linear(u, dt)[0]
    assert (cut(u, dt)[0] - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_gradients():
    for options in ({"kernel": "kb", "degree": 3}, {"kernel": "pb", "degree": 3, "lags": 2}):
        layer, (u, dt) = build(**options), layer_batch(generator("gradients", options), 1, 5, channels=2)
        given = [part.clone().requires_grad_() for part in (u, dt)]
        assert torch.autograd.gradcheck(lambda u, dt, layer=layer: layer(u, dt)[0], given)
        by_view = []
        for view in ("recurrence", "convolution"):
            y, _ = layer(given[0], 0.5, view=view)
            by_view.append(torch.autograd.grad(y.square().sum(), [given[0], *layer.parameters()]))
        for mine, theirs in zip(*by_view, strict=True):
            assert (mine - theirs).abs().max() <= 1e-10 * max(theirs.abs().max().item(), 1e-3)


def test_doors():
    for wrong in ({"kernel": "other"}, {"lags": 0}):
        with pytest.raises(ValueError, match="kernel is one of kb, pb, lags at least 1; found"):
            build(**wrong)
    layer, u = build(), torch.zeros(1, 3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs one gap"):
        layer(u, torch.tensor([1.0, 1.0, 2.0]), view="convolution")
    with pytest.raises(ValueError, match="use view='recurrence' for queries"):
        layer(u, 1.0, is_query=torch.tensor([False, True, False]), view="convolution")
