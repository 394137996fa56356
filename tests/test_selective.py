"""The selective layer against its equations in a plain loop, and against the linear layer that it contains."""

import cmath
import math

import numpy as np
import pytest
import torch

from ctlssl.layers import SelectiveLSSL
from tests.contracts import generator, layer_batch


def by_hand(layer, u, dt):
    """The docstring's equations for one series, u (L, H) and dt (L,)."""
    given = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    H, n = layer.channels, layer.state_size // 2
    h, past, outputs = np.zeros((H, n), complex), np.zeros(H), []
    past_B = np.zeros(n, complex)
    for row, gap in zip(u, dt, strict=True):
        gate = np.log1p(np.exp(given["gate.weight"] @ row + given["gate.bias"]))
        delta = gap * np.exp(given["log_step"]) * gate
        theta = math.pi * np.tanh(given["rotation"] @ row)
        pairs = {name: (given[name] @ row)[:n] + 1j * (given[name] @ row)[n:] for name in "BC"}
        share = 1 / (1 + np.exp(-(given["mixture"] @ row))) if layer.mixture is not None else None
        y = given["D"] * row
        for c in range(H):
            for j in range(n):
                rate = complex(-np.exp(given["log_decay"][c]), theta[j])
                alpha = cmath.exp(delta[c] * rate)
                if share is None:
                    h[c, j] = alpha * h[c, j] + (alpha - 1) / rate * pairs["B"][j] * row[c]
                else:
                    h[c, j] = alpha * h[c, j] + (1 - share) * delta[c] * alpha * past_B[j] * past[c]
                    h[c, j] += share * delta[c] * pairs["B"][j] * row[c]
                y[c] += (np.conj(pairs["C"][j]) * h[c, j]).real
        past, past_B = row, pairs["B"]
        outputs.append(y)
    return np.array(outputs)


@pytest.mark.parametrize("method", ["zoh", "trapezoid"])
def test_against_a_plain_loop(method):
    layer = SelectiveLSSL(3, 4, method=method, step_range=(0.2, 1.0)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    u, dt = layer_batch(generator("selective", method), 2, 8)
    y, _ = layer(u, dt)
    for b in range(2):
        assert np.abs(y[b].detach().numpy() - by_hand(layer, u[b].numpy(), dt[b].numpy())).max() < 1e-12


def test_zoh_stays_bounded_at_huge_gaps_and_the_trapezoid_does_not():
    u, sizes = torch.ones(1, 1, 2), {}
    for method in ("zoh", "trapezoid"):
        torch.default_generator.manual_seed(1)
        layer = SelectiveLSSL(2, 4, method=method)
        sizes[method] = [layer(u, gap)[1].x.abs().max().item() for gap in (1e3, 1e6)]
    assert sizes["zoh"][1] < 1.5 * sizes["zoh"][0] + 1
    assert sizes["trapezoid"][1] > 500 * sizes["trapezoid"][0]


def test_a_row_can_be_passed_over():
    """A gate near 0 makes no time pass: neither decay nor drive."""
    layer = SelectiveLSSL(1, 2, step_range=(1.0, 1.0)).double()
    with torch.no_grad():
        layer.gate.weight.fill_(-100.0)
    _, state = layer(torch.tensor([[[-1.0], [-2.0]]]).double())
    _, after = layer(torch.tensor([[[1.0]]]).double(), 5.0, state=state)
    assert state.x.abs().max() > 0 and (after.x - state.x).abs().max() < 1e-12 * state.x.abs().max()


def test_doors():
    with pytest.raises(ValueError, match="the state even; found 2 and 3"):
        SelectiveLSSL(2, 3)
    with pytest.raises(ValueError, match="there are trapezoid, zoh"):
        SelectiveLSSL(2, 4, method="foh")
