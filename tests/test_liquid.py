"""The liquid layer against the definition of its sums, an ODE solver, naive kernels, and its guard."""

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ctlssl.layers import LiquidLSSL
from tests.contracts import generator, layer_batch


def built(seed=0, **options):
    torch.default_generator.manual_seed(seed)
    layer = LiquidLSSL(2, 4, **{"step_range": (0.2, 0.5)} | options).double()
    with torch.no_grad():
        layer.B.add_(0.3 * torch.randn_like(layer.B))
    return layer


def responses(layer, dt):
    """Abar and Bbar of one series of gaps (L,), by the textbook formulas, (L, H, n) complex."""
    poles = -np.exp(layer.A_log_decay.detach().numpy()) + 1j * layer.A_frequency.detach().numpy()
    B = layer.B.detach().numpy()
    b, h = B[:, :2] + 1j * B[:, 2:], dt[:, None, None] * np.exp(layer.log_step.detach().numpy())[:, None]
    if layer.method.name == "zoh":
        return np.exp(h * poles), (np.exp(h * poles) - 1) / poles * b
    return (1 + h * poles / 2) / (1 - h * poles / 2), h / (1 - h * poles / 2) * b


def read(layer, x, u):
    """C x + D u of complex states (..., H, n)."""
    C, D = layer.C.detach().numpy(), layer.D.detach().numpy()
    return (C[:, :2] * x.real + C[:, 2:] * x.imag).sum(-1) + D * u


def expansion(layer, u, dt, degree):
    """The sum over all choices of at most `degree` inputs, by the definition: u (L, H), dt (L,)."""
    A, B = responses(layer, dt)
    out = []
    for k in range(len(u)):
        x = np.zeros(A.shape[1:], complex)
        for p in range(1, degree + 1):
            for chosen in itertools.combinations(range(k + 1), p):
                term = np.ones(A.shape[1:], complex)
                for i in range(chosen[0], k + 1):  # from the first chosen input on, each row multiplies
                    term = term * (B[i] * u[i][:, None] if i in chosen else A[i])
                x = x + term
        out.append(read(layer, x, u[k]))
    return np.array(out)


@pytest.mark.parametrize("method", ["bilinear", "zoh"])
@pytest.mark.parametrize("degree", [1, 2, 3, None])
def test_sum_over_products_of_inputs(method, degree):
    layer = built(method=method, degree=degree, guard=False)
    u, dt = layer_batch(generator(method, degree), 2, 7, channels=2)
    y, _ = layer(u, dt)
    for b in range(2):
        expected = expansion(layer, u[b].numpy(), dt[b].numpy(), degree or 7)
        assert np.abs(y[b].detach().numpy() - expected).max() < 1e-12 * max(1, np.abs(expected).max())


def test_degree_of_the_length_is_the_recurrence_guard_or_not():
    rng = generator("degree L")
    u, dt = layer_batch(rng, 3, 9, channels=2)
    for guard, size in ((True, 1.0), (True, 20.0), (False, 1.0)):
        whole, cut = built(guard=guard), built(guard=guard, degree=9)
        cut.load_state_dict(whole.state_dict())
        expected, found = whole(size * u, dt)[0], cut(size * u, dt)[0]
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    linear, _ = built(degree=1)(u, dt)
    assert (linear - whole(u, dt)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("guard", [True, False])
def test_exact_form_is_the_differential_equation(guard):
    layer = built(form="exact", guard=guard)
    u, dt = layer_batch(generator("ode", guard), 1, 5, channels=2)
    u = u * (4.0 if guard else 1.0)
    y, _ = layer(u, dt)
    poles = -np.exp(layer.A_log_decay.detach().numpy()) + 1j * layer.A_frequency.detach().numpy()
    B, steps = layer.B.detach().numpy(), np.exp(layer.log_step.detach().numpy())
    b, x, guarded = B[:, :2] + 1j * B[:, 2:], np.zeros((2, 2), complex), 0
    for k in range(5):
        push = b * u[0, k].numpy()[:, None]
        if guard:
            share = np.where(push.real > -poles.real, -poles.real / np.where(push.real == 0, 1, push.real), 1.0)
            guarded += int((share < 1).sum())
        else:
            share = 1.0

        def field(t, z, push=push, share=share):
            z = z.reshape(2, 2)
            return (steps[:, None] * ((poles + share * push) * z + push)).ravel()

        x = solve_ivp(field, (0, dt[0, k].item()), x.ravel(), rtol=1e-11, atol=1e-13).y[:, -1].reshape(2, 2)
        expected = read(layer, x, u[0, k].numpy())
        assert np.abs(y[0, k].detach().numpy() - expected).max() < 1e-8 * max(1, np.abs(expected).max())
    assert guarded > 0 or not guard


@pytest.mark.parametrize("form", ["paper", "exact"])
def test_the_guard_bounds_the_step_and_leaves_sound_steps_alone(form):
    layer, free = built(form=form), built(form=form, guard=False)
    u, dt = layer_batch(generator("guard", form), 2, 50, channels=2)
    for size, bounded in ((0.1, False), (1e6, True)):
        rows = layer.read_rows(size * u, dt)
        kept, liquid, _ = layer._coefficients(rows)
        assert (kept + liquid).abs().max() <= 1 + 1e-9
        raw = sum(free._coefficients(rows)[:2]).abs()
        unguarded = raw < 1 - 1e-6
        assert torch.equal((kept + liquid)[unguarded], sum(free._coefficients(rows)[:2])[unguarded])
        assert bool((raw > 1).any()) or not bounded
        y, _ = layer(size * u, dt)
        assert y.isfinite().all()


@pytest.mark.parametrize("kernel", ["kb", "pb"])
def test_kernels_against_their_definitions_and_causal(kernel):
    layer, lags = built(degree=3, kernel=kernel, lags=4), 4
    u, _ = layer_batch(generator(kernel), 2, 11, channels=2)
    y, _ = layer(u, 0.7, view="convolution")
    A, B = (part[0] for part in responses(layer, np.array([0.7])))
    numbers = u.numpy()
    for b in range(2):
        for k in range(11):
            x = np.zeros((2, 2), complex)
            for p in (1, 2, 3):
                for i in range(p - 1, k + 1):
                    product = np.prod([numbers[b, i - j] for j in range(p)], axis=0)[:, None]
                    if kernel == "kb" or p == 1:
                        x = x + A ** (k - i) * B**p * product
                    elif k - i < lags:
                        x = x + B**p * product
            assert np.abs(y[b, k].detach().numpy() - read(layer, x, numbers[b, k])).max() < 1e-12
    later = u.clone()
    later[:, 6:] = 9.0
    assert torch.allclose(layer(later, 0.7, view="convolution")[0][:, :6], y[:, :6], atol=1e-10)


def test_doors():
    for wrong, said in (
        ({"form": "other"}, "form is one of"),
        ({"method": "foh"}, "holds its next input"),
        ({"degree": 0}, "degree is None or"),
        ({"form": "exact", "degree": 2}, "of the paper's form"),
        ({"kernel": "kb"}, "with a degree"),
        ({"kernel": "xb", "degree": 2}, "kernel is one of kb, pb"),
    ):
        with pytest.raises(ValueError, match=said):
            LiquidLSSL(2, 4, **wrong)
    layer = LiquidLSSL(2, 4, degree=2, kernel="kb")
    with pytest.raises(ValueError, match="one gap for all rows"):
        layer(torch.ones(1, 3, 2), torch.tensor([1.0, 2.0, 1.0]), view="convolution")
