"""The almost-linear layer against naive loops, scipy's solver, finite differences and cases worked out by hand."""

import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ctlssl.kernels import almost_linear_scan, plain_torch
from ctlssl.layers import AlmostLinearLSSL
from ctlssl.views import State
from tests.contracts import generator, layer_batch


def make(rng, channels=2, state_size=5, relus=2, spread=1.0):
    """A layer in float64 with drawn parameters, among them weights of size `spread` times their start."""
    layer = AlmostLinearLSSL(channels, state_size, relus=relus, step_range=(0.2, 1.0)).double()
    with torch.no_grad():
        layer.W.mul_(spread)
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.from_numpy(rng.standard_normal(parameter.shape)))
    return layer


def arrays(layer):
    """Step, a, W, b, B, C, D as numpy arrays."""
    step, a = np.exp(layer.log_step.detach().numpy()), np.exp(layer.log_decay.detach().numpy())
    return step, a, *(part.detach().numpy() for part in (layer.W, layer.bias, layer.B, layer.C, layer.D))


def phi_star(z, relus):
    """The last `relus` numbers of z cut off below 0, one at a time."""
    return np.array([max(v, 0.0) if i >= len(z) - relus else v for i, v in enumerate(z)])


def flow(layer, z, u):
    """z' per unit of the clock."""
    step, a, W, b, B, _, _ = arrays(layer)
    return step * (-a * z + W @ phi_star(z, layer.relus) + b + B @ u)


@pytest.mark.parametrize("relus", [0, 1, 5])
def test_naive_loop(relus):
    rng = generator("naive", relus)
    layer, (u, dt) = make(rng, relus=relus), layer_batch(rng, 2, 7, channels=2)
    start = rng.standard_normal((2, 5))
    y, state = layer(u, dt, state=State(torch.from_numpy(start), torch.zeros(2, 2).double()))
    step, a, W, b, B, C, D = arrays(layer)
    for s in range(2):
        z = start[s]
        for k in range(7):
            h = step * dt[s, k].item()
            came = W @ phi_star(z, relus) + b + B @ u[s, k].numpy()
            z = np.exp(-a * h) * z + (1 - np.exp(-a * h)) / a * came
            np.testing.assert_allclose(y[s, k].detach(), C @ z + D * u[s, k].numpy(), atol=1e-12)
        np.testing.assert_allclose(state.x[s].detach(), z, atol=1e-12)


def test_equal_gaps_are_the_recurrence_of_the_paper():
    """z_t = A z_{t-1} + W' Phi*(z_{t-1}) + h, with one diagonal A and one W' for all rows."""
    rng = generator("paper")
    layer, gap = make(rng), 0.7
    step, a, W, b, _, C, _ = arrays(layer)
    A = np.exp(-a * step * gap)
    weights, h = ((1 - A) / a)[:, None] * W, (1 - A) / a * b
    y, _ = layer(torch.zeros(1, 6, 2).double(), gap)
    z = np.zeros(5)
    for k in range(6):
        z = A * z + weights @ phi_star(z, 2) + h
        np.testing.assert_allclose(y[0, k].detach(), C @ z, atol=1e-12)


def test_steps_approach_the_flow():
    """The error against scipy's solver falls with the gap: order 1."""
    rng = generator("flow")
    layer, u = make(rng), rng.standard_normal(2)
    truth = solve_ivp(lambda t, z: flow(layer, z, u), (0, 2.0), np.zeros(5), rtol=1e-10, atol=1e-12).y[:, -1]
    errors = []
    for rows in (200, 400):
        _, state = layer(torch.from_numpy(u).expand(1, rows, 2), 2.0 / rows)
        errors.append(np.abs(state.x[0].detach().numpy() - truth).max())
    assert errors[0] < 0.02 * np.abs(truth).max() and errors[1] == pytest.approx(errors[0] / 2, rel=0.1)


@pytest.mark.parametrize("relus", [0, 2, 3])
def test_fixed_points(relus):
    """The flow vanishes at the real ones, and at no gap does the layer move them."""
    rng = generator("fixed points", relus)
    for _ in range(4):
        layer, u = make(rng, relus=relus, spread=2.0), torch.from_numpy(rng.standard_normal(2))
        points = layer.fixed_points(u)
        assert len(points.state) == 2**relus
        for region in range(2**relus):
            z = points.state[region].numpy()
            own = sum(2**i for i in range(relus) if z[5 - relus + i] > 0)
            assert bool(points.real[region]) == (own == region)
            assert (np.abs(flow(layer, z, u.numpy())).max() < 1e-9) == bool(points.real[region])
            for gap in (1e-3, 0.5, 1e4):
                state = State(points.state[region][None], torch.zeros(1, 2).double())
                _, after = layer(u[None, None], gap, state=state)
                if points.real[region]:
                    assert torch.allclose(after.x, state.x, atol=1e-9)


def test_eigenvalues_are_those_of_the_jacobians():
    """Finite differences of the flow and of one step, inside a region."""
    rng = generator("eigenvalues")
    layer, gap, tiny = make(rng), 0.4, 1e-6
    z = rng.standard_normal(5)
    region = int(layer.code(torch.from_numpy(z)))

    def step(z):
        state = State(torch.from_numpy(z)[None], torch.zeros(1, 2).double())
        return layer(torch.zeros(1, 1, 2).double(), gap, state=state)[1].x[0].detach().numpy()

    points = layer.fixed_points(dt=gap)
    for move, found in ((lambda z: flow(layer, z, np.zeros(2)), points.eigenvalues), (step, points.multipliers)):
        jacobian = np.stack([(move(z + tiny * e) - move(z - tiny * e)) / (2 * tiny) for e in np.eye(5)], axis=1)
        expected = np.linalg.eigvals(jacobian)
        np.testing.assert_allclose(np.sort_complex(found[region].numpy()), np.sort_complex(expected), atol=1e-8)


