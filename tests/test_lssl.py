"""The layer: its system through the slow reference, its views, and what it learns."""

import numpy as np
import pytest
import torch

from ctlssl import hippo
from ctlssl.layers import LSSL
from ctlssl.layers.view_choice import crossover_length
from ctlssl.views import Integration
from tests.contracts import (
    KIND_PARAMS,
    METHOD_PARAMS,
    STRUCTURE_PARAMS,
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
from tests.problems import relative_error

ROWS = 2 * crossover_length("dplr", False, "cpu", tabulated=True)  # where "auto" convolves


@pytest.mark.parametrize(
    ("structure", "name", "truth", "multi_input"), sampled(0.6, STRUCTURE_PARAMS, METHOD_PARAMS, KIND_PARAMS)
)
def test_system_through_the_reference(structure, name, truth, multi_input):
    """What `system()` returns, put into the design's table with h = dt, gives the layer: outputs and states."""
    rng = generator("layer", structure.name, name, multi_input)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        layer = make_layer(structure.name, name, multi_input, dtype)
        u, dt = layer_batch(rng, 3, 7, dtype=dtype)
        lengths, is_query = torch.tensor([7, 5, 0]), torch.zeros(3, 7, dtype=torch.bool)
        is_query[0, 2] = is_query[1, 4] = True
        _, state = layer(*layer_batch(rng, 3, 2, dtype=dtype))
        found, after = layer(u, dt, lengths, state, is_query)
        before = tuple(v.detach().double().numpy() for v in state)
        system = dense_system(layer.system())
        y, x, last = system.simulate(truth, u.double().numpy(), dt.numpy(), before, lengths.numpy(), is_query.numpy())
        for b in range(3):
            assert relative_error(found[b].detach(), y[b]) < tolerance
            assert relative_error(after.x[b].detach(), x[b]) < tolerance
        np.testing.assert_allclose(after.u.detach(), last, rtol=1e-15)
        assert found.dtype == after.x.dtype == dtype
        assert found.shape == (3, 7, 3 * layer.heads)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KIND_PARAMS)
def test_system_is_the_start_times_the_step(structure, multi_input):
    torch.set_default_dtype(torch.float64)
    try:
        for method in ("zoh", "impulse"):
            layer = make_layer(structure.name, method, multi_input, measure="legs", N=8)
            A, B, C, D = (m.detach() for m in layer.system().to_dense())
            step = layer.log_step.detach().exp()
            start = hippo.start(structure.name, "legs", 8)
            if not multi_input:
                assert relative_error(A, step[:, None, None] * start[0].to_dense()) < 1e-12
                # An impulse has no length, so that its B starts with the step inside and is then left alone.
                assert relative_error(B, step[:, None] * start[1]) < 1e-12
                assert step.shape == (3,)
            else:
                factor = torch.cat([step, step])[:, None] if structure.name == "diagonal" else step
                assert step.shape == ((4,) if structure.name == "diagonal" else ())
                assert relative_error(A, factor * start[0].to_dense()) < 1e-12
                expected = layer.B.detach() * (1 if method == "impulse" else factor)
                assert relative_error(B, expected) < 1e-12
            assert same_bits(C, layer.C.detach()) and same_bits(D, layer.D.detach())
            shapes = ((8, 8), (8, 3), (3, 8), (3,)) if multi_input else ((3, 8, 8), (3, 8), (3, 2, 8), (3, 2))
            assert tuple(m.shape for m in (A, B, C, D)) == shapes
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("structure", "measure"),
    sampled(0.4, [*STRUCTURES], ["legs", "legt", "lagt", "fourier"]),
)
@pytest.mark.parametrize("name", ["backward_euler", "bilinear", "zoh", "foh", "impulse"])
def test_gaps_of_1e_minus_9_to_1e9_at_the_starts(structure, measure, name):
    """Matrices far from normal and an eigenvalue zero, against the reference from the same float32 parameters."""
    if measure not in STRUCTURES[structure].measures:
        with pytest.raises(ValueError, match="legs, legt"):
            make_layer(structure, name, measure=measure)
        return
    rng = generator("wide starts", structure, measure, name)
    layer = make_layer(structure, name, False, torch.float32, 1, 8, measure=measure, heads=1, step_range=(0.1, 0.1))
    u = torch.from_numpy(rng.standard_normal((1, 10, 1)).astype(np.float32))
    gaps = wide_gaps(rng, 10).astype(np.float32).astype(np.float64)
    y, _, _ = dense_system(layer.system()).simulate(TRUTHS[name], u.double().numpy(), gaps[None])
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        layer = layer.to(dtype)
        leaf, dt = u.clone().to(dtype).requires_grad_(), torch.from_numpy(gaps)[None].requires_grad_()
        found, _ = layer(leaf, dt)
        assert relative_error(found.detach(), y) < tolerance
        layer.zero_grad()
        found.square().mean().backward()
        for gradient in (leaf.grad, dt.grad, *(p.grad for p in layer.parameters())):
            assert torch.isfinite(gradient).all()


