"""Pre-training end to end: every objective is learned, the same bits for a seed, short series, and the doors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctlssl.baselines import BASELINES
from ctlssl.contract import Problem
from ctlssl.models import MODELS, EventModel, LSSLModel
from ctlssl.pretraining import OBJECTIVES, Objective, PretrainingSettings, ask, pretrain
from ctlssl.pretraining.waiting import answering_waits
from ctlssl.series import TimeSeries
from ctlssl.training import Training
from tests import toys

PROBLEM = Problem("forecasting", channels=2, outputs=2, time_scale=0.5, first_gap=0.5, horizon=10.0)


def waves(seed, batch=48, rows=16, scale=1.0):
    """Two sines of one phase a series, at irregular times whose gaps grow with the second of them."""
    draw = torch.Generator().manual_seed(seed)
    phase, time = 6.3 * torch.rand(batch, generator=draw, dtype=torch.float64), torch.zeros(batch, dtype=torch.float64)
    times, values = [], []
    for _ in range(rows):
        values.append(torch.stack([torch.sin(time + phase), torch.cos(time + phase)], dim=-1))
        times.append(time)
        noise = torch.rand(batch, generator=draw, dtype=torch.float64)
        time = time + torch.exp(0.8 * values[-1][:, 1] - 1 + 0.3 * noise)
    observed = torch.rand(batch, rows, 2, generator=draw) < 0.7
    lengths = torch.randint(rows // 2, rows + 1, (batch,), generator=draw)
    return TimeSeries(torch.stack(values, 1).float(), scale * torch.stack(times, 1), observed, lengths)


def built(build=LSSLModel, seed=0, **options):
    """A small model of the two sines."""
    torch.manual_seed(seed)
    return build(PROBLEM, width=16, dropout=0.0, **options)


def weights(model):
    """All weights as one vector."""
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_every_objective_is_learned():
    model = built()
    with torch.no_grad():  # away from the start, where a forecast is the last value and a copy is right already
        model.head.body[-1].weight.mul_(20)
    names = list(model.state_dict())
    settings = PretrainingSettings(training=Training(epochs=20, learning_rate=1e-2, batch_size=8, patience=20))
    report = pretrain(model, waves(1), waves(2), settings)
    assert report.objectives == tuple(OBJECTIVES)
    best = report.losses[report.history.best_epoch + 1]
    print(dict(zip(report.objectives, zip(report.losses[0], best, strict=True), strict=True)))
    for name, first, last in zip(report.objectives, report.losses[0], best, strict=True):
        assert last < 0.8 * first, name
    assert len(report.losses) == 21 and len(report.weights) == len(report.targets) == 20
    assert report.weights[0] == (0.2,) * 5 and all(
        min(row) >= 0.05 and abs(sum(row) - 1) < 1e-9 for row in report.weights
    )
    means = [sum(losses) / 5 for losses in report.losses]
    assert list(report.history.valid_loss) == pytest.approx(means[1:])
    assert min(means[1:]) == means[report.history.best_epoch + 1]
    assert list(model.state_dict()) == names  # the head for waits is gone


@pytest.mark.parametrize("build", [*MODELS.values(), *BASELINES.values(), EventModel])
def test_every_member_is_pretrained(build):
    model = built(build)
    before = weights(model)
    settings = PretrainingSettings(training=Training(epochs=2, batch_size=6))
    report = pretrain(model, waves(3, batch=12, rows=6), waves(4, batch=6, rows=6), settings)
    assert all(math.isfinite(loss) for row in report.losses for loss in row)
    assert torch.isfinite(weights(model)).all() and not torch.equal(before, weights(model))


def test_same_seed_same_bits():
    runs = []
    for seed in (0, 0, 1):
        model = built()
        torch.manual_seed(len(runs))  # whatever the global state is
        state = torch.get_rng_state()
        settings = PretrainingSettings(training=Training(epochs=3, batch_size=8, seed=seed))
        report = pretrain(model, waves(5), waves(6), settings)
        assert torch.equal(state, torch.get_rng_state())
        runs.append((weights(model), report.losses, report.weights, report.targets))
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1:] == runs[1][1:]
    assert not torch.equal(runs[0][0], runs[2][0])


def test_in_chunks_as_whole():
    found = []
    for chunk in (None, 5):
        model = built()
        training = Training(epochs=2, batch_size=8, clip=1e9, chunk=chunk)
        found.append(pretrain(model, waves(16), waves(17), PretrainingSettings(training=training)).losses)
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-3, atol=1e-5)


def test_an_error_names_the_series():
    series = waves(18, batch=12)
    series.values[7] = 1e30
    settings = PretrainingSettings(("copying",), Training(epochs=1, batch_size=4))
    with pytest.raises(FloatingPointError, match="not finite for series 7;"):
        pretrain(built(), series, waves(19), settings)


def test_the_unit_of_time_changes_nothing_but_the_waits():
    """Times and clock in another unit: the same held-out errors, those of the logarithms of waits included."""
    found = []
    for unit in (1.0, 64.0):
        clock = {name: unit * getattr(PROBLEM, name) for name in ("time_scale", "first_gap", "horizon")}
        torch.manual_seed(0)
        model = LSSLModel(replace(PROBLEM, **clock), width=8, dropout=0.0)
        settings = PretrainingSettings(training=Training(epochs=2, batch_size=8))
        found.append(pretrain(model, waves(7, scale=unit), waves(8, scale=unit), settings).losses)
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-4, atol=1e-6)


def test_the_held_out_loss_is_the_error_relative_to_a_constant():
    model, valid = toys.Affine(PROBLEM), waves(10, batch=5)
    settings = PretrainingSettings(("copying",), Training(epochs=1, learning_rate=1e-12))
    report = pretrain(model, waves(9), valid, settings)
    examples = ask("copying", valid, torch.Generator().manual_seed(1))
    squares, targets = [], []
    for b in range(5):
        seen = torch.where(examples.series.observed[b, 0], examples.series.values[b, 0], 0.0)
        answer = (model.linear.weight @ seen + model.linear.bias).tolist()
        for q in range(examples.query_times.shape[1]):
            for d in examples.target_observed[b, q].nonzero().flatten().tolist():
                expected = answer[d] * float(examples.query_times[b, q])
                targets.append(float(examples.targets[b, q, d]))
                squares.append((targets[-1] - expected) ** 2)
    assert report.losses[0][0] == pytest.approx(sum(squares) / len(squares) / np.var(targets), rel=1e-5)


def test_short_series_are_left_out_of_what_they_cannot_be_asked():
    """A batch of one row a series asks nothing but copies: no step is taken on nothing, and no loss is NaN."""
    long, lone = waves(11, batch=4), waves(12, batch=12, rows=2)
    short = TimeSeries(
        torch.cat([long.values, torch.nn.functional.pad(lone.values, (0, 0, 0, 14))]),
        torch.cat([long.times, torch.nn.functional.pad(lone.times, (0, 14))]),
        torch.cat([long.observed, torch.nn.functional.pad(lone.observed, (0, 0, 0, 14))]),
        torch.cat([long.lengths, torch.ones(12, dtype=torch.int64)]),
    )
    model = built()
    settings = PretrainingSettings(("forecasting", "interpolation"), Training(epochs=3, batch_size=4))
    report = pretrain(model, short, waves(13), settings)
    assert torch.isfinite(weights(model)).all()
    assert all(math.isfinite(loss) for loss in report.history.train_loss)
    assert sum(sum(row) for row in report.targets) > 0


def test_an_objective_of_your_own():
    def last_row(series, draw):
        examples = ask("copying", series, draw)
        return replace(examples, targets=0 * examples.targets)

    settings = PretrainingSettings(("forecasting", Objective("zero", last_row)), Training(epochs=2))
    assert pretrain(built(), waves(14), waves(15), settings).objectives == ("forecasting", "zero")


class TestDoors:
    def test_kind(self):
        model = LSSLModel(Problem("classification", channels=2, outputs=2), width=4)
        with pytest.raises(ValueError, match="kind 'forecasting', found 'classification'"):
            pretrain(model, waves(0), waves(0))

    def test_unknown_objective_and_floor(self):
        with pytest.raises(ValueError, match="objective 'forecast' is unknown"):
            PretrainingSettings(("forecast",))
        with pytest.raises(ValueError, match="floor is 0.5"):
            PretrainingSettings(floor=0.5)

    def test_series_that_are_all_too_short(self):
        lone = waves(1, rows=1, batch=4)
        settings = PretrainingSettings(("copying", "forecasting"))
        with pytest.raises(ValueError, match="no series of the validation part is long enough for 'forecasting'"):
            pretrain(built(), waves(0), replace(lone, lengths=torch.ones(4, dtype=torch.int64)), settings)
        with pytest.raises(ValueError, match="no series of the training part is long enough for 'copying'"):
            pretrain(built(), replace(lone, lengths=torch.zeros(4, dtype=torch.int64)), waves(0), settings)

    def test_waits_need_a_head_to_stand_beside(self):
        with pytest.raises(ValueError, match="Affine has no QueryHead as model.head"):
            pretrain(toys.Affine(PROBLEM), waves(0), waves(0))

    def test_the_head_is_put_back_after_an_error(self):
        model = built()
        head = model.head
        with pytest.raises(RuntimeError, match="stop"), answering_waits(model):
            assert model.head is not head
            raise RuntimeError("stop")
        assert model.head is head
