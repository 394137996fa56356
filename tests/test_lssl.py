"""The layer: its system through the slow reference, its state, its clock, its doors."""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn

import ctlssl
from ctlssl import hippo
from ctlssl.discretization import METHODS, Discretization, exact, gbt
from ctlssl.holds import PREVIOUS
from ctlssl.layers.lssl import CROSSOVER, LSSL
from ctlssl.state_space import StateSpace
from ctlssl.views import Integration
from tests import problems
from tests.contracts import METHOD_PARAMS, STRUCTURE_PARAMS, STRUCTURES, dense_system, generator, sampled, wide_gaps
from tests.problems import relative_error

KINDS = [pytest.param(False, id="bank"), pytest.param(True, id="multi-input")]
METHOD_NAMES = list(METHODS)
STABLE = [name for name in METHOD_NAMES if name != "forward_euler"]


def make_layer(structure, method="zoh", multi_input=False, dtype=torch.float64, channels=3, N=6, **options):
    options.setdefault("heads", 1 if multi_input else 2)
    options.setdefault("step_range", (0.1, 1.0))
    layer = LSSL(channels, N, structure=structure, method=method, multi_input=multi_input, **options)
    return layer.to(dtype)


def batch(rng, B, L, channels=3, dtype=torch.float64):
    u = rng.standard_normal((B, L, channels)).astype(np.float32)
    dt = rng.exponential(0.5, (B, L)).astype(np.float32).astype(np.float64)
    return torch.from_numpy(u).to(dtype), torch.from_numpy(dt)


def same_bits(a, b):
    return torch.equal(torch.nan_to_num(a, nan=7.25), torch.nan_to_num(b, nan=7.25))


@pytest.mark.parametrize(
    ("structure", "name", "truth", "multi_input"), sampled(0.6, STRUCTURE_PARAMS, METHOD_PARAMS, KINDS)
)
def test_system_through_the_reference(structure, name, truth, multi_input):
    """What `system()` returns, put into the design's table with h = dt, gives the layer: outputs and states."""
    rng = generator("layer", structure.name, name, multi_input)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        layer = make_layer(structure.name, name, multi_input, dtype)
        u, dt = batch(rng, 3, 7, dtype=dtype)
        lengths, is_query = torch.tensor([7, 5, 0]), torch.zeros(3, 7, dtype=torch.bool)
        is_query[0, 2] = is_query[1, 4] = True
        _, state = layer(*batch(rng, 3, 2, dtype=dtype))
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
@pytest.mark.parametrize("multi_input", KINDS)
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
    y, _, _ = dense_system(layer.system()).simulate(METHOD_TRUTH[name], u.double().numpy(), gaps[None])
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        layer = layer.to(dtype)
        leaf, dt = u.clone().to(dtype).requires_grad_(), torch.from_numpy(gaps)[None].requires_grad_()
        found, _ = layer(leaf, dt)
        assert relative_error(found.detach(), y) < tolerance
        layer.zero_grad()
        found.square().mean().backward()
        for gradient in (leaf.grad, dt.grad, *(p.grad for p in layer.parameters())):
            assert torch.isfinite(gradient).all()


