"""The folded model: the contract where it applies, and periods that no clock without a search resolves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctlssl.baselines import PeriodSummaries
from ctlssl.contract import Problem
from ctlssl.examples import Examples
from ctlssl.model_names import models_by_name
from ctlssl.models import SERIES_MODELS, FoldedModel
from ctlssl.packed_series import PackedSeries
from ctlssl.runs import RunSettings
from ctlssl.series import TimeSeries
from ctlssl.testing import check_clock
from ctlssl.training import Training, evaluate, fit, score
from tests.members import Member, answer, batch, gradients, same_bits

MEMBER = Member(FoldedModel, {"bins": 8})
KINDS = ("classification", "regression")


def waves(count, seed):
    """Sines of periods 0.3 to 30 at nightly times; the class is whether the wave is symmetric."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(80, 120, count)
    times = torch.zeros(count, rows.max(), dtype=torch.float64)
    values = torch.full((count, rows.max(), 1), torch.nan)
    labels = torch.from_numpy(draw.integers(0, 2, count))
    for b, n in enumerate(rows):
        t = np.sort(draw.choice(600, n, replace=False) + 0.3 * draw.random(n))
        phase = 2 * np.pi * t / 10 ** draw.uniform(-0.5, 1.5) + draw.uniform(0, 6)
        wave = np.sin(phase) + (0.5 * np.sin(2 * phase) if labels[b] else 0.5 * np.cos(2 * phase))
        times[b, :n] = torch.from_numpy(t)
        values[b, :n, 0] = torch.from_numpy(wave + 0.1 * draw.standard_normal(n)).float()
    series = TimeSeries(values, times, ~torch.isnan(values), torch.from_numpy(rows))
    return Examples(series, ids=np.arange(count), labels=labels)


PROBLEM = Problem("classification", channels=1, outputs=2, time_scale=4.0, first_gap=4.0, horizon=600.0)


def test_it_tells_shapes_apart_whatever_the_period():
    train, test = waves(90, 0), waves(60, 1)
    torch.default_generator.manual_seed(0)
    model = FoldedModel(PROBLEM, width=16, bins=16, dropout=0.1)
    fit(model, train, training=Training(epochs=10, learning_rate=1e-2))
    assert evaluate(model, test)["accuracy"] > 0.9
    reference = PeriodSummaries(PROBLEM).fit(train.series, train.labels)
    assert score("classification", reference.predict(test.series), test)["accuracy"] > 0.9


def test_the_reference_has_nothing_to_say_of_short_series():
    few = waves(3, 2)
    series = replace(few.series, lengths=torch.tensor([0, 5, 80]))
    table = PeriodSummaries(PROBLEM).table(series)
    assert np.isnan(table[:2, -20:]).all() and np.isfinite(table[2, -20:]).all()


def test_the_curve_is_the_wave_by_its_phase_and_the_head_is_told_the_period():
    times = np.sort(np.random.default_rng(5).uniform(0, 500, 900))
    phases = times / 7.3
    wave = np.cos(2 * np.pi * phases) + 0.4 * np.cos(4 * np.pi * phases) + 0.2 * np.cos(np.pi * phases)
    series = TimeSeries(
        torch.from_numpy(wave).float().view(1, -1, 1),
        torch.from_numpy(times).view(1, -1),
        torch.ones(1, 900, 1, dtype=torch.bool),
        torch.tensor([900]),
    )
    read = []
    model = FoldedModel(PROBLEM, width=8, bins=16, periods=1, harmonics=2)
    model.reader.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0]))
    model(series)
    (folded,) = read
    centres = folded.times[0].numpy()
    np.testing.assert_allclose(centres, (np.arange(32) + 0.5) / 16)
    # which of the two cycles comes first is not told by the first harmonic
    shapes = [
        np.cos(2 * np.pi * centres) + 0.4 * np.cos(4 * np.pi * centres) + 0.2 * sign * np.cos(np.pi * centres)
        for sign in (1, -1)
    ]
    errors = [np.abs(folded.values[0, :, 0].numpy() - shape).max() for shape in shapes]
    assert min(errors) < 0.1 < max(errors)
    told = folded.static[0].numpy()
    assert told[1] == pytest.approx(np.log10(7.3 / 4.0), abs=1e-3)  # in units of the clock
    assert told[4] == pytest.approx(4 * 0.2 / 1.2, abs=0.1) and told[5] == pytest.approx(4 * 0.4 / 1.4, abs=0.05)


