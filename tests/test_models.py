"""The residual stack against the same layers run one row at a time."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.models import MODELS, LayerModel, LSSLModel
from ctlssl.models.stack import step_range_of
from ctlssl.series import TimeSeries
from ctlssl.training import chunks
from tests.members import MEMBERS, PROBLEMS, answer, batch, close, gradients


def one_row_at_a_time(model, encoded):
    """The hidden features (1, R, W) by `step` at committed rows and `peek` at the others."""
    rows, hidden = encoded.rows, encoded.features
    for block in model.blocks:
        state, seen = block.layer.initial_state(1), []
        inputs = block.norm(hidden)
        if block.input_gate is not None:
            weight, bias = block.input_gate.weight, block.input_gate.bias
            inputs = inputs / (1 + torch.exp(-(inputs @ weight.T + bias)))
        for k in range(hidden.shape[1]):
            gap = encoded.gaps[:, k] * encoded.rate
            if rows.is_query[0, k]:
                seen.append(block.layer.peek(state, gap, inputs[:, k]))
            else:
                y, state = block.layer.step(inputs[:, k], gap, state)
                seen.append(y)
        hidden = hidden + block.mix(torch.stack(seen, dim=1))
    return model.norm(hidden)


@pytest.mark.parametrize("kind", ["classification", "forecasting"])
@pytest.mark.parametrize("gate", [False, True])
def test_forward_is_step_and_peek(kind, gate):
    torch.manual_seed(0)
    model = LSSLModel(PROBLEMS[kind], width=8, layers=2, input_gate=gate).double().eval()
    series, asked = batch(lengths=(7, 4), dtype=torch.float64)
    together = answer(model(series, asked, rate=1.5))
    for b in range(2):
        encoded = model.encoder(series.select([b]), asked[[b]], 1.5)
        hidden = one_row_at_a_time(model, encoded)
        queries = encoded.rows.at_queries(hidden)
        alone = answer(model.head(encoded, hidden, encoded.rows.committed, queries))
        assert close(together[b : b + 1], alone, 1e-12)


@pytest.mark.parametrize("horizon", [1.0, 100.0, 1e5])
def test_time_constants_start_between_a_gap_and_the_horizon(horizon):
    problem = Problem("classification", 2, 2, time_scale=0.5, horizon=horizon)
    lowest, highest = step_range_of(problem)
    for block in LSSLModel(problem, width=64).blocks:
        # The slowest pole is -1/2 in the measure's own time: the time constant is 2 / step units of the clock.
        poles = block.layer.system().poles().real.amax(dim=-1).abs()  # (H,)
        constants = 0.5 / poles  # in data time
        assert constants.min() > 0.49 and constants.max() < 1.01 * max(horizon, 5.0)
        assert constants.max() > 0.5 * max(horizon, 5.0) ** 0.8
    assert highest == 2.0 and lowest < highest


@pytest.mark.parametrize(
    ("structure", "method"),
    [("diagonal", "foh"), ("dplr", "bilinear"), ("quasiseparable", "bilinear"), ("dense", "backward_euler")],
)
def test_structures_and_methods(structure, method):
    series, asked = batch(lengths=(5, 3))
    problem = Problem("forecasting", 3, 3, 2)
    model = LSSLModel(problem, width=4, state_size=4, structure=structure, method=method, multi_input=False)
    prediction = model(series, asked)
    found = gradients(model, answer(prediction).sum())
    assert answer(prediction).isfinite().all()
    assert not {name for name, gradient in found.items() if not gradient.any()}


def test_what_is_not_learned_stays():
    problem = Problem("classification", 3, 2)
    fixed = dict(LSSLModel(problem, width=4, state_size=4, learn=()).named_parameters())
    assert [name.split(".")[-1] for name in fixed if ".layer." in name] == ["C", "D"]


def test_one_system_for_all_channels():
    series, _ = batch(lengths=(5, 3))
    problem = Problem("classification", 3, 2, 2)
    model = LSSLModel(problem, width=4, state_size=4)
    found = gradients(model, answer(model(series)).square().sum())
    assert model.blocks[0].layer.multi_input and all(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_built_from_its_problem(name):
    model = MODELS[name](Problem("classification", 3, 2), width=16)
    assert model.problem.channels == 3 and model.evaluations == 0
    assert not [key for key, part in model.state_dict().items() if not part.isfinite().all()]


@pytest.mark.parametrize(("pooling", "reads"), [(["mean"], "total"), (["max"], "most"), (["last"], "last")])
def test_the_head_reads_what_is_pooled_for_it(pooling, reads):
    torch.manual_seed(0)
    model = LSSLModel(MEMBERS["lssl"].model("classification").problem, width=8, pooling=pooling).eval()
    series, _ = batch()
    state, before = model(series).state, answer(model(series))
    nothing = TimeSeries(*(part[:, :0] for part in _rows(series)), torch.zeros_like(series.lengths), series.static)
    for name in ("total", "most", "last"):
        changed = replace(state, pooled=state.pooled._replace(**{name: getattr(state.pooled, name) + 1}))
        assert torch.equal(answer(model(nothing, state=changed)), before) != (name == reads)
    with pytest.raises(ValueError, match=r"pooling \['least'\] is unknown; there are mean, max, last"):
        LSSLModel(model.problem, pooling=["least"])


def _rows(series):
    return series.values, series.times, series.observed


def test_a_stack_without_layers_is_its_encoder_and_its_head():
    model = LSSLModel(MEMBERS["lssl"].model("classification").problem, width=8, layers=0).eval()
    series, _ = batch()
    encoded = model.encoder(series, None, 1.0)
    rows = encoded.rows
    expected = model.head(encoded, model.norm(encoded.features), rows.committed, rows.at_queries(encoded.features))
    assert torch.equal(answer(model(series)), answer(expected))


class TestSpan:
    """The head is told the time from the first to the last observation."""

    def test_by_hand(self):
        problem = Problem("classification", 3, 2, 2, time_scale=0.5, horizon=4.0)
        series, _ = batch(lengths=(7, 4, 1))
        torch.manual_seed(0)
        model = LSSLModel(problem, width=4, state_size=4, span_pieces=4).eval()
        told = model._with_span(model.encoder(series, None, 2.0)).static
        assert torch.equal(told[:, :2], series.static.to(told.dtype))
        for b, length in enumerate((7, 4, 1)):
            seen = series.times[b, :length][series.observed[b, :length].any(dim=-1)]
            place = 2.0 * float(seen[-1] - seen[0]) / 4.0 * 4  # in pieces
            expected = [min(max(place - j, 0.0), 1.0) - 0.5 for j in range(4)]
            assert told[b, 2:].tolist() == pytest.approx(expected, abs=1e-6)

    def test_chunks_tell_the_whole_length(self):
        problem = Problem("classification", 3, 2, 2, horizon=20.0)
        series, _ = batch(lengths=(7, 4), dtype=torch.float64)
        torch.manual_seed(0)
        model = LSSLModel(problem, width=4, state_size=4, span_pieces=5).double().eval()
        state = None
        for piece in chunks(series, 3):
            prediction = model(piece, state=state)
            state = prediction.state
        assert close(prediction.logits, model(series).logits, 1e-12)

    @pytest.mark.parametrize("name", ["lssl", "layer"])
    def test_it_is_refused_where_it_cannot_be(self, name):
        build = LSSLModel if name == "lssl" else partial(LayerModel, layer="signed")
        for pieces in (-1, 1.5, True):
            with pytest.raises(ValueError, match="span_pieces is"):
                build(Problem("classification", 3, 2), span_pieces=pieces)
        with pytest.raises(ValueError, match="use span_pieces=0"):
            build(Problem("forecasting", 3, 3), span_pieces=2)


@pytest.mark.parametrize("kind", ["forecasting", "labelling"])
def test_the_length_of_a_record_is_not_told_to_answers_within_it(kind):
    with pytest.raises(ValueError, match="tells a query of what comes after it; use span_pieces=0"):
        LSSLModel(Problem(kind, channels=2, outputs=2), width=4, span_pieces=4)