METHOD_TRUTH = problems.METHODS


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.6, STRUCTURE_PARAMS, METHOD_NAMES, KINDS))
def test_step_is_forward_is_chunks(structure, name, multi_input):
    rng = generator("chunks", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input)
    u, dt = batch(rng, 2, 8)
    whole, final = layer(u, dt)
    state, chunks = None, []
    for part in (slice(0, 3), slice(3, 4), slice(4, 4), slice(4, 8)):
        y, state = layer(u[:, part], dt[:, part], state=state)
        chunks.append(y)
    assert relative_error(torch.cat(chunks, 1).detach(), whole.detach()) < 1e-13
    assert relative_error(state.x.detach(), final.x.detach()) < 1e-13
    stepped, state = [], layer.initial_state(2)
    for k in range(8):
        y, state = layer.step(u[:, k], dt[:, k], state)
        stepped.append(y)
    assert relative_error(torch.stack(stepped, 1).detach(), whole.detach()) < 1e-13
    assert relative_error(state.x.detach(), final.x.detach()) < 1e-13
    assert same_bits(state.u, u[:, -1])


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_gradients_flow_through_the_state(structure):
    """The loss of the last chunk reaches the inputs of the first, with the same numbers as in one piece."""
    rng = generator("through the state", structure.name)
    layer = make_layer(structure.name, "foh")
    u, dt = batch(rng, 2, 6)
    gradients = []
    for cuts in ((6,), (2, 4)):
        leaf = u.clone().requires_grad_()
        layer.zero_grad()
        state, start, total = None, 0, 0.0
        for size in cuts:
            y, state = layer(leaf[:, start : start + size], dt[:, start : start + size], state=state)
            total, start = total + y.sum(), start + size
        (total + state.x.square().sum()).backward()
        gradients.append([leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-12


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.5, STRUCTURE_PARAMS, METHOD_NAMES, KINDS))
def test_queries_commit_nothing(structure, name, multi_input):
    """Every output at the observations stays bit for bit as without the queries, and so does the state."""
    rng = generator("queries", structure.name, name, multi_input)
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        layer = make_layer(structure.name, name, multi_input, dtype)
        u, dt = batch(rng, 2, 6, dtype=dtype)
        places = [0, 2, 2, 5, 6]  # a query before each of these observations; two at once; one at the end
        asked, gaps = batch(rng, 2, len(places), dtype=dtype)
        rows, flags = [], []
        for k in range(7):
            rows += [(asked[:, j], gaps[:, j]) for j, place in enumerate(places) if place == k]
            flags += [True] * places.count(k)
            if k < 6:
                rows.append((u[:, k], dt[:, k]))
                flags.append(False)
        is_query = torch.tensor(flags)
        full_u, full_dt = (torch.stack(column, 1) for column in zip(*rows, strict=True))
        plain, state = layer(u, dt, view="recurrence")
        found, after = layer(full_u, full_dt, is_query=is_query)
        if multi_input:  # torch's matmul over all inputs is in between: it rounds a row by the number of rows
            close = 1e-14 if dtype == torch.float64 else 1e-6
            assert relative_error(found[:, ~is_query].detach(), plain.detach()) <= close
            assert relative_error(after.x.detach(), state.x.detach()) <= close
        else:
            assert same_bits(found[:, ~is_query], plain) and same_bits(after.x, state.x)
        assert same_bits(after.u, state.u)
        # And each query is answered as an observation would be that nothing follows.
        for j, place in enumerate(places):
            index = is_query.nonzero()[j, 0]
            until = torch.cat([u[:, :place], asked[:, j : j + 1]], 1)
            alone, _ = layer(until, torch.cat([dt[:, :place], gaps[:, j : j + 1]], 1), view="recurrence")
            assert relative_error(found[:, index].detach(), alone[:, -1].detach()) < tolerance


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.4, STRUCTURE_PARAMS, METHOD_NAMES, KINDS))
def test_padding_and_neighbours(structure, name, multi_input):
    """The content of padding changes no bit of outputs, states or gradients; the size of the batch next to nothing."""
    rng = generator("padding", structure.name, name, multi_input)
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        layer = make_layer(structure.name, name, multi_input, dtype)
        u, dt = batch(rng, 3, 6, dtype=dtype)
        lengths = torch.tensor([6, 3, 0])
        results = []
        for filler, gap in ((0.0, 1.0), (1e30, 0.0), (float("nan"), float("nan")), (-float("inf"), -5.0)):
            leaf, gaps = u.clone(), dt.clone()
            for b, length in enumerate(lengths):
                leaf[b, length:], gaps[b, length:] = filler, gap
            leaf.requires_grad_(), gaps.requires_grad_()
            layer.zero_grad()
            y, state = layer(leaf, gaps, lengths)
            (y.square().sum() + state.x.sum()).backward()
            results.append([y, *state, leaf.grad, gaps.grad, *(p.grad.clone() for p in layer.parameters())])
        for other in results[1:]:
            assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))
        y = results[0][0]
        assert not y[1, 3:].any() and not y[2].any()
        assert not results[0][3][1, 3:].any()
        alone, state = layer(u[1:2, :3], dt[1:2, :3])
        assert relative_error(y[1, :3].detach(), alone[0].detach()) <= tolerance
        assert relative_error(results[0][1][1].detach(), state.x[0].detach()) <= tolerance


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KINDS)
def test_series_of_length_zero_and_batches_of_none(structure, multi_input):
    layer = make_layer(structure.name, "foh", multi_input)
    rng = generator("empty", structure.name, multi_input)
    u, dt = batch(rng, 2, 4)
    _, state = layer(u, dt)
    for view in ("recurrence", "convolution", "auto", "integration"):
        y, after = layer(u[:, :0], state=state, view=view)
        assert y.shape == (2, 0, 3 * layer.heads)
        assert same_bits(after.x, state.x) and same_bits(after.u, state.u)
        y, after = layer(u, 1.0, torch.tensor([0, 0]), state, view=view)
        assert same_bits(after.x, state.x) and not y.any()
    for view in ("recurrence", "auto"):
        y, after = layer(u[:0], dt[:0], view=view)
        assert y.shape == (0, 4, 3 * layer.heads) and after.x.shape[0] == 0


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.5, STRUCTURE_PARAMS, METHOD_NAMES, KINDS))
def test_rate_and_units(structure, name, multi_input):
    """`rate` scales gaps alone; gaps times c with the step size divided by c are the same series."""
    rng = generator("units", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input)
    u, dt = batch(rng, 3, 6)
    y, state = layer(u, dt)
    for c in (0.25, 3.7):
        scaled, _ = layer(u, c * dt)
        rated, _ = layer(u, dt, rate=c)
        assert relative_error(rated.detach(), scaled.detach()) < 1e-13
        other = copy.deepcopy(layer)
        with torch.no_grad():
            other.log_step -= np.log(c)
        again, after = other(u, c * dt)
        assert relative_error(again.detach(), y.detach()) < 1e-11
        assert relative_error(after.x.detach(), state.x.detach()) < 1e-11
    rates = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    each, _ = layer(u, dt, rate=rates)
    for b, rate in enumerate(rates.tolist()):
        alone, _ = layer(u[b : b + 1], rate * dt[b : b + 1])
        assert relative_error(each[b].detach(), alone[0].detach()) < 1e-13
    again, _ = layer(u, dt, rate=rates[:, None])
    assert same_bits(again, each)


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.4, STRUCTURE_PARAMS, METHOD_NAMES, KINDS))
def test_peek(structure, name, multi_input):
    rng = generator("peek", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input)
    u, dt = batch(rng, 2, 5)
    _, state = layer(u, dt)
    held = torch.zeros_like(state.u) if METHODS[name].hold.kick else u[:, -1]
    for gap in (0.0, 0.3, torch.tensor([0.1, 2.0])):
        expected, _ = layer.step(held, gap, state)
        assert relative_error(layer.peek(state, gap).detach(), expected.detach()) < 1e-13
        given, _ = layer.step(u[:, 0], gap, state)
        assert relative_error(layer.peek(state, gap, u[:, 0]).detach(), given.detach()) < 1e-13
    several = layer.peek(state, torch.tensor([[0.0, 1.0, 0.3], [0.2, 0.1, 5.0]]))
    assert several.shape == (2, 3, 3 * layer.heads)
    single = layer.peek(state, torch.tensor([0.3, 5.0]))
    assert relative_error(several[:, 2].detach(), single.detach()) < 1e-13


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_zero_order_hold_does_not_notice_unobserved_points(structure):
    """Cutting a gap in two with the same input leaves the state alone: the semigroup, at the layer."""
    rng = generator("cut", structure.name)
    layer = make_layer(structure.name, "zoh")
    u, dt = batch(rng, 2, 4)
    whole, state = layer(u, dt)
    cut, after = layer(u.repeat_interleave(2, 1), dt.repeat_interleave(2, 1) / 2)
    assert relative_error(cut[:, 1::2].detach(), whole.detach()) < 1e-12
    assert relative_error(after.x.detach(), state.x.detach()) < 1e-12


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.5, STRUCTURE_PARAMS, METHOD_NAMES, KINDS))
def test_bidirectional(structure, name, multi_input):
    """Each series alone, forwards and reversed by hand, with the reference; the backward feed-through counts once."""
    rng = generator("bidirectional", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input, bidirectional=True)
    u, dt = batch(rng, 3, 6)
    lengths = torch.tensor([6, 4, 1])
    found, state = layer(u, dt, lengths)
    assert state is None
    forward = dense_system(layer.system())
    A, B, _, D = layer.system().to_dense()
    backward = dense_system(StateSpace(layer.system().A, B, layer.C_reverse.double(), 0 * D, multi_input))
    truth = METHOD_TRUTH[name]
    for b, length in enumerate(lengths.tolist()):
        series, gaps = u[b, :length].numpy(), dt[b, :length].numpy()
        y = forward.simulate(truth, series[None], gaps[None])[0][0]
        turned = np.concatenate([gaps[:1], gaps[:0:-1]])
        y = y + backward.simulate(truth, series[None, ::-1], turned[None])[0][0][::-1]
        assert relative_error(found[b, :length].detach(), y) < 1e-12
        assert not found[b, length:].any()


