"""Each baseline against an independent computation of the same equations, one series at a time."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicHermiteSpline

from ctlssl.baselines import BASELINES, GRU, ODERNN, GRUODEBayes, LatentODE, NeuralCDE, NeuralODE
from ctlssl.baselines import solvers as solvers_module
from ctlssl.baselines.solvers import Solver
from ctlssl.contract import KINDS, Problem
from tests.members import MEMBERS, Member, answer, batch, close

SOLVED = (ODERNN, NeuralCDE, LatentODE, NeuralODE, GRUODEBayes)
TIGHT = {"rtol": 1e-12, "atol": 1e-12, "method": "DOP853"}


def truth(model, series, asked, b, walk):
    """The prediction for one series by `walk`, which returns the states at its observations and at its queries."""
    encoded = model.encoder(series.select([b]), asked[[b]], 1.0)
    rows = encoded.rows
    committed = [k for k in range(rows.times.shape[1]) if rows.observed[0, k].any()]
    before = [[k for k in committed if k < q] for q in rows.query_position[0].tolist()]
    queries = rows.query_position[0].tolist()
    with torch.no_grad():
        states, at_queries = walk(model, encoded, committed, before, queries)
    inside = torch.ones(1, len(committed), dtype=torch.bool)
    features = torch.stack(states)[None]  # (1, K, W)
    at_queries = torch.stack(at_queries)[None] if at_queries else features[:, :0]  # (1, Q, W)
    return answer(model.head(encoded, features, inside, at_queries))


def gru_by_hand(model, encoded, committed, before, queries):
    """torch's own cell, one row after another."""
    cell = torch.nn.GRUCell(8, 8).double()
    cell.load_state_dict({name.removesuffix("_l0"): part for name, part in model.units[0].state_dict().items()})
    x, states = encoded.features[0], {}
    hidden = torch.zeros(8, dtype=torch.float64)
    for k in committed:
        states[k] = hidden = cell(x[k], hidden)
    return list(states.values()), [
        cell(x[q], states[seen[-1]] if seen else torch.zeros_like(hidden))
        for q, seen in zip(queries, before, strict=True)
    ]


def ode_rnn_by_scipy(model, encoded, committed, before, queries):
    """Each gap solved by scipy in the time of the clock, one series alone."""
    x, gaps, speed = encoded.features[0], encoded.gaps[0].tolist(), model.field.log_speed.exp().numpy()

    def slope(t, h):
        return speed * model.field.body(torch.from_numpy(h)).numpy()

    def advance(hidden, k):
        flown = solve_ivp(slope, (0.0, gaps[k]), hidden.numpy(), **TIGHT).y[:, -1] if gaps[k] else hidden.numpy()
        return model.unit(x[k][None], torch.from_numpy(flown)[None])[0]

    hidden, states = torch.zeros(8, dtype=torch.float64), {}
    for k in committed:
        states[k] = hidden = advance(hidden, k)
    start = torch.zeros_like(hidden)
    return list(states.values()), [
        advance(states[seen[-1]] if seen else start, q) for q, seen in zip(queries, before, strict=True)
    ]


def neural_ode_by_scipy(model, encoded, committed, before, queries):
    """torch's own cell over the observations, then scipy from the last; one answer a series a horizon later."""
    cell = torch.nn.GRUCell(8, 8).double()
    cell.load_state_dict({name.removesuffix("_l0"): part for name, part in model.unit.state_dict().items()})
    gaps, speed = encoded.gaps[0].tolist(), model.field.log_speed.exp().numpy()

    def slope(t, z):
        return speed * model.field.body(torch.from_numpy(z)).numpy()

    def advance(hidden, gap):
        start = model.start(hidden).numpy()
        return torch.from_numpy(solve_ivp(slope, (0.0, gap), start, **TIGHT).y[:, -1]) if gap else model.start(hidden)

    hidden, states = torch.zeros(8, dtype=torch.float64), {}
    for k in committed:
        states[k] = hidden = cell(encoded.features[0, k], hidden)
    start = torch.zeros_like(hidden)
    at_queries = [
        advance(states[seen[-1]] if seen else start, gaps[q]) for q, seen in zip(queries, before, strict=True)
    ]
    return [advance(hidden, 24.0 / 0.5)] * len(committed), at_queries


