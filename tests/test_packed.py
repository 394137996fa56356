"""Packed series: layers without padding against the padded call and against each series alone."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctlssl import LSSL, packed_series
from ctlssl.layers.packed import run_packed
from ctlssl.packed_series import PackedSeries, like_lengths, packed_rows
from ctlssl.series import TimeSeries
from ctlssl.views import State
from tests.contracts import KIND_PARAMS, STRUCTURE_PARAMS, generator, layer_batch, make_layer, same_bits, sampled
from tests.problems import METHODS, relative_error

LENGTHS = torch.tensor([3, 9, 0, 40, 7, 1, 38])


@pytest.fixture
def many_groups(monkeypatch):
    """Without the rows that small batches may spare, so that a few short series make several groups."""
    monkeypatch.setattr(packed_series, "_SPARE_ROWS", 0)
    assert len(like_lengths(LENGTHS)) == 5


class Largest(TorchDispatchMode):
    """The largest tensor that an operator made, in numbers."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        for part in made if isinstance(made, list | tuple) else (made,):
            if isinstance(part, torch.Tensor) and not part._is_view():
                self.numbers = max(self.numbers, part.numel())
        return made


def padded(rows, lengths):
    """Rows (T, ...) as a padded batch (B, L, ...), by plain slicing."""
    out = rows.new_zeros(len(lengths), int(lengths.max()), *rows.shape[1:])
    for b, part in enumerate(rows.split(lengths.tolist())):
        out[b, : len(part)] = part
    return out


def batch(rng, lengths=LENGTHS, dtype=torch.float64):
    u, dt = layer_batch(rng, 1, int(lengths.sum()), dtype=dtype)
    return u[0], dt[0], lengths


def exact(structure, method):
    """Whether no matrix product of torch stands between rows and outputs."""
    return structure == "diagonal" or (structure != "dense" and METHODS[method].rule != "exact")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("structure", "name", "multi_input"), sampled(0.3, STRUCTURE_PARAMS, [*METHODS], KIND_PARAMS))
