"""The clock contract of the layer that reads events, its doors, and its memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import ctlssl
from tests.contracts import generator, same_bits
from tests.event_cases import MIXED, draw_events, draw_layer, records, spread_queries
from tests.event_truth import literal
from tests.problems import relative_error

OPTIONS = [
    pytest.param({"holds": MIXED}, id="mixed"),
    pytest.param({"holds": MIXED, "tail": "held"}, id="held"),
    pytest.param({"holds": MIXED, "method": "bilinear"}, id="bilinear"),
    pytest.param({"holds": MIXED, "structure": "dplr", "method": "backward_euler"}, id="dplr"),
]


def moved(events, times):
    return ctlssl.Events(times, events.channel, events.value, events.lengths, events.channels)


@pytest.mark.parametrize("options", OPTIONS)
def test_shift_units_and_rate(options):
    rng = generator("event clock", str(options))
    layer, events = draw_layer(**options), draw_events(rng)
    queries = spread_queries(events, rng)
    expected, state = layer(events, queries, first=0.5)
    y, _ = layer(moved(events, events.times + 4096.0), queries + 4096.0, first=0.5)
    assert relative_error(y.detach(), expected.detach()) < 1e-11
    for rate in (2.5, torch.tensor([2.5, 2.5])):
        y, last = layer(moved(events, events.times / 2.5), queries / 2.5, first=0.2, rate=rate)
        assert relative_error(y.detach(), expected.detach()) < 1e-13
        assert relative_error(last.x.detach(), state.x.detach()) < 1e-13


@pytest.mark.parametrize("options", OPTIONS)
def test_queries_disturb_nothing(options):
    rng = generator("event queries", str(options))
    layer, events = draw_layer(**options), draw_events(rng, count=80)
    few = spread_queries(events, rng, 5)
    y, state = layer(events, few)
    many, other = layer(events, torch.cat([spread_queries(events, rng, 70), few], 1))
    _, alone = layer(events)
    assert same_bits(many[:, 70:], y)
    for one in (other, alone):
        assert all(same_bits(ours, theirs) for ours, theirs in zip(one, state, strict=True))


@pytest.mark.parametrize("options", OPTIONS)
def test_padding_neighbours_and_later_events(options):
    rng = generator("event padding", str(options))
    layer, events = draw_layer(**options), draw_events(rng, batch=3, count=12)
    y, state = layer(events)
    inside = events.in_length
    junk = ctlssl.Events(
        torch.where(inside, events.times, torch.nan),
        torch.where(inside, events.channel, -7),
        torch.where(inside, events.value, torch.inf),
        events.lengths,
        4,
    )
    value = junk.value.clone().requires_grad_()
    again, _ = layer(ctlssl.Events(junk.times, junk.channel, value, junk.lengths, 4))
    assert same_bits(again, y) and (y[~inside] == 0).all()
    again.square().sum().backward()
    assert value.grad.isfinite().all() and all(p.grad.isfinite().all() for p in layer.parameters())
    alone, last = layer(events.select([1]))
    assert relative_error(alone[0].detach(), y[1, :9].detach()) < 1e-14
    assert relative_error(last.x[0].detach(), state.x[1].detach()) < 1e-14
    ends = torch.tensor([3, 5, 2])
    shorter = ctlssl.Events(events.times, events.channel, events.value, ends, 4)
    cut, _ = layer(shorter)
    for b, end in enumerate(ends.tolist()):
        settled = events.times[b, :end] < events.times[b, end]  # what has its time to itself
        assert same_bits(cut[b, :end][settled], y[b, :end][settled])


@pytest.mark.parametrize("options", OPTIONS[:3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaps_over_eighteen_decades(options, dtype):
    """Against the definition, from the same parameters and times, asked at every event."""
    rng = generator("event decades", str(options), str(dtype))
    layer = draw_layer(dtype=dtype, outputs=3, **options)
    count = 21
    gaps = 10.0 ** rng.permutation(np.linspace(-9, 9, count))
    times = torch.from_numpy(gaps.cumsum())[None]
    channel = torch.from_numpy(rng.integers(0, 4, (1, count)))
    value = torch.from_numpy(rng.standard_normal((1, count)).astype(np.float32)).to(dtype)
    events = ctlssl.Events(times, channel, value, torch.tensor([count]), 4)
    leaf = value.clone().requires_grad_()
    y, _ = layer(ctlssl.Events(times, channel, leaf, events.lengths, 4), times)
    y.sum().backward()
    assert leaf.grad.isfinite().all() and all(p.grad.isfinite().all() for p in layer.parameters())
    A, B = (part.detach().numpy() for part in (layer._continuous()[0].to_dense(), layer._continuous()[1]))
    rule, tail = getattr(layer.method.rule, "alpha", "exact"), layer.holds.tail
    shown, _ = literal(A, B, rule, MIXED, records(events)[0], times[0].tolist(), tail=tail)
    expected = shown @ layer.C.detach().double().numpy().T
    assert relative_error(y[0].detach(), expected) < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS[:3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_events_over_nine_decades(options, dtype):
    """Chunks with the state handed over, and the last events one by one, are the whole; float32 keeps to float64."""
    rng = generator("event long", str(options), str(dtype))
    count = 10_000
    layer = draw_layer(16, 16, dtype=dtype, **{**options, "holds": 4 * MIXED}, step_range=(1e-3, 1.0))
    times = torch.from_numpy((10.0 ** rng.uniform(-4.5, 4.5, (1, count))).cumsum(1))
    channel = torch.from_numpy(rng.integers(0, 16, (1, count)))
    value = torch.from_numpy(rng.standard_normal((1, count)).astype(np.float32))
    events = ctlssl.Events(times, channel, value.to(dtype), torch.tensor([count]), 16)
    limit = 1e-5 if dtype == torch.float32 else 1e-12
    with torch.no_grad():
        expected, last = layer(events)
        cuts = (0, 1, 2500, 2531, 9000, *range(9800, count + 1))
        state, pieces = None, []
        for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
            y, state = layer(events.part(begin, end), state=state)
            pieces.append(y)
        exact, _ = draw_and_copy(layer, options)(events.to(dtype=torch.float64))
    assert relative_error(torch.cat(pieces, 1), expected) < limit
    assert relative_error(state.x, last.x) < limit
    assert relative_error(expected, exact) < limit


def draw_and_copy(layer, options):
    """The same layer, from the same numbers, in float64."""
    other = draw_layer(16, 16, **{**options, "holds": 4 * MIXED}, step_range=(1e-3, 1.0))
    other.load_state_dict({name: part.double() for name, part in layer.state_dict().items()})
    return other


@pytest.mark.parametrize(("hold", "tail"), [("previous", "zero"), ("next", "held"), ("linear", "held")])
def test_a_small_rate_after_a_large_one(hold, tail):
    """A flush of one second leaves nothing in what goes on: against constant input, in the whole and in chunks."""
    generator("flush", hold, tail)
    layer = draw_layer(3, 8, dtype=torch.float32, outputs=2, measure="real", holds=hold, tail=tail)
    times = torch.tensor([[0.0, 0.0, 0.0, 1 / 3600, 1 / 3600, 900.0]], dtype=torch.float64)
    channel = torch.tensor([[0, 1, 2, 0, 2, 1]])
    value = torch.tensor([[3.6e6, 0.1, 1e5 / 3, 0.0, 0.0, 0.0]])
    events = ctlssl.Events(times, channel, value, torch.tensor([6]), 3)
    queries = torch.tensor([[400.0, 800.0, 2000.0]], dtype=torch.float64)
    other = draw_layer(3, 8, outputs=2, measure="real", holds=hold, tail=tail)
    other.load_state_dict({name: part.double() for name, part in layer.state_dict().items()})
    with torch.no_grad():
        whole, _ = layer(events, queries)
        exact, _ = other(events.to(dtype=torch.float64), queries)
        A, B = layer._continuous()
        steady = -torch.linalg.solve(A.to_dense(), B[:, 1] * value[0, 1].double()) @ layer.C.double().mT  # (2,)
        for cut in range(1, 6):
            _, state = layer(events.part(0, cut))
            assert relative_error(layer(events.part(cut, 6), queries, state=state)[0], whole) < 1e-5
    assert relative_error(whole, exact) < 1e-5
    assert relative_error(whole[0, :2], steady.expand(2, -1)) < 1e-5
    assert whole[0, 2].abs().max() < 1e-5 * steady.abs().max()


def test_no_rate_is_no_drive():
    """Where every rate is 0 again the drive is 0 to the bit, and a rate of 0 still has its gradient."""
    rng = generator("no rate")
    layer = draw_layer(3, 6, holds="previous", measure="real", outputs=2)
    times = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.5, 0.6]], dtype=torch.float64)
    channel, lengths = torch.tensor([[0, 1, 2, 1, 0, 2]]), torch.tensor([6])
    value = torch.from_numpy(rng.standard_normal((1, 6))) * torch.tensor([1e9, 1.0, 1e4, 0.0, 0.0, 0.0])
    value.requires_grad_()
    late = torch.tensor([[1e6]], dtype=torch.float64)
    y, _ = layer(ctlssl.Events(times, channel, value, lengths, 3), late)
    assert (y.abs() < 1e-30).all()

    def read(value):
        return layer(ctlssl.Events(times, channel, value, lengths, 3), torch.full_like(late, 2.0))[0]

    assert torch.autograd.gradcheck(read, (value.detach() / 1e9).requires_grad_())


def test_an_empty_chunk_leaves_the_state():
    rng = generator("event empty")
    layer, events = draw_layer(holds=MIXED), draw_events(rng)
    _, state = layer(events)
    y, same = layer(events.part(12, 12), state=state)
    assert y.shape == (2, 0, 4)
    assert all(same_bits(ours, theirs) for ours, theirs in zip(same, state, strict=True))
    fresh, start = layer(events.part(0, 0), torch.zeros(2, 3, dtype=torch.float64))
    assert (fresh == 0).all() and start.time.isnan().all()
    y, _ = layer(events.select([]))
    assert y.shape == (0, 0, 4)


def test_doses_of_one_time_add_and_readings_replace():
    """Rows of one channel at gap 0 are applied in order, as in the layer."""
    times, channel = torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.int64)
    for hold, single in (("impulse", 3.0), ("next", 1.0), ("linear", 1.0)):
        layer = draw_layer(1, holds=hold, outputs=2)
        value = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        _, state = layer(ctlssl.Events(times, channel, value, torch.tensor([2]), 1))
        value = torch.tensor([[single]], dtype=torch.float64)
        _, other = layer(ctlssl.Events(times[:, :1], channel[:, :1], value, torch.tensor([1]), 1))
        assert relative_error(state.x.detach(), other.x.detach()) < 1e-14
        assert state.values.item() == 2.0


def test_what_cannot_be_is_refused():
    rng = generator("event doors")
    layer, events = draw_layer(holds=MIXED), draw_events(rng)
    _, state = layer(events)
    queries = torch.zeros(2, 1, dtype=torch.float64)
    refused = [
        ("reads Events of 4 channels", lambda: layer(torch.zeros(2, 3, 4))),
        ("reads Events of 4 channels", lambda: draw_layer(4)(draw_events(rng, channels=5))),
        (r"query_times need shape \(2, queries\)", lambda: layer(events, queries[:1])),
        ("float64 tensor", lambda: layer(events, queries.float())),
        ("series 0, query 0: the time is infinite", lambda: layer(events, queries + torch.inf)),
        ("give query_times", lambda: layer(events, now=3.0)),
        ("now needs a finite number", lambda: layer(events, queries, now=torch.nan)),
        ("rate multiplies elapsed times", lambda: layer(events, rate=0.0)),
        ("rate needs to be a number or one a series", lambda: layer(events, rate=torch.ones(3))),
        ("first is the gap", lambda: layer(events, first=-1.0)),
        ("series 0: event 0 at .* is earlier than", lambda: layer(events, state=state)),
        ("series 0: query 0 at 0.0 is earlier", lambda: layer(events.part(12, 12), queries, state=state)),
        ("state needs what forward", lambda: layer(events, state=(1, 2))),
        (
            r"state needs times of shape \(2, 4\)",
            lambda: layer(events, state=state._replace(times=state.values[:, :1])),
        ),
        ("an output a channel", lambda: draw_layer(outputs=2).system()),
        ("unknown hold 'zoh'", lambda: ctlssl.EventLSSL(2, holds="zoh")),
        ("one for each of the 2 channels; found 3", lambda: ctlssl.EventLSSL(2, holds=("next",) * 3)),
        ("tail='held' needs an exact rule", lambda: ctlssl.EventLSSL(2, method="bilinear", tail="held")),
        ("'zero' or 'held'", lambda: ctlssl.EventLSSL(2, tail="long")),
        ("unknown structure 'full'", lambda: ctlssl.EventLSSL(2, structure="full")),
        ("channels and outputs must be at least 1", lambda: ctlssl.EventLSSL(2, outputs=0)),
        ("learn takes any of", lambda: ctlssl.EventLSSL(2, learn="A")),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()


def test_state_dict_and_fixed_parameters():
    layer = ctlssl.EventLSSL(3, 8, holds="impulse", learn=("B",))
    assert {name for name, _ in layer.named_parameters()} == {"B", "C", "D"}
    other = ctlssl.LSSL(3, 8, structure="diagonal", method="impulse", multi_input=True, learn=("B",))
    assert layer.state_dict().keys() == other.state_dict().keys()
    assert "holds=impulse" in repr(layer)


_TRAINS = """
import json, resource, sys, torch, ctlssl
torch.set_num_threads(1)
torch.manual_seed(0)
H, E = 1000, 100_000
outputs, tail = (None, "zero") if sys.argv[1] == "queries" else (32, "held")
layer = ctlssl.EventLSSL(H, 64, outputs=outputs, tail=tail)
times = 1000 * torch.rand(1, E, dtype=torch.float64).sort(1).values
events = ctlssl.Events(times, torch.randint(0, H, (1, E)), torch.randn(1, E), torch.tensor([E]), H)
queries = 1000 * torch.rand(1, 1000, dtype=torch.float64) if sys.argv[1] == "queries" else None
optimizer, losses = torch.optim.Adam(layer.parameters(), lr=0.003), []
for _ in range(3):
    loss = (layer(events, queries)[0] - 0.5).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(json.dumps([losses, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["queries", "events"])
def test_a_thousand_channels_and_a_hundred_thousand_events_train_in_two_gigabytes(asked):
    """The whole process, interpreter and torch included; outputs of all channels at 1000 queries, or 32 at events."""
    command = [sys.executable, "-c", _TRAINS, asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ})
    assert done.returncode == 0, done.stderr
    losses, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"{peak / 1e9:.2f} GB at {asked}, losses {losses}")
    assert losses[2] < losses[0]
    assert peak < 2e9
