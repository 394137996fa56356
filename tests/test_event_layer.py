"""The event form against its definition, against the layer on a full grid, and against an ODE solver."""

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl.kernels import plain_torch
from tests.contracts import generator, same_bits, sampled
from tests.event_cases import MIXED, draw_events, draw_layer, records, spread_queries
from tests.event_truth import literal, superposed
from tests.problems import relative_error

STRUCTURES = ["diagonal", "dense", "dplr", "quasiseparable"]
METHODS = ["zoh", "foh", "bilinear", "backward_euler", "forward_euler", "trapezoid", "impulse"]


def numbers(layer):
    """A, B, C, D of the layer, float64 arrays; zeros for D where there is none."""
    A, B = layer._continuous()
    D = np.zeros(layer.outputs) if layer.D is None else layer.D.detach().double().numpy()
    return A.to_dense().detach().numpy(), B.detach().numpy(), layer.C.detach().double().numpy(), D


@pytest.mark.parametrize(("structure", "method"), sampled(0.5, STRUCTURES, METHODS))
def test_the_layer_is_its_definition(structure, method):
    rng = generator("event definition", structure, method)
    layer = draw_layer(structure=structure, method=method, outputs=3)
    events = draw_events(rng)
    queries = spread_queries(events, rng)
    y, state = layer(events, queries, first=0.7)
    A, B, C, _ = numbers(layer)
    rule = getattr(layer.method.rule, "alpha", "exact")
    for b, record in enumerate(records(events)):
        asked = [q for q in queries[b].tolist() if q == q]
        shown, last = literal(A, B, rule, [hold.name for hold in layer.holds.holds], record, asked, first=0.7)
        assert relative_error(y[b][~queries[b].isnan()].detach(), shown @ C.T) < 1e-11
        assert relative_error(state.x[b].detach(), last) < 1e-11
    assert (y[queries.isnan()] == 0).all()


@pytest.mark.parametrize(("method", "tail"), [("zoh", "zero"), ("zoh", "held"), ("bilinear", "zero")])
def test_a_hold_for_each_channel(method, tail):
    rng = generator("event holds", method, tail)
    layer = draw_layer(method=method, holds=MIXED, outputs=3, tail=tail)
    events = draw_events(rng, batch=3, count=20)
    queries = spread_queries(events, rng, count=8)
    y, state = layer(events, queries)
    A, B, C, _ = numbers(layer)
    rule = getattr(layer.method.rule, "alpha", "exact")
    for b, record in enumerate(records(events)):
        asked = [q for q in queries[b].tolist() if q == q]
        shown, last = literal(A, B, rule, MIXED, record, asked, tail=tail)
        assert relative_error(y[b][~queries[b].isnan()].detach(), shown @ C.T) < 1e-11
        assert relative_error(state.x[b].detach(), last) < 1e-11


@pytest.mark.parametrize("tail", ["zero", "held"])
@pytest.mark.parametrize("structure", ["diagonal", "dplr"])
def test_exact_rules_are_the_differential_equation(structure, tail):
    """Each channel alone, integrated on its own grid by a solver: there is no global gap in the truth."""
    rng = generator("event superposition", structure, tail)
    layer = draw_layer(structure=structure, holds=MIXED, tail=tail, outputs=2)
    events = draw_events(rng, count=16)
    queries = spread_queries(events, rng, count=6)
    y, _ = layer(events, queries)
    A, B, C, _ = numbers(layer)
    for b, record in enumerate(records(events)):
        for q in range(queries.shape[1]):
            if queries[b, q] == queries[b, q]:
                x = superposed(A, B, MIXED, record, queries[b, q].item(), tail=tail)
                assert np.abs(y[b, q].detach().numpy() - C @ x).max() < 1e-9


@pytest.mark.parametrize(("structure", "method"), sampled(0.5, STRUCTURES, METHODS))
def test_on_a_full_grid_it_is_the_layer(structure, method):
    """All channels seen at all times: the same parameters, by name, give the same outputs, at rows and at queries."""
    rng = generator("event grid", structure, method)
    B, L, H = 2, 9, 3
    full = ctlssl.LSSL(H, 6, structure=structure, method=method, multi_input=True, step_range=(0.1, 1.0)).double()
    layer = draw_layer(H, 6, structure=structure, method=method)
    layer.load_state_dict(full.state_dict())
    times = torch.from_numpy(rng.exponential(0.5, (B, L)).cumsum(1))
    u = torch.from_numpy(rng.standard_normal((B, L, H)))
    series = ctlssl.TimeSeries(u, times, torch.ones(B, L, H, dtype=torch.bool), torch.tensor([L, L - 2]))
    expected, state = full(u, series.gaps(first=0.6), lengths=series.lengths, view="recurrence")
    y, last = layer(ctlssl.Events.from_series(series), first=0.6)
    rows = y.reshape(B, L, H, H)
    assert relative_error(rows[:, :, -1].detach(), expected.detach()) < 1e-12
    assert torch.equal(rows, rows[:, :, -1:].expand_as(rows))  # every event of a row sees all of them
    assert relative_error(last.x.detach(), state.x[:, 0].detach()) < 1e-12
    assert torch.equal(last.values, state.u)
    for ours, theirs in zip(layer.system().to_dense(), full.system().to_dense(), strict=True):
        assert torch.equal(ours, theirs)
    if layer.method.rule == ctlssl.exact:
        held = draw_layer(H, 6, structure=structure, method=method, tail="held")
        held.load_state_dict(full.state_dict())
        later = torch.tensor([[0.0, 0.3, 2.0], [0.0, 1.0, 5.0]], dtype=torch.float64)
        y, _ = held(ctlssl.Events.from_series(series), last.time[:, None] + later, first=0.6)
        assert relative_error(y.detach(), full.peek(state, later).detach()) < 1e-12


