"""Series that go on from a state: in chunks, row by row, some of many, saved and restored."""

from dataclasses import replace

import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.model_state import ModelState
from ctlssl.models import LSSLModel
from ctlssl.series import TimeSeries
from tests.members import MEMBERS, PROBLEMS, answer, batch, close, gradients, same_bits

KINDS = [
    pytest.param(kind, id=kind, marks=[pytest.mark.slow] * (kind in ("survival", "quantiles"))) for kind in PROBLEMS
]
STATEFUL = [
    pytest.param(MEMBERS[name], id=name)
    for name in ("lssl", "gru", "ode_rnn", "gru_d", "ltc", "s5", "neural_ode", "gru_ode_bayes", "cru")
]
LENGTHS = (7, 1, 4, 0, 5)


def piece(series, rows):
    """Some of the rows of every series, each within its own length."""
    lengths = (series.lengths - rows.start).clamp(0, rows.stop - rows.start)
    parts = (series.values[:, rows], series.times[:, rows], series.observed[:, rows])
    return TimeSeries(*parts, lengths, series.static)


def same_state(a, b, tolerance=None):
    """Whether two states agree, to the last bit if no tolerance is given."""
    a, b = a.tensors(), b.tensors()
    if tolerance is None:
        return same_bits(a, b)
    return a.keys() == b.keys() and all(close(a[name].double(), b[name].double(), tolerance) for name in a)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", STATEFUL)
@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5, 6), (0, 2, 2, 7)], ids=["two", "rows", "empty"])
def test_chunks_are_the_series(member, kind, cuts):
    """Queries after the end: the last chunk answers for all."""
    model, (series, asked) = member.model(kind, torch.float64), batch(LENGTHS, dtype=torch.float64)
    asked = asked + series.times.amax() - 99
    whole = model(series, asked, rate=1.5)
    state = None
    for start, stop in zip((0, *cuts), (*cuts, 7), strict=True):
        part = piece(series, slice(start, stop))
        after = model(part, asked, state=state, rate=1.5)
        state = after.state
    assert close(answer(after), answer(whole), 1e-13)
    assert same_state(state, whole.state, 1e-13)


