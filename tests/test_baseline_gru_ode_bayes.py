"""GRU-ODE-Bayes against scipy and its equations in numpy, one series at a time."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import norm

from ctlssl.baselines import GRUODEBayes
from ctlssl.tasks import Examples
from ctlssl.training.chunks import Pieces, backward_in_chunks
from ctlssl.training.losses import LOSSES, mean_loss
from tests.members import PROBLEMS, Member, answer, batch, close, gradients
from tests.test_baselines import TIGHT, truth

FINE = {"steps": 2, "method": "dopri5", "rtol": 1e-10, "atol": 1e-10}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numbers(model):
    return {name: part.numpy() for name, part in model.state_dict().items()}


def expected(W, h):
    """Mean and standard deviation of every channel."""
    hidden = np.maximum(W["expected.0.weight"] @ h + W["expected.0.bias"], 0)
    mean, raw = (W["expected.2.weight"] @ hidden + W["expected.2.bias"]).reshape(2, -1)
    return mean, np.logaddexp(0, raw) + 0.05


def flow(W, h, gap):
    """The gated flow; no unit goes further than 2.5 e-folds in each of two steps."""
    pace = np.minimum(gap * np.exp(W["field.log_speed"]), 5.0)

    def slope(tau, h):
        z, r = sigmoid(W["field.gates.weight"] @ h + W["field.gates.bias"]).reshape(2, -1)
        g = np.tanh(W["field.candidate.weight"] @ (r * h) + W["field.candidate.bias"])
        return pace * (1 - z) * (g - h)

    return solve_ivp(slope, (0.0, 1.0), h, **TIGHT).y[:, -1]


def jump(W, h, x, value, observed):
    """The update of De Brouwer et al. by the channels that were observed."""
    mean, scale = expected(W, h)
    prepared = np.zeros(W["bias"].shape)
    for d in observed.nonzero()[0]:
        given = [value[d], mean[d], scale[d], (value[d] - mean[d]) / scale[d]]
        prepared[d] = np.maximum(given @ W["weight"][d] + W["bias"][d], 0)
    q = np.concatenate([prepared.ravel(), x])
    gi, gh = W["unit.weight_ih"] @ q + W["unit.bias_ih"], W["unit.weight_hh"] @ h + W["unit.bias_hh"]
    (ri, zi, ni), (rh, zh, nh) = gi.reshape(3, -1), gh.reshape(3, -1)
    z = sigmoid(zi + zh)
    return (1 - z) * np.tanh(ni + sigmoid(ri + rh) * nh) + z * h


def walk(model, encoded, committed):
    """The states before and after every jump."""
    W, rows = numbers(model), encoded.rows
    values, observed, gaps = rows.values[0].numpy(), rows.observed[0].numpy(), encoded.gaps[0].tolist()
    h, before, after = np.zeros(8), {}, {}
    for k in committed:
        before[k] = flow(W, h, gaps[k])
        after[k] = h = jump(W, before[k], encoded.features[0, k].detach().numpy(), values[k], observed[k])
    return before, after


def by_scipy(model, encoded, committed, before, queries):
    """The walk of `truth`."""
    W, gaps = numbers(model), encoded.gaps[0].tolist()
    _, after = walk(model, encoded, committed)
    asked = [flow(W, after[s[-1]] if s else np.zeros(8), gaps[q]) for q, s in zip(queries, before, strict=True)]
    return [torch.from_numpy(h) for h in after.values()], [torch.from_numpy(h) for h in asked]


@pytest.mark.parametrize("kind", ["classification", "forecasting"])
def test_against_an_independent_solution(kind):
    model = Member(GRUODEBayes, FINE).model(kind, torch.float64)
    series, asked = batch(lengths=(6, 1, 4), dtype=torch.float64)
    asked = asked.nan_to_num(nan=101.0)
    series.observed[1, 0] = True
    together = answer(model(series, asked))
    for b in range(3):
        assert close(together[b : b + 1], truth(model, series, asked, b, by_scipy), 1e-7)


def test_the_default_solver_is_near_the_solution():
    series, asked = batch(lengths=(7, 5, 6), dtype=torch.float64)
    default, exact = (Member(GRUODEBayes, options).model("forecasting", torch.float64) for options in ({}, FINE))
    assert close(answer(default(series, asked)), answer(exact(series, asked)), 2e-2)


def test_the_hidden_state_stays_below_one():
    model, (series, asked) = Member(GRUODEBayes).model("forecasting"), batch(lengths=(7, 6, 5))
    assert model(series, asked).state.layers[0].h.abs().max() < 1


def test_penalty_by_hand():
    model = Member(GRUODEBayes, {**FINE, "dropout": 0.0}).model("classification", torch.float64).train()
    series, _ = batch(lengths=(5, 4), dtype=torch.float64)
    found = model(series).penalty
    for b in range(2):
        encoded = model.encoder(series.select([b]), None, 1.0)
        values, observed = encoded.rows.values[0].numpy(), encoded.rows.observed[0].numpy()
        before, after = walk(model, encoded, [k for k in range(len(values)) if observed[k].any()])
        costs, W = [], numbers(model)
        for k in before:
            (m, v), (said, width) = expected(W, before[k]), expected(W, after[k])
            for d in observed[k].nonzero()[0]:
                likely = -norm.logpdf(values[k, d], m[d], v[d])
                # the product of N(m, v^2) and the observation's N(x, 0.1^2)
                precision = v[d] ** -2 + 0.1**-2
                centre, spread = (m[d] / v[d] ** 2 + values[k, d] / 0.1**2) / precision, precision**-0.5
                ratio = spread / width[d]
                apart = math.log(1 / ratio) + 0.5 * (ratio**2 + ((centre - said[d]) / width[d]) ** 2 - 1)
                costs.append(likely + 0.1 * apart)
        assert found[b].item() == pytest.approx(0.1 * np.mean(costs), rel=1e-6)


def test_without_a_weight_there_is_no_penalty():
    series, _ = batch()
    assert Member(GRUODEBayes, {"jumps": 0.0}).model("classification").train()(series).penalty is None
    assert Member(GRUODEBayes).model("classification")(series).penalty is None


def test_penalties_of_all_chunks_are_learned():
    """Each piece has the mean over its own observations; the gradients are those of their sum."""
    model = Member(GRUODEBayes, {"dropout": 0.0}).model("classification", torch.float64).train()
    series, _ = batch(lengths=(6, 3), dtype=torch.float64)
    pieces = Pieces(Examples(series, ["a", "b"], labels=torch.tensor([2, 0])), 2)
    model.zero_grad()
    terms = backward_in_chunks(model, pieces)
    found = {name: p.grad for name, p in model.named_parameters()}
    state, total = None, 0.0
    for piece in pieces:
        prediction = model(piece.series, state=state)
        state = prediction.state
        total = total + prediction.penalty.sum() / 2  # two labels
    total = total + mean_loss(LOSSES["classification"](prediction, piece)) - prediction.penalty.sum() / 2
    assert close(mean_loss(terms), total.detach(), 1e-12)
    for name, gradient in gradients(model, total).items():
        assert close(found[name], gradient, 1e-10), name


@pytest.mark.parametrize("options", [{"jumps": -1.0}, {"bayes": math.nan}, {"noise": 0.0}])
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match="noise is positive"):
        GRUODEBayes(PROBLEMS["classification"], **options)
