"""Summaries and last values against loops over the definition, and the references on problems they must solve."""

import math
import sys

import numpy as np
import pytest
import torch

from ctlssl.baselines import REFERENCES, LastValue, Summaries, summaries
from ctlssl.contract import Problem
from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries
from tests.members import PROBLEMS, batch


def slow_summary(series, problem, b):
    """One row of the table, channel by channel with numpy's own least squares."""
    n = int(series.lengths[b])
    columns, any_seen = [[], [], [], [], [], []], series.observed[b, :n].any(dim=1)
    for d in range(series.channels):
        seen = series.observed[b, :n, d]
        values, times = series.values[b, :n, d][seen].double().numpy(), series.times[b, :n][seen].numpy()
        some = len(values) > 0
        line = np.polyfit((times - times[0]) / problem.time_scale, values, 1)[0] if len(set(times)) > 1 else math.nan
        parts = (values.mean(), values.min(), values.max(), values[-1]) if some else [math.nan] * 4
        for column, part in zip(columns, (len(values), *parts, line), strict=True):
            column.append(part)
    times = series.times[b, :n][any_seen]
    span = (times[-1] - times[0]).item() / problem.time_scale if len(times) else 0.0
    return [*sum(columns, []), len(times), span, *series.static[b].tolist()]


@pytest.mark.parametrize("seed", range(4))
def test_summaries(seed):
    series, _ = batch(seed=seed)
    problem = PROBLEMS["classification"]
    expected = np.array([slow_summary(series, problem, b) for b in range(5)])
    np.testing.assert_allclose(summaries(series, problem), expected, rtol=1e-6, atol=1e-9)


def test_packed_series_a_part_at_a_time(monkeypatch):
    series, _ = batch(seed=3)
    problem = PROBLEMS["classification"]
    # the package has a function of the name of the module
    monkeypatch.setattr(sys.modules["ctlssl.baselines.summaries"], "_TOGETHER", 2)
    found = summaries(PackedSeries.from_series(series), problem)
    np.testing.assert_allclose(found, summaries(series, problem), rtol=1e-12)


def labelled(size=120, seed=0):
    """Series whose class is the sign of the slope of one channel; another is never seen, values are missing."""
    draw = np.random.default_rng(seed)
    slope = np.where(draw.random(size) < 0.5, -1.0, 1.0)
    times = np.sort(draw.uniform(0, 5, (size, 8)), axis=1)
    values = np.stack([slope[:, None] * times, draw.standard_normal((size, 8)), np.zeros((size, 8))], axis=-1)
    observed = draw.random(values.shape) < 0.7
    observed[..., 2] = False
    parts = (torch.from_numpy(part) for part in (values, times, observed))
    return TimeSeries(*parts, torch.full((size,), 8)), slope


@pytest.mark.parametrize("family", ["linear", "boosting"])
def test_classes_are_told_apart(family):
    series, slope = labelled()
    labels = torch.from_numpy((slope > 0).astype(np.int64)) + 1  # class 0 is never seen
    reference = REFERENCES[family](Problem("classification", 3, 3)).fit(series, labels)
    logits = reference.predict(labelled(seed=1)[0]).logits
    assert (logits.argmax(1).numpy() == (labelled(seed=1)[1] > 0) + 1).mean() > 0.95
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(120, dtype=torch.float64))


@pytest.mark.parametrize("family", ["linear", "boosting"])
def test_targets_are_learned(family):
    series, slope = labelled()
    targets = torch.from_numpy(np.stack([slope, 2 - slope], axis=1))
    reference = Summaries(Problem("regression", 3, 2), family=family).fit(series, targets)
    found = reference.predict(labelled(seed=1)[0]).mean
    truth = np.stack([labelled(seed=1)[1], 2 - labelled(seed=1)[1]], axis=1)
    assert np.abs(found.numpy() - truth).mean() < 0.2


def test_last_value():
    series, asked = batch(lengths=(6, 4, 5, 0))
    problem = Problem("forecasting", 3, 3, 2)
    prediction = LastValue(problem).fit(series).predict(series, asked)
    inside = series.observed & series.in_length.unsqueeze(-1)
    for d in range(3):
        mean = series.values[..., d][inside[..., d]].double().mean()
        pairs = [series.values[b, inside[b, :, d], d].double().diff() for b in range(4)]
        scale = torch.cat(pairs).square().mean().sqrt() if sum(map(len, pairs)) else torch.tensor(1.0)
        for b, q in np.argwhere(~asked.isnan().numpy()):
            seen = inside[b, :, d] & (series.times[b] <= asked[b, q])
            last = series.values[b, seen, d][-1].double() if seen.any() else mean
            torch.testing.assert_close(prediction.mean[b, q, d], last)
            torch.testing.assert_close(prediction.scale[b, q, d], scale.double())
    assert (prediction.mean[asked.isnan()] == 0).all() and (prediction.scale[asked.isnan()] == 1).all()


def test_refusals():
    series, _ = labelled(20)
    problem = Problem("classification", 3, 2)
    with pytest.raises(ValueError, match="single class"):
        Summaries(problem).fit(series, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(ValueError, match="20 series"):
        Summaries(problem).fit(series)
    with pytest.raises(ValueError, match="not forecasting"):
        Summaries(Problem("forecasting", 3, 3))
    with pytest.raises(ValueError, match="trees"):
        Summaries(problem, family="trees")
    with pytest.raises(ValueError, match="not classification"):
        LastValue(problem)