def test_the_layer_is_linear():
    rng = generator("linear")
    for structure in STRUCTURES:
        layer = make_layer(structure, "foh")
        (u, dt), (v, _) = layer_batch(rng, 2, 5), layer_batch(rng, 2, 5)
        _, state = layer(v, dt)
        zero = layer.initial_state(2)
        free, _ = layer(0 * u, dt, state=state)
        forced, _ = layer(2 * u - 3 * v, dt, state=zero)
        mixed, _ = layer(2 * u - 3 * v, dt, state=state)
        assert relative_error((free + forced).detach(), mixed.detach()) < 1e-12
        assert relative_error(forced.detach(), (2 * layer(u, dt)[0] - 3 * layer(v, dt)[0]).detach()) < 1e-12


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KIND_PARAMS)
def test_views_of_the_layer_agree(structure, multi_input):
    rng = generator("layer views", structure.name, multi_input)
    layer = make_layer(structure.name, "foh", multi_input)
    u, _ = layer_batch(rng, 2, ROWS)
    _, state = layer(*layer_batch(rng, 2, 3))
    expected, final = layer(u, 0.2, state=state, view="recurrence")
    for view, tolerance in (("convolution", 1e-11), ("auto", 1e-11)):
        found, after = layer(u, 0.2, state=state, view=view)
        assert relative_error(found.detach(), expected.detach()) < tolerance
        assert relative_error(after.x.detach(), final.x.detach()) < tolerance
    short, dt = layer_batch(rng, 2, 4)
    expected, _ = layer(short, dt, state=state)
    found, _ = layer(short, dt, state=state, view=Integration("dopri5", rtol=1e-9, atol=1e-11))
    assert relative_error(found.detach(), expected.detach()) < 1e-6
    with pytest.raises(ValueError, match="recurrence"):
        layer(short, dt, view="convolution")


def test_auto_never_looks_at_the_data():
    """A regular grid given as a tensor of gaps is stepped; a number is convolved, whatever its size."""
    rng = generator("auto")
    layer = make_layer("dplr", "zoh")
    u, _ = layer_batch(rng, 2, ROWS)
    gaps = torch.full((2, ROWS), 0.2, dtype=torch.float64)
    assert same_bits(layer(u, gaps)[0], layer(u, gaps, view="recurrence")[0])
    assert same_bits(layer(u, 0.2)[0], layer(u, 0.2, view="convolution")[0])
    assert same_bits(layer(u[:, :3], 0.2)[0], layer(u[:, :3], 0.2, view="recurrence")[0])
    flags = torch.zeros(2, ROWS, dtype=torch.bool)
    flags[0, 3] = True
    assert same_bits(layer(u, 0.2, is_query=flags)[0], layer(u, 0.2, is_query=flags, view="recurrence")[0])
    stepped = make_layer("diagonal", "zoh")  # its fused loop is the faster one at any length on a CPU
    assert same_bits(stepped(u, 0.2)[0], stepped(u, 0.2, view="recurrence")[0])


