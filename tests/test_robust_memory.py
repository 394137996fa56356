"""Robust memory: its recurrence, what it is a case of, and how far one reading can move it."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from ctlssl.layers import RobustMemory, as_recurrence
from ctlssl.layers.inner_losses import INNER_LOSSES, Huber, Lp
from ctlssl.layers.named import named_member
from ctlssl.layers.retention import RETENTIONS, Elastic
from tests.contracts import generator, layer_batch

OUTLIERS = 10.0 ** np.arange(1, 7)
PSI = {
    "squared": lambda r, c: r,
    "huber": lambda r, c: r * min(1.0, c / max(np.sqrt(r @ r), 1e-300)),
    "huber_elementwise": lambda r, c: np.clip(r, -c, c),
    "lp": lambda r, c: r / np.sqrt(np.sqrt(1 + (r / c) ** 2)),  # p = 3/2
}
RETAIN = {
    "none": lambda M, h: M,
    "decay": lambda M, h: np.exp(-h)[:, None] * M,
    "elastic": lambda M, h: (
        np.sign(M) * np.maximum(np.abs(M) * np.exp(-h)[:, None] - 0.01 * (1 - np.exp(-h))[:, None], 0)
    ),
}


def memory(seed=0, channels=3, N=4, **options):
    """A layer in float64, away from its start."""
    torch.manual_seed(seed)
    layer = RobustMemory(channels, N, step_range=(0.1, 1.0), **options).double()
    with torch.no_grad():
        layer.gate_bias += 0.3
    return layer


def numbers(layer):
    """Its parameters by name, as arrays."""
    return {name: p.detach().numpy() for name, p in layer.named_parameters()}


def unit(x):
    """A vector at length 1, small near 0."""
    return x / np.sqrt(x @ x + 1e-6)


def naive(layer, psi, retain, u, dt):
    """One series u (L, H), dt (L,), a head and a row at a time: outputs (L, H) and memories (heads, N, N)."""
    p, N, heads = numbers(layer), layer.state_size, layer.heads
    M, outputs = np.zeros((heads, N, N)), []
    for k in range(len(u)):
        read = np.zeros(heads * N)
        for g in range(heads):
            own = slice(g * N, (g + 1) * N)
            key, query, value = unit(p["key"][own] @ u[k]), unit(p["query"][own] @ u[k]), p["value"][own] @ u[k]
            eta = 1 / (1 + np.exp(-(p["gate"][g] @ u[k] + p["gate_bias"][g])))
            M[g] = retain(M[g], dt[k] * np.exp(p["log_step"][g]))
            M[g] -= eta * np.outer(psi(M[g] @ key - value, np.exp(p["log_threshold"][g])), key)
            read[own] = M[g] @ query
        outputs.append(p["C"] @ read + p["D"] * u[k])
    return np.array(outputs), M


@pytest.mark.parametrize(("loss", "retention", "heads"), [*product(PSI, RETAIN, [1]), ("huber", "elastic", 2)])
def test_against_a_naive_loop(loss, retention, heads):
    layer = memory(loss=loss, retention=retention, heads=heads, threshold=0.4)
    u, dt = layer_batch(generator("naive", loss, retention), 2, 12)
    y, state = layer(3 * u, dt)
    for b in range(2):
        expected, M = naive(layer, PSI[loss], RETAIN[retention], 3 * u[b].numpy(), dt[b].numpy())
        assert np.abs(y[b].detach().numpy() - expected).max() < 1e-12 * np.abs(expected).max()
        assert np.abs(state.x[b].detach().numpy() - M).max() < 1e-12


def test_squared_with_decay_is_the_gated_delta_rule():
    layer = memory(loss="squared", retention="decay")
    u, dt = layer_batch(generator("delta rule"), 1, 8)
    p, M = numbers(layer), np.zeros((4, 4))
    for k in range(8):
        row = u[0, k].numpy()
        key, beta = unit(p["key"] @ row), 1 / (1 + np.exp(-(p["gate"][0] @ row + p["gate_bias"][0])))
        assert abs(key @ key - 1) < 1e-4
        decay = np.diag(np.exp(-dt[0, k].item() * np.exp(p["log_step"][0])))
        M = decay @ M @ (np.eye(4) - beta * np.outer(key, key)) + beta * np.outer(p["value"] @ row, key)
    assert np.abs(layer(u, dt)[1].x[0, 0].detach().numpy() - M).max() < 1e-13


@pytest.mark.parametrize("name", INNER_LOSSES)
def test_an_event_is_a_gradient_step_on_the_inner_loss(name):
    layer, rng = memory(loss=name, retention="none", threshold=0.5), generator("gradient step", name)
    for size in (0.1, 1.0, 30.0):  # within the threshold, about it, and far out
        start = layer.initial_state(1)
        start = start._replace(x=torch.from_numpy(rng.standard_normal((1, 1, 4, 4))))
        u = torch.from_numpy(size * rng.standard_normal((1, 3)))
        M, p = start.x[0, 0].clone().requires_grad_(), dict(layer.named_parameters())
        key = p["key"] @ u[0]
        key = key / (key.square().sum() + 1e-6).sqrt()
        eta = torch.sigmoid(p["gate"] @ u[0] + p["gate_bias"])
        loss = layer.loss.value(M @ key - p["value"] @ u[0], p["log_threshold"].exp())
        (slope,) = torch.autograd.grad(loss, M)
        _, after = layer.step(u, 1.0, start)
        assert torch.allclose(after.x[0, 0], M - eta * slope, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", INNER_LOSSES)
def test_slopes_of_psi_lie_between_0_and_1(name):
    """The reason that a step of at most 1 cannot overshoot, and that two memories never grow apart."""
    loss, rng, c = INNER_LOSSES[name], generator("slopes", name), torch.tensor([0.7], dtype=torch.float64)
    for size in (0.0, 0.1, 1.0, 1e4):
        r = torch.from_numpy(size * rng.standard_normal(4))
        slopes = torch.autograd.functional.jacobian(lambda r: loss.weight(r, c) * r, r)
        low, *_, high = torch.linalg.eigvalsh((slopes + slopes.mT) / 2)
        assert low >= -1e-12 and high <= 1 + 1e-12 and torch.allclose(slopes, slopes.mT, atol=1e-12)


@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize(("loss", "heads"), [("huber", 1), ("huber", 2), ("huber_elementwise", 1)])
def test_one_reading_moves_a_clipped_memory_by_a_bounded_amount(loss, heads, retention):
    """The bound of the docstring, row by row, for readings of any size."""
    layer = memory(loss=loss, heads=heads, retention=retention, threshold=0.5)
    u, dt = layer_batch(generator("bound", loss, heads), 1, 30)
    c, steps = 0.5 * (2.0 if loss == "huber_elementwise" else 1.0), layer.log_step.exp().amin(1)  # (heads,)
    steps = steps if layer.retention.clocked else 0 * steps
    plain = memories(layer, u, dt)
    for size in OUTLIERS:
        struck = u.clone()
        struck[0, 4, 1] = 3 * size
        gates = sum(torch.sigmoid(v[0, 4] @ layer.gate.mT + layer.gate_bias) for v in (u, struck))  # (heads,)
        apart = torch.linalg.matrix_norm(memories(layer, struck, dt) - plain)  # (L, heads)
        since = (dt[0].cumsum(0) - dt[0, :5].sum())[4:, None]  # (L - 4, 1)
        assert (apart[:4] == 0).all() and apart[4].max() > 1e-3
        assert (apart[4:] <= gates * c * torch.exp(-steps * since) * (1 + 1e-9) + 1e-12).all()
        moved = (layer(struck, dt)[0] - layer(u, dt)[0])[0, 5:].norm(dim=-1)
        assert moved.max() <= torch.linalg.matrix_norm(layer.C, 2) * heads**0.5 * (gates * c).max()


def memories(layer, u, dt):
    """The memory after each row of one series, (L, heads, N, N)."""
    state, found = layer.initial_state(1), []
    for k in range(u.shape[1]):
        _, state = layer.step(u[:, k], dt[:, k], state)
        found.append(state.x[0].detach())
    return torch.stack(found)


@pytest.mark.parametrize(("loss", "power"), [("squared", 1.0), ("lp", 0.5), ({"name": "lp", "power": 1.2}, 0.2)])
def test_other_losses_follow_the_reading(loss, power):
    """The squared loss in proportion, l_p as the power p - 1."""
    layer = memory(loss=loss)
    with torch.no_grad():
        layer.gate.zero_()  # so that the outlier cannot close its own gate
    u, dt = layer_batch(generator("growth"), 1, 12)
    moved, plain = [], memories(layer, u, dt)
    for size in OUTLIERS:
        struck = u.clone()
        struck[0, 4] *= size
        moved.append((memories(layer, struck, dt) - plain).flatten(1).norm(dim=1))  # (L,)
    moved = torch.stack(moved).numpy()  # (outliers, L)
    assert np.abs(np.diff(np.log10(moved[3:, 4])) - power).max() < 0.02
    assert (moved[-1, 5:8] > 0.1 * OUTLIERS[-1] ** power).all()


def test_elastic_retention_is_the_proximal_step_of_an_elastic_net():
    M = np.array([[0.8, -0.3], [0.05, -1.4]])
    for sparsity, step in product((0.05, 0.4), (0.01, 0.5, 2.0)):
        weight = np.expm1(step)

        def loss(parts, weight=weight, sparsity=sparsity):
            X = parts[:4] - parts[4:]  # positive and negative parts: |X| is their sum, and smooth
            ridge = 0.5 * weight * (X @ X)
            return 0.5 * ((X - M.ravel()) ** 2).sum() + ridge + weight * sparsity * parts.sum()

        options = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 10_000}
        found = minimize(loss, np.full(8, 0.5), bounds=[(0, None)] * 8, method="L-BFGS-B", options=options).x
        kept = Elastic(sparsity).keep(torch.from_numpy(M), torch.full((2,), step, dtype=torch.float64)).numpy()
        assert np.abs(kept.ravel() - (found[:4] - found[4:])).max() < 1e-6


def test_elastic_retention_is_a_flow():
    """Two gaps do what their sum does, and that is the solution of M' = -a (M + s sign M), which stops at 0."""
    M = torch.tensor([[0.8, -0.3], [0.05, -1.4]], dtype=torch.float64)
    retention, steps = Elastic(0.2), torch.tensor([0.3, 1.1], dtype=torch.float64)
    whole, half = retention.keep(M, steps), retention.keep(M, 0.35 * steps)
    assert torch.allclose(retention.keep(half, 0.65 * steps), whole, atol=1e-15)
    assert whole[1, 0] == 0 and (whole[0] != 0).all()
    for i, j in ((0, 0), (0, 1), (1, 1)):
        truth = solve_ivp(
            lambda t, m: -(m + 0.2 * np.sign(m)), (0, steps[i].item()), [M[i, j].item()], rtol=1e-10, atol=1e-12
        )
        assert abs(truth.y[0, -1] - whole[i, j].item()) < 1e-8