def test_a_shift_of_time_and_another_unit_change_nothing():
    examples = waves(4, 3)
    model = FoldedModel(PROBLEM, width=8).eval()
    first = model(examples.series).logits
    moved = replace(examples.series, times=examples.series.times + 2.0**20)
    assert torch.allclose(model(moved).logits, first, atol=1e-4)
    slow = replace(PROBLEM, time_scale=240.0, first_gap=240.0, horizon=36000.0)
    torch.default_generator.manual_seed(0)
    other = FoldedModel(slow, width=8).eval()
    other.load_state_dict(model.state_dict())
    assert torch.allclose(other(replace(examples.series, times=60 * examples.series.times)).logits, first, atol=1e-5)


def test_the_rate_scales_the_period_that_is_told_and_nothing_else():
    series = waves(3, 4).series
    model = FoldedModel(PROBLEM, width=8).eval()
    faster = model(series, rate=2.0).logits
    assert torch.allclose(faster, model(replace(series, times=2 * series.times)).logits, atol=1e-4)
    assert not torch.allclose(faster, model(series).logits, atol=1e-4)
    by_series = model(series, rate=torch.tensor([1.0, 2.0, 1.0])).logits
    assert torch.equal(by_series[1], faster[1]) and torch.equal(by_series[0], model(series).logits[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_clock_contract(kind):
    # line 9: what is found and folded has no gradient with respect to values and times, as the class says
    check_clock(MEMBER.model(kind), cases=2, lines=(1, 2, 3, 4, 5, 7, 8, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_content_and_neighbours_change_no_bit(kind):
    model, (series, _) = MEMBER.model(kind), batch()
    hidden = ~series.observed | ~series.in_length.unsqueeze(-1)
    other = TimeSeries(
        torch.where(hidden, 1e30, series.values), series.times, series.observed, series.lengths, series.static
    )
    mine, theirs = model(series), model(other)
    assert same_bits(answer(mine), answer(theirs)) and mine.state is None
    assert same_bits(gradients(model, answer(mine).sum()), gradients(model, answer(theirs).sum()))
    alone = answer(model(series.select([0])))
    assert torch.allclose(alone, answer(mine)[:1], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(0, 0), (1,), (), (2, 0, 1)])
def test_short_series(kind, lengths):
    out = answer(MEMBER.model(kind)(batch(lengths)[0]))
    assert len(out) == len(lengths) and out.isfinite().all()


def test_packed_series_and_channels_of_choice():
    series = batch()[0]
    model = Member(FoldedModel, {"bins": 4, "channel": 1, "periods": 1, "harmonics": 1}).model("classification")
    packed = PackedSeries.from_series(series)
    assert torch.allclose(model.packed(packed).logits, model(series).logits, atol=1e-5)


def test_it_has_a_name():
    assert SERIES_MODELS["folded"] is FoldedModel
    assert models_by_name("folded:bins=16")["folded:bins=16"].keywords == {"bins": 16}
    settings = RunSettings("oscillators/frequency", model="folded", width=8, options={"state_size": 8})
    assert isinstance(settings.build(PROBLEM), FoldedModel)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel": 1}, "channel is 1"),
        ({"bins": 0}, "bins is 0"),
        ({"periods": 1.5}, "periods is 1.5"),
        ({"harmonics": True}, "harmonics is True"),
        ({"shortest": 0.0}, "shortest is 0.0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        FoldedModel(PROBLEM, **options)


def test_it_does_not_forecast():
    with pytest.raises(ValueError, match="no place for a query"):
        FoldedModel(replace(PROBLEM, kind="forecasting", outputs=1))
