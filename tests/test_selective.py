"""The selective layer against its equations in a plain loop, and against the linear layer that it contains."""

import cmath
import math

import numpy as np
import pytest
import torch

from ctlssl.discretization import METHODS
from ctlssl.layers import SelectiveLSSL
from ctlssl.state_matrices import Diagonal
from ctlssl.state_space import StateSpace
from ctlssl.views import recurrence
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


def constant(method, share=0.5):
    """A layer whose gates, maps and rotation read the first channel alone: with 1 there, linear in the second one."""
    layer = SelectiveLSSL(2, 4, method=method, step_range=(0.2, 1.0)).double()
    with torch.no_grad():
        for weights in (layer.gate.weight, layer.rotation, layer.B, layer.C):
            weights[:, 1:] = 0
        layer.gate.weight[:, 0] = 0.4
        layer.D.zero_()
        if layer.mixture is not None:
            layer.mixture[0], layer.mixture[1] = math.log(share / (1 - share)) if share < 1 else 800.0, 0
    return layer


def system_of(layer):
    """What the second channel of such a layer is, with B per unit of time."""
    step = layer.log_step[1].exp() * torch.nn.functional.softplus(layer.gate.weight[1, 0] + layer.gate.bias[1])
    turn = math.pi * torch.tanh(layer.rotation[:, 0])
    poles = Diagonal((-layer.log_decay[1].exp() * step * torch.ones_like(turn))[None], (turn * step)[None])
    return StateSpace(poles, step * layer.B[:, 0][None], layer.C[:, 0][None, None], torch.zeros(1, 1).double())


def with_ones(u):
    """The input (B, L, 1) beside a channel of 1."""
    return torch.cat([torch.ones_like(u), u], -1)


def test_constant_gates_leave_a_linear_layer():
    """zoh is the exact rule; the trapezoid with a share of 1 takes each input as a kick of the gap's length."""
    u, dt = layer_batch(generator("constant gates"), 2, 9, channels=1)
    layer = constant("zoh")
    expected = recurrence(system_of(layer), METHODS["zoh"], u, dt).y
    assert (layer(with_ones(u), dt)[0][..., 1:] - expected).abs().max() < 1e-13 * expected.abs().max()
    layer = constant("trapezoid", share=1.0)
    expected = recurrence(system_of(layer), METHODS["impulse"], u * dt[..., None], dt).y
    assert (layer(with_ones(u), dt)[0][..., 1:] - expected).abs().max() < 1e-13 * expected.abs().max()


@pytest.mark.parametrize(("share", "order"), [(1.0, 1), (0.5, 2)])
def test_order_of_the_trapezoid(share, order):
    """Of a smooth input on finer and finer irregular grids, against the integral in closed form."""
    layer = constant("trapezoid", share)
    system = system_of(layer)
    poles, C = system.A.poles[0], torch.complex(*system.outputs[0, 0].chunk(2))
    B, end = torch.complex(*system.B[0].chunk(2)), 6.0
    # u = cos t = Re e^{it}; x(T) = B times the integral of e^{lambda (T - t)} cos t.
    swung = sum((cmath.exp(w * end) - torch.exp(poles * end)) / (2 * (w - poles)) for w in (1j, -1j))
    expected = (C.conj() * B * swung).real.sum()
    inside = torch.rand(63, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    times, errors = end * torch.cat([torch.zeros(1), inside, torch.ones(1)]).sort().values, []
    for _ in range(3):
        times = torch.cat([times, (times[1:] + times[:-1]) / 2]).sort().values
        y, _ = layer(with_ones(times.cos()[None, :, None]), times.diff(prepend=times[:1])[None])
        errors.append((y[0, -1, 1] - expected).abs().item())
    assert abs(math.log2(errors[-2] / errors[-1]) - order) < 0.1


@pytest.mark.parametrize("gap", [1e-9, 1e-4])
def test_short_gaps_lose_no_digit(gap):
    """After one row from rest the state is the gap's share of B u to first and second order in the gap."""
    layer = constant("zoh")
    u = torch.full((1, 1, 1), 0.7, dtype=torch.float64)
    _, state = layer(with_ones(u), gap)
    system = system_of(layer)
    z = system.A.poles[0] * gap
    expected = torch.complex(*system.B[0].chunk(2)) * gap * (1 + z / 2 + z * z / 6) * 0.7
    found = torch.complex(*state.x[0, 1].chunk(2))
    assert ((found - expected).abs() / expected.abs()).max() < 1e-12


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
