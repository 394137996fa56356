"""Step sizes of the layer: what has its own, gates, switches; each against the slow reference, and by the clock."""

import copy

import numpy as np
import pytest
import torch

from ctlssl.layers.lssl import LSSL
from ctlssl.step_size import STEP_SIZES, StepSize
from ctlssl.views import Integration
from tests.contracts import (
    STRUCTURES,
    dense_system,
    generator,
    layer_batch,
    make_layer,
    same_bits,
    sampled,
    wide_gaps,
)
from tests.problems import METHODS as TRUTHS
from tests.problems import relative_error, simulate

BANK, MULTI = False, True
OPTIONS = {  # name -> (structure, multi-input, options)
    "layer-diagonal": ("diagonal", BANK, {"step_size": "per_layer"}),
    "layer-dense": ("dense", BANK, {"step_size": "per_layer"}),
    "layer-multi": ("diagonal", MULTI, {"step_size": "per_layer"}),
    "state": ("diagonal", BANK, {"step_size": "per_state"}),
    "own-A-dense": ("dense", BANK, {"per_channel": True}),
    "own-A-diagonal": ("diagonal", BANK, {"per_channel": True, "step_size": "per_state"}),
    "own-A-dplr": ("dplr", BANK, {"per_channel": True}),
    "own-A-quasiseparable": ("quasiseparable", BANK, {"per_channel": True, "step_size": "per_layer"}),
    "gate-diagonal": ("diagonal", BANK, {"step_size": "gated"}),
    "gate-quasiseparable": ("quasiseparable", BANK, {"step_size": "gated"}),
    "gate-multi": ("diagonal", MULTI, {"step_size": "gated"}),
    "gate-multi-dense": ("dense", MULTI, {"step_size": "gated"}),
    "gates-diagonal": ("diagonal", BANK, {"step_size": "gated_per_channel"}),
    "gates-state": ("diagonal", BANK, {"step_size": StepSize(per="state", gate="channel"), "per_channel": True}),
    "gates-dplr": ("dplr", BANK, {"step_size": "gated_per_channel"}),
    "gates-quasiseparable": ("quasiseparable", BANK, {"step_size": {"per": "layer", "gate": "channel"}}),
}
PARAMS = [pytest.param(*option, id=name) for name, option in OPTIONS.items()]
METHODS = ["bilinear", "zoh", "foh", "impulse"]
over = pytest.mark.parametrize(("structure", "multi", "options"), sampled(0.5, PARAMS))
over_methods = pytest.mark.parametrize(("structure", "multi", "options", "method"), sampled(0.25, PARAMS, METHODS))


