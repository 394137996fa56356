"""Householder steps against a plain loop, and what reflections are."""

import numpy as np
import pytest
import torch

from ctlssl.layers import HouseholderLSSL
from ctlssl.layers.householder import unit_vectors
from tests.contracts import generator, layer_batch


def by_hand(layer, u, dt):
    """The docstring's steps, one head after another, for one series u (L, H) and dt (L,)."""
    given = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    heads, K, V, R = layer.heads, layer.state_size, layer.values, layer.reflections
    S, outputs = np.zeros((heads, K, V)), []
    for row, gap in zip(u, dt, strict=True):
        keys = (given["key"] @ row).reshape(heads, R, K)
        values = (given["value"] @ row).reshape(heads, R, V)
        queries = (given["query"] @ row).reshape(heads, K)
        gates = 2 / (1 + np.exp(-(given["gate"] @ row + given["gate_bias"]))) - 1
        betas = (1 + np.clip(1.02 * gates, -1, 1)).reshape(heads, R) / 2
        read = []
        for h in range(heads):
            if layer.decays:
                S[h] *= np.exp(-gap * np.exp(given["log_step"][h]))
            for j in range(R):
                k, beta = keys[h, j] / np.linalg.norm(keys[h, j]), betas[h, j] * (2 if layer.signed else 1)
                S[h] = (np.eye(K) - beta * np.outer(k, k)) @ S[h] + beta * np.outer(k, values[h, j])
            read.append(S[h].T @ queries[h])
        outputs.append(given["out"] @ np.concatenate(read) + given["D"] * row)
    return np.array(outputs)


@pytest.mark.parametrize(
    "options", [{}, {"signed": False}, {"reflections": 3, "heads": 2, "values": 2}, {"decays": False}], ids=str
)
def test_against_a_plain_loop(options):
    layer = HouseholderLSSL(3, 4, step_range=(0.1, 1.0), **options).double()
    u, dt = layer_batch(generator("householder", str(options)), 2, 8)
    y, _ = layer(u, dt)
    for b in range(2):
        assert np.abs(y[b].detach().numpy() - by_hand(layer, u[b].numpy(), dt[b].numpy())).max() < 1e-10


@pytest.mark.parametrize(("reflections", "determinant"), [(1, -1.0), (2, 1.0), (3, -1.0)])
def test_at_beta_2_steps_are_reflections_and_their_products_orthogonal(reflections, determinant):
    layer = HouseholderLSSL(3, 5, reflections=reflections, decays=False).double()
    with torch.no_grad():
        layer.gate.zero_()
        layer.gate_bias.fill_(60.0)
    u, dt = layer_batch(generator("reflections", reflections), 1, 6)
    M, _, _ = layer._coefficients(layer.read_rows(u, dt))
    eye = torch.eye(5, dtype=torch.float64)
    assert (M @ M.mT - eye).abs().max() < 1e-10
    assert (torch.linalg.det(M) - determinant).abs().max() < 1e-10
    if reflections == 1:
        assert (M - M.mT).abs().max() < 1e-14  # a reflection is symmetric; a product of two is a rotation


def test_without_signs_every_eigenvalue_is_positive():
    layer = HouseholderLSSL(3, 5, signed=False, decays=False).double()
    u, dt = layer_batch(generator("positive"), 1, 50)
    M, _, _ = layer._coefficients(layer.read_rows(10 * u, dt))
    assert torch.linalg.eigvalsh(M).min() > -1e-12


def test_the_delta_rule_recalls_what_was_written():
    """Beta 1 replaces the value of a key: what is read under it is the newest, whatever the other keys hold."""
    layer = HouseholderLSSL(4, 4, signed=False, decays=False).double()
    with torch.no_grad():
        eye = torch.eye(4, dtype=torch.float64)
        for name in ("key", "query", "value", "out"):
            getattr(layer, name).copy_(eye)
        layer.gate_bias.fill_(60.0)
        layer.gate.zero_()
        layer.D.zero_()
    u = torch.tensor([[[2.0, 0, 0, 0], [0, 1.0, 0, 0], [3.0, 0, 0, 0]]], dtype=torch.float64)
    y, state = layer(u)
    assert torch.allclose(state.x[0, 0, 0], u[0, 2], atol=1e-9)
    assert torch.allclose(state.x[0, 0, 1], u[0, 1], atol=1e-9)


def test_unit_vectors_at_the_ends():
    x = torch.tensor([[1e30, 1e30], [1e-3, 0.0], [0.0, 0.0]], requires_grad=True)
    found = unit_vectors(x)
    assert torch.allclose(found.norm(dim=-1), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    found.sum().backward()
    assert x.grad.isfinite().all()


def test_doors():
    with pytest.raises(ValueError, match="reflections need to be at least 1"):
        HouseholderLSSL(2, 4, reflections=0)
