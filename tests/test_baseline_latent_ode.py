"""The latent ODE against scipy and closed forms, one series at a time, and what it adds to the loss."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from ctlssl.baselines import LatentODE
from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples
from ctlssl.training import Training, fit
from ctlssl.training.losses import LOSSES
from tests.members import PROBLEMS, Member, answer, batch, close, same_bits
from tests.test_baselines import TIGHT, truth

FINE = {"steps": 64, "grid": 256}


def softplus(x):
    return np.logaddexp(0.0, x)


def posterior(model, encoded, rows):
    """Mean and standard deviation of z at the first of these rows, each gap solved by scipy backwards in time."""
    field, unit = model.recognition["field"], model.recognition["unit"]
    x, gaps, speed = encoded.features[0], encoded.gaps[0].tolist(), field.log_speed.exp().numpy()

    def slope(t, h):
        return speed * field.body(torch.from_numpy(h)).numpy()

    hidden = torch.zeros(8, dtype=torch.float64)
    for k, after in zip(rows[::-1], [None, *rows[::-1]], strict=False):
        if after is not None and gaps[after]:
            hidden = torch.from_numpy(solve_ivp(slope, (0.0, gaps[after]), hidden.numpy(), **TIGHT).y[:, -1])
        hidden = unit(x[k][None], hidden[None])[0]
    out = model.recognition["posterior"](hidden).numpy()
    return out[:8], softplus(out[8:])


def path(model, start):
    """z at a time since the first observation, in horizons; slower by t / 2 from two horizons on."""
    speed = model.flow.log_speed.exp().numpy()

    def slope(t, z):
        return speed * model.flow.body(torch.from_numpy(z)).numpy() / max(1.0, t / 2)

    def at(t):
        z = start
        for begin, end in ((0.0, min(t, 2.0)), (2.0, t)):
            z = solve_ivp(slope, (begin, end), z, **TIGHT).y[:, -1] if end > begin else z
        return torch.from_numpy(z)

    return at


def latent_ode_by_scipy(model, encoded, committed, before, queries):
    """The walk of `truth`: recognition from every beginning that a query has, and the path from its start."""
    elapsed = encoded.elapsed[0].tolist()
    walked = path(model, posterior(model, encoded, committed)[0])
    return [walked(elapsed[k]) for k in committed], [
        path(model, posterior(model, encoded, seen)[0])(elapsed[q]) for q, seen in zip(queries, before, strict=True)
    ]


@pytest.mark.parametrize(
    "options",
    [FINE, {"method": "dopri5", "rtol": 1e-10, "atol": 1e-10, "grid": 256}],
    ids=["rk4", "dopri5"],
)
@pytest.mark.parametrize("kind", ["classification", "forecasting"])
def test_against_an_independent_solution(options, kind):
    model = Member(LatentODE, options).model(kind, torch.float64)
    series, asked = batch(lengths=(6, 1, 4), dtype=torch.float64)
    asked = asked.nan_to_num(nan=101.0)
    series.observed[1, 0] = True
    together = answer(model(series, asked))
    for b in range(3):
        assert close(together[b : b + 1], truth(model, series, asked, b, latent_ode_by_scipy), 1e-6)


@pytest.mark.parametrize("kind", ["classification", "forecasting"])
def test_the_default_solver_is_near_the_solution(kind):
    series, asked = batch(lengths=(7, 5, 6), dtype=torch.float64)
    default, exact = (Member(LatentODE, options).model(kind, torch.float64) for options in ({}, FINE))
    assert close(answer(default(series, asked)), answer(exact(series, asked)), 2e-3)


def with_known_start(model, monkeypatch):
    """In training mode with draws of one standard deviation above the mean, and no dropout."""
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    return model.train()


def test_penalty_by_hand(monkeypatch):
    options = {**FINE, "kl": 0.3, "reconstruction": 0.7, "poisson": 0.2, "dropout": 0.0}
    model = with_known_start(Member(LatentODE, options).model("classification", torch.float64), monkeypatch)
    series, _ = batch(lengths=(5, 4), dtype=torch.float64)
    found = model(series).penalty
    for b in range(2):
        encoded = model.encoder(series.select([b]), None, 1.0)
        observed, values = encoded.rows.observed[0].numpy(), encoded.rows.values[0].numpy()
        rows = [k for k in range(len(observed)) if observed[k].any()]
        elapsed = encoded.elapsed[0].tolist()
        with torch.no_grad():
            mean, spread = posterior(model, encoded, rows)
            walked = path(model, mean + spread)

            def rates(t, walked=walked):
                return softplus(model.intensity(walked(t)).numpy()) + 1e-4

            divergence = sum((s * s + m * m - 1) / 2 - math.log(s) for m, s in zip(mean, spread, strict=True))
            cost, chance = [], 0.0
            for k in rows:
                centre, raw = model.decoder(walked(elapsed[k])).numpy().reshape(2, -1)
                for d in observed[k].nonzero()[0]:
                    variance = max(softplus(raw[d]) ** 2, 1e-4)
                    cost.append(0.5 * (math.log(variance) + (values[k, d] - centre[d]) ** 2 / variance))
                    chance += math.log(rates(elapsed[k])[d]) if k != rows[0] else 0.0
            # the path slows from two horizons on, and so does its intensity
            integral = [
                sum(
                    quad(lambda t, d=d: rates(t)[d] / max(1.0, t / 2), *ends, epsabs=1e-7, epsrel=1e-7)[0]
                    for ends in ((0.0, min(elapsed[rows[-1]], 2.0)), (2.0, max(2.0, elapsed[rows[-1]])))
                )
                for d in range(3)
            ]
        expected = 0.3 * divergence + 0.7 * np.mean(cost) - 0.2 * (chance - sum(integral))
        assert found[b].item() == pytest.approx(expected, rel=1e-5)


def test_forecasts_are_penalised_for_every_beginning_they_are_made_from(monkeypatch):
    model = with_known_start(
        Member(LatentODE, {"kl": 1.0, "reconstruction": 0.0, "dropout": 0.0}).model("forecasting"), monkeypatch
    )
    series, _ = batch(lengths=(4,))
    series = replace(series, observed=torch.ones_like(series.observed))
    asked = series.times[:, 1:2] + torch.tensor([[0.0, 500.0, 600.0, torch.nan]])
    parts = [model(series, asked[:, [i]]).penalty for i in (0, 1)]
    assert close(model(series, asked).penalty, sum(parts), 1e-5)  # two forecasts from the end share theirs


def test_one_draw_in_training_and_the_mean_in_evaluation():
    model, (series, _) = Member(LatentODE, {"dropout": 0.0}).model("classification"), batch()
    assert model(series).penalty is None
    model.train()
    assert not same_bits(model(series).logits, model(series).logits)


def test_the_times_are_learned_by_the_process_alone():
    problem = replace(PROBLEMS["forecasting"], static=0)
    torch.default_generator.manual_seed(0)
    assert LatentODE(problem, 8).intensity is None
    model = LatentODE(problem, 8, poisson=1.0, dropout=0.0).train()
    series, asked = batch(lengths=(7, 5))
    series = replace(series, static=None)
    model(series, asked).penalty.sum().backward()
    assert model.intensity.weight.grad.any()


def test_the_intensity_of_regular_times_is_found():
    problem = replace(PROBLEMS["forecasting"], channels=1, outputs=1, static=0, horizon=10.0)
    torch.default_generator.manual_seed(1)
    model = LatentODE(problem, 8, poisson=1.0, kl=0.0, reconstruction=0.0, steps=1, grid=4, dropout=0.0).train()
    times = torch.linspace(0.0, 10.0, 11, dtype=torch.float64)[None]
    series = TimeSeries(torch.zeros(1, 11, 1), times, torch.ones(1, 11, 1, dtype=torch.bool), torch.tensor([11]))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        model(series, times[:, -1:]).penalty.sum().backward()
        optimizer.step()
    # minus the log likelihood of 10 events at a constant rate of 10 a horizon
    assert model(series, times[:, -1:]).penalty.item() == pytest.approx(10 - 10 * math.log(10.0), abs=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"kl": -1.0}, "kl"), ({"poisson": math.nan}, "poisson"), ({"grid": 0}, "grid"), ({"method": "rk5"}, "rk5")],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        LatentODE(PROBLEMS["classification"], **options)


def test_a_fit_minimises_the_penalty_with_the_answers():
    series, _ = batch(lengths=(4, 3, 4, 2))
    examples = Examples(series, ["a", "b", "c", "d"], labels=torch.tensor([0, 1, 2, 0]))
    model = Member(LatentODE, {"kl": 3.0, "steps": 1, "grid": 4, "dropout": 0.0}).model("classification").train()
    before = model(series).penalty.sum().item()
    history = fit(model, examples, training=Training(epochs=25, learning_rate=0.03, batch_size=4))
    model.train()
    prediction = model(series)
    assert prediction.penalty.sum() < 0.5 * before
    terms = LOSSES["classification"](prediction, examples)
    alone = LOSSES["classification"](replace(prediction, penalty=None), examples)
    assert close(terms.total, alone.total + prediction.penalty, 1e-6) and same_bits(terms.count, alone.count)
    assert history.train_loss[0] > 0.25 * before > history.train_loss[-1] - math.log(3)


def test_penalties_of_packed_series():
    model = Member(LatentODE, {"dropout": 0.0, "reconstruction": 0.0}).model("classification").train()
    series, _ = batch(lengths=(6, 2, 5))
    found = model.packed(PackedSeries.from_series(series)).penalty
    assert close(found, model(series).penalty, 1e-5)