@pytest.mark.parametrize("options", [{"holds": MIXED}, {"holds": MIXED, "tail": "held"}, {"method": "bilinear"}])
def test_the_order_at_one_time_does_not_matter(options):
    rng = generator("event order", str(options))
    layer = draw_layer(**options)
    events = draw_events(rng, count=20)
    mixed = torch.from_numpy(rng.permutation(20))
    mixed = mixed[torch.argsort(events.times[:, mixed], dim=1, stable=True)]  # (B, 20): shuffled within each time
    assert not torch.equal(mixed[0], torch.arange(20))
    lengths = torch.full((2,), 20)
    first = ctlssl.Events(events.times, events.channel, events.value, lengths, 4)
    parts = (part.gather(1, mixed) for part in (events.times, events.channel, events.value))
    y, state = layer(first)
    permuted, other = layer(ctlssl.Events(*parts, lengths, 4))
    assert relative_error(permuted.detach(), y.gather(1, mixed[..., None].expand_as(y)).detach()) < 1e-14
    assert relative_error(other.x.detach(), state.x.detach()) < 1e-14
    assert torch.equal(other.times.nan_to_num(-1), state.times.nan_to_num(-1))
    assert torch.equal(other.values, state.values)


@pytest.mark.parametrize("options", [{"holds": MIXED}, {"holds": MIXED, "tail": "held"}, {"method": "bilinear"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_record_is_its_single_events(options, dtype):
    """A row of several channels, its events in one list, in chunks, and one call an event: one answer."""
    rng = generator("event chunks", str(options), str(dtype))
    layer = draw_layer(dtype=dtype, **options)
    events = draw_events(rng, count=17, dtype=dtype)
    queries = events.times.amax(1, keepdim=True) + torch.tensor([0.0, 0.4, 3.0], dtype=torch.float64)
    y, state = layer(events, queries)
    limit = 1e-5 if dtype == torch.float32 else 1e-13
    for cuts in (range(18), (0, 5, 5, 17)):
        start = None
        for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
            _, start = layer(events.part(begin, end), state=start)
        later, _ = layer(events.part(17, 17), queries, state=start)
        assert relative_error(start.x.detach(), state.x.detach()) < limit
        assert relative_error(later.detach(), y.detach()) < limit
        assert all(same_bits(ours, theirs) for ours, theirs in zip(start[1:], state[1:], strict=True))
    again, _ = layer(ctlssl.Events.from_series(events.to_series()), queries)
    assert relative_error(again.detach(), y.detach()) < limit


def test_gradients_flow_through_the_state():
    rng = generator("event state gradients")
    layer = draw_layer(holds=MIXED, tail="held")
    events = draw_events(rng, count=14)
    gradients = []
    for cuts in ((0, 14), (0, 6, 14)):
        layer.zero_grad()
        value, times = events.value.clone().requires_grad_(), events.times.clone().requires_grad_()
        state, total = None, 0.0
        whole = ctlssl.Events(times, events.channel, value, events.lengths, 4)
        for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
            y, state = layer(whole.part(begin, end), times[:, end - 1 : end] + 0.3, state=state)
        total = y.square().sum() + state.x.sum()
        total.backward()
        gradients.append([value.grad, times.grad, *(p.grad.clone() for p in layer.parameters())])
    for whole, parts in zip(*gradients, strict=True):
        assert relative_error(parts, whole) < 1e-11


@pytest.mark.parametrize(
    "options",
    [
        {"holds": MIXED},
        {"holds": MIXED, "tail": "held"},
        {"holds": MIXED, "method": "bilinear"},
        {"holds": MIXED, "structure": "quasiseparable", "method": "backward_euler"},
        pytest.param({"holds": MIXED, "structure": "dense"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_gradients(options):
    """Of values, times of events and queries, parameters and the state, by finite differences."""
    rng = generator("event gradcheck", str(options))
    layer = draw_layer(4, 4, **options)
    with torch.no_grad():  # LegS starts at the bound of its class, a kink
        for parameter in layer.parameters():
            parameter *= 0.9
    events = draw_events(rng, batch=2, count=8, ties=False)
    queries = events.times[:, -1:] + torch.tensor([[0.5, -0.7]], dtype=torch.float64)
    _, state = layer(draw_events(rng, batch=2, count=6, ties=False))
    state = state._replace(time=state.time - 9, times=state.times - 9)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def run(value, times, asked, x, values, *given):
        start = state._replace(x=x, values=values)
        record = ctlssl.Events(times, events.channel, value, events.lengths, 4)
        y, last = torch.func.functional_call(layer, dict(zip(names, given, strict=True)), (record, asked, start))
        return y, last.x, last.values

    inputs = [part.detach().clone().requires_grad_() for part in (events.value, events.times, queries, state.x)]
    inputs += [part.detach().clone().requires_grad_() for part in (state.values, *parameters)]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_second_derivatives_are_those_of_the_plain_scan():
    rng = generator("event second derivatives")
    layer = draw_layer(2, 4, holds=("next", "previous"))
    events = draw_events(rng, batch=1, count=5, channels=2, ties=False)

    def run(value):
        with plain_torch():
            return layer(ctlssl.Events(events.times, events.channel, value, events.lengths, 2))[0].square()

    assert torch.autograd.gradgradcheck(run, events.value.clone().requires_grad_(), fast_mode=True)


def test_plain_torch_gives_the_same():
    rng = generator("event twin")
    layer = draw_layer(holds=MIXED, tail="held")
    events = draw_events(rng)
    expected, _ = layer(events)
    with plain_torch():
        y, _ = layer(events)
    assert relative_error(y.detach(), expected.detach()) < 1e-12


def test_infusions_act_between_events():
    """A rate that starts at 1 and stops at 3, seen in the middle of it and after, in closed form."""
    layer = draw_layer(1, 2, measure="real", holds="previous", outputs=1)
    lists = ctlssl.infusions(*(torch.tensor([v]) for v in (0, 1.0, 3.0, 0, 2.0)))
    events = ctlssl.Events.from_flat(*lists, channels=1).to(dtype=torch.float64)
    A, B, C, _ = numbers(layer)
    for query, inside in ((0.5, 0.0), (1.0, 0.0), (2.5, 1.5), (3.0, 2.0), (7.0, 2.0)):
        y, _ = layer(events, torch.tensor([[query]], dtype=torch.float64))
        pole = A[0, 0]
        rest = max(query - 3.0, 0.0)
        x = 2.0 * B[0, 0] * np.expm1(pole * inside) / pole * np.exp(pole * rest)
        second = 2.0 * B[1, 0] * np.expm1(pole * inside) / pole * np.exp(pole * rest)
        assert abs(y.item() - C[0] @ np.array([x, second])) < 1e-12


def test_planned_treatment_acts_and_later_readings_do_not():
    rng = generator("event now")
    layer = draw_layer(holds=MIXED)
    events = draw_events(rng, batch=3, count=28)
    now = events.times[:, 9]
    known = (events.channel >= 2) & events.in_length  # doses and infusions
    queries = torch.cat([now[:, None], now[:, None] + torch.tensor([0.5, 1.5, 9.0]), now[:, None] - 0.8], 1)
    planned = ctlssl.Events(events.times, events.channel, events.value, events.lengths, 4, known)
    y, state = layer(planned, queries, now=now)
    for b, record in enumerate(records(events)):
        limit = now[b].item()
        seen = [event for event in record if event[0] <= limit]
        acting = [event for event in record if event[0] <= limit or event[1] >= 2]
        assert len(seen) < len(acting)
        for kept, asked in ((acting, queries[b]), (seen, queries[b, [0, 4]])):
            given = (torch.tensor(part, dtype=torch.float64)[None] for part in zip(*kept, strict=True))
            times, channel, value = given
            alone = ctlssl.Events(times, channel.long(), value, torch.tensor([len(kept)]), 4)
            expected, last = layer(alone, asked[None])
            ours = y[b] if kept is acting else y[b, [0, 4]]
            assert relative_error(ours.detach(), expected[0].detach()) < 1e-12
        for ours, theirs in zip(state, last, strict=True):  # of what was seen alone
            np.testing.assert_allclose(ours[b].detach(), theirs[0].detach(), rtol=1e-12, atol=1e-13)
    # A later reading may say anything, and no bit changes.
    changed = torch.where((events.times > now[:, None]) & ~known, 1e30, events.value)
    other, _ = layer(ctlssl.Events(events.times, events.channel, changed, events.lengths, 4, known), queries, now=now)
    assert same_bits(other, y)