def neural_cde_by_scipy(model, encoded, committed, before, queries):
    """scipy's own Hermite spline with backward differences as the control, scipy's solver along it."""
    control = torch.cat([encoded.elapsed[0].unsqueeze(-1), encoded.features[0]], dim=-1)  # (R, C)

    def solve(knots, begin, until):
        if len(knots) == 1:
            return [begin]
        steps = np.diff(knots, axis=0)
        path = CubicHermiteSpline(np.arange(len(knots)), knots, np.concatenate([steps[:1], steps]))
        derivative = path.derivative()

        def slope(s, z):
            field = model.field.body(torch.from_numpy(z)).numpy().reshape(len(z), -1)
            return field @ derivative(s)

        states = [begin]
        for k in range(until):
            states.append(torch.from_numpy(solve_ivp(slope, (k, k + 1), states[-1].numpy(), **TIGHT).y[:, -1]))
        return states

    knots = control[committed].numpy()
    states = dict(zip(committed, solve(knots, model.start(control[committed[0]]), len(knots) - 1), strict=True))
    at_queries = []
    for q, seen in zip(queries, before, strict=True):
        if seen:
            at_queries.append(solve(control[[seen[-1], q]].numpy(), states[seen[-1]], 1)[-1])
        else:
            at_queries.append(model.start(control[q]))
    return list(states.values()), at_queries


@pytest.mark.parametrize(
    ("member", "walk", "tolerance"),
    [
        pytest.param(MEMBERS["gru"], gru_by_hand, 1e-12, id="gru"),
        pytest.param(
            Member(ODERNN, {"method": "dopri5", "rtol": 1e-10, "atol": 1e-10}), ode_rnn_by_scipy, 1e-8, id="ode_rnn"
        ),
        pytest.param(Member(NeuralODE, {"steps": 128}), neural_ode_by_scipy, 1e-6, id="neural_ode"),
        pytest.param(Member(ODERNN, {"steps": 64}), ode_rnn_by_scipy, 1e-6, id="ode_rnn-rk4"),
        pytest.param(
            Member(NeuralCDE, {"method": "dopri5", "rtol": 1e-10, "atol": 1e-10}),
            neural_cde_by_scipy,
            1e-7,
            id="neural_cde",
        ),
        pytest.param(Member(NeuralCDE, {"steps": 32}), neural_cde_by_scipy, 1e-6, id="neural_cde-rk4"),
    ],
)
@pytest.mark.parametrize("kind", ["classification", "forecasting"])
def test_against_an_independent_solution(member, walk, tolerance, kind):
    model = member.model(kind, torch.float64)
    series, asked = batch(lengths=(6, 1, 4), dtype=torch.float64)
    asked = asked.nan_to_num(nan=101.0)
    series.observed[1, 0] = True
    together = answer(model(series, asked))
    for b in range(3):
        assert close(together[b : b + 1], truth(model, series, asked, b, walk), tolerance)


@pytest.mark.parametrize("name", ["ode_rnn", "neural_cde", "neural_ode"])
def test_the_default_solver_is_near_the_solution(name):
    series, asked = batch(lengths=(7, 5, 6), dtype=torch.float64)
    default = MEMBERS[name].model("forecasting", torch.float64)
    exact = Member(BASELINES[name], {"method": "dopri8", "rtol": 1e-9, "atol": 1e-9}).model(
        "forecasting", torch.float64
    )
    assert close(answer(default(series, asked)), answer(exact(series, asked)), 2e-2)