def test_every_form_of_dt():
    rng = generator("dt")
    layer = make_layer("dplr", "zoh")
    u, dt = layer_batch(rng, 2, ROWS)
    ones = torch.ones(2, ROWS, dtype=torch.float64)
    expected, _ = layer(u, ones)
    for given in (None, 1, 1.0, torch.tensor(1), ones[0], ones.float(), ones.long(), np.float64(1.0)):
        assert relative_error(layer(u, given)[0].detach(), expected.detach()) < 1e-11
    expected, _ = layer(u, dt[:1].expand(2, -1))
    for given in (dt[0], dt[0].numpy(), dt[0].tolist()):
        assert relative_error(layer(u, given)[0].detach(), expected.detach()) < 1e-13


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KIND_PARAMS)
def test_learn_switches(structure, multi_input):
    """Each factor learns alone; what does not learn is a buffer, saved with the layer but never moved."""
    rng = generator("learn", structure.name, multi_input)
    u, dt = layer_batch(rng, 2, 5)
    owners = {"A": lambda name: name.startswith("A_"), "B": lambda name: name == "B", "step": lambda n: n == "log_step"}
    for learn in ((), ("A",), ("B",), ("step",), ("A", "B", "step")):
        layer = make_layer(structure.name, "zoh", multi_input, learn=learn)
        parameters, state = dict(layer.named_parameters()), set(layer.state_dict())
        assert {"C", "D"} <= set(parameters)
        for key, owns in owners.items():
            held = [name for name in state if owns(name)]
            assert held
            assert all((name in parameters) == (key in learn) for name in held)
        layer(u, dt)[0].square().sum().backward()
        for name, parameter in parameters.items():
            assert parameter.grad is not None and parameter.grad.any(), name
    other = make_layer(structure.name, "zoh", multi_input, learn=())
    other.load_state_dict(layer.state_dict())
    assert same_bits(other(u, dt)[0], layer(u, dt)[0])


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_training_cannot_leave_the_stable_class(structure):
    """Wherever an optimiser carries the float32 parameters, no eigenvalue gets a positive real part."""
    rng = generator("drift", structure.name)
    for measure in structure.measures:
        layer = make_layer(structure.name, "zoh", dtype=torch.float32, N=16, measure=measure)
        for size in (0.0, 0.01, 0.3, 3.0):
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter += size * torch.from_numpy(rng.standard_normal(parameter.shape)).float()
            A = layer.system().to_dense()[0].detach().numpy()
            assert np.linalg.eigvals(A).real.max() <= 1e-9 * np.abs(A).max()


@pytest.mark.parametrize(
    ("structure", "name", "multi_input"),
    sampled(0.35, STRUCTURE_PARAMS, ["bilinear", "zoh", "foh", "impulse"], KIND_PARAMS),
)
def test_gradients(structure, name, multi_input):
    """In u, dt, every parameter of A, B, C, D, the step size, and the state; queries and lengths included."""
    rng = generator("layer gradients", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input, channels=2, N=4, heads=1)
    for parameter in layer.parameters():  # away from the kinks at the start of LegS
        parameter.data += 0.1 * torch.from_numpy(rng.standard_normal(parameter.shape))
    names = [key for key, _ in layer.named_parameters()]
    u, dt = layer_batch(rng, 2, 4, channels=2)
    _, state = layer(*layer_batch(rng, 2, 2, channels=2))
    lengths, is_query = torch.tensor([4, 3]), torch.tensor([False, True, False, False])

    def outputs(u, dt, x, last, *values):
        arguments = (u, dt, lengths, type(state)(x, last), is_query)
        y, after = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), arguments)
        return y, after.x

    leaves = [v.detach().clone().requires_grad_() for v in (u, dt, *state, *layer.parameters())]
    assert torch.autograd.gradcheck(outputs, leaves)


def test_gradients_at_the_start():
    """LegS starts on the edge of its stable class; the gradients there must still move every parameter."""
    for structure in STRUCTURES:
        layer = make_layer(structure, "bilinear", N=8)
        u, dt = layer_batch(generator("edge", structure), 2, 5)
        layer(u, dt)[0].square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name


def test_blocks_are_small_systems_side_by_side():
    """The outputs of S5's start are the sum of those of J layers of N / J states, each with its part of the maps."""
    J, N, H = 3, 12, 2
    options = {"structure": "diagonal", "method": "zoh", "multi_input": True}
    layer = LSSL(H, N, blocks=J, **options).double()
    u, dt = layer_batch(generator("blocks"), 2, 9, channels=H)
    y, _ = layer(u, dt)
    total = torch.zeros_like(y)
    for j in range(J):
        small = LSSL(H, N // J, **options).double()
        assert torch.equal(small.A_frequency, layer.A_frequency[: N // (2 * J)])
        pairs = torch.arange(j * N // (2 * J), (j + 1) * N // (2 * J))
        states = torch.cat([pairs, pairs + N // 2])
        with torch.no_grad():
            small.log_step.copy_(layer.log_step[pairs])
            small.B.copy_(layer.B[states])
            small.C.copy_(layer.C[:, states])
            small.D.copy_(layer.D / J)
        total = total + small(u, dt)[0]
    assert (total - y).abs().max() < 1e-12 * y.abs().max()
    assert layer.extra_repr().endswith("blocks=3")
    for wrong, said in (
        ({"multi_input": False}, "two equal poles that read one input"),
        ({"structure": "dplr"}, "only a diagonal A starts in blocks"),
        ({"blocks": 5}, "need N to be a multiple of 10; found N = 12"),
    ):
        with pytest.raises(ValueError, match=said):
            LSSL(H, N, **({"blocks": J} | options | wrong))
