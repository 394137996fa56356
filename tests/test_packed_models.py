"""Models over packed series, and bidirectional models over ragged batches, against each series alone."""

import numpy as np
import pytest
import torch

from ctlssl import Events, packed_series, step_range_from_gaps
from ctlssl.catalogue import load_dataset
from ctlssl.contract import Prediction, Problem
from ctlssl.models import LSSLModel
from ctlssl.packed_calls import ABSENT
from ctlssl.packed_series import PackedSeries
from ctlssl.schema import to_packed, to_series
from ctlssl.tasks import Examples
from ctlssl.training import Training, evaluate, fit, predict
from tests.contracts import generator
from tests.members import FURTHER, MEMBERS, PROBLEMS, batch, close, gradients
from tests.test_packed import Largest

LENGTHS = (7, 30, 4, 0, 28, 1)
# A solver that chooses its steps for the whole batch answers other batches to its own tolerance only.
FIXED = [
    pytest.param(member, kind, id=f"{name}-{kind}", marks=[pytest.mark.slow] * (kind in FURTHER and name != "lssl"))
    for name, member in MEMBERS.items()
    if member.neighbours < 1e-4
    for kind in member.kinds
]


@pytest.fixture(autouse=True)
def many_groups(monkeypatch):
    """Without the rows that small batches may spare, so that a few short series make several groups."""
    monkeypatch.setattr(packed_series, "_SPARE_ROWS", 0)


def parts(prediction):
    """The parts of a prediction that are there, by name."""
    return {name: part for name in ABSENT if (part := getattr(prediction, name)) is not None}


@pytest.mark.parametrize(("member", "kind"), FIXED)
def test_every_model_answers_packed_series_as_padded_ones(member, kind):
    """Values and gradients; every series with a rate of its own, and with a number of queries of its own."""
    model = member.model(kind, torch.float64)
    series, asked = batch(LENGTHS, queries=5, dtype=torch.float64)
    asked[2:, 3:] = torch.nan
    rate = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.5, 3.0], dtype=torch.float64)
    packed = PackedSeries.from_series(series)
    assert len(list(packed.groups())) > 3
    found, expected = (run(given, asked, rate=rate) for run, given in ((model.packed, packed), (model, series)))
    assert parts(found).keys() == parts(expected).keys()
    for name, part in parts(found).items():
        assert close(part, parts(expected)[name], 1e-11), name
    sides = [gradients(model, sum(part.square().sum() for part in parts(p).values())) for p in (found, expected)]
    for name, gradient in sides[0].items():
        other = sides[1][name]
        assert (gradient is None) == (other is None), name
        assert gradient is None or close(gradient, other, 1e-10), name