def test_packed_is_padded(structure, name, multi_input, bidirectional, dtype, many_groups):
    """Outputs and states; bit for bit where the padded call keeps its bits in another batch."""
    rng = generator("packed", structure.name, name, multi_input, bidirectional, dtype)
    layer = make_layer(structure.name, name, multi_input, dtype, bidirectional=bidirectional)
    u, dt, lengths = batch(rng, dtype=dtype)
    is_query = torch.from_numpy(rng.random(len(u)) < 0.2)
    rate = torch.from_numpy(rng.uniform(0.5, 2, len(lengths)))
    y, state = run_packed(layer, u, dt, lengths, is_query=is_query, rate=rate)
    whole, after = layer(padded(u, lengths), padded(dt, lengths), lengths, None, padded(is_query, lengths), rate)
    expected = torch.cat([whole[b, :length] for b, length in enumerate(lengths.tolist())])
    if exact(structure.name, name):
        assert same_bits(y, expected)
    else:
        assert relative_error(y.detach(), expected.detach()) < (1e-5 if dtype == torch.float32 else 1e-13)
    assert (state is None) == bidirectional
    for found, part in zip(state or (), after or (), strict=True):
        assert relative_error(found.detach(), part.detach()) < (1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("structure", ["diagonal", "quasiseparable", "dplr"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_series_alone_gives_the_same_bits(structure, bidirectional, many_groups):
    layer = make_layer(structure, "bilinear", bidirectional=bidirectional)
    u, dt, lengths = batch(generator("alone", structure, bidirectional))
    y, _ = run_packed(layer, u, dt, lengths)
    for rows, gaps, found in zip(*(part.split(lengths.tolist()) for part in (u, dt, y)), strict=True):
        assert same_bits(found, layer(rows[None], gaps[None])[0][0])


def test_gradients_are_those_of_the_padded_call(many_groups):
    layer = make_layer("diagonal", "zoh", multi_input=True)
    rng = generator("packed gradients")
    u, dt, lengths = batch(rng)
    state = State(*(torch.from_numpy(rng.standard_normal((len(lengths), *shape))) for shape in ((1, 6), (3,))))
    weights = torch.from_numpy(rng.standard_normal((len(u), 3)))
    found = []
    for packed in (True, False):
        leaves = [part.clone().requires_grad_() for part in (u, dt, *state)]
        start = State(*leaves[2:])
        if packed:
            y, after = run_packed(layer, leaves[0], leaves[1], lengths, start)
        else:
            whole, after = layer(padded(leaves[0], lengths), padded(leaves[1], lengths), lengths, start)
            y = torch.cat([whole[b, :length] for b, length in enumerate(lengths.tolist())])
        loss = (y * weights).sum() + after.x.square().sum() + after.u.sum()
        found.append(torch.autograd.grad(loss, [*leaves, *layer.parameters()]))
    for own, other in zip(*found, strict=True):
        assert relative_error(own, other) < 1e-12


def test_chunks_of_packed_series_with_the_state_handed_over(many_groups):
    layer = make_layer("quasiseparable", "trapezoid")
    u, dt, lengths = batch(generator("packed chunks"))
    whole, last = run_packed(layer, u, dt, lengths)
    first = (lengths // 2).tolist()
    cut = [[part[:n], part[n:]] for part, n in zip(u.split(lengths.tolist()), first, strict=True)]
    gaps = [[part[:n], part[n:]] for part, n in zip(dt.split(lengths.tolist()), first, strict=True)]
    state, outputs = None, []
    for half in (0, 1):
        rows, steps = (torch.cat([parts[half] for parts in both]) for both in (cut, gaps))
        own = torch.tensor([len(parts[half]) for parts in cut])
        y, state = run_packed(layer, rows, steps, own, state)
        outputs.append(y.split(own.tolist()))
    again = torch.cat([torch.cat(parts) for parts in zip(*outputs, strict=True)])
    assert relative_error(again.detach(), whole.detach()) < 1e-14
    assert relative_error(state.x.detach(), last.x.detach()) < 1e-14


@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_long_series_among_many_short_ones(bidirectional):
    """One of 100,000 rows among 1,000 of 10: nothing is made that is much larger than the rows themselves."""
    layer = make_layer("diagonal", "zoh", True, torch.float32, bidirectional=bidirectional)
    lengths = torch.full((1001,), 10)
    lengths[500] = 100_000
    u, dt, lengths = batch(generator("long among short"), lengths, torch.float32)
    with Largest() as largest:
        y, _ = run_packed(layer, u, dt, lengths)
        y.square().mean().backward()
    assert largest.numbers <= 1.25 * u.numel() < 0.01 * 1001 * 100_000 * 3
    alone, _ = layer(u[None, 5000:105_000], dt[None, 5000:105_000])
    assert same_bits(y[5000:105_000], alone[0])


def test_groups_of_like_length():
    rng = generator("groups")
    for lengths in (rng.integers(0, 100, 1000), rng.geometric(0.001, 500), np.array([5]), np.arange(0)):
        lengths = torch.from_numpy(lengths)
        groups = like_lengths(lengths)
        assert sorted(torch.cat([*groups, lengths[:0]]).tolist()) == list(range(len(lengths)))
        for group in groups:
            own = lengths[group]
            assert len(group) * own.max() <= 1.25 * own.sum() + 1024
            place, inside = packed_rows(lengths, group)
            starts = lengths.cumsum(0) - lengths
            for row, flags, series in zip(place, inside, group.tolist(), strict=True):
                assert row[flags].tolist() == list(range(starts[series], starts[series] + lengths[series]))
        assert len(groups) <= 40


def test_what_does_not_fit_is_refused():
    layer, (u, dt, lengths) = make_layer("diagonal"), batch(generator("refused"))
    _, state = run_packed(layer, u, dt, lengths)
    refused = {
        "packed u needs shape": lambda: run_packed(layer, u[None], dt, lengths),
        "lengths sum to 97": lambda: run_packed(layer, u, dt, lengths.index_fill(0, torch.tensor(5), 0)),
        "none below 0": lambda: run_packed(layer, u, dt, -lengths),
        "row 4: gap -1.0": lambda: run_packed(layer, u, dt.index_fill(0, torch.tensor(4), -1.0), lengths),
        "packed dt needs": lambda: run_packed(layer, u, dt[1:], lengths),
        "is_query needs booleans": lambda: run_packed(layer, u, dt, lengths, is_query=dt),
        "state is of": lambda: run_packed(layer, u[:1], dt[:1], torch.tensor([1]), state),
        "rate must be positive": lambda: run_packed(layer, u, dt, lengths, rate=0.0),
    }
    for words, call in refused.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_no_rows_and_no_series():
    layer = make_layer("diagonal")
    y, state = run_packed(layer, torch.zeros(0, 3), None, torch.tensor([0, 0]))
    assert y.shape == (0, 6) and not state.x.any() and state.x.shape[0] == 2
    y, state = run_packed(layer, torch.zeros(0, 3), None, torch.zeros(0, dtype=torch.int64))
    assert y.shape == (0, 6) and state.x.shape[0] == 0


def irregular_series(rng, lengths=LENGTHS):
    B, L = len(lengths), int(lengths.max())
    times = torch.from_numpy(rng.exponential(1.0, (B, L)).cumsum(1))
    observed = torch.from_numpy(rng.random((B, L, 2)) < 0.7)
    values = torch.from_numpy(rng.standard_normal((B, L, 2)).astype(np.float32))
    static = torch.from_numpy(rng.standard_normal((B, 3)))
    return TimeSeries(values, times, observed, lengths, static)


def same_series(a, b):
    inside = a.in_length
    assert torch.equal(a.lengths, b.lengths) and torch.equal(a.static, b.static)
    for name in ("values", "times", "observed"):
        assert torch.equal(getattr(a, name)[inside], getattr(b, name)[inside])


def test_packed_series_there_and_back(many_groups):
    series = irregular_series(generator("there and back"))
    packed = PackedSeries.from_series(series)
    assert packed.batch == len(packed) == 7 and packed.channels == 2 and len(packed.values) == LENGTHS.sum()
    same_series(series, packed.to_series())
    for index in ([4, 1], slice(2, 5), series.lengths > 5, []):
        same_series(series.select(index), packed.select(index).to_series())
        same_series(series.select(index), packed.to_series(index))
    moved = packed.to(dtype=torch.float64)
    assert moved.values.dtype == torch.float64 and moved.times is not None
    seen = torch.cat([group for group, _ in packed.groups()])
    assert sorted(seen.tolist()) == list(range(7))


def test_packed_series_are_checked_and_promoted():
    parts = {
        "values": torch.tensor([[1], [2], [3]]),
        "times": torch.tensor([0, 5, 1]),
        "observed": torch.ones(3, 1, dtype=torch.bool),
        "lengths": torch.tensor([2, 1], dtype=torch.int32),
        "static": torch.ones(2, 1),
    }
    packed = PackedSeries(**parts)
    assert packed.times.dtype == torch.float64 and packed.values.is_floating_point()
    assert packed.lengths.dtype == torch.int64
    nan = torch.tensor([[1.0], [2.0], [torch.nan]])
    refused = {
        "series 0, position 1: its time is before": {"times": torch.tensor([5.0, 0.0, 1.0])},
        "series 1, position 0: its time is not finite": {"times": torch.tensor([0.0, 1.0, torch.inf])},
        "series 1, position 0: a value": {"values": nan},
        "lengths sum to 4": {"lengths": torch.tensor([2, 2])},
        "none below 0": {"lengths": torch.tensor([4, -1])},
        "found values": {"times": torch.zeros(4)},
        "one row per series": {"static": torch.ones(3, 1)},
        "static covariate 0": {"static": torch.full((2, 1), torch.nan)},
    }
    for words, wrong in refused.items():
        with pytest.raises(ValueError, match=words):
            PackedSeries(**parts | wrong)
    with pytest.raises(TypeError, match="observed must be bool"):
        PackedSeries(**parts | {"observed": torch.ones(3, 1)})
    with pytest.raises(TypeError, match=r"times must be a torch\.Tensor"):
        PackedSeries(**parts | {"times": [0.0, 1.0, 2.0]})
    PackedSeries(**parts | {"values": nan, "observed": ~nan.isnan()})  # what was not seen may hold anything


def test_the_method_of_a_layer():
    layer = LSSL(2, 4, structure="diagonal", method="zoh")
    rng = generator("the method")
    u, dt = torch.from_numpy(rng.standard_normal((5, 2))).float(), torch.from_numpy(rng.exponential(1, 5))
    y, state = layer.packed(u, dt, torch.tensor([3, 2]))
    for rows, series in ((slice(0, 3), 0), (slice(3, 5), 1)):
        alone, end = layer(u[None, rows], dt[None, rows])
        assert torch.equal(y[rows], alone[0]) and torch.equal(state.x[series], end.x[0])
