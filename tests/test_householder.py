"""The memory of Householder steps: against a loop in numpy, and as the reflections and rotations it is made of."""

import numpy as np
import pytest
import torch

from ctlssl.kernels import matrix_scan
from ctlssl.layers import HouseholderLSSL, as_recurrence
from ctlssl.views import State
from tests.contracts import generator, layer_batch

SIZES = [(1, 1, 4, True), (2, 2, 3, True), (3, 1, 5, False)]


def make(channels=3, N=4, **options):
    """A layer of float64 with decays that matter over a few unit gaps."""
    torch.manual_seed(11)
    return HouseholderLSSL(channels, N, step_range=(0.1, 1.0), **options).double()


def numpy_loop(layer, u, dt, memory=None):
    """Outputs and last memories, one series, row, head and step after another, from the equation alone."""
    part = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    (B, L, H), (M, N, P), n = u.shape, layer.state_shape, layer.reflections
    y, memory = np.zeros((B, L, H)), np.zeros((B, M, N, P)) if memory is None else memory.copy()
    for b, k in np.ndindex(B, L):
        row, found = u[b, k], []
        for m in range(M):
            S = memory[b, m] * (np.exp(-np.exp(part["log_step"][m]) * dt[b, k]) if layer.decays else 1.0)
            for j in range(n):
                key = part["key"][m, j] @ row
                key = key / np.sqrt(key @ key)
                beta = 2 / (1 + np.exp(-(part["strength"][m, j] @ row + part["strength_bias"][m, j])))
                beta = (1 + np.clip(1.02 * (beta - 1), -1, 1)) / (1 if layer.signed else 2)
                S = (np.eye(N) - beta * np.outer(key, key)) @ S + beta * np.outer(key, part["value"][m, j] @ row)
            memory[b, m] = S
            found.append(S.T @ (part["query"][m] @ row + part["query_bias"][m]))
        y[b, k] = sum(part["out"][:, m] @ found[m] for m in range(M)) + part["D"] * row
    return y, memory


@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize(("reflections", "heads", "values", "signed"), SIZES)
def test_against_numpy(reflections, heads, values, signed, decays):
    layer = make(reflections=reflections, heads=heads, values=values, signed=signed, decays=decays)
    u, dt = layer_batch(generator("householder", reflections, heads, values, signed, decays), 3, 8)
    y, state = layer(u, dt)
    expected, memory = numpy_loop(layer, u.numpy(), dt.numpy())
    assert np.abs(y.detach().numpy() - expected).max() < 1e-11
    assert np.abs(state.x.detach().numpy() - memory).max() < 1e-11
    later, after = layer(u, dt, state=state)
    expected, memory = numpy_loop(layer, u.numpy(), dt.numpy(), memory)
    assert np.abs(later.detach().numpy() - expected).max() < 1e-11
    assert np.abs(after.x.detach().numpy() - memory).max() < 1e-11


def test_queries_and_padding_against_numpy():
    layer = make(reflections=2)
    u, dt = layer_batch(generator("householder rows"), 2, 6)
    dt[0, 3] = dt[0, 2] + 0.5  # row 2 is a query, so row 3 is counted from row 1
    asked = torch.tensor([[0, 0, 1, 0, 0, 0], [0] * 6], dtype=torch.bool)
    y, state = layer(u, dt, lengths=torch.tensor([6, 4]), is_query=asked)
    for series, rows, last in ((0, [0, 1, 3, 4, 5], 5), (1, [0, 1, 2, 3], 3)):
        expected, memory = numpy_loop(
            layer, u[series : series + 1, rows].numpy(), dt[series : series + 1, rows].numpy()
        )
        assert np.abs(y[series, rows].detach().numpy() - expected[0]).max() < 1e-11
        assert np.abs(state.x[series].detach().numpy() - memory[0]).max() < 1e-11
        assert torch.equal(state.u[series], u[series, last])
    expected, _ = numpy_loop(layer, u[:1, :3].numpy(), dt[:1, :3].numpy())
    assert np.abs(y[0, 2].detach().numpy() - expected[0, 2]).max() < 1e-11


def transitions(layer, u):
    """What each row does to the keys of the memory, (L, N, N), read off memories that are handed in."""
    start, N = layer.initial_state(1), layer.state_size
    found = []
    for k in range(u.shape[1]):
        written = layer(u[:, k : k + 1], 1.0)[1].x
        kept = layer(u[:, k : k + 1], 1.0, state=State(torch.eye(N, dtype=u.dtype)[None, None], start.u))[1].x
        found.append((kept - written)[0, 0])
    return torch.stack(found).detach()


def saturated(reflections, **options):
    """A layer whose every beta is 2, to the last bit."""
    layer = make(reflections=reflections, decays=False, **options)
    with torch.no_grad():
        layer.strength.zero_()
        layer.strength_bias.fill_(60.0)
    return layer


def test_one_step_is_a_reflection_and_two_are_a_rotation():
    u, _ = layer_batch(generator("reflections"), 1, 5)
    eye = torch.eye(4, dtype=u.dtype)
    one = transitions(saturated(1), u)
    assert torch.allclose(one, one.mT, atol=1e-11) and torch.allclose(one @ one, eye, atol=1e-11)
    assert torch.allclose(torch.linalg.det(one), torch.tensor(-1.0, dtype=u.dtype), atol=1e-10)
    assert torch.allclose(torch.linalg.eigvalsh(one), torch.tensor([-1.0, 1, 1, 1], dtype=u.dtype), atol=1e-10)

    layer = saturated(2)
    two = transitions(layer, u)
    assert torch.allclose(two @ two.mT, eye, atol=1e-11)
    assert torch.allclose(torch.linalg.det(two), torch.tensor(1.0, dtype=u.dtype), atol=1e-10)
    # A rotation by twice the angle between the keys, in their plane: the trace is N - 2 + 2 cos.
    keys = torch.nn.functional.normalize(torch.einsum("mjnh,blh->lmjn", layer.key, u)[:, 0], dim=-1)
    angle = (keys[:, 0] * keys[:, 1]).sum(-1).arccos()
    traces = torch.diagonal(two, dim1=-2, dim2=-1).sum(-1)
    assert torch.allclose(traces, 2 + 2 * torch.cos(2 * angle), atol=1e-10)


