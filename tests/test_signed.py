"""Signed states against a plain loop, what signs can do, and the passes through time beneath the family."""

import numpy as np
import pytest
import torch

from ctlssl.layers import SignedLSSL
from ctlssl.views.passes import block_pass, elementwise_pass, stepwise_pass
from ctlssl.views.response import Rows, State
from tests.contracts import generator, layer_batch


def by_hand(layer, u, dt):
    """The docstring's equation for one series, u (L, H) and dt (L,)."""
    gate, bias, B, C, D = (getattr(layer, name).detach().numpy() for name in ("gate", "gate_bias", "B", "C", "D"))
    step, x, outputs = np.exp(layer.log_step.detach().numpy()), np.zeros(layer.state_size), []
    for row, gap in zip(u, dt, strict=True):
        sign = np.clip(1.02 * (2 / (1 + np.exp(-(gate @ row + bias))) - 1), -1, 1)
        sign = sign if layer.signed else (1 + sign) / 2
        x = sign * np.exp(-step * gap * layer.decays) * x + B @ row
        outputs.append(C @ x + D * row)
    return np.array(outputs)


@pytest.mark.parametrize("options", [{}, {"signed": False}, {"decays": False}], ids=str)
def test_against_a_plain_loop(options):
    layer = SignedLSSL(3, 5, step_range=(0.1, 1.0), **options).double()
    u, dt = layer_batch(generator("signed", str(options)), 2, 8)
    y, _ = layer(u, dt)
    for b in range(2):
        assert np.abs(y[b].detach().numpy() - by_hand(layer, u[b].numpy(), dt[b].numpy())).max() < 1e-13


def test_a_sign_counts_parity():
    """With s = -1 and a drive of 1 at each 1, and s = 1 without a drive at each 0, the state is the parity."""
    layer = SignedLSSL(1, 1, decays=False).double()
    with torch.no_grad():
        for name, value in {"gate": -16.0, "gate_bias": 8.0, "B": 1.0, "C": 1.0, "D": 0.0}.items():
            getattr(layer, name).fill_(value)
    bits = torch.randint(0, 2, (4, 1000, 1), generator=torch.Generator().manual_seed(0)).double()
    y, _ = layer(bits)
    assert torch.equal(y, bits.cumsum(1) % 2)
    positive = SignedLSSL(1, 1, decays=False, signed=False).double()
    positive.load_state_dict(layer.state_dict())
    assert (positive(bits)[0].round() != bits.cumsum(1) % 2).double().mean() > 0.3


@pytest.mark.parametrize("complex_states", [False, True])
def test_passes_against_a_loop_that_skips(complex_states):
    """Committed rows alone make the state; a query shows the step that it would be."""
    rng = generator("passes", complex_states)
    B, L, N = 3, 9, 4
    lengths, is_query = torch.tensor([9, 4, 0]), torch.from_numpy(rng.random((B, L)) < 0.4)

    def draw(*shape):
        real = torch.from_numpy(rng.standard_normal(shape))
        return torch.complex(real, torch.from_numpy(rng.standard_normal(shape))) if complex_states else real

    a, b, x = draw(B, L, N), draw(B, L, N), draw(B, N)
    u = torch.zeros(B, L, 1, dtype=torch.float64)
    rows = Rows.after(State(u.new_zeros(B, N), u.new_zeros(B, 1)), u, u[..., 0], lengths, is_query)
    expected, ends = torch.zeros_like(b), x.clone()
    for s in range(B):
        for k in range(int(lengths[s])):
            expected[s, k] = a[s, k] * ends[s] + b[s, k]
            ends[s] = ends[s] if is_query[s, k] else expected[s, k]
    inside = rows.inside[..., None]
    runs = {
        "elementwise": elementwise_pass(a, b, rows, x),
        "stepwise": stepwise_pass(lambda x, a, b: a * x + b, (a, b), rows, x),
    }
    if not complex_states:  # the same with two states a block
        M = torch.diag_embed(a.unflatten(-1, (2, 2)))
        seen, last = block_pass(M, b.unflatten(-1, (2, 2)), rows, x.unflatten(-1, (2, 2)))
        runs["block"] = seen.flatten(-2), last.flatten(-2)
    for seen, last in runs.values():
        assert (torch.where(inside, seen, 0) - expected).abs().max() < 1e-13 and (last - ends).abs().max() < 1e-13
    seen, last = elementwise_pass(a[:, :0], b[:, :0], Rows.after(rows.start, u[:, :0], u[:, :0, 0]), x)
    assert seen.shape == (B, 0, N) and torch.equal(last, x)
