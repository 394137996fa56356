"""The shortest way of a step: the bits of the general one, and given up wherever more than numbers is asked for."""

import math

import pytest
import torch
from torch.nn.modules import module as every_module

from ctlssl import LSSL, State
from ctlssl.kernels import plain_torch
from ctlssl.layers.quick_step import quick_step
from tests.contracts import METHODS, generator, same_bits

BATCHES = (1, 3)


def a_layer(multi_input=False, method="zoh", channels=5, states=6, **options):
    torch.manual_seed(3)
    return LSSL(channels, states, "diagonal", method=method, multi_input=multi_input, **options)


def an_observation(layer, batch, seed="quick"):
    """Inputs, gaps over nine decades, and a state that is not zero."""
    rng, like = generator(seed), layer.initial_state(batch)
    x, held, u = (torch.from_numpy(rng.standard_normal(part.shape)).to(part) for part in (*like, like.u))
    return u, torch.from_numpy(10 ** rng.uniform(-5, 4, batch)), State(x, held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "forward_euler"])
def test_the_bits_of_the_general_way(name, multi_input, batch, dtype):
    layer = a_layer(multi_input, name, heads=1 if multi_input else 2).to(dtype)
    u, dt, state = an_observation(layer, batch)
    with torch.no_grad():
        found = quick_step(layer, u, dt, state)
        assert found is not None
        y, after = layer(u[:, None], dt[:, None], state=state, view="recurrence")
    assert same_bits(found[0], y[:, 0]) and same_bits(found[1].x, after.x) and same_bits(found[1].u, after.u)
    again = layer.step(u, dt, state)[0]
    torch.testing.assert_close(again, found[0], rtol=1e-5, atol=1e-6)


def test_what_comes_back_is_not_what_went_in():
    layer = a_layer()
    u, dt, state = an_observation(layer, 1)
    with torch.no_grad():
        y, after = quick_step(layer, u, dt, state)
        kept = after.u.clone(), after.x.clone(), y.clone()
        for part in (u, dt, *state):
            part.zero_()
    assert same_bits(after.u, kept[0]) and same_bits(after.x, kept[1]) and same_bits(y, kept[2])


@torch.no_grad()
def test_given_up_where_it_cannot_serve():
    layer = a_layer()
    u, dt, state = an_observation(layer, 2)
    assert quick_step(layer, u, dt, state) is not None
    for asked in (
        (u, 0.5, state),
        (u, None, state),
        (u, dt[:1], state),
        (u[:, :2], dt, state),
        (u.double(), dt, state),
    ):
        assert quick_step(layer, *asked) is None
    assert quick_step(layer, u, dt, tuple(state)) is None
    assert quick_step(a_layer(method="forward_euler"), u, dt, state) is None
    for gap in (-1.0, math.nan, math.inf):
        wrong = dt.clone()
        wrong[1] = gap
        assert quick_step(layer, u, wrong, state) is None
        with pytest.raises(ValueError, match="series 1, position 0"):
            layer.step(u, wrong, state)
    with plain_torch():
        assert quick_step(layer, u, dt, state) is None
    with torch.enable_grad():
        assert quick_step(layer, u, dt, state) is None


@torch.no_grad()
def test_hooks_are_called():
    layer, calls = a_layer(), []
    u, dt, state = an_observation(layer, 1)
    layer.register_forward_hook(lambda *_: calls.append("after"))
    layer.step(u, dt, state)
    assert calls == ["after"]


@torch.no_grad()
@pytest.mark.parametrize(
    "register", [every_module.register_module_forward_hook, every_module.register_module_forward_pre_hook]
)
def test_hooks_of_all_modules_are_called(register):
    layer, calls = a_layer(), []
    u, dt, state = an_observation(layer, 1)
    hook = register(lambda module, *_: calls.append(module))
    try:
        layer.step(u, dt, state)
    finally:
        hook.remove()
    assert calls == [layer]
    assert quick_step(layer, u, dt, state) is not None


@torch.no_grad()
def test_gaps_of_another_count_are_named_as_they_were_given():
    layer = a_layer()
    u, _, state = an_observation(layer, 3)
    for call in (layer.step, lambda u, dt, state: layer.peek(state, dt)):
        with pytest.raises(ValueError, match=r"one a series, \(3,\); found shape \(2,\)"):
            call(u, torch.ones(2), state)


@torch.no_grad()
def test_an_empty_batch():
    layer = a_layer()
    u, dt, state = an_observation(layer, 0)
    y, after = layer.step(u, dt, state)
    assert y.shape == (0, 5) and after.x.shape == state.x.shape


@torch.no_grad()
def test_what_a_subclass_makes_of_forward_is_heard():
    class Doubled(LSSL):
        def forward(self, *given, **named):
            y, state = super().forward(*given, **named)
            return 2 * y, state

    layer = Doubled(5, 6, "diagonal", method="zoh")
    u, dt, state = an_observation(layer, 1)
    assert torch.equal(layer.step(u, dt, state)[0], layer(u[:, None], dt[:, None], state=state)[0][:, 0])
