"""The state and the clock of the layer: steps, chunks, queries, padding, rate, peek."""

import copy

import numpy as np
import pytest
import torch

from ctlssl.discretization import METHODS
from tests.contracts import (
    KIND_PARAMS,
    STRUCTURE_PARAMS,
    STRUCTURES,
    generator,
    layer_batch,
    make_layer,
    same_bits,
    sampled,
)
from tests.problems import relative_error


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.6, STRUCTURE_PARAMS, [*METHODS], KIND_PARAMS))
def test_step_is_forward_is_chunks(structure, name, multi_input):
    rng = generator("chunks", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input)
    u, dt = layer_batch(rng, 2, 8)
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
    u, dt = layer_batch(rng, 2, 6)
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


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.5, STRUCTURE_PARAMS, [*METHODS], KIND_PARAMS))
def test_queries_commit_nothing(structure, name, multi_input):
    """Every output at the observations stays bit for bit as without the queries, and so does the state."""
    rng = generator("queries", structure.name, name, multi_input)
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        layer = make_layer(structure.name, name, multi_input, dtype, channels=5, N=10)
        u, dt = layer_batch(rng, 2, 6, 5, dtype)
        places = [0, 2, 2, 5, 6]  # a query before each of these observations; two at once; one at the end
        asked, gaps = layer_batch(rng, 2, len(places), 5, dtype)
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
        assert same_bits(found[:, ~is_query], plain) and same_bits(after.x, state.x)
        assert same_bits(after.u, state.u)
        # And each query is answered as an observation would be that nothing follows.
        for j, place in enumerate(places):
            index = is_query.nonzero()[j, 0]
            until = torch.cat([u[:, :place], asked[:, j : j + 1]], 1)
            alone, _ = layer(until, torch.cat([dt[:, :place], gaps[:, j : j + 1]], 1), view="recurrence")
            assert relative_error(found[:, index].detach(), alone[:, -1].detach()) < tolerance


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.4, STRUCTURE_PARAMS, [*METHODS], KIND_PARAMS))
def test_padding_and_neighbours(structure, name, multi_input):
    """The content of padding changes no bit of outputs, states or gradients; the size of the batch next to nothing."""
    rng = generator("padding", structure.name, name, multi_input)
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        layer = make_layer(structure.name, name, multi_input, dtype)
        u, dt = layer_batch(rng, 3, 6, dtype=dtype)
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
@pytest.mark.parametrize("multi_input", KIND_PARAMS)
def test_series_of_length_zero_and_batches_of_none(structure, multi_input):
    layer = make_layer(structure.name, "foh", multi_input)
    rng = generator("empty", structure.name, multi_input)
    u, dt = layer_batch(rng, 2, 4)
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


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.5, STRUCTURE_PARAMS, [*METHODS], KIND_PARAMS))
def test_rate_and_units(structure, name, multi_input):
    """`rate` scales gaps alone; gaps times c with the step size divided by c are the same series."""
    rng = generator("units", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input)
    u, dt = layer_batch(rng, 3, 6)
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


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.4, STRUCTURE_PARAMS, [*METHODS], KIND_PARAMS))
def test_peek(structure, name, multi_input):
    rng = generator("peek", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input)
    u, dt = layer_batch(rng, 2, 5)
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
    u, dt = layer_batch(rng, 2, 4)
    whole, state = layer(u, dt)
    cut, after = layer(u.repeat_interleave(2, 1), dt.repeat_interleave(2, 1) / 2)
    assert relative_error(cut[:, 1::2].detach(), whole.detach()) < 1e-12
    assert relative_error(after.x.detach(), state.x.detach()) < 1e-12


def test_causality():
    """Changing the future changes no bit of the past; a bidirectional layer does see it."""
    rng = generator("causal")
    for structure in STRUCTURES:
        layer = make_layer(structure)
        u, dt = layer_batch(rng, 2, 6)
        later, gaps = u.clone(), dt.clone()
        later[:, 4:], gaps[:, 4:] = 9.0, 3.0
        assert same_bits(layer(u, dt)[0][:, :4], layer(later, gaps)[0][:, :4])
    both = make_layer("diagonal", bidirectional=True)
    assert not same_bits(both(u, dt)[0][:, :4], both(later, gaps)[0][:, :4])