def moved(structure, method, multi, options, rng, dtype=torch.float64, **more):
    """A layer away from its start, where all gates were 1 and all A the same; of values that float32 holds."""
    layer = make_layer(structure, method, multi, torch.float32, **more, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            size = 0.4 if name.startswith("gate") else 0.1
            parameter += size * torch.from_numpy(rng.standard_normal(parameter.shape)).float()
    return layer.to(dtype)


def gates_of(layer, u):
    """The factor of every gap, (B, L, 1 or H), from softplus by its definition in numpy."""
    if layer.gate is None:
        return np.ones((*u.shape[:2], 1))
    weight, bias = (p.detach().double().numpy() for p in (layer.gate.weight, layer.gate.bias))
    return np.log1p(np.exp(u.double().numpy() @ weight.T + bias))


def reference(layer, method, u, dt, state=None, lengths=None, is_query=None):
    """Outputs by the slow reference: the system without its gate, on the gaps that the gates make."""
    plain = copy.deepcopy(layer)
    plain.gate = None
    groups, gates = dense_system(plain.system()).groups, gates_of(layer, u)
    found = []
    for b in range(len(u)):
        length = None if lengths is None else int(lengths[b])
        asked = None if is_query is None else is_query[b].numpy()
        runs = []
        for g, group in enumerate(groups):
            channels = slice(None) if layer.multi_input else slice(g, g + 1)
            start = None if state is None else tuple(v.detach().double().numpy() for v in (state.x[b, g], state.u[b]))
            start = start if start is None or layer.multi_input else (start[0], start[1][channels])
            gaps = dt[b].double().numpy() * gates[b, :, g if gates.shape[-1] > 1 else 0]
            inputs = u[b].double().numpy()[:, channels]
            runs.append(simulate(*group, TRUTHS[method], inputs, gaps, start, length, asked).y)
        found.append(np.concatenate(runs, axis=-1))
    return np.stack(found)


@over_methods
def test_against_the_reference(structure, multi, options, method):
    """Ragged, with queries, from a state; in both precisions from the same parameters."""
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        rng = generator("steps", structure, multi, repr(options), method)
        layer = moved(structure, method, multi, options, rng, dtype)
        u, dt = layer_batch(rng, 3, 7, dtype=dtype)
        _, state = layer(*layer_batch(rng, 3, 2, dtype=dtype))
        lengths, is_query = torch.tensor([7, 5, 0]), torch.zeros(3, 7, dtype=torch.bool)
        is_query[0, 2] = is_query[1, 4] = True
        found, _ = layer(u, dt, lengths, state, is_query)
        expected = reference(layer, method, u, dt, state, lengths, is_query)
        for b in range(3):
            assert relative_error(found[b].detach(), expected[b]) < tolerance


@over_methods
def test_step_is_forward_is_chunks_is_peek(structure, multi, options, method):
    rng = generator("step steps", structure, multi, repr(options), method)
    layer = moved(structure, method, multi, options, rng)
    u, dt = layer_batch(rng, 2, 6)
    whole, final = layer(u, dt)
    first, state = layer(u[:, :4], dt[:, :4])
    rest, after = layer(u[:, 4:], dt[:, 4:], state=state)
    assert relative_error(torch.cat([first, rest], 1).detach(), whole.detach()) < 1e-12
    assert relative_error(after.x.detach(), final.x.detach()) < 1e-12
    state, before = layer.initial_state(2), None
    with torch.no_grad():
        for k in range(6):
            y, before, state = *layer.step(u[:, k], dt[:, k], state), state
            state, before = before, state
            assert relative_error(y, whole[:, k].detach()) < 1e-12
            assert relative_error(layer.peek(before, dt[:, k], u[:, k]), y) < 1e-12
    assert relative_error(state.x, final.x.detach()) < 1e-12


@over
def test_queries_and_padding_change_no_bit(structure, multi, options):
    for dtype in (torch.float64, torch.float32):
        rng = generator("bits of steps", structure, multi, repr(options))
        layer = moved(structure, "zoh", multi, options, rng, dtype, channels=5, N=10)
        u, dt = layer_batch(rng, 2, 9, 5, dtype)
        asked = torch.tensor([False, True, False, True, True, False, False, False, True])
        full, after = layer(u, dt, is_query=asked)
        plain, state = layer(u[:, ~asked], dt[:, ~asked], view="recurrence")
        assert same_bits(full[:, ~asked], plain) and same_bits(after.x, state.x)
        lengths, results = torch.tensor([9, 4]), []
        for filler, gap in ((0.0, 1.0), (1e30, 0.0), (float("nan"), float("nan"))):
            leaf, gaps = u.clone(), dt.clone()
            leaf[1, 4:], gaps[1, 4:] = filler, gap
            leaf.requires_grad_(), gaps.requires_grad_()
            layer.zero_grad()
            y, state = layer(leaf, gaps, lengths)
            (y.square().sum() + state.x.sum()).backward()
            results.append([y, *state, leaf.grad, gaps.grad, *(p.grad.clone() for p in layer.parameters())])
        for other in results[1:]:
            assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))
        alone, _ = layer(u[1:, :4], dt[1:, :4])
        assert relative_error(results[0][0][1, :4].detach(), alone[0].detach()) < (
            1e-6 if dtype.itemsize == 4 else 1e-14
        )


