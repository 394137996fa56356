"""Training in chunks of rows against training on whole series."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples
from ctlssl.training import Pieces, Training, backward_in_chunks, chunks, evaluate, fit, predict, terms_in_chunks
from ctlssl.training.losses import loss_of, mean_loss
from tests.members import CHANNELS, MEMBERS, PROBLEMS, answer, batch, close, same_bits

KINDS = [pytest.param(kind, id=kind) for kind in PROBLEMS]
NAMES = ["lssl", "gru", "ode_rnn", "gru_d", "cfc"]
LENGTHS = (23, 9, 0, 17, 1)


def examples(kind, dtype=torch.float64, lengths=LENGTHS, queries=8):
    """Series with answers to learn; queries everywhere, also before and after the observations and at their times."""
    series, asked = batch(lengths, queries, dtype=dtype)
    draw, size = torch.Generator().manual_seed(5), len(lengths)
    ids = np.array([f"s{i}" for i in range(size)])
    if kind == "classification":
        return Examples(series, ids, labels=torch.randint(3, (size,), generator=draw))
    if kind == "regression":
        labels = torch.randn(size, 2, generator=draw, dtype=dtype)
        labels[0, 1] = torch.nan
        return Examples(series, ids, labels=labels)
    if kind == "survival":
        return Examples(series, ids, labels=torch.tensor([[0, 1], [3, 0], [2, 1], [-1, 0], [1, 0]])[:size])
    span = torch.where(series.in_length, series.times, 0).amax() - 100
    asked = 100 + (asked - 100) * span / 40
    asked[0, 5], asked[-2, 6] = series.times[0, 9], series.times[-2, 4]
    if kind == "labelling":
        targets = torch.randint(-1, 3, asked.shape, generator=draw)
        return Examples(series, ids, query_times=asked, targets=torch.where(asked.isnan(), -1, targets))
    targets = torch.randn(*asked.shape, CHANNELS, generator=draw, dtype=dtype)
    seen = (torch.rand(targets.shape, generator=draw) < 0.7) & ~asked.isnan()[..., None]
    targets = torch.where(seen, targets, torch.nan)
    return Examples(series, ids, query_times=asked, targets=targets, target_observed=seen)


def whole(model, part, rate=1.0):
    """The terms and the gradients of whole series."""
    model.zero_grad()
    terms = loss_of(model.problem)(model(part.series, query_times=part.query_times, rate=rate), part)
    mean_loss(terms).backward()
    return terms, {name: parameter.grad for name, parameter in model.named_parameters()}


def in_chunks(model, pieces, gradient="full", rate=1.0):
    """The same in chunks."""
    model.zero_grad()
    terms = backward_in_chunks(model, pieces, gradient, rate)
    return terms, {name: parameter.grad for name, parameter in model.named_parameters()}


def relative(found, expected):
    """The largest difference of any gradient, relative to the largest number of its tensor."""
    return max(
        ((found[name] - expected[name]).abs().max() / expected[name].abs().max()).item()
        for name in expected
        if expected[name] is not None and expected[name].any()
    )


@pytest.mark.parametrize("rows", [1, 4, 22, 23, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_the_full_gradient_is_that_of_whole_series(kind, rows):
    model, part = MEMBERS["lssl"].model(kind, torch.float64), examples(kind)
    terms, expected = whole(model, part, rate=1.5)
    got, found = in_chunks(model, Pieces(part, rows), rate=1.5)
    assert close(got.total, terms.total, 1e-12) and torch.equal(got.count, terms.count)
    assert relative(found, expected) < 1e-10
    assert close(terms_in_chunks(model, Pieces(part, rows), rate=1.5).total, terms.total, 1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_full_gradient_in_float32(name, kind):
    model, part = MEMBERS[name].model(kind), examples(kind, torch.float32)
    _, expected = whole(model, part)
    _, found = in_chunks(model, Pieces(part, 5))
    assert relative(found, expected) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 3},
        {"structure": "quasiseparable", "method": "bilinear", "multi_input": False},
        {"structure": "dplr", "method": "trapezoid"},
        {"method": "impulse", "learn": ("step",)},
    ],
    ids=str,
)
def test_the_full_gradient_of_other_stacks(options):
    member = replace(MEMBERS["lssl"], options={"state_size": 4, **options})
    model, part = member.model("forecasting", torch.float64), examples("forecasting", lengths=(12, 7))
    _, expected = whole(model, part)
    assert relative(in_chunks(model, Pieces(part, 5))[1], expected) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_the_truncated_gradient_stops_where_a_chunk_begins(kind):
    """Against one graph over all chunks whose states are detached by hand."""
    model, part = MEMBERS["lssl"].model(kind, torch.float64), examples(kind)
    pieces, state, total, count = Pieces(part, 6), None, 0.0, 0.0
    model.zero_grad()
    for piece in pieces:
        prediction = model(piece.series, query_times=piece.query_times, state=state)
        state = prediction.state.detach()
        if model.problem.asks_queries or piece.labels is not None:
            terms = loss_of(model.problem)(prediction, piece)
            total, count = total + terms.total.sum(), count + terms.count.sum()
    (total / count).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    terms, found = in_chunks(model, pieces, "truncated")
    assert relative(found, expected) < 1e-12
    assert terms.count.sum() == count and not terms.total.requires_grad
    assert relative(in_chunks(model, pieces)[1], expected) > 1e-3


@pytest.mark.parametrize("gradient", ["full", "truncated"])
def test_dropout_is_drawn_once(gradient):
    """The recomputed chunks drop what they dropped at first, and the generator ends where one pass leaves it."""
    model, part = MEMBERS["lssl"].model("forecasting", torch.float64).train(), examples("forecasting")
    pieces = Pieces(part, 6)
    torch.manual_seed(3)
    state, graphs = None, []
    model.zero_grad()
    for piece in pieces:
        prediction = model(piece.series, query_times=piece.query_times, state=state)
        state = prediction.state if gradient == "full" else prediction.state.detach()
        graphs.append(loss_of(model.problem)(prediction, piece))
    (sum(terms.total.sum() for terms in graphs) / sum(terms.count.sum() for terms in graphs)).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    after = torch.get_rng_state()
    torch.manual_seed(3)
    _, found = in_chunks(model, pieces, gradient)
    assert relative(found, expected) < 1e-12 and torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(4)
    assert relative(in_chunks(model, pieces, gradient)[1], expected) > 1e-3


def test_gradients_are_added_to_those_that_are_there():
    model, part = MEMBERS["lssl"].model("classification", torch.float64), examples("classification")
    _, once = in_chunks(model, Pieces(part, 5))
    once = {name: gradient.clone() for name, gradient in once.items()}
    backward_in_chunks(model, Pieces(part, 5))
    assert all(close(parameter.grad, 2 * once[name], 1e-14) for name, parameter in model.named_parameters())


def test_pieces_may_come_from_anywhere():
    """A list, and one that reads each piece when it is asked for."""

    class Disk:
        def __init__(self, pieces):
            self.files = [
                {name: part.numpy() for name, part in vars(piece.series).items() if part is not None}
                for piece in pieces
            ]
            self.labels = pieces[-1].labels

        def __len__(self):
            return len(self.files)

        def __getitem__(self, index):
            series = TimeSeries(**{name: torch.from_numpy(part) for name, part in self.files[index].items()})
            return Examples(series, np.arange(series.batch), labels=self.labels if index == len(self) - 1 else None)

    model, part = MEMBERS["lssl"].model("classification", torch.float64), examples("classification")
    pieces = Pieces(part, 7)
    _, expected = in_chunks(model, pieces)
    for other in (list(pieces), Disk(pieces)):
        assert same_bits(in_chunks(model, other)[1], expected)


def test_rows_and_queries_are_each_in_one_piece():
    part = examples("forecasting")
    pieces = Pieces(part, 5)
    assert len(pieces) == 5 and pieces[-1].series.length == 3
    assert sum(piece.series.lengths for piece in pieces).tolist() == list(LENGTHS)
    for b in range(5):
        asked = torch.cat([piece.query_times[b] for piece in pieces])
        targets = torch.cat([piece.targets[b] for piece in pieces])[~asked.isnan()]
        seen = torch.cat([piece.target_observed[b] for piece in pieces])[~asked.isnan()]
        asked, order = asked[~asked.isnan()].sort(stable=True)
        mine, mine_order = part.query_times[b][~part.query_times[b].isnan()].sort(stable=True)
        assert torch.equal(asked, mine)
        assert torch.equal(seen[order], part.target_observed[b][~part.query_times[b].isnan()][mine_order])
        assert targets[seen].isfinite().all() and targets[~seen].isnan().all()
    with pytest.raises(IndexError):
        pieces[5]
    assert [piece.lengths.tolist() for piece in chunks(part.series, 16)] == [[16, 9, 0, 16, 1], [7, 0, 0, 1, 0]]
    assert len(Pieces(part.select([2]), 5)) == 1 and next(chunks(part.series.select([2]), 5)).length == 0


@pytest.mark.parametrize("kind", KINDS)
def test_fit_in_chunks(kind):
    part = examples(kind)
    runs = []
    for options in ({}, {"chunk": 6}, {"chunk": 100}, {"chunk": 6, "chunk_gradient": "truncated"}):
        model = replace(MEMBERS["lssl"], options={"dropout": 0.0}).model(kind, torch.float64)
        history = fit(model, part, part, Training(epochs=3, batch_size=4, **options))
        runs.append((history.train_loss, history.valid_loss))
    assert np.allclose(runs[1], runs[0], rtol=1e-9) and runs[2] == runs[0]
    assert not np.allclose(runs[3], runs[0], rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_predict_in_chunks(kind):
    model, part = MEMBERS["lssl"].model(kind, torch.float64), examples(kind)
    for rows in (1, 6, 50):
        assert close(answer(predict(model, part, 3, chunk=rows)), answer(predict(model, part)), 1e-12)
    if kind != "classification":
        assert evaluate(model, part, chunk=6) == pytest.approx(evaluate(model, part), rel=1e-12)


def test_settings():
    plan = Training(chunk=50, chunk_gradient="truncated")
    assert Training(**json.loads(json.dumps(plan.to_dict()))) == plan
    for name, value in {"chunk": 0, "chunk_gradient": "half"}.items():
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            Training(**{name: value})


def test_the_gradient_of_a_frozen_parameter_is_left_alone():
    part, model = examples("classification"), MEMBERS["lssl"].model("classification", torch.float64)
    frozen, learned, *_ = model.parameters()
    frozen.requires_grad_(False)
    frozen.grad = kept = torch.full_like(frozen, 3.0)
    backward_in_chunks(model, Pieces(part, 5))
    assert frozen.grad is kept and (kept == 3.0).all() and learned.grad is not None


@pytest.mark.parametrize("named", ["training", "validation"])
def test_packed_series_are_refused_before_anything_is_learned(named):
    part, model = examples("classification", lengths=(3, 2)), MEMBERS["lssl"].model("classification", torch.float64)
    packed, before = replace(part, series=PackedSeries.from_series(part.series)), copy.deepcopy(model.state_dict())
    parts = (packed, part) if named == "training" else (part, packed)
    with pytest.raises(ValueError, match=f"in the {named} part is found PackedSeries; pass its to_series"):
        fit(model, *parts, training=Training(epochs=1, chunk=5))  # no record is longer than a chunk
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_refusals():
    part, model = examples("classification"), MEMBERS["lssl"].model("classification", torch.float64)
    both = replace(MEMBERS["lssl"], options={"bidirectional": True}).model("classification", torch.float64)
    requests = {
        "rows is 0": lambda: Pieces(part, 0),
        "rows is 2.5": lambda: chunks(part.series, 2.5),
        "found PackedSeries": lambda: fit(
            model, replace(part, series=PackedSeries.from_series(part.series)), training=Training(epochs=1, chunk=5)
        ),
        "gradient is 'half'": lambda: backward_in_chunks(model, Pieces(part, 5), "half"),
        "no piece": lambda: backward_in_chunks(model, []),
        "NeuralCDE reads whole series": lambda: backward_in_chunks(
            MEMBERS["neural_cde"].model("classification", torch.float64), Pieces(part, 5)
        ),
        "bidirectional": lambda: fit(both, part, training=Training(epochs=1, chunk=5)),
    }
    for words, request in requests.items():
        with pytest.raises(ValueError, match=words):
            request()
    assert all(parameter.grad is None for parameter in model.parameters())


_PEAK = """
import re, sys, torch
import numpy as np
from ctlssl import LSSLModel, Problem, TimeSeries
from ctlssl.tasks import Examples
from ctlssl.training import Pieces, backward_in_chunks
torch.set_num_threads(1)
rows, piece = int(sys.argv[1]), int(sys.argv[2])
draw = torch.Generator().manual_seed(0)
values = torch.randn(1, rows, 2, generator=draw)
times = torch.empty(1, rows, dtype=torch.float64).exponential_(generator=draw).cumsum(1)
series = TimeSeries(values, times, torch.ones_like(values, dtype=torch.bool), torch.tensor([rows]))
examples = Examples(series, np.array(["a"]), labels=torch.tensor([1]))
model = LSSLModel(Problem("classification", 2, 2, horizon=1e3), width=32, layers=2)
first = Examples(TimeSeries(values[:, :64], times[:, :64], series.observed[:, :64], torch.tensor([64])), ["a"],
                 labels=torch.tensor([1]))
backward_in_chunks(model, Pieces(first, 32))  # all that is loaded or compiled once
def status(field):
    with open("/proc/self/status") as lines:
        return int(re.search(field + r":\\s+(\\d+)", lines.read())[1]) / 1024
start = status("VmRSS")
with open("/proc/self/clear_refs", "w") as peaks:
    peaks.write("5")  # the peak is counted anew: compiling the loops takes more than they do
backward_in_chunks(model, Pieces(examples, piece))
print(status("VmHWM") - start)
"""


def peak(rows, piece):
    """Memory in MiB that a gradient over one record takes beyond what was there before."""
    command = [sys.executable, "-c", _PEAK, str(rows), str(piece)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_memory_is_that_of_a_chunk():
    """A record of 100,000 rows, whole and in chunks of 2,000; a record twice as long in the same chunks."""
    whole_record, in_pieces, twice = peak(100_000, 100_000), peak(100_000, 2_000), peak(200_000, 2_000)
    print(f"MiB: whole {whole_record:.0f}, in chunks {in_pieces:.0f}, twice as long {twice:.0f}")
    assert max(in_pieces, twice) < whole_record / 8