@pytest.mark.parametrize("member", STATEFUL)
def test_queries_belong_to_the_chunk_of_their_time(member):
    model, (series, _) = member.model("forecasting", torch.float64), batch((6, 6), dtype=torch.float64)
    series = replace(series, times=torch.arange(6.0).expand(2, 6).double())
    asked = torch.tensor([[-1.0, 0.5, 1.0, 2.5, 3.0, 9.0], [2.9, 0.0, 5.5, torch.nan, 1.5, 2.0]]).double()
    whole = model(series, asked)
    first = model(piece(series, slice(0, 3)), torch.where(asked < 3, asked, torch.nan))
    second = model(piece(series, slice(3, 6)), torch.where(asked < 3, torch.nan, asked), state=first.state)
    both = torch.where((asked < 3)[..., None], answer(first), answer(second))
    assert close(both, answer(whole), 1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", STATEFUL)
def test_nothing_leaves_the_state_as_it_is(member, kind):
    """An empty chunk, rows with nothing in them, and queries alone, to the last bit."""
    model, (series, asked) = member.model(kind), batch()
    later = asked + series.times.amax() - 99
    state = model(series, asked).state
    blank = replace(series, observed=torch.zeros_like(series.observed), times=series.times + 1000)
    for chunk in (piece(series, slice(7, 7)), blank):
        assert same_state(model(chunk, later + 1000, state=state).state, state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", STATEFUL)
def test_the_initial_state_is_no_state(member, kind):
    model, (series, asked) = member.model(kind), batch()
    assert same_state(model(piece(series, slice(0, 0)), asked).state, model.initial_state(5))
    found = model(series, asked, state=model.initial_state(5))
    assert close(answer(found), answer(model(series, asked)), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", STATEFUL)
def test_gradients_flow_through_the_state(member, kind):
    model, (series, asked) = member.model(kind, torch.float64), batch(LENGTHS, dtype=torch.float64)
    series, asked = replace(series, times=series.times / 64), (asked + series.times.amax() - 99) / 64
    whole = gradients(model, answer(model(series, asked)).square().sum())
    state = model(piece(series, slice(0, 3)), asked).state
    rest = piece(series, slice(3, 7))
    found = gradients(model, answer(model(rest, asked, state=state)).square().sum())
    cut = gradients(model, answer(model(rest, asked, state=state.detach())).square().sum())
    assert all(close(found[name], whole[name], 1e-12) for name in whole)
    assert not all(close(cut[name], whole[name], 1e-3) for name in whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", STATEFUL)
def test_some_of_many(member, kind):
    model, (series, asked) = member.model(kind, torch.float64), batch(LENGTHS, dtype=torch.float64)
    state = model(series, asked).state
    some = [4, 1]
    assert same_state(state.select(some), model(series.select(some), asked[some]).state, 1e-14)
    for index in (some, torch.tensor([False, True, False, False, True]), slice(1, 5, 3)):
        assert same_state(model.initial_state(5).put(index, state.select(index)).select(index), state.select(index))
        assert same_state(model.initial_state(5).put(index, state.select(index)).select([0, 2]), model.initial_state(2))
    assert same_state(state.put([], state.select([])), state)
    with pytest.raises(ValueError, match="shape"):
        state.put([1], state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", STATEFUL)
def test_tensors_and_back(member, kind):
    model, (series, asked) = member.model(kind), batch()
    state = model(series, asked).state.detach()
    again = ModelState.from_tensors({name: tensor.clone() for name, tensor in state.tensors().items()})
    assert same_state(again, state) and type(again.layers[0]) is type(state.layers[0])
    assert not any(tensor.requires_grad for tensor in state.tensors().values())
    assert all(len(tensor) == 5 for tensor in state.tensors().values())


def test_a_state_keeps_nothing_of_the_rows_alive():
    model, (series, asked) = MEMBERS["lssl"].model("classification"), batch((400,))
    with torch.no_grad():
        state = model(series, asked).state
    for name, tensor in state.tensors().items():
        assert tensor.untyped_storage().nbytes() <= 8 * max(tensor.numel(), 1), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seen.time": None}, "seen"),
        ({"layers.0.x": None}, r"layers\.0"),
        ({"layers.1.x": torch.zeros(5, 1, 16)}, r"layers\.1"),
        ({"layers.3.x": torch.zeros(5, 1, 16), "layers.3.u": torch.zeros(5, 8)}, r"layers\.1"),
        ({"colour": torch.zeros(5)}, r"layers\.1"),
        ({"seen.start": torch.zeros(4, dtype=torch.float64)}, "seen.start has 4"),
        ({"seen.start": torch.zeros(5)}, "seen.start as torch.float64"),
        ({"seen.time": torch.full((5,), torch.nan, dtype=torch.float64)}, "seen.time is not"),
        ({"seen.time": torch.full((5,), -1e9, dtype=torch.float64)}, "before it began"),
        ({"pooled.count": torch.full((5,), -1)}, "negative"),
        ({"pooled.most": torch.zeros(5, 8, dtype=torch.int64)}, "floating point"),
        ({"pooled.most": torch.zeros(())}, "one row a series"),
        ({"pooled.most": [0.0]}, "one row a series"),
    ],
)
def test_tensors_that_are_no_state(change, words):
    model, (series, asked) = MEMBERS["lssl"].model("classification"), batch()
    tensors = model(series, asked).state.detach().tensors() | change
    with pytest.raises(ValueError, match=words):
        ModelState.from_tensors({name: tensor for name, tensor in tensors.items() if tensor is not None})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 2}, r"layers\.1"),
        ({"state_size": 4}, r"layers\.0\.x of shape \(5, 1, 16\)"),
        ({"multi_input": False}, r"layers\.0\.x"),
    ],
)
def test_states_of_other_models(options, words):
    model, (series, asked) = MEMBERS["lssl"].model("classification"), batch()
    other = LSSLModel(PROBLEMS["classification"], width=8, **options)
    with pytest.raises(ValueError, match=words):
        model(series, asked, state=other.initial_state(5))
    with pytest.raises(ValueError, match="another model: pooled"):
        model(series, asked, state=MEMBERS["lssl"].model("forecasting").initial_state(5))
    with pytest.raises(ValueError, match=r"seen.started of shape \(5,\); found \(4,\)"):
        model(series, asked, state=model.initial_state(4))


@pytest.mark.parametrize("member", STATEFUL)
def test_what_is_earlier_than_the_state_is_refused(member):
    model, (series, asked) = member.model("forecasting"), batch((3, 3))
    state = model(series, asked).state
    late = series.times[:, -1:] + 1
    rows = replace(series, times=late + torch.arange(3))
    assert model(rows, late, state=state).mean.isfinite().all()
    early = rows.times.clone()
    early[1, 0] = series.times[1, -1] - 1
    with pytest.raises(ValueError, match=r"series 1, row 0: time .* go on from an earlier state"):
        model(replace(rows, times=early), late, state=state)
    with pytest.raises(ValueError, match="series 0, query 1: time 99.0"):
        model(rows, torch.cat([late, torch.full_like(late, 99.0)], dim=1), state=state)


def test_a_model_that_keeps_no_state_says_so():
    with pytest.raises(ValueError, match="NeuralCDE reads whole series"):
        MEMBERS["neural_cde"].model("classification").initial_state(1)


def test_a_long_stream_in_float32_is_the_batch_in_float64():
    """The pooled sum would drift in float32; times near an epoch would lose the gaps."""
    problem = Problem("classification", 1, 2, time_scale=60.0, first_gap=60.0, horizon=1e5)
    torch.default_generator.manual_seed(3)
    model, n = LSSLModel(problem, width=8, state_size=8).eval(), 20_000
    times = 1.7e9 + torch.empty(1, n, dtype=torch.float64).exponential_(1 / 60).cumsum(1)
    seen = torch.ones(1, n, 1, dtype=torch.bool)
    series = TimeSeries(torch.randn(1, n, 1), times, seen, torch.tensor([n]))
    state = None
    with torch.no_grad():
        for start in range(0, n, 500):
            found = model(piece(series, slice(start, start + 500)), state=state)
            state = found.state
        exact = model.double()(series)
    assert close(found.logits.double(), exact.logits, 1e-5)
