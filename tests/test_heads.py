"""Pooling against its definition, and what the heads promise before they have learned anything."""

from statistics import NormalDist

import numpy as np
import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.encoders import Encoder
from ctlssl.heads import LabelHead, QueryHead, SeriesHead, around, head, pool
from tests.members import batch


def test_pool():
    features, committed = torch.randn(6, 9, 4), torch.rand(6, 9) < 0.4
    committed[1], committed[2] = False, True
    pooled = pool(features, committed)
    for b in range(6):
        kept = features[b][committed[b]]  # (n, W)
        truth = torch.cat([kept.mean(0), kept.amax(0), kept[-1]]) if len(kept) else torch.zeros(12)
        torch.testing.assert_close(pooled[b], truth)


def test_pool_reads_nothing_else():
    features, committed = torch.randn(3, 5, 2), torch.rand(3, 5) < 0.5
    committed[0] = False
    other = torch.where(committed.unsqueeze(-1), features, torch.nan).requires_grad_()
    pooled = pool(other, committed)
    assert torch.equal(pooled, pool(features, committed))
    pooled.square().sum().backward()
    assert (other.grad[~committed] == 0).all()


def test_the_maximum_may_be_negative():
    features = torch.tensor([[[-3.0], [-2.0], [0.0]]])
    assert pool(features, torch.tensor([[True, True, False]])).tolist() == [[-2.5, -2.0, -2.0]]


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (Problem("classification", 3, 4, 2), SeriesHead),
        (Problem("regression", 3, 1, 2), SeriesHead),
        (Problem("forecasting", 3, 3, 2), QueryHead),
        (Problem("survival", 3, 5, 2), SeriesHead),
        (Problem("labelling", 3, 4, 2), LabelHead),
    ],
)
def test_one_head_a_problem(problem, kind):
    assert isinstance(head(problem, width=8), kind)


def test_a_forecast_starts_near_the_last_value():
    series, asked = batch(lengths=(6, 6, 6))
    problem = Problem("forecasting", 3, 3, 2)
    encoded = Encoder(problem, width=8)(series, asked, 1.0)
    queries = torch.randn(3, 4, 8)
    prediction = head(problem, width=8, dropout=0.0)(encoded, encoded.features, encoded.rows.committed, queries)
    for b in range(3):
        for q in range(4):
            if asked[b, q].isnan():
                assert (prediction.mean[b, q] == 0).all() and (prediction.scale[b, q] == 1).all()
                continue
            for d in range(3):
                seen = series.observed[b, :, d] & (series.times[b] <= asked[b, q])
                last = series.values[b, seen, d][-1] if seen.any() else torch.tensor(0.0)
                assert (prediction.mean[b, q, d] - last).abs() < 0.3 * (1 + last.abs())
    assert ((prediction.scale - 1).abs() < 0.3).all()


def test_a_scale_is_positive_whatever_is_read():
    problem = Problem("regression", 3, 2)
    series, _ = batch()
    series = type(series)(series.values, series.times, series.observed, series.lengths)
    encoded = Encoder(problem, width=8)(series, None, 1.0)
    features = 1e4 * torch.randn(5, 7, 8)
    prediction = head(problem, width=8).eval()(encoded, features, encoded.rows.committed, features[:, :0])
    assert (prediction.scale >= 1e-3).all() and prediction.scale.isfinite().all()


def test_static_covariates_are_read():
    problem = Problem("classification", 3, 2, 2)
    series, _ = batch()
    body = head(problem, width=8).eval()
    encoder = Encoder(problem, width=8)
    answers = []
    for static in (series.static, series.static + 1):
        moved = type(series)(series.values, series.times, series.observed, series.lengths, static)
        encoded = encoder(moved, None, 1.0)
        answers.append(body(encoded, encoded.features, encoded.rows.committed, encoded.features[:, :0]).logits)
    assert not torch.allclose(*answers)


@pytest.mark.parametrize("levels", [(0.05, 0.5, 0.95), (0.1, 0.2, 0.9), (0.5,), (0.9,), (0.01, 0.25, 0.5, 0.75, 0.99)])
def test_quantiles_start_as_those_of_a_normal_variable_and_never_cross(levels):
    problem, normal = Problem("regression", 3, 2, quantiles=levels), NormalDist()
    centre = torch.randn(7, 2, dtype=torch.float64)
    found = around(centre, torch.zeros(7, 2 * (len(levels) - 1), dtype=torch.float64), problem)
    exact = np.array([normal.inv_cdf(level) for level in levels])
    exact = exact - (0.0 if 0.5 in levels else exact.mean())
    np.testing.assert_allclose(found.quantiles.numpy(), centre.numpy()[..., None] + exact, atol=1e-12)
    wild = around(centre, 50 * torch.randn(7, 2 * (len(levels) - 1), dtype=torch.float64), problem)
    assert (wild.quantiles.diff(dim=-1) >= 0).all()
    middle = wild.quantiles[..., levels.index(0.5)] if 0.5 in levels else wild.quantiles.mean(-1)
    torch.testing.assert_close(wild.mean, middle)
    torch.testing.assert_close(wild.mean, centre)


@pytest.mark.parametrize("kind", ["regression", "forecasting"])
def test_every_quantile_moves_with_numbers_of_its_own(kind):
    problem = Problem(kind, 3, 3, quantiles=(0.1, 0.5, 0.9))
    series, asked = batch(lengths=(6, 6, 6))
    series = type(series)(series.values, series.times, series.observed, series.lengths)
    encoded = Encoder(problem, width=8)(series, asked[:, :1], 1.0)
    features = torch.randn(3, 6, 8)
    body = head(problem, width=8, dropout=0.0)
    found = body(encoded, features, torch.ones(3, 6, dtype=torch.bool), torch.randn(3, 1, 8)).quantiles[0].flatten()
    rank = torch.linalg.matrix_rank(
        torch.stack([torch.autograd.grad(part, body.body[-1].bias, retain_graph=True)[0] for part in found])
    )
    assert rank == 9