@over
def test_units_rate_and_causality(structure, multi, options):
    rng = generator("units of steps", structure, multi, repr(options))
    layer = moved(structure, "foh", multi, options, rng)
    u, dt = layer_batch(rng, 2, 6)
    y, _ = layer(u, dt)
    rates = torch.tensor([0.25, 3.7], dtype=torch.float64)
    rated, _ = layer(u, dt, rate=rates)
    assert relative_error(rated.detach(), layer(u, rates[:, None] * dt)[0].detach()) < 1e-13
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.log_step -= np.log(3.7)
    assert relative_error(other(u, 3.7 * dt)[0].detach(), y.detach()) < 1e-11
    later, gaps = u.clone(), dt.clone()
    later[:, 4:], gaps[:, 4:] = 9.0, 3.0
    assert same_bits(layer(later, gaps)[0][:, :4], y[:, :4])


@over
def test_gradients(structure, multi, options):
    """In u, dt, the state and every parameter, those of the gate among them."""
    rng = generator("gradients of steps", structure, multi, repr(options))
    method = "foh" if structure == "diagonal" else "bilinear"
    heads = {} if multi else {"heads": 1}
    layer = moved(structure, method, multi, options, rng, channels=2, N=4, **heads)
    names = [key for key, _ in layer.named_parameters()]
    u, dt = layer_batch(rng, 2, 3, channels=2)
    _, state = layer(*layer_batch(rng, 2, 2, channels=2))
    lengths, is_query = torch.tensor([3, 2]), torch.tensor([False, True, False])

    def outputs(u, dt, x, last, *values):
        arguments = (u, dt, lengths, type(state)(x, last), is_query)
        y, after = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), arguments)
        return y, after.x

    leaves = [v.detach().clone().requires_grad_() for v in (u, dt, *state, *layer.parameters())]
    assert torch.autograd.gradcheck(outputs, leaves)


