"""The influence of an observation is the answer without it: against records from which it was really taken out."""

import numpy as np
import pytest
import torch

from ctlssl import LSSLModel, TimeSeries
from ctlssl.baselines import BASELINES
from ctlssl.contract import Problem
from ctlssl.influence import influence
from tests.contracts import generator


def record(draw, rows=7, channels=3):
    """One series with gaps over two decades and some values missing."""
    times = torch.from_numpy(np.cumsum(10 ** draw.uniform(-1, 1, size=rows)))[None]
    observed = torch.from_numpy(draw.random((1, rows, channels)) < 0.6)
    observed[0, :, 0] |= ~observed[0].any(1)
    observed[0, 2] = False  # a row in which nothing was seen
    values = torch.from_numpy(draw.normal(size=(1, rows, channels))).float()
    return TimeSeries(values, times, observed, torch.tensor([rows]))


def without_row(series, row):
    keep = [k for k in range(series.length) if k != row]
    parts = (series.values[:, keep], series.times[:, keep], series.observed[:, keep])
    return TimeSeries(*parts, series.lengths - 1)


@pytest.mark.parametrize("name", ["lssl", "gru"])
def test_without_rows_and_values(name):
    draw = generator("influence", name)
    torch.manual_seed(0)
    problem = Problem("classification", channels=3, outputs=2, horizon=40.0)
    model = (LSSLModel if name == "lssl" else BASELINES[name])(problem, width=8).eval()
    series = record(draw)
    found = influence(model, series)
    with torch.no_grad():
        torch.testing.assert_close(found.answer, model(series).logits[0].double())
        assert 2 not in found.rows.tolist() and len(found.rows) == 6
        for row, answer in zip(found.rows.tolist(), found.without_row, strict=True):
            expected = model(without_row(series, row)).logits[0].double()
            torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)
        assert len(found.cells) == int(series.observed.sum())
        for (row, channel), answer in zip(found.cells.tolist(), found.without_cell, strict=True):
            observed = series.observed.clone()
            observed[0, row, channel] = False
            fewer = TimeSeries(series.values, series.times, observed, series.lengths)
            torch.testing.assert_close(answer, model(fewer).logits[0].double(), atol=1e-5, rtol=1e-5)
    first = found.cells[0, 0].item()
    moved = (found.without_row - found.answer).abs().amax(1)
    assert found.rows[moved.argmax()] == first
    assert len(influence(model, series, most=4).cells) == 4


def test_on_forecasts_and_on_nothing():
    problem = Problem("forecasting", channels=3, outputs=3, horizon=40.0)
    torch.manual_seed(0)
    model = LSSLModel(problem, width=8).eval()
    series = record(generator("influence", "forecast"))
    queries = series.times[:, -1:] + 1
    found = influence(model, series, queries)
    with torch.no_grad():
        expected = model(without_row(series, 0), queries).mean[0, 0].double()
    torch.testing.assert_close(found.without_row[0], expected, atol=1e-5, rtol=1e-5)
    nothing = TimeSeries(series.values, series.times, torch.zeros_like(series.observed), series.lengths)
    empty = influence(model, nothing, queries)
    assert empty.without_row.shape == (0, 3) and empty.cells.shape == (0, 2)
    with pytest.raises(ValueError, match="found 2"):
        influence(model, series.select([0, 0]))