def test_bidirectional_queries_see_both_sides():
    """Observations at 1, 2, 4 and a query at 3: one unit after the one and one before the other."""
    layer = make_layer("diagonal", "zoh", bidirectional=True)
    rng = generator("bidirectional queries")
    u, _ = batch(rng, 1, 4)
    dt, flags = torch.tensor([1.0, 1.0, 1.0, 2.0]), torch.tensor([False, False, True, False])
    found, _ = layer(u, dt, is_query=flags)
    plain, _ = layer(u[:, ~flags], dt[~flags])
    assert same_bits(found[:, ~flags], plain)
    one = copy.deepcopy(layer)
    one.bidirectional = False
    ahead, _ = one(u[:, :3], dt[:3])
    one.C, one.D = layer.C_reverse, nn.Parameter(torch.zeros_like(layer.D))
    behind, _ = one(u[:, [3, 2]], torch.tensor([1.0, 1.0]))
    assert relative_error(found[:, 2].detach(), (ahead[:, -1] + behind[:, -1]).detach()) < 1e-12


@pytest.mark.parametrize("name", ["bilinear", "foh", "impulse"])
def test_bidirectional_queries_on_ragged_series(name):
    """Gaps written down from absolute times, forwards and backwards, and put through the reference."""
    rng = generator("ragged bidirectional", name)
    layer = make_layer("dplr", name, bidirectional=True)
    lengths, first = torch.tensor([9, 6, 2]), 0.7
    is_query = torch.tensor([[0, 1, 0, 0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0]]).bool()
    u, dt = batch(rng, 3, 9)
    back_gaps, times = torch.zeros(3, 9, dtype=torch.float64), rng.uniform(0, 5, (3, 9))
    for b, length in enumerate(lengths.tolist()):
        t = np.sort(times[b, :length])
        seen = [k for k in range(length) if not is_query[b, k]]
        for k in range(length):
            before, after = [j for j in seen if j < k], [j for j in seen if j > k]
            dt[b, k] = t[k] - t[before[-1]] if before else first
            back_gaps[b, length - 1 - k] = t[after[0]] - t[k] if after else first
    found, _ = layer(u, dt, lengths, is_query=is_query)
    A, _, _, D = layer.system().to_dense()
    backward = dense_system(StateSpace(layer.system().A, layer.system().B, layer.C_reverse.double(), 0 * D))
    forward, truth = dense_system(layer.system()), METHOD_TRUTH[name]
    for b, length in enumerate(lengths.tolist()):
        rows, asked = u[b : b + 1, :length].numpy(), is_query[b : b + 1, :length].numpy()
        y = forward.simulate(truth, rows, dt[b : b + 1, :length].numpy(), is_query=asked)[0][0]
        turned = back_gaps[b : b + 1, :length].numpy()
        y = y + backward.simulate(truth, rows[:, ::-1], turned, is_query=asked[:, ::-1])[0][0][::-1]
        assert relative_error(found[b, :length].detach(), y) < 1e-12