def test_by_hand():
    """z' = -z - max(z, 0) + 1: at rest at 1/2 where z > 0; where z < 0 the flow aims at 1 and never gets there."""
    layer = AlmostLinearLSSL(1, 1, relus=1, step_range=(0.5, 0.5))
    with torch.no_grad():
        layer.W.fill_(-1)
        layer.bias.fill_(1)
    points = layer.fixed_points()
    assert points.state.flatten().tolist() == [1.0, 0.5] and points.real.tolist() == [False, True]
    np.testing.assert_allclose(points.eigenvalues.flatten().numpy(), [-0.5, -1.0], atol=1e-7)
    kept = math.exp(-0.5)
    np.testing.assert_allclose(points.multipliers.flatten().numpy(), [kept, kept - (1 - kept)], atol=1e-7)


def test_region_without_a_fixed_point():
    """z' = -z + max(z, 0) + 1 moves on for ever where z > 0."""
    layer = AlmostLinearLSSL(1, 1, relus=1)
    with torch.no_grad():
        layer.W.fill_(1)
        layer.bias.fill_(1)
    points = layer.fixed_points()
    assert points.real.tolist() == [False, False] and points.state[1].isnan().all()


def test_codes():
    layer = AlmostLinearLSSL(1, 4, relus=3)
    z = torch.tensor([[-1.0, 2.0, -2.0, 0.5], [1.0, -1.0, 0.0, -3.0], [0.0, 1.0, 1.0, 1.0], [0.0, -1.0, 3.0, -1.0]])
    assert layer.code(z).tolist() == [0b101, 0b000, 0b111, 0b010] and layer.code(z[0]).item() == 5
    assert layer.regions()[5].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert AlmostLinearLSSL(1, 4, relus=0).code(z).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("B", "N", "relus"), [(2, 3, 2), (16, 16, 1), (3, 20, 0)])
def test_gradients_of_the_scan(B, N, relus, plain):
    rng = generator("scan", B, N)
    sizes = [(B, 4, N)] * 3 + [(N, N), (B, N)]
    given = [torch.from_numpy(0.5 * rng.standard_normal(size)).requires_grad_() for size in sizes]
    start = given[-1].detach().clone()
    data = torch.from_numpy(rng.standard_normal((B, 4, 2)))
    with plain_torch() if plain else nullcontext():
        for options in ((), (data, 1), (data, 2)):
            scan = partial(lambda options, *parts: almost_linear_scan(*parts, relus, *options), options)
            assert torch.autograd.gradcheck(scan, given, fast_mode=True)
        if plain:
            assert torch.autograd.gradgradcheck(scan, given, fast_mode=True)
    assert torch.equal(given[-1], start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_loops_and_their_twin(dtype):
    """Values and gradients, from coefficients that are expanded and from a state that is a view."""
    rng = generator("twin", dtype)
    a, f = (torch.from_numpy(rng.uniform(0, 1, (1, 1, 7))).to(dtype).requires_grad_() for _ in range(2))
    b, W, z = (torch.from_numpy(rng.standard_normal(size)).to(dtype) for size in ((3, 40, 7), (7, 7), (7, 3)))
    W, found = (0.5 * W).requires_grad_(), []
    forced = torch.from_numpy(rng.standard_normal((3, 40, 2))).to(dtype), 6
    for context in (nullcontext(), plain_torch()):
        with context:
            states = almost_linear_scan(a.expand(3, 40, 7), f.expand(3, 40, 7), b, W, z.mT, 3, *forced)
            found.append([states, *torch.autograd.grad(states.square().mean(), [a, f, W])])
    for mine, twin in zip(*found, strict=True):
        assert (mine - twin).abs().max() <= (1e-11 if dtype == torch.float64 else 1e-3) * twin.abs().max()


def test_rounding_grows_where_the_flow_is_chaotic():
    """z -> 0.9 z + 1 below 0 and 1 - 2 z above, where any two steps part what is close by a factor of 1.8 at least."""
    layer = AlmostLinearLSSL(1, 1, relus=1, step_range=(1.0, 1.0))
    with torch.no_grad():
        for part, value in ((layer.W, -29.0), (layer.bias, 10.0), (layer.C, 1.0), (layer.D, 0.0)):
            part.fill_(value)
    u, gap = torch.zeros(1, 120, 1), -math.log(0.9)
    single, _ = layer(u, gap)
    double, _ = layer.double()(u.double(), gap)
    apart = (single - double).abs().flatten()
    assert double.abs().max() <= 1 + 1e-9
    assert apart[:5].max() < 1e-5 and apart[60:].max() > 0.5
    assert double[0, :4, 0].tolist() == pytest.approx([1.0, -1.0, 0.1, 0.8])


def test_doors():
    with pytest.raises(ValueError, match="relus is between 0 and state_size, 4; found 5"):
        AlmostLinearLSSL(1, 4, relus=5)
    with pytest.raises(ValueError, match=r"u needs shape \(2,\)"):
        AlmostLinearLSSL(2, 4).fixed_points(torch.zeros(3))
    with pytest.raises(ValueError, match="too many to list"):
        AlmostLinearLSSL(1, 20, relus=17).regions()
    with pytest.raises(ValueError, match="do not fit an integer"):
        AlmostLinearLSSL(1, 70, relus=63).code(torch.zeros(70))
