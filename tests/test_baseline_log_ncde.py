"""Log-signatures against iterated integrals summed naively, Lie brackets against autograd, the model against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ctlssl.baselines import LogNCDE
from ctlssl.baselines.log_ncde import _Field
from ctlssl.baselines.log_signature import LogSignature, log_signatures
from ctlssl.contract import Problem
from tests.contracts import generator
from tests.members import Member, answer, batch, close

TIGHT = {"rtol": 1e-12, "atol": 1e-12, "method": "DOP853"}


def area_by_sums(steps):
    """Levy areas of one polygon (K, C): the iterated integrals over s < t as a double sum over its straight steps."""
    channels = steps.shape[1]
    integral = np.zeros((channels, channels))
    for i in range(channels):
        for j in range(channels):
            for t in range(len(steps)):
                integral[i, j] += 0.5 * steps[t, i] * steps[t, j]  # both on the same step
                for s in range(t):
                    integral[i, j] += steps[s, i] * steps[t, j]
    return 0.5 * (integral - integral.T)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 9])
def test_log_signatures_are_the_iterated_integrals(window):
    steps = generator(window).standard_normal((2, 7, 3))
    found = log_signatures(torch.from_numpy(steps), window)
    assert found.increment.shape == (2, 7 // window + 1, window + 1, 3)
    for b in range(2):
        for m in range(7 // window + 1):
            for k in range(window + 1):
                part = steps[b, m * window : (m + 1) * window][:k]
                assert np.allclose(found.increment[b, m, k], part.sum(0), atol=1e-13)
                assert np.allclose(found.area[b, m, k], area_by_sums(part), atol=1e-13)


def test_the_area_of_a_circle_and_what_changes_no_signature():
    angles = torch.linspace(0, 2 * math.pi, 2001, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], dim=-1)
    around = log_signatures(circle.diff(dim=0)[None], 2000)
    assert around.increment[0, 0, -1].abs().max() < 1e-13
    assert around.area[0, 0, -1, 0, 1].item() == pytest.approx(math.pi, rel=1e-5)
    corner = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]], dtype=torch.float64)
    slowly = corner.repeat_interleave(5, dim=1) / 5  # the same path, run through in more steps
    for once, again in zip(log_signatures(corner, 2), log_signatures(slowly, 10), strict=True):
        assert torch.allclose(once[0, 0, -1], again[0, 0, -1], atol=1e-14)


def test_a_step_behind_a_path():
    steps = torch.from_numpy(generator("behind").standard_normal((1, 5, 3)))
    whole = log_signatures(steps, 5)
    before = LogSignature(whole.increment[0, 0, 4], whole.area[0, 0, 4])
    for found, expected in zip(before.followed_by(steps[0, 4]), whole, strict=True):
        assert torch.allclose(found, expected[0, 0, 5], atol=1e-14)


def slope_by_brackets(field, z, increment, area):
    """sum_i L_i f^i + sum_{i<j} A_ij (J_{f^j} f^i - J_{f^i} f^j), with Jacobians by autograd."""
    columns = field.columns(z[None])[0].detach()  # (W, C)
    jacobians = torch.autograd.functional.jacobian(lambda z: field.columns(z[None])[0], z)  # (W, C, W)
    total = columns @ increment
    for i in range(len(increment)):
        for j in range(i + 1, len(increment)):
            bracket = jacobians[:, j] @ columns[:, i] - jacobians[:, i] @ columns[:, j]
            total = total + area[i, j] * bracket
    return total


def test_lie_brackets_are_those_of_autograd():
    torch.manual_seed(3)
    field = _Field(5, 4).double()
    z, increment = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    area = torch.randn(3, 4, 4, dtype=torch.float64)
    area = area - area.mT
    found = field(z, increment, area)
    for n in range(3):
        assert torch.allclose(found[n], slope_by_brackets(field, z[n], increment[n], area[n]), atol=1e-13)
    assert torch.autograd.gradcheck(field, [part.requires_grad_() for part in (z, increment, area)])


def by_scipy(model, control, committed, queries):
    """States where windows end, and at queries, of one series: the paper's equation window by window."""
    knots, w = control[committed], model.window

    def solve(z, path):
        steps = np.diff(path, axis=0)
        increment, area = torch.from_numpy(steps.sum(0)), torch.from_numpy(area_by_sums(steps))
        slope = lambda s, z: slope_by_brackets(model.field, torch.from_numpy(z), increment, area).detach()  # noqa: E731
        return solve_ivp(slope, (0, 1), z, **TIGHT).y[:, -1]

    def start(row):
        return model.start(torch.from_numpy(row)).detach().numpy()

    states = [start(knots[0])]
    for begin in range(0, len(knots) - 1, w):
        states.append(solve(states[-1], knots[begin : begin + w + 1]))
    at_queries = []
    for q in queries:
        last = sum(k < q for k in committed) - 1
        if last < 0:
            at_queries.append(start(control[q]))
        else:
            path = np.concatenate([knots[last // w * w : last + 1], control[q : q + 1]])
            at_queries.append(solve(states[last // w], path))
    return torch.from_numpy(np.stack(states)), torch.from_numpy(np.stack(at_queries))


@pytest.mark.parametrize("options", [{"steps": 16}, {"method": "dopri5", "rtol": 1e-10, "atol": 1e-10}], ids=str)
@pytest.mark.parametrize(("kind", "window"), [("classification", 2), ("forecasting", 2), ("forecasting", 3)])
def test_the_model_is_the_papers_equation(kind, window, options):
    model = Member(LogNCDE, {"window": window, "control_channels": 3, **options}).model(kind, torch.float64)
    series, asked = batch(lengths=(6, 1, 5), dtype=torch.float64)
    asked = asked.nan_to_num(nan=101.0)
    series.observed[:, 0] = True
    together = answer(model(series, asked))
    for b in range(3):
        encoded = model.encoder(series.select([b]), asked[[b]], 1.0)
        control = torch.cat([encoded.elapsed.unsqueeze(-1), encoded.features], dim=-1)[0].detach().numpy()
        committed = encoded.rows.committed[0].nonzero().squeeze(1).tolist()
        queries = encoded.rows.query_position[0].tolist()
        states, at_queries = by_scipy(model, control, committed, queries or committed[:1])
        inside = torch.ones(1, len(states), dtype=torch.bool)
        expected = answer(model.head(encoded, states[None], inside, at_queries[None]))
        assert close(together[b : b + 1], expected, 1e-7)


def test_the_order_of_the_log_ode_method():
    """Of a path made half as large the error is an eighth with areas, a quarter with increments alone."""
    torch.manual_seed(1)
    field, begin = _Field(4, 3).double(), torch.randn(1, 4, dtype=torch.float64)
    path = generator("path").standard_normal((6, 3))

    def solve(z, slope):
        with torch.no_grad():
            return solve_ivp(lambda s, z: slope(torch.from_numpy(z)[None])[0].numpy(), (0, 1), z, **TIGHT).y[:, -1]

    def errors(size):
        z = begin[0].numpy()
        for step in torch.from_numpy(size * path):  # the equation itself: one straight step after another
            z = solve(z, lambda z, step=step: field.columns(z) @ step)
        L, A = (part[:, 0, -1] for part in log_signatures(torch.from_numpy(size * path)[None], 6))
        found = [solve(begin[0].numpy(), lambda z, A=area: field(z, L, A)) for area in (A, torch.zeros_like(A))]
        return np.array([np.abs(ends - z).max() for ends in found])

    with_areas, alone = np.log2(errors(0.02) / errors(0.01))
    assert with_areas == pytest.approx(3, abs=0.2) and alone == pytest.approx(2, abs=0.2)


def test_a_window_of_one_is_a_linear_control():
    """No area in a straight step: the same as the increments alone."""
    model = Member(LogNCDE, {"window": 1}).model("classification", torch.float64)
    series, _ = batch(lengths=(5, 3), dtype=torch.float64)
    expected = answer(model(series))
    calls = model.evaluations
    model.field.forward = lambda z, L, A: (model.field.columns(z) @ L.unsqueeze(-1)).squeeze(-1)
    assert close(answer(model(series)), expected, 1e-12) and calls == model.evaluations - calls


def test_a_window_cannot_be_empty():
    with pytest.raises(ValueError, match="window is 0"):
        LogNCDE(Problem("classification", 3, 2), window=0)
    with pytest.raises(ValueError, match="found 0"):
        log_signatures(torch.zeros(1, 2, 3), 0)