def test_bidirectional_layers_have_no_causal_state():
    layer = make_layer("diagonal", bidirectional=True)
    u, dt = batch(generator("no state"), 2, 3)
    causal = make_layer("diagonal")
    _, state = causal(u, dt)
    for call in (
        lambda: layer(u, dt, state=state),
        lambda: layer.step(u[:, 0], dt[:, 0], state),
        lambda: layer.peek(state, 1.0),
        lambda: layer.initial_state(2),
    ):
        with pytest.raises(ValueError, match="bidirectional"):
            call()


def test_causality():
    """Changing the future changes no bit of the past; a bidirectional layer does see it."""
    rng = generator("causal")
    for structure in STRUCTURES:
        layer = make_layer(structure)
        u, dt = batch(rng, 2, 6)
        later, gaps = u.clone(), dt.clone()
        later[:, 4:], gaps[:, 4:] = 9.0, 3.0
        assert same_bits(layer(u, dt)[0][:, :4], layer(later, gaps)[0][:, :4])
    both = make_layer("diagonal", bidirectional=True)
    assert not same_bits(both(u, dt)[0][:, :4], both(later, gaps)[0][:, :4])


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KINDS)
def test_views_of_the_layer_agree(structure, multi_input):
    rng = generator("layer views", structure.name, multi_input)
    layer = make_layer(structure.name, "foh", multi_input)
    u, _ = batch(rng, 2, 2 * CROSSOVER)
    _, state = layer(*batch(rng, 2, 3))
    expected, final = layer(u, 0.2, state=state, view="recurrence")
    for view, tolerance in (("convolution", 1e-11), ("auto", 1e-11)):
        found, after = layer(u, 0.2, state=state, view=view)
        assert relative_error(found.detach(), expected.detach()) < tolerance
        assert relative_error(after.x.detach(), final.x.detach()) < tolerance
    short, dt = batch(rng, 2, 4)
    expected, _ = layer(short, dt, state=state)
    found, _ = layer(short, dt, state=state, view=Integration("dopri5", rtol=1e-9, atol=1e-11))
    assert relative_error(found.detach(), expected.detach()) < 1e-6
    with pytest.raises(ValueError, match="recurrence"):
        layer(short, dt, view="convolution")


