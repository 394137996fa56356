"""LSSL written as h_i = L_i h_{i-1} + B_i u_i: outputs equal to the layer's, for every structure and method."""

import pytest
import torch
from torch import nn

from ctlssl.discretization import METHODS
from ctlssl.layers import LSSL, as_recurrence
from tests.contracts import KIND_PARAMS, STRUCTURE_PARAMS, generator, layer_batch, make_layer, sampled


@pytest.mark.parametrize(
    ("structure", "method", "multi_input"), sampled(0.3, STRUCTURE_PARAMS, [*METHODS], KIND_PARAMS)
)
def test_lssl(structure, method, multi_input):
    layer = make_layer(structure.name, method, multi_input)
    u, dt = layer_batch(generator(structure.name, method, multi_input), 2, 6)
    dt = dt * 0.1 if METHODS[method].rule.growing else dt
    _, state = layer(u[:, :2], dt[:, :2])
    for before in (None, state):
        expected, _ = layer(u, dt, state=before, rate=0.5)
        form = as_recurrence(layer, u, dt, state=before, rate=0.5)
        assert (form.run(u) - expected).abs().max() <= 1e-11 * expected.abs().max()


def test_options():
    u, dt = layer_batch(generator("options"), 2, 6)
    for options in ({"step_size": "gated"}, {"step_size": "per_state"}, {"per_channel": True}):
        layer = make_layer("diagonal", "foh", **options)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        expected, _ = layer(u, dt)
        assert torch.allclose(as_recurrence(layer, u, dt).run(u), expected, atol=1e-11)


def test_doors():
    u = torch.randn(1, 3, 2)
    with pytest.raises(TypeError, match="Linear has no linear form"):
        as_recurrence(nn.Linear(2, 2), u)
    with pytest.raises(ValueError, match="reads the whole series"):
        as_recurrence(LSSL(2, 4, bidirectional=True), u)
    with pytest.raises(ValueError, match="gate='row' has"):
        as_recurrence(LSSL(2, 4, structure="diagonal", step_size="gated_per_channel"), u)
    with pytest.raises(ValueError, match="u needs shape"):
        as_recurrence(LSSL(2, 4), u[0])