@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_state_of_packed_series_goes_on(kind):
    model = LSSLModel(PROBLEMS[kind], width=8, layers=2).double().eval()
    series, _ = batch(LENGTHS, dtype=torch.float64)
    asked = torch.full((6, 1), 1e4, dtype=torch.float64)
    first = (series.lengths // 2).tolist()
    halves = []
    for begin, end in ((lambda n, m: 0, lambda n, m: m), (lambda n, m: m, lambda n, m: n)):
        rows = [
            torch.arange(begin(n, m), end(n, m)) + b * series.length
            for b, (n, m) in enumerate(zip(series.lengths.tolist(), first, strict=True))
        ]
        place = torch.cat(rows)
        flat = (part.flatten(0, 1)[place] for part in (series.values, series.times, series.observed))
        halves.append(PackedSeries(*flat, torch.tensor([len(part) for part in rows]), series.static))
    state = model.packed(halves[0], asked).state
    found, expected = model.packed(halves[1], asked, state), model(series, asked)
    for name, part in parts(found).items():
        assert close(part, parts(expected)[name], 1e-11), name
    for name, tensor in found.state.tensors().items():
        assert close(tensor.double(), expected.state.tensors()[name].double(), 1e-11), name


def test_fit_predict_and_evaluate_take_packed_examples():
    """The same batches, losses and weights as of the padded examples."""
    problem = Problem("classification", channels=3, outputs=2, static=2)
    series, _ = batch([1 + 7 * (i % 9) for i in range(40)], dtype=torch.float64)
    labels = torch.from_numpy(generator("packed fit").integers(0, 2, 40))
    found = {}
    for name, given in (("padded", series), ("packed", PackedSeries.from_series(series))):
        torch.manual_seed(1)
        model = LSSLModel(problem, width=8, dropout=0.0).double()
        examples = Examples(given, ids=np.arange(40), labels=labels)
        training = Training(epochs=2, batch_size=16)
        history = fit(model, examples.select(slice(0, 30)), examples.select(slice(30, 40)), training)
        found[name] = history, predict(model, examples).logits, evaluate(model, examples)
    assert np.allclose(found["packed"][0].train_loss, found["padded"][0].train_loss, rtol=1e-9)
    assert np.allclose(found["packed"][0].valid_loss, found["padded"][0].valid_loss, rtol=1e-9)
    assert close(found["packed"][1], found["padded"][1], 1e-8)
    assert found["packed"][2] == pytest.approx(found["padded"][2], rel=1e-6)


def test_one_long_record_among_many_short_ones_trains(monkeypatch):
    """One of 100,000 rows among 1,000 of 10 in one batch, forward and backward: no padded batch of them all."""
    monkeypatch.undo()
    rng = generator("long record")
    lengths = torch.full((1001,), 10)
    lengths[77] = 100_000
    rows = int(lengths.sum())
    times = torch.cat([torch.from_numpy(rng.exponential(1.0, n)).cumsum(0) for n in lengths.tolist()])
    values = torch.from_numpy(rng.standard_normal((rows, 1)).astype(np.float32))
    packed = PackedSeries(values, times, torch.ones(rows, 1, dtype=torch.bool), lengths)
    model = LSSLModel(Problem("classification", channels=1, outputs=2), width=8, state_size=8)
    with Largest() as largest:
        model.packed(packed).logits.square().sum().backward()
    assert largest.numbers <= 1.3 * rows * 16 < 0.03 * 1001 * 100_000
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_dataset_is_packed_as_it_is_padded():
    ds = load_dataset("covid19")
    packed, series = to_packed(ds), to_series(ds)
    assert packed.batch == series.batch and len(packed.values) == ds.sizes["obs"] < series.batch * series.length
    inside = series.in_length
    for name in ("values", "times", "observed"):
        torch.testing.assert_close(getattr(packed, name), getattr(series, name)[inside], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("multi_input", [True, False])
def test_bidirectional_models_on_ragged_batches(kind, multi_input):
    """Three layers deep: padded, packed, and each series alone, with queries among the observations."""
    model = LSSLModel(PROBLEMS[kind], width=8, layers=3, bidirectional=True, multi_input=multi_input).double().eval()
    series, asked = batch(LENGTHS, dtype=torch.float64)
    whole, packed = model(series, asked), model.packed(PackedSeries.from_series(series), asked)
    for b in range(series.batch):
        alone = model(series.select([b]), asked[b : b + 1])
        for name, part in parts(alone).items():
            assert close(part, parts(whole)[name][b : b + 1], 1e-12), name
            assert close(part, parts(packed)[name][b : b + 1], 1e-12), name
    assert whole.state is None and packed.state is None


def test_what_does_not_fit_is_refused():
    model = LSSLModel(PROBLEMS["forecasting"], width=8)
    series, asked = batch(LENGTHS)
    packed = PackedSeries.from_series(series)
    with pytest.raises(ValueError, match="query_times has shape"):
        model.packed(packed, asked[:2])
    with pytest.raises(ValueError, match="rate has shape"):
        model.packed(packed, asked, rate=torch.ones(2))
    with pytest.raises(ValueError, match="there are no series"):
        model.packed(packed.select([]), asked[:0])
    wide = PackedSeries(torch.zeros(1, 9), torch.zeros(1), torch.ones(1, 9, dtype=torch.bool), torch.tensor([1]))
    with pytest.raises(ValueError, match="9 channels"):
        model.packed(wide, asked[:1])
    assert isinstance(model.packed(packed, asked), Prediction)


WRONG_CONTAINERS = {
    "model": (lambda model, padded, packed: model(packed), "reads a TimeSeries, found PackedSeries; model.packed"),
    "list": (lambda model, padded, packed: model([1.0]), "reads a TimeSeries, found list"),
    "packed": (lambda model, padded, packed: model.packed(padded), "reads a PackedSeries, found TimeSeries; call"),
    "events": (lambda model, padded, packed: Events.from_series(packed), "found PackedSeries; pass its to_series"),
    "steps": (lambda model, padded, packed: step_range_from_gaps(packed), "found PackedSeries, pass its to_series"),
}


@pytest.mark.parametrize("case", WRONG_CONTAINERS)
def test_series_of_the_other_kind_are_refused_by_name(case):
    call, words = WRONG_CONTAINERS[case]
    padded, _ = batch(LENGTHS, queries=1, dtype=torch.float64)
    with pytest.raises(TypeError, match=words):
        call(MEMBERS["lssl"].model("classification", torch.float64), padded, PackedSeries.from_series(padded))