def test_auto_never_looks_at_the_data():
    """A regular grid given as a tensor of gaps is stepped; a number is convolved, whatever its size."""
    rng = generator("auto")
    layer = make_layer("diagonal", "zoh")
    u, _ = batch(rng, 2, 2 * CROSSOVER)
    gaps = torch.full((2, 2 * CROSSOVER), 0.2, dtype=torch.float64)
    assert same_bits(layer(u, gaps)[0], layer(u, gaps, view="recurrence")[0])
    assert same_bits(layer(u, 0.2)[0], layer(u, 0.2, view="convolution")[0])
    assert same_bits(layer(u[:, :3], 0.2)[0], layer(u[:, :3], 0.2, view="recurrence")[0])
    flags = torch.zeros(2, 2 * CROSSOVER, dtype=torch.bool)
    flags[0, 3] = True
    assert same_bits(layer(u, 0.2, is_query=flags)[0], layer(u, 0.2, is_query=flags, view="recurrence")[0])


def test_every_form_of_dt():
    rng = generator("dt")
    layer = make_layer("dplr", "zoh")
    u, dt = batch(rng, 2, 2 * CROSSOVER)
    ones = torch.ones(2, 2 * CROSSOVER, dtype=torch.float64)
    expected, _ = layer(u, ones)
    for given in (None, 1, 1.0, torch.tensor(1), ones[0], ones.float(), ones.long(), np.float64(1.0)):
        assert relative_error(layer(u, given)[0].detach(), expected.detach()) < 1e-11
    expected, _ = layer(u, dt[:1].expand(2, -1))
    for given in (dt[0], dt[0].numpy(), dt[0].tolist()):
        assert relative_error(layer(u, given)[0].detach(), expected.detach()) < 1e-13


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KINDS)
def test_learn_switches(structure, multi_input):
    """Each factor learns alone; what does not learn is a buffer, saved with the layer but never moved."""
    rng = generator("learn", structure.name, multi_input)
    u, dt = batch(rng, 2, 5)
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


