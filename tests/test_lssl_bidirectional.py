"""The bidirectional layer against each series reversed by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ctlssl.discretization import METHODS
from ctlssl.state_space import StateSpace
from tests.contracts import (
    KIND_PARAMS,
    STRUCTURE_PARAMS,
    dense_system,
    generator,
    layer_batch,
    make_layer,
    same_bits,
    sampled,
)
from tests.problems import METHODS as TRUTHS
from tests.problems import relative_error


@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.5, STRUCTURE_PARAMS, [*METHODS], KIND_PARAMS))
def test_bidirectional(structure, name, multi_input):
    """Each series alone, forwards and reversed by hand, with the reference; the backward feed-through counts once."""
    rng = generator("bidirectional", structure.name, name, multi_input)
    layer = make_layer(structure.name, name, multi_input, bidirectional=True)
    u, dt = layer_batch(rng, 3, 6)
    lengths = torch.tensor([6, 4, 1])
    found, state = layer(u, dt, lengths)
    assert state is None
    forward = dense_system(layer.system())
    A, B, _, D = layer.system().to_dense()
    backward = dense_system(StateSpace(layer.system().A, B, layer.C_reverse.double(), 0 * D, multi_input))
    truth = TRUTHS[name]
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
    u, _ = layer_batch(rng, 1, 4)
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
    flags = [[0, 1, 0, 0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0, 0, 0], [0] * 9]
    is_query = torch.tensor(flags, dtype=torch.bool)
    u, dt = layer_batch(rng, 3, 9)
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
    forward, truth = dense_system(layer.system()), TRUTHS[name]
    for b, length in enumerate(lengths.tolist()):
        rows, asked = u[b : b + 1, :length].numpy(), is_query[b : b + 1, :length].numpy()
        y = forward.simulate(truth, rows, dt[b : b + 1, :length].numpy(), is_query=asked)[0][0]
        turned = back_gaps[b : b + 1, :length].numpy()
        y = y + backward.simulate(truth, rows[:, ::-1], turned, is_query=asked[:, ::-1])[0][0][::-1]
        assert relative_error(found[b, :length].detach(), y) < 1e-12


def test_bidirectional_layers_have_no_causal_state():
    layer = make_layer("diagonal", bidirectional=True)
    u, dt = layer_batch(generator("no state"), 2, 3)
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