def test_the_linear_form_shows_the_weight_of_each_reading():
    """The share of a state that an event leaves along its key is 1 - eta w, with w = c / |r| of a clipped residual."""
    layer = memory(loss="huber", retention="none", threshold=0.1)
    u, dt = layer_batch(generator("weights"), 1, 6)
    form, before = as_recurrence(layer, u, dt), torch.cat([torch.zeros(1, 1, 4, 4), memories(layer, u, dt)])
    for k in range(6):
        key, value = layer.key @ u[0, k], layer.value @ u[0, k]
        key = key / (key.square().sum() + 1e-6).sqrt()
        eta = torch.sigmoid(layer.gate[0] @ u[0, k] + layer.gate_bias[0])
        weight = (0.1 / (before[k, 0] @ key - value).norm()).clamp(max=1)
        expected = torch.kron(torch.eye(4).double(), torch.eye(4) - eta * weight * torch.outer(key, key))
        assert weight < 0.9
        assert torch.allclose(form.transition[0, k], expected, atol=1e-12)


@pytest.mark.parametrize("loss", INNER_LOSSES)
@pytest.mark.parametrize("retention", RETENTIONS)
def test_nothing_and_huge_inputs_are_finite(loss, retention):
    layer = RobustMemory(3, 4, loss=loss, retention=retention)
    u = torch.randn(1, 7, 3)
    u[0, 2], u[0, 4], u[0, 5] = 0.0, 1e30, -1e30
    u.requires_grad_()
    for rows in (u, torch.zeros(1, 4, 3, requires_grad=True)):
        y, state = layer(rows, 0.5)
        (y.clamp(-1e3, 1e3).sum() + state.x.clamp(-1e3, 1e3).sum()).backward()
        assert y.isfinite().all() and state.x.isfinite().all() and rows.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    exact, _ = layer.double()(u.detach().double(), 0.5)
    assert torch.allclose(exact.float(), layer.float()(u.detach(), 0.5)[0], rtol=1e-4)