def test_eigenvalues_have_the_sign_that_is_allowed():
    u, _ = layer_batch(generator("eigenvalues"), 1, 40)
    strong = 5 * u
    signed = torch.linalg.eigvalsh(transitions(make(decays=False), strong))
    positive = torch.linalg.eigvalsh(transitions(make(decays=False, signed=False), strong))
    assert signed.min() < -0.9 and signed.abs().max() < 1 + 1e-9
    assert positive.min() > -1e-9 and positive.max() < 1 + 1e-9


def test_an_input_of_zeros_only_decays():
    layer, (u, dt) = make(reflections=2, heads=2), layer_batch(generator("zeros"), 2, 4)
    _, state = layer(u, dt)
    nothing = torch.zeros(2, 1, 3, dtype=u.dtype, requires_grad=True)
    y, after = layer(nothing, 0.7, state=state)
    left = torch.exp(-0.7 * layer.log_step.exp())[:, None, None]
    assert torch.allclose(after.x, left * state.x, atol=1e-14)
    (y.sum() + after.x.sum()).backward()
    assert nothing.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_gradients_with_padding_are_finite_and_right():
    layer = make(reflections=2)
    u, dt = layer_batch(generator("householder gradients"), 2, 4)
    lengths, asked = torch.tensor([4, 2]), torch.tensor([False, False, True, False])

    def outputs(u, dt, x):
        y, state = layer(u, dt, lengths, State(x, u[:, 0]), asked)
        return y, state.x

    start = torch.randn(2, 1, 4, 4, dtype=u.dtype)
    inputs = [part.requires_grad_() for part in (u, dt, start)]
    assert torch.autograd.gradcheck(outputs, inputs)
    y, _ = layer(u, dt, lengths)
    y.sum().backward()
    assert u.grad.isfinite().all() and (u.grad[1, 2:] == 0).all()


def test_counts_modulo_three_for_ever():
    """Inputs (start, one, zero): the start writes the identity, a one turns by 120 degrees, a zero reflects twice."""
    layer = HouseholderLSSL(3, 2, reflections=2, decays=False).double()
    half = 0.5 * 3**0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.strength_bias.fill_(60.0)  # beta = 2
        layer.key[0, 0] = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
        layer.key[0, 1] = torch.tensor([[0.0, 0.5, 1.0], [1.0, half, 0.0]], dtype=torch.float64)
        layer.value[0, :, :, 0] = 0.5 * torch.eye(2)
        layer.query_bias[0, 0] = 1
        layer.out[:2, 0] = torch.eye(2)
    rng = generator("modulo 3 by hand")
    bits, dt = rng.integers(0, 2, 5000), torch.from_numpy(10 ** rng.uniform(-3, 3, (1, 5001)))
    u = torch.zeros(1, 5001, 3, dtype=torch.float64)
    u[0, 0, 0] = 1
    u[0, torch.arange(1, 5001), torch.from_numpy(2 - bits)] = 1
    y = layer(u, dt)[0][0, 1:].detach().numpy()
    angle = 2 * np.pi / 3 * (bits.cumsum() % 3)
    assert np.abs(y[:, 0] - np.cos(angle)).max() < 1e-9
    assert np.abs(np.abs(y[:, 1]) - np.abs(np.sin(angle))).max() < 1e-9


def test_linear_form_is_a_kronecker_product():
    layer, (u, dt) = make(reflections=2), layer_batch(generator("kron"), 1, 3)
    form = as_recurrence(layer, u, dt)
    for k in range(3):
        start = State(torch.eye(4, dtype=u.dtype)[None, None], u[:, 0])
        kept, written = (layer(u[:, k : k + 1], dt[:, k : k + 1], state=s)[1].x[0, 0] for s in (start, None))
        expected = np.kron((kept - written).detach().numpy(), np.eye(4))
        assert np.abs(form.transition[0, k].detach().numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("batch", [(), (2,)])
def test_matrix_scan(batch):
    rng = generator("matrix scan", batch)
    M, b, x = (
        torch.from_numpy(rng.standard_normal(s))
        for s in ((2, 5, *batch, 3, 3), (2, 5, *batch, 3, 2), (2, *batch, 3, 2))
    )
    states, state = matrix_scan(M, b, x).numpy(), x.numpy()
    for k in range(5):
        state = M[:, k].numpy() @ state + b[:, k].numpy()
        assert np.abs(states[:, k] - state).max() < 1e-12 * np.abs(state).max()
    inputs = [part.requires_grad_() for part in (M, b, x)]
    assert torch.autograd.gradcheck(matrix_scan, inputs)
    assert torch.autograd.gradgradcheck(matrix_scan, inputs)
    assert matrix_scan(M[:, :0], b[:, :0], x).shape == (2, 0, *batch, 3, 2)


def test_doors():
    for wrong in ({"reflections": 0}, {"heads": 0}, {"values": 0}):
        with pytest.raises(ValueError, match="reflections, heads, values need to be at least 1"):
            make(**wrong)
