"""Streaming: the system that is kept while parameters stay as they are notices every change, and changes no bit."""

import copy
import dataclasses
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from ctlssl.holds import LINEAR, NEXT
from ctlssl.kernels import plain_torch
from tests.contracts import KIND_PARAMS, STRUCTURE_PARAMS, generator, layer_batch, make_layer, same_bits
from tests.problems import relative_error

DTYPES = [pytest.param(dtype, id=str(dtype)[6:]) for dtype in (torch.float32, torch.float64)]


def streamed(layer, u, dt):
    """Outputs of step after step, (B, L, H * M), and the last state."""
    state, outputs = layer.initial_state(len(u)), []
    for k in range(u.shape[1]):
        y, state = layer.step(u[:, k], dt[:, k], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def fresh(layer, u, dt):
    """The same from a system formed anew at each call, which is what recording gradients does."""
    with torch.enable_grad():
        y, state = streamed(layer, u, dt)
    return y.detach(), state.detach()


def agrees(layer, u, dt):
    """Whether what is kept gives the bits of what is not; twice, so that the second call finds something kept."""
    with torch.no_grad():
        first, second = (streamed(layer, u, dt) for _ in range(2))
    expected, state = fresh(layer, u, dt)
    return all(
        same_bits(y, expected) and same_bits(x.x, state.x) and same_bits(x.u, state.u) for y, x in (first, second)
    )


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KIND_PARAMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_step_is_forward_is_peek(structure, multi_input, dtype):
    rng = generator("streaming", structure.name, multi_input, dtype)
    for method in ("bilinear", "foh", "impulse"):
        layer = make_layer(structure.name, method, multi_input, dtype, channels=4, N=10)
        u, dt = layer_batch(rng, 2, 5, 4, dtype)
        assert agrees(layer, u, dt)
        with torch.no_grad():
            whole, final = layer(u, dt, view="recurrence")
            before = layer(u[:, :4], dt[:, :4], view="recurrence")[1]
            y, state = layer.step(u[:, 4], dt[:, 4], before)
            asked = layer.peek(before, dt[:, 4], u[:, 4])
            stepped, last = streamed(layer, u, dt)
        assert same_bits(asked, y) and same_bits(state.u, u[:, 4])
        tolerance = 1e-13 if dtype == torch.float64 else 1e-5
        for found, expected in ((stepped, whole), (y, whole[:, 4]), (last.x, final.x), (state.x, final.x)):
            assert relative_error(found, expected) < tolerance
        assert same_bits(last.u, final.u)


@pytest.mark.parametrize("multi_input", KIND_PARAMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_diagonal_step_has_the_bits_of_forward(multi_input, dtype):
    rng = generator("bits of a step", multi_input, dtype)
    for method in ("zoh", "foh", "bilinear", "impulse"):
        layer = make_layer("diagonal", method, multi_input, dtype, channels=5, N=34)
        u, dt = layer_batch(rng, 3, 9, 5, dtype)
        with torch.no_grad():
            y, state = layer(u, dt, view="recurrence")
            stepped, last = streamed(layer, u, dt)
        assert same_bits(stepped, y) and same_bits(last.x, state.x) and same_bits(last.u, state.u)


def _optimize(layer, optimizer):
    layer(torch.ones(1, 3, 3), 0.5)[0].square().sum().backward()
    optimizer.step()


def _train(name, **options):
    return lambda layer: _optimize(layer, getattr(torch.optim, name)(layer.parameters(), lr=0.1, **options))


def _through_data(layer):
    layer.B.data.mul_(1.5)


def _through_numpy(layer):
    layer.log_step.detach().numpy()[:] += 0.5


def _other_numbers(layer):
    layer.C.data = torch.randn_like(layer.C)


def _other_parameter(layer):
    value = layer.D.detach() + 1
    del layer.D
    layer.D = nn.Parameter(value)


def _in_place(layer):
    with torch.no_grad():
        layer.A_frequency.add_(0.25)


def _sign_of_zero(layer):
    layer.D.data.zero_()
    layer.D.data.neg_()


def _hold(layer):
    layer.method = dataclasses.replace(layer.method, hold=LINEAR if layer.method.hold is NEXT else NEXT)


def _not_finite(layer):
    layer.C.data.view(-1)[0] = torch.nan


CHANGES = {
    "sgd": _train("SGD"),
    "adam": _train("Adam"),
    "adam-foreach": _train("Adam", foreach=True),
    "adamw-fused": _train("AdamW", fused=True),
    "load_state_dict": lambda layer: layer.load_state_dict({k: v + 0.125 for k, v in layer.state_dict().items()}),
    "assigned": lambda layer: layer.load_state_dict({k: v + 0.125 for k, v in layer.state_dict().items()}, assign=True),
    "in-place": _in_place,
    "data": _through_data,
    "numpy": _through_numpy,
    "other numbers": _other_numbers,
    "other parameter": _other_parameter,
    "sign of zero": _sign_of_zero,
    "not finite": _not_finite,
    "hold": _hold,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("multi_input", KIND_PARAMS)
def test_every_change_is_noticed(change, multi_input):
    rng = generator("changes", change, multi_input)
    layer = make_layer("diagonal", "zoh", multi_input, torch.float32)
    u, dt = layer_batch(rng, 2, 3, dtype=torch.float32)
    assert agrees(layer, u, dt)
    with torch.no_grad():
        before, _ = streamed(layer, u, dt)
    CHANGES[change](layer)
    with torch.no_grad():
        found, _ = streamed(layer, u, dt)
    assert same_bits(found, fresh(layer, u, dt)[0]) and not same_bits(found, before)
    assert agrees(layer, u, dt)


def test_another_dtype():
    layer = make_layer("diagonal", "zoh", dtype=torch.float32)
    u, dt = layer_batch(generator("dtype"), 2, 3, dtype=torch.float32)
    assert agrees(layer, u, dt)
    layer.double()
    assert agrees(layer, u, dt) and agrees(layer, u.double(), dt)
    with torch.no_grad():
        assert layer.step(u[:, 0], dt[:, 0], layer.initial_state(2))[0].dtype == torch.float64
    layer.float()
    assert agrees(layer, u, dt) and agrees(layer, u.double(), dt)


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, value):
        return self.factor * value


def test_parametrized_parameters():
    layer = make_layer("diagonal", "zoh", dtype=torch.float32)
    u, dt = layer_batch(generator("parametrized"), 2, 3, dtype=torch.float32)
    assert agrees(layer, u, dt)
    parametrize.register_parametrization(layer, "B", Doubled())
    assert agrees(layer, u, dt)
    layer.parametrizations.B[0].factor.data.fill_(3.0)
    assert agrees(layer, u, dt)


def test_replaced_parameters_and_vmap():
    """Parameters of a call alone, plain or under a transformation, neither take what is kept nor leave themselves."""
    layer = make_layer("dplr", "bilinear")
    u, dt = layer_batch(generator("functional"), 2, 3)
    assert agrees(layer, u, dt)
    many = {name: torch.stack([p.detach(), p.detach() + 0.1]) for name, p in layer.named_parameters()}
    with torch.no_grad(), plain_torch():
        kept, _ = layer(u, 0.3, view="recurrence")
        expected = [functional_call(layer, {k: v[i] for k, v in many.items()}, (u, 0.3))[0] for i in range(2)]
        found = torch.vmap(lambda own: functional_call(layer, own, (u, 0.3))[0])(many)
        assert relative_error(found, torch.stack(expected)) < 1e-13
        assert same_bits(expected[0], kept) and not same_bits(expected[1], kept)
        assert same_bits(layer(u, 0.3, view="recurrence")[0], kept)
    assert agrees(layer, u, dt)


def test_inference_mode():
    layer = make_layer("diagonal", "foh", dtype=torch.float32)
    u, dt = layer_batch(generator("inference"), 2, 3, dtype=torch.float32)
    expected, _ = fresh(layer, u, dt)
    for _ in range(2):
        with torch.inference_mode():
            assert same_bits(streamed(layer, u, dt)[0], expected)
        with torch.no_grad():
            assert same_bits(streamed(layer, u, dt)[0], expected)
    leaf = u.clone().requires_grad_()
    layer(leaf, dt)[0].sum().backward()
    assert leaf.grad.any()


def test_a_copy_and_the_public_system_are_their_own():
    layer = make_layer("diagonal", "zoh", dtype=torch.float32)
    u, dt = layer_batch(generator("copies"), 2, 3, dtype=torch.float32)
    assert agrees(layer, u, dt)
    with torch.no_grad():
        streamed(layer, u, dt)
        other = copy.deepcopy(layer)
        other.B.mul_(2)
        layer.system().B.zero_()  # of the caller, not of the layer
    assert set(other.state_dict()) == set(layer.state_dict())
    assert agrees(other, u, dt) and agrees(layer, u, dt)
    assert not same_bits(fresh(other, u, dt)[0], fresh(layer, u, dt)[0])


def test_nothing_is_kept_while_gradients_are_recorded():
    layer = make_layer("diagonal", "zoh", dtype=torch.float32)
    u, dt = layer_batch(generator("kept"), 2, 3, dtype=torch.float32)
    with torch.no_grad():
        streamed(layer, u, dt)
        kept = weakref.ref(layer._current_system())
        assert layer._current_system() is kept()
    layer(u, dt)
    gc.collect()
    assert kept() is None


def test_a_reused_buffer_is_not_the_state():
    """What a caller does to inputs and gaps after a call changes nothing that was returned."""
    layer = make_layer("diagonal", "foh")
    u, dt = layer_batch(generator("buffers"), 2, 4)
    with torch.no_grad():
        expected, _ = streamed(layer, u, dt)
        buffer, gap, state, outputs = torch.empty_like(u[:, 0]), torch.empty_like(dt[:, 0]), layer.initial_state(2), []
        for k in range(4):
            y, state = layer.step(buffer.copy_(u[:, k]), gap.copy_(dt[:, k]), state)
            outputs.append(y)
    assert same_bits(torch.stack(outputs, 1), expected)
    gap = dt.clone()
    leaf = u.clone().requires_grad_()
    y, _ = layer(leaf, gap)
    gap.zero_()
    y.sum().backward()
    assert leaf.grad.any()