def test_layers_of_a_gru():
    model = Member(GRU, {"layers": 2}).model("forecasting", torch.float64)
    series, asked = batch(lengths=(5, 3), dtype=torch.float64)
    encoded = model.encoder(series, asked, 1.0)
    stacked = torch.nn.GRU(8, 8, 2, batch_first=True).double()
    stacked.load_state_dict(
        {
            key.replace("_l0", f"_l{i}"): part
            for i, unit in enumerate(model.units)
            for key, part in unit.state_dict().items()
        }
    )
    for b in range(2):
        committed = encoded.rows.committed[b].nonzero().squeeze(1)
        row = encoded.rows.query_position[b, 0]
        with_query = torch.cat([committed[committed < row], row[None]])
        expected = stacked(encoded.features[b : b + 1, with_query])[0][:, -1:]
        part = model.encoder(series.select([b]), asked[[b]][:, :1], 1.0)
        alone = answer(model.head(part, part.features, part.rows.committed, expected))
        assert close(answer(model(series, asked))[b : b + 1, :1], alone, 1e-12)


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if member.kinds == KINDS])
@pytest.mark.parametrize("kind", ["classification", "forecasting"])
def test_evaluations_are_the_calls_of_the_field(name, kind):
    model, (series, asked) = MEMBERS[name].model(kind), batch()
    calls = []
    fields = [part for name, part in model.named_modules() if name.split(".")[-1] in ("field", "flow")]
    for field in fields:
        layers = [layer for layer in field.modules() if isinstance(layer, torch.nn.Linear)]
        layers[-1].register_forward_hook(lambda *_: calls.append(1))
    model(series, asked)
    once = model.evaluations
    model(series, asked)
    assert once == len(calls) / 2 and model.evaluations == len(calls)
    assert (once > 0) == bool(fields)


def test_evaluations_do_not_grow_with_the_batch():
    model = MEMBERS["ode_rnn"].model("classification")
    model(batch(lengths=(6,) * 20)[0])
    assert model.evaluations == 6 * 2 * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [({"method": "rk5"}, "rk5"), ({"steps": 0}, "steps"), ({"rtol": -1.0}, "rtol"), ({"atol": 0.0}, "atol")],
)
@pytest.mark.parametrize("build", SOLVED)
def test_a_solver_that_cannot_be(build, options, words):
    with pytest.raises(ValueError, match=words):
        build(Problem("classification", 3, 2), **options)


@pytest.mark.parametrize("method", solvers_module._ADAPTIVE)
def test_every_solver_named_is_there(method):
    torch.default_generator.manual_seed(0)
    series, asked = batch(lengths=(3, 2))
    for build in SOLVED:
        model = build(Problem("forecasting", 3, 3, 2), width=4, method=method, rtol=1e-2, atol=1e-2)
        assert answer(model(series, asked)).isfinite().all()


@pytest.mark.parametrize("build", SOLVED)
def test_a_solver_that_cannot_finish_says_so(build, monkeypatch):
    monkeypatch.setattr(solvers_module, "_MOST_STEPS", 0)
    series, _ = batch(lengths=(5,))
    with pytest.raises(ValueError, match=r"dopri5 gave up .*rk4"):
        Member(build, {"method": "dopri5"}).model("classification")(series)


def test_the_error_norm_is_of_the_hardest_series():
    norm = Solver("dopri5").keywords()["options"]["norm"]
    error = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    assert norm(error) == torch.tensor(12.5).sqrt() and not norm(error).requires_grad


def test_parameters_are_about_as_many():
    problem = Problem("classification", channels=70, outputs=2)
    alike = ("gru", "ode_rnn", "neural_cde")  # of one state each, which a width compares
    counts = {name: sum(p.numel() for p in BASELINES[name](problem).parameters()) for name in alike}
    assert max(counts.values()) < 1.2 * min(counts.values()), counts
