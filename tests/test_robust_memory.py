"""Robust memories against plain loops, autograd and a minimiser; and what one wild reading does to them."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ctlssl.layers import RobustMemory
from ctlssl.layers.inner_losses import LOSSES, huber, length, shrink
from tests.contracts import generator, layer_batch


def weight(layer, r):
    """w(r) by the definitions of the losses, r (V,)."""
    if layer.loss == "huber":
        return min(1.0, layer.threshold / max(np.linalg.norm(r), 1e-300))
    return np.abs(r) ** (layer.threshold - 1) if layer.loss == "lp" else 1.0


def by_hand(layer, u, dt):
    """The docstring's steps for one series, u (L, H) and dt (L,)."""
    given = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    heads, V, K = layer.state_shape
    M, outputs = np.zeros((heads, V, K)), []
    for row, gap in zip(u, dt, strict=True):
        k, v, q = ((given[name] @ row).reshape(heads, -1) for name in ("key", "value", "query"))
        eta = 1 / (1 + np.exp(-(given["gate"] @ row + given["gate_bias"])))
        read = []
        for h in range(heads):
            kept = np.exp(-gap * np.exp(given["log_step"][h]))
            if layer.retention == "decay":
                M[h] *= kept
            if layer.retention == "elastic":
                M[h] = np.sign(M[h]) * np.maximum((np.abs(M[h]) + layer.floor) * kept - layer.floor, 0)
            key = k[h] / np.linalg.norm(k[h])
            r = M[h] @ key - v[h]
            M[h] = M[h] - eta[h] * np.outer(weight(layer, r) * r, key)
            read.append(M[h] @ (q[h] / np.linalg.norm(q[h])))
        outputs.append(given["out"] @ np.concatenate(read))
    return np.array(outputs)


@pytest.mark.parametrize(("loss", "threshold"), [("squared", 1.0), ("huber", 0.7), ("lp", 0.5)])
@pytest.mark.parametrize("retention", ["decay", "elastic", "none"])
def test_against_a_plain_loop(loss, threshold, retention):
    layer = RobustMemory(
        3, 4, values=2, heads=2, loss=loss, threshold=threshold, retention=retention, step_range=(0.1, 1.0)
    ).double()
    u, dt = layer_batch(generator(loss, retention), 2, 8)
    y, _ = layer(3 * u, dt)
    for b in range(2):
        assert np.abs(y[b].detach().numpy() - by_hand(layer, 3 * u[b].numpy(), dt[b].numpy())).max() < 1e-9


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        ("squared", lambda r: r.square().sum(-1) / 2),
        ("huber", lambda r: torch.where(r.norm(dim=-1) > 0.7, 0.7 * (r.norm(dim=-1) - 0.35), r.square().sum(-1) / 2)),
        ("lp", lambda r: (r.abs() ** 1.7).sum(-1) / 1.7),
    ],
)
def test_weights_are_gradients_of_the_losses(loss, value):
    r = torch.from_numpy(generator(loss).standard_normal((50, 3))).requires_grad_()
    (expected,) = torch.autograd.grad(value(r).sum(), r)
    assert (LOSSES[loss](r.detach(), 0.7) * r.detach() - expected).abs().max() < 1e-12


def test_the_elastic_retention_is_its_flow_and_a_semigroup():
    start = np.array([2.0, -1.0, 0.3])
    found = solve_ivp(lambda t, m: -m - 0.4 * np.sign(m) * (np.abs(m) > 1e-9), (0, 0.3), start, max_step=1e-3).y[:, -1]
    m = torch.from_numpy(start)
    assert np.abs(shrink(m, torch.tensor(0.3).double(), 0.4).numpy() - found).max() < 1e-3
    parts = shrink(shrink(m, torch.tensor(0.9).double(), 0.4), torch.tensor(0.6).double(), 0.4)
    assert torch.allclose(parts, shrink(m, torch.tensor(1.5).double(), 0.4), atol=1e-14)
    assert shrink(m, torch.tensor(3.0).double(), 0.4).eq(0).all()


def after_outlier(loss, size, threshold=1.0):
    """How far all outputs after one row of a series move when that row is `size` times as large."""
    torch.default_generator.manual_seed(4)
    layer = RobustMemory(3, 4, loss=loss, threshold=threshold, step_range=(0.1, 0.1)).double()
    u, dt = layer_batch(generator("outlier"), 1, 30)
    wild = u.clone()
    wild[:, 10] *= size
    moved = (layer(wild, dt)[0] - layer(u, dt)[0])[:, 11:].abs().max().item()
    bound = 2 * layer.threshold * torch.linalg.matrix_norm(layer.out, 2).item()  # two moves of at most the threshold
    return moved, bound


def test_one_reading_moves_the_rest_by_a_bounded_amount_with_huber_alone():
    sizes = (1e1, 1e3, 1e6, 1e12)
    robust = [after_outlier("huber", size) for size in sizes]
    assert all(moved <= bound for moved, bound in robust)
    assert robust[-1][0] < 1.01 * robust[1][0]
    squared = [after_outlier("squared", size)[0] for size in sizes]
    assert squared[1] > 50 * robust[1][0] and squared[2] > 500 * squared[1]
    between = [after_outlier("lp", size, 0.5)[0] for size in sizes]  # grows like the square root
    assert 10 < between[2] / between[1] < 100


def test_lengths_and_weights_at_the_ends():
    r = torch.tensor([[1e30, -1e30], [0.0, 0.0], [1e-30, 0.0]], requires_grad=True)
    assert torch.allclose(length(r)[0], torch.tensor([2.0]).sqrt() * 1e30)
    (huber(r, 1.0) * r).sum().backward()
    assert r.grad.isfinite().all() and (huber(r, 1.0) * r).norm(dim=-1).max() <= 1 + 1e-6


def test_doors():
    for wrong, said in (
        ({"loss": "l1"}, "no inner loss 'l1'; there are squared, huber, lp"),
        ({"retention": "all"}, "no retention 'all'"),
        ({"loss": "lp", "threshold": 2.0}, "p - 1, at most 1"),
        ({"floor": -1.0}, "floor not negative"),
        ({"heads": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            RobustMemory(2, 4, **wrong)