@over
def test_every_option_learns_and_is_saved(structure, multi, options):
    rng = generator("learned steps", structure, multi, repr(options))
    layer = make_layer(structure, "zoh", multi, **options)
    u, dt = layer_batch(rng, 2, 5)
    layer(u, dt)[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    other = make_layer(structure, "zoh", multi, **options)
    other.load_state_dict(moved(structure, "zoh", multi, options, rng).state_dict())
    assert not same_bits(other(u, dt)[0], layer(u, dt)[0])
    names = {"gate.weight", "gate.bias"} if layer.gate is not None else set()
    plain = make_layer(structure, "zoh", multi)
    assert set(layer.state_dict()) == set(plain.state_dict()) | names
    assert "step_size=StepSize" in repr(layer) or "per_channel=True" in repr(layer)


@pytest.mark.parametrize("name", ["gated", "gated_per_channel"])
@pytest.mark.parametrize("structure", ["diagonal", "quasiseparable"])
def test_a_gated_layer_starts_as_the_plain_one(structure, name):
    rng = generator("start of gates", structure, name)
    layers = []
    for step_size in ("plain", name):
        torch.manual_seed(3)
        layers.append(make_layer(structure, "zoh", step_size=step_size))
    u, dt = layer_batch(rng, 2, 6)
    plain, gated = (layer(u, dt)[0].detach() for layer in layers)
    assert relative_error(gated, plain) < 1e-6


@pytest.mark.parametrize("name", ["gated", "gated_per_channel"])
def test_gates_and_an_ode_solver(name):
    rng = generator("gates integrated", name)
    layer = moved("diagonal", "zoh", BANK, {"step_size": name}, rng)
    u, dt = layer_batch(rng, 2, 4)
    expected, state = layer(u, dt)
    found = layer.simulate(u, dt, view=Integration("dopri5", rtol=1e-9, atol=1e-11))
    assert relative_error(found.y.detach(), expected.detach()) < 1e-6
    assert relative_error(found.state.x.detach(), state.x.detach()) < 1e-6
    assert found.evaluations > 0


@pytest.mark.parametrize(("structure", "multi", "options"), [p for p in PARAMS if "gate" in p.id])
def test_gates_at_gaps_of_1e_minus_9_to_1e9(structure, multi, options):
    """Gates multiply phases: float32 layers form them in float64, or lose the phase at large gaps."""
    rng = generator("wide gates", structure, multi, repr(options))
    method = "zoh" if structure == "diagonal" else "backward_euler"
    layer = moved(structure, method, multi, options, rng, torch.float32)
    u, _ = layer_batch(rng, 1, 12, dtype=torch.float32)
    gaps = torch.from_numpy(wide_gaps(rng, 12).astype(np.float32).astype(np.float64))[None]
    expected = reference(layer, method, u, gaps)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        layer = layer.to(dtype)
        leaf, dt = u.clone().to(dtype).detach().requires_grad_(), gaps.clone().requires_grad_()
        found, _ = layer(leaf, dt)
        assert relative_error(found.detach(), expected) < tolerance
        layer.zero_grad()
        found.square().mean().backward()
        assert all(torch.isfinite(g).all() for g in (leaf.grad, dt.grad, *(p.grad for p in layer.parameters())))


@over
def test_bidirectional(structure, multi, options):
    """Ragged, with queries: each series alone, forwards and reversed by hand, through the reference."""
    rng = generator("both ways", structure, multi, repr(options))
    layer = moved(structure, "bilinear", multi, options, rng, bidirectional=True)
    lengths, times = torch.tensor([7, 5]), np.sort(rng.uniform(0, 5, (2, 7)))
    is_query = torch.tensor([[0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0]], dtype=torch.bool)
    u, dt = layer_batch(rng, 2, 7)
    back = torch.zeros(2, 7, dtype=torch.float64)
    for b, length in enumerate(lengths.tolist()):
        seen = [k for k in range(length) if not is_query[b, k]]
        for k in range(length):
            before, after = [j for j in seen if j < k], [j for j in seen if j > k]
            dt[b, k] = times[b, k] - times[b, before[-1]] if before else 0.7
            back[b, length - 1 - k] = times[b, after[0]] - times[b, k] if after else 0.7
    found, _ = layer(u, dt, lengths, is_query=is_query)
    turned = copy.deepcopy(layer)
    with torch.no_grad():
        turned.C.copy_(layer.C_reverse), turned.D.zero_()
    for b, length in enumerate(lengths.tolist()):
        part = (u[b : b + 1, :length], dt[b : b + 1, :length])
        y = reference(layer, "bilinear", *part, is_query=is_query[b : b + 1, :length])[0]
        part = (part[0].flip(1), back[b : b + 1, :length])
        y = y + reference(turned, "bilinear", *part, is_query=is_query[b : b + 1, :length].flip(1))[0][::-1]
        assert relative_error(found[b, :length].detach(), y) < 1e-11


def test_a_gap_that_does_not_count():
    """Each row is one unit after the last observation; what is given must be sound all the same."""
    rng = generator("no gap")
    torch.manual_seed(5)
    layer = make_layer("dplr", "zoh", step_size="without_gap", bidirectional=True)
    torch.manual_seed(5)
    plain = make_layer("dplr", "zoh", bidirectional=True)
    u, dt = layer_batch(rng, 2, 40)
    lengths, rate = torch.tensor([40, 33]), torch.tensor([0.5, 2.0])
    assert layer.chosen_view(u, dt).name == "convolution"
    assert same_bits(layer(u, dt)[0], plain(u)[0]) and same_bits(layer(u, 7.0)[0], plain(u)[0])
    ones = torch.ones_like(dt)
    for given in ({"rate": rate}, {"rate": 2.0, "lengths": lengths}):
        expected, _ = plain(u, ones, **given)
        assert relative_error(layer(u, dt, **given)[0].detach(), expected.detach()) < 1e-11
    causal = make_layer("dplr", "zoh", step_size="without_gap")
    state = causal(u, dt)[1]
    assert same_bits(causal.peek(state, 0.1), causal.peek(state, 9.0))
    dt[1, 3] = -1.0
    with pytest.raises(ValueError, match="series 1, position 3"):
        layer(u, dt)


def test_queries_between_rows_that_count_as_one_unit():
    """Forwards and backwards a query is one unit from the observation before and after it."""
    rng = generator("queries without gaps")
    layer = make_layer("diagonal", "zoh", step_size="without_gap", bidirectional=True)
    u, dt = layer_batch(rng, 1, 5)
    asked = torch.tensor([False, False, True, False, False])
    found, _ = layer(u, dt, is_query=asked)
    ahead = layer(u[:, :3], dt[:, :3])[0][:, 2]
    one = copy.deepcopy(layer)
    one.bidirectional = False
    forward, _ = one(u[:, :3])
    with torch.no_grad():
        one.C.copy_(layer.C_reverse), one.D.zero_()
    backward, _ = one(u[:, [4, 3, 2]])
    assert relative_error(found[:, 2].detach(), (forward[:, 2] + backward[:, 2]).detach()) < 1e-12
    assert not same_bits(found[:, 2], ahead)


def test_a_rate_that_does_not_count():
    rng = generator("no rate")
    layer = make_layer("diagonal", "zoh", step_size="without_rate")
    u, dt = layer_batch(rng, 2, 5)
    assert same_bits(layer(u, dt, rate=torch.tensor([3.0, 0.1]))[0], layer(u, dt)[0])
    with pytest.raises(ValueError, match="rate must be positive"):
        layer(u, dt, rate=-1.0)


def test_a_step_that_is_left_out():
    """A fixed step of 1 is no factor at all."""
    layer = LSSL(2, 4, structure="dense", method="zoh", step_range=(1.0, 1.0), learn=("A", "B"))
    assert not layer.log_step.any() and "log_step" not in dict(layer.named_parameters())


def test_what_cannot_be_is_refused():
    u = torch.zeros(1, 3, 2)
    gated = LSSL(2, 4, structure="diagonal", step_size="gated")
    for call, message in (
        (lambda: LSSL(2, 4, structure="dense", step_size="per_state"), "diagonal A"),
        (lambda: LSSL(2, 4, structure="diagonal", multi_input=True, step_size=StepSize(per="channel")), "multi-input"),
        (lambda: LSSL(2, 4, structure="diagonal", multi_input=True, step_size="gated_per_channel"), "multi-input"),
        (lambda: LSSL(2, 4, structure="diagonal", multi_input=True, per_channel=True), "multi-input"),
        (lambda: LSSL(2, 4, step_size="gated", learn=("A",)), "add 'step'"),
        (lambda: LSSL(2, 4, step_size="none"), ", ".join(STEP_SIZES)),
        (lambda: LSSL(2, 4, step_size={"part": 1}), "no field 'part'"),
        (lambda: StepSize(per="head"), "per of a step size"),
        (lambda: StepSize(gate="state"), "gate of a step size"),
        (gated.system, "input-dependent"),
        (lambda: gated(u, 1.0, view="convolution"), "view='recurrence'"),
        (lambda: gated.chosen_view(u, 1.0, view="convolution"), "view='recurrence'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert "depend on the input" in gated.chosen_view(u, 1.0).reason


def test_shapes_of_steps_and_matrices():
    """What is learned by each, and that steps are spread over the range wherever there are several."""
    for options, shape in (
        ({"step_size": "per_layer"}, ()),
        ({}, (3,)),
        ({"step_size": "per_state"}, (3, 4)),
        ({"multi_input": True}, (4,)),
        ({"multi_input": True, "step_size": "per_layer"}, ()),
    ):
        layer = LSSL(3, 8, structure="diagonal", step_range=(0.01, 1.0), **options)
        assert layer.log_step.shape == shape
        if shape:
            assert tuple(v.item() for v in layer.log_step.exp().aminmax()) == pytest.approx((0.01, 1.0), rel=1e-5)
    for structure in STRUCTURES:
        shared, own = (LSSL(3, 8, structure=structure, per_channel=per) for per in (False, True))
        for name, value in shared.state_dict().items():
            more = (3,) if name.startswith("A_") else ()
            assert own.state_dict()[name].shape == (*more, *value.shape)
        assert len({own.state_dict()[name].data_ptr() for name in own.state_dict()}) == len(own.state_dict())
