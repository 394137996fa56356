"""Linear attention and S6 as recurrences, against their definitions, and what a linear form says of itself."""

import numpy as np
import pytest
import torch

from ctlssl.layers import LSSL, LinearForm, RobustMemory, as_recurrence, linear_attention_form, s6_form
from tests.contracts import generator, layer_batch


def draw(rng, *shapes):
    """Random weights in float64."""
    return [torch.from_numpy(rng.standard_normal(shape)) for shape in shapes]


def phi(x):
    """elu(x) + 1."""
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_linear_attention_is_its_matrix(normalised, decay):
    rng = generator("attention", normalised, decay)
    u, dt = layer_batch(rng, 2, 9)
    query, key, value = draw(rng, (4, 3), (4, 3), (2, 3))
    form = linear_attention_form(u, query, key, value, dt, decay, normalised)
    for b in range(2):
        rows, times = u[b].numpy(), dt[b].numpy().cumsum()
        weights = phi(rows @ query.numpy().T) @ phi(rows @ key.numpy().T).T  # (L, L)
        weights = np.tril(weights * np.exp(-decay * np.abs(times[:, None] - times)))
        if normalised:
            weights /= weights.sum(1, keepdims=True)
        expected = weights @ (rows @ value.numpy().T)
        assert np.abs(form.run(u)[b].numpy() - expected).max() < 1e-12 * np.abs(expected).max()
    assert form.size == 8


@pytest.mark.parametrize("gaps", [True, False])
def test_s6_against_a_naive_loop(gaps):
    rng = generator("s6", gaps)
    u, dt = layer_batch(rng, 2, 9)
    A, B, C, step, bias, D = draw(rng, (3, 4), (4, 3), (4, 3), (3, 3), (3,), (3,))
    form = s6_form(u, -A.abs(), B, C, step, bias, D, dt if gaps else None)
    found = form.run(u)
    for b in range(2):
        x = np.zeros((3, 4))
        for k in range(9):
            row, h = u[b, k].numpy(), dt[b, k].item() if gaps else 1.0
            delta = np.log1p(np.exp(step.numpy() @ row + bias.numpy())) * h
            for c in range(3):
                decay = np.exp(-delta[c] * np.abs(A[c].numpy()))
                x[c] = decay * x[c] + delta[c] * (B.numpy() @ row) * row[c]
            expected = x @ (C.numpy() @ row) + D.numpy() * row
            assert np.abs(found[b, k].numpy() - expected).max() < 1e-12
    assert form.size == 12


def test_s6_with_gaps_counts_time():
    """Two gaps one after the other decay as their sum does."""
    rng = generator("s6 clock")
    A, B, C, bias = draw(rng, (2, 3), (3, 2), (3, 2), (2,))
    u, still = torch.ones(1, 2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    whole = s6_form(u, -A.abs(), B, C, still, bias, dt=torch.tensor([1.0, 2.0]))
    halves = s6_form(u[:, [0, 1, 1]], -A.abs(), B, C, still, bias, dt=torch.tensor([1.0, 1.0, 1.0]))
    assert torch.allclose(whole.transition[:, 1], halves.transition[:, 1] @ halves.transition[:, 2], atol=1e-14)


def test_influence_is_the_derivative_of_a_later_output():
    """Of a linear layer, by differentiating it."""
    layer = LSSL(2, 4, structure="diagonal", method="zoh", step_range=(0.1, 1.0)).double()
    u, dt = layer_batch(generator("influence"), 1, 6, channels=2)
    form = as_recurrence(layer, u, dt)
    slopes = torch.autograd.functional.jacobian(lambda u: layer(u, dt)[0], u)[0, :, :, 0]  # (L, H, L, H)
    for lag in range(6):
        for i in range(lag, 6):
            expected = np.linalg.norm(slopes[i, :, i - lag].numpy(), 2)
            assert abs(form.influence(lag)[0, i - lag].item() - expected) < 1e-12
    with pytest.raises(ValueError, match="between 0 and 5; found 6"):
        form.influence(6)


def test_spectral_radius():
    one = torch.eye(2).expand(1, 1, 2, 2)
    turn = torch.tensor([[[[0.0, -0.5], [0.5, 0.0]]]])
    assert LinearForm(turn, one, one, one, torch.zeros(1, 2)).spectral_radius().item() == pytest.approx(0.5)
    layer = RobustMemory(3, 4, retention="decay", step_range=(0.1, 1.0)).double()
    u, dt = layer_batch(generator("radius"), 1, 5)
    slowest = torch.exp(-layer.log_step.exp().min() * dt)  # keys of several rows leave some direction alone
    assert torch.allclose(as_recurrence(layer, u, dt).spectral_radius(), slowest, atol=1e-10)


def test_empty_series():
    rng, u = generator("empty"), torch.zeros(2, 0, 3, dtype=torch.float64)
    assert linear_attention_form(u, *draw(rng, (4, 3), (4, 3), (2, 3))).run(u).shape == (2, 0, 2)
    A, B, C, step, bias = draw(rng, (3, 4), (4, 3), (4, 3), (3, 3), (3,))
    assert s6_form(u, -A.abs(), B, C, step, bias).run(u).shape == (2, 0, 3)


def test_doors():
    u, weight = torch.randn(2, 4, 3), torch.zeros(5, 3)
    for given, said in (
        ({"key": torch.zeros(4, 3)}, r"query and key need shape \(K, H\)"),
        ({"value": torch.zeros(3)}, r"value \(V, H\); found"),
        ({"decay": -1.0}, "decay needs to be at least 0; found -1.0"),
        ({"dt": -1.0}, "gap -1.0 is negative"),
        ({"u": u[0]}, "u needs shape"),
    ):
        with pytest.raises(ValueError, match=said):
            linear_attention_form(**{"u": u, "query": weight, "key": weight, "value": weight} | given)
    square, map_ = torch.zeros(3, 3), torch.zeros(2, 3)
    sound = {"u": u, "A": -torch.ones(3, 2), "B": map_, "C": map_, "step": square, "step_bias": torch.zeros(3)}
    for given, said in (
        ({"A": torch.zeros(3)}, r"A needs shape \(H, N\)"),
        ({"A": torch.ones(3, 2)}, "must not be above 0"),
        ({"B": square}, r"B needs shape \(2, 3\) beside A"),
        ({"D": torch.zeros(2)}, r"D needs shape \(3,\)"),
        ({"u": u[..., :2]}, "u needs shape"),
    ):
        with pytest.raises(ValueError, match=said):
            s6_form(**sound | given)
