"""The almost-linear layer against a plain loop, its regions, and its fixed points at any gap."""

import numpy as np
import pytest
import torch

from ctlssl.layers import AlmostLinearLSSL
from tests.contracts import generator, layer_batch


def built(relus=2, seed=0, **options):
    torch.default_generator.manual_seed(seed)
    layer = AlmostLinearLSSL(3, 6, relus=relus, step_range=(0.5, 0.5), **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def by_hand(layer, u, dt):
    """The docstring's equation for one series, u (L, H) and dt (L,)."""
    given = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    a, z, outputs = np.exp(given["log_decay"]), np.zeros(layer.state_size), []
    for row, gap in zip(u, dt, strict=True):
        h, bent = gap * np.exp(given["log_step"]), z.copy()
        bent[layer.state_size - layer.relus :] = np.maximum(bent[layer.state_size - layer.relus :], 0)
        push = given["W"] @ bent + given["bias"] + given["B"] @ row
        z = np.exp(-a * h) * z + (1 - np.exp(-a * h)) / a * push
        outputs.append(z[:3] if layer.identity else given["C"] @ z + given["D"] * row)
    return np.array(outputs)


@pytest.mark.parametrize("relus", [0, 2, 6])
@pytest.mark.parametrize("identity", [False, True])
def test_against_a_plain_loop(relus, identity):
    layer = built(relus, identity=identity)
    u, dt = layer_batch(generator("almost linear", relus, identity), 2, 9)
    y, _ = layer(u, dt)
    for b in range(2):
        assert np.abs(y[b].detach().numpy() - by_hand(layer, u[b].numpy(), dt[b].numpy())).max() < 1e-12


def test_fixed_points_are_fixed_at_any_gap():
    found, constant = 0, torch.tensor([0.3, -0.2, 0.5]).double()
    for seed in range(6):
        layer = built(seed=seed)
        regions = layer.regions(constant)
        assert regions.code.tolist() == [[False, False], [True, False], [False, True], [True, True]]
        for point in regions.point[regions.real]:
            for gap in (0.01, 1.0, 30.0):
                _, state = layer(constant[None, None], gap, state=layer.initial_state(1)._replace(x=point[None]))
                assert (state.x[0] - point).abs().max() < 1e-10 * point.abs().max().clamp(min=1)
                found += 1
        for code, point in zip(regions.code[~regions.real], regions.point[~regions.real], strict=True):
            assert (layer.code(point) != code).any()
    assert found > 0


def test_without_rectifiers_it_is_linear():
    layer, (u, dt) = built(relus=0), layer_batch(generator("linear"), 2, 7)
    with torch.no_grad():
        layer.bias.zero_()
    y, other = layer(u, dt)[0], layer(-2 * u, dt)[0]
    assert (other + 2 * y).abs().max() < 1e-12
    bent = built(relus=2)
    with torch.no_grad():
        bent.bias.zero_()
    assert (bent(-2 * u, dt)[0] + 2 * bent(u, dt)[0]).abs().max() > 1e-3


def test_doors():
    with pytest.raises(ValueError, match="relus between 0 and state_size"):
        AlmostLinearLSSL(2, 4, relus=5)
    with pytest.raises(ValueError, match="with identity state_size at least channels"):
        AlmostLinearLSSL(5, 4, relus=1, identity=True)
    with pytest.raises(ValueError, match="too many to list"):
        AlmostLinearLSSL(2, 20, relus=20).regions()
