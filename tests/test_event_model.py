"""The model that reads cells as events, and the example."""

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl.models import EventModel
from examples import asynchronous
from tests.contracts import generator
from tests.event_cases import MIXED, draw_events
from tests.problems import relative_error


def batch(rng):
    series = draw_events(rng, batch=3, count=20).to_series()
    queries = torch.from_numpy(rng.uniform(2, 12, (3, 4)))
    queries[1, 3] = torch.nan
    return series, queries


def model_of(kind, **options):
    torch.manual_seed(3)
    outputs = 4 if kind == "forecasting" else 2
    problem = ctlssl.Problem(kind, channels=4, outputs=outputs, time_scale=0.4, first_gap=0.4, horizon=8.0)
    return EventModel(problem, width=8, holds=MIXED, **options).double().eval()


def answer(prediction):
    return prediction.logits if prediction.logits is not None else prediction.mean


@pytest.mark.parametrize("kind", ["classification", "regression", "forecasting"])
@pytest.mark.parametrize("tail", ["zero", "held"])
def test_the_contract_of_models(kind, tail):
    rng = generator("event model", kind, tail)
    model, (series, queries) = model_of(kind, tail=tail), batch(rng)
    queries = queries if kind == "forecasting" else None
    expected = answer(model(series, queries)).detach()
    hidden = torch.where(series.observed & series.in_length[..., None], series.values, torch.nan)
    junk = ctlssl.TimeSeries(hidden, series.times, series.observed, series.lengths)
    assert torch.equal(answer(model(junk, queries)), expected)
    late = ctlssl.TimeSeries(series.values, series.times + 1024.0, series.observed, series.lengths)
    assert relative_error(answer(model(late, None if queries is None else queries + 1024.0)).detach(), expected) < 1e-10
    slow = ctlssl.TimeSeries(series.values, series.times * 60, series.observed, series.lengths)
    paced = answer(model(slow, None if queries is None else queries * 60, rate=1 / 60))
    assert relative_error(paced.detach(), expected) < 1e-10
    model.train()
    answer(model(series, queries)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_forecasts_see_the_plan_and_not_the_future():
    rng = generator("event model plan")
    model, (series, _) = model_of("forecasting"), batch(rng)
    middle = series.times[:, 8:9]
    before, after = model(series, middle).mean, model(series, middle + 9).mean
    later = series.times > middle
    changed = torch.where(later[..., None], series.values + 1, series.values)
    other = ctlssl.TimeSeries(changed, series.times, series.observed, series.lengths)
    assert torch.equal(model(other, middle).mean, before)
    assert not torch.allclose(model(other, middle + 9).mean, after)
    with pytest.raises(ValueError, match="takes no state"):
        model(series, middle, state=object())


def test_it_trains():
    rng = generator("event model trains")
    series, _ = batch(rng)
    model = model_of("regression", dropout=0.0)
    optimizer, target, losses = torch.optim.Adam(model.parameters(), lr=0.01), torch.randn(3, 2).double(), []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (model(series).mean - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_example():
    errors = asynchronous.main(epochs=120, count=32)
    assert errors["with the plan"] < 0.2 * errors["spread"]
    assert errors["without it"] > 3 * errors["with the plan"]
    assert errors["one event at a time"] < 1e-5


def test_the_truth_of_the_example():
    times = np.array([0.5, 2.0, 6.0])
    fine = np.linspace(0, 6, 60001)
    rate = 0.7 * ((fine >= 1) & (fine < 4))
    level = [1.5 * np.exp(-0.35 * (t - 0.2)) + np.trapezoid((np.exp(-0.35 * (t - fine)) * rate)[fine <= t],
             fine[fine <= t]) for t in times]  # fmt: skip
    np.testing.assert_allclose(asynchronous.concentration(times, [(0.2, 1.5)], [(1.0, 4.0, 0.7)]), level, rtol=1e-3)