def test_nothing_is_written_or_read_at_an_input_of_nothing():
    layer = memory(retention="none")
    _, state = layer(torch.randn(1, 5, 3, dtype=torch.float64))
    y, after = layer.step(torch.zeros(1, 3, dtype=torch.float64), 1.0, state)
    assert torch.equal(after.x, state.x) and (y == 0).all()


def test_doors():
    for options, said in (
        ({"loss": "cubic"}, "unknown inner loss 'cubic'; choose squared, huber"),
        ({"loss": {"name": "lp", "p": 1.2}}, "inner loss 'lp' has no field 'p'; it has power"),
        ({"loss": {"name": "squared", "c": 1.0}}, "has no field 'c'; it has none"),
        ({"loss": {"name": "lp", "power": 3.0}}, "1 <= power <= 2"),
        ({"loss": {"power": 1.2}}, "unknown inner loss"),
        ({"retention": 3}, "unknown retention 3"),
        ({"retention": {"name": "elastic", "sparsity": -1.0}}, "sparsity needs"),
        ({"threshold": 0.0}, "threshold needs to be positive and finite; found 0.0"),
        ({"loss": "squared", "learn_threshold": True}, "no threshold to learn"),
        ({"heads": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            RobustMemory(3, 4, **options)
    layer = RobustMemory(3, 4, **json.loads('{"loss": {"name": "lp", "power": 1.2}, "retention": "elastic"}'))
    assert layer.loss == Lp(1.2) and layer.retention == Elastic()
    assert named_member(Huber(True), INNER_LOSSES, "inner loss") is not INNER_LOSSES["huber_elementwise"]
    assert RobustMemory(3, learn_threshold=True).log_threshold.requires_grad
    assert not RobustMemory(3, retention="none").log_step.requires_grad