@pytest.mark.parametrize(
    ("structure", "name", "multi_input"), sampled(0.35, STRUCTURE_PARAMS, ["bilinear", "zoh", "foh", "impulse"], KINDS)
)
def test_gradients(structure, name, multi_input):
    """In u, dt, every parameter of A, B, C, D, the step size, and the state; queries and lengths included."""
    rng = generator("layer gradients", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input, channels=2, N=4, heads=1)
    for parameter in layer.parameters():  # away from the kinks at the start of LegS
        parameter.data += 0.1 * torch.from_numpy(rng.standard_normal(parameter.shape))
    names = [key for key, _ in layer.named_parameters()]
    u, dt = batch(rng, 2, 4, channels=2)
    _, state = layer(*batch(rng, 2, 2, channels=2))
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
        u, dt = batch(generator("edge", structure), 2, 5)
        layer(u, dt)[0].square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name


def test_dtypes_are_promoted():
    layer = make_layer("diagonal", dtype=torch.float32)
    u = torch.arange(12).reshape(1, 4, 3)
    expected, _ = layer(u.float())
    for dtype in (torch.int64, torch.int32, torch.float16, torch.bfloat16):
        found, _ = layer(u.to(dtype))
        assert found.dtype == torch.float32 and same_bits(found, expected)
    assert layer(u.double())[0].dtype == torch.float64
    assert layer(u.bool())[0].dtype == torch.float32
    with pytest.raises(TypeError, match="real"):
        layer(u.to(torch.complex64))


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KINDS)
def test_autocast_changes_nothing(structure, multi_input):
    """Half precision would lose the phases: the layer computes in float32 whatever is around it."""
    rng = generator("autocast", structure.name, multi_input)
    for method, bidirectional in (("bilinear", False), ("zoh", True)):
        layer = make_layer(structure.name, method, multi_input, torch.float32, bidirectional=bidirectional)
        u, dt = batch(rng, 2, 5, dtype=torch.float32)
        for gaps, view in ((dt, "recurrence"), (0.3, "convolution"), (dt, "integration")):
            expected, _ = layer(u, gaps, view=view)
            with torch.autocast("cpu", torch.bfloat16):
                found, _ = layer(u, gaps, view=view)
            assert same_bits(found, expected)
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = layer(u.bfloat16(), dt)
        assert found.dtype == torch.float32


def test_strides_do_not_matter():
    rng = generator("strides")
    for structure in STRUCTURES:
        layer = make_layer(structure)
        u, dt = batch(rng, 3, 5)
        expected, _ = layer(u, dt)
        turned = u.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        gaps = torch.stack([dt, dt], -1)[..., 0]
        assert relative_error(layer(turned, gaps)[0].detach(), expected.detach()) < 1e-14
        shared, _ = layer(u[:1].expand(3, -1, -1), dt[:1].expand(3, -1))
        assert relative_error(shared[2].detach(), layer(u[:1], dt[:1])[0][0].detach()) < 1e-14


def test_nothing_outside_is_touched():
    layer = make_layer("quasiseparable", "bilinear")
    u, dt = batch(generator("side effects"), 2, 5)
    before = u.clone(), dt.clone(), torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    y, state = layer(u, dt)
    layer.peek(state, 1.0)
    layer.step(u[:, 0], 1.0, state)
    assert torch.equal(u, before[0]) and torch.equal(dt, before[1]) and torch.equal(torch.get_rng_state(), before[2])
    assert (torch.get_default_dtype(), torch.get_num_threads()) == before[3:]
    assert same_bits(layer(u, dt)[0], y)


def test_the_layer_is_linear():
    rng = generator("linear")
    for structure in STRUCTURES:
        layer = make_layer(structure, "foh")
        (u, dt), (v, _) = batch(rng, 2, 5), batch(rng, 2, 5)
        _, state = layer(v, dt)
        zero = layer.initial_state(2)
        free, _ = layer(0 * u, dt, state=state)
        forced, _ = layer(2 * u - 3 * v, dt, state=zero)
        mixed, _ = layer(2 * u - 3 * v, dt, state=state)
        assert relative_error((free + forced).detach(), mixed.detach()) < 1e-12
        assert relative_error(forced.detach(), (2 * layer(u, dt)[0] - 3 * layer(v, dt)[0]).detach()) < 1e-12


