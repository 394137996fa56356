"""The diagonal layer of signed events: against a loop in numpy, and counting by weights written by hand."""

import numpy as np
import pytest
import torch

from ctlssl.layers import SignedLSSL
from tests.contracts import generator, layer_batch


@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("signed", [True, False])
def test_against_numpy(signed, decays):
    torch.manual_seed(5)
    layer = SignedLSSL(3, 4, signed=signed, decays=decays, step_range=(0.1, 1.0)).double()
    u, dt = layer_batch(generator("signed", signed, decays), 2, 9)
    y, state = layer(u, dt)
    gate, bias, B, C, D, log_step = (
        part.detach().numpy() for part in (layer.gate, layer.gate_bias, layer.B, layer.C, layer.D, layer.log_step)
    )
    for b in range(2):
        x = np.zeros(4)
        for k in range(9):
            sigmoid = 1 / (1 + np.exp(-(gate @ u[b, k].numpy() + bias)))
            factor = 2 * sigmoid - 1 if signed else sigmoid
            decay = np.exp(-np.exp(log_step) * dt[b, k].item()) if decays else 1.0
            x = factor * decay * x + B @ u[b, k].numpy()
            assert np.abs(y[b, k].detach().numpy() - (C @ x + D * u[b, k].numpy())).max() < 1e-12
        assert np.abs(state.x[b].detach().numpy() - x).max() < 1e-12


def test_counts_modulo_two_for_ever():
    """Inputs (start, one, zero): the start writes 1, a one turns its sign, a zero keeps it, whatever the gaps."""
    layer = SignedLSSL(3, 1, decays=False).double()
    with torch.no_grad():
        layer.gate.copy_(torch.tensor([[80.0, -80.0, 80.0]]))
        layer.gate_bias.zero_()
        layer.B.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        layer.C.copy_(torch.tensor([[1.0], [0.0], [0.0]]))
        layer.D.zero_()
    rng = generator("parity by hand")
    bits, dt = rng.integers(0, 2, 20_000), torch.from_numpy(10 ** rng.uniform(-3, 3, (1, 20_001)))
    u = torch.zeros(1, 20_001, 3, dtype=torch.float64)
    u[0, 0, 0] = 1
    u[0, torch.arange(1, 20_001), torch.from_numpy(2 - bits)] = 1
    y, _ = layer(u, dt)
    assert np.array_equal(y[0, 1:, 0].detach().numpy(), 1.0 - 2 * (bits.cumsum() % 2))