def test_names_and_defaults():
    parameters = inspect.signature(ctlssl.LSSL.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert defaults == {
        "state_size": 64,
        "structure": "quasiseparable",
        "measure": "legs",
        "method": "bilinear",
        "heads": 1,
        "step_range": (1e-3, 1e-1),
        "learn": ("A", "B", "step"),
        "multi_input": False,
        "bidirectional": False,
    }
    assert ctlssl.exact is exact and ctlssl.gbt(0.3) == gbt(0.3)
    layer = LSSL(2, 4, method=Discretization(exact, PREVIOUS), structure=STRUCTURES["dplr"].build)
    assert layer.structure == "dplr" and layer.method.name == "exact+previous"
    assert LSSL(2, 4, method=ctlssl.gbt(0.3)).method.rule == gbt(0.3)
    steps = LSSL(100, 4, step_range=(1e-3, 1e-1)).log_step.exp()
    assert steps.min().item() == pytest.approx(1e-3, rel=1e-5) and steps.max().item() == pytest.approx(0.1, rel=1e-5)


def test_bad_options_are_refused():
    for options, message in (
        (dict(structure="banded"), "dense, diagonal, dplr, quasiseparable"),
        (dict(method="leapfrog"), "zoh"),
        (dict(measure="chebyshev"), "legs, legt, lagt"),
        (dict(structure="quasiseparable", measure="fourier"), "rank"),
        (dict(structure="dense", measure="lin"), "legs, legt, lagt"),
        (dict(structure="diagonal", state_size=5), "even"),
        (dict(structure="dplr", state_size=7), "even"),
        (dict(state_size=0), "positive"),
        (dict(channels=0), "channels"),
        (dict(heads=0), "heads"),
        (dict(heads=2, multi_input=True), "one head"),
        (dict(learn=("A", "C")), "learn"),
        (dict(learn="A"), "learn"),
        (dict(step_range=(0.0, 1.0)), "step_range"),
        (dict(step_range=(1.0, 0.1)), "step_range"),
    ):
        with pytest.raises(ValueError, match=message):
            LSSL(**({"channels": 2} | options))


def test_bad_inputs_are_refused():
    layer = make_layer("diagonal")
    u, dt = batch(generator("bad"), 2, 4)
    _, state = layer(u, dt)

    def spoiled(value):
        gaps = dt.clone()
        gaps[1, 2] = value
        return gaps

    for call, message in (
        (lambda: layer(u[..., :2], dt), r"3\); found shape \(2, 4, 2\)"),
        (lambda: layer(u[0], dt[0]), "batch, length"),
        (lambda: layer(u.numpy(), dt), "ndarray"),
        (lambda: layer(u, spoiled(-0.5)), "series 1, position 2.*-0.5"),
        (lambda: layer(u, spoiled(float("nan"))), "series 1, position 2"),
        (lambda: layer(u, spoiled(float("inf"))), "series 1, position 2"),
        (lambda: layer(u, dt[:, :3]), r"\(2, 3\)"),
        (lambda: layer(u, dt, torch.tensor([4, 5])), "series 1: length 5"),
        (lambda: layer(u, dt, torch.tensor([4, -1])), "series 1: length -1"),
        (lambda: layer(u, dt, torch.tensor([4.0, 2.0])), "integers"),
        (lambda: layer(u, dt, torch.tensor([4])), "2 integers"),
        (lambda: layer(u, dt, rate=0.0), "rate"),
        (lambda: layer(u, dt, rate=torch.tensor([1.0, -1.0])), "rate"),
        (lambda: layer(u, dt, rate=torch.ones(3)), "rate"),
        (lambda: layer(u, dt, is_query=torch.zeros(2, 4)), "is_query"),
        (lambda: layer(u, dt, is_query=torch.zeros(2, 3, dtype=torch.bool)), "is_query"),
        (lambda: layer(u[:1], dt[:1], state=state), "state"),
        (lambda: layer(u, dt, state=torch.zeros(2, 3, 6)), "state"),
        (lambda: layer(u, dt, view="fourier"), "recurrence"),
        (lambda: layer.step(u, 1.0, state), "batch, length"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
