"""The controls of the Neural CDE against scipy, and the whole model against torchcde's own call on its own path."""

import numpy as np
import pytest
import torch
import torchcde
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicHermiteSpline

from ctlssl.baselines import NeuralCDE, neural_cde
from ctlssl.contract import Problem
from tests.contracts import generator
from tests.members import Member, answer, batch, close


def polygon(knots):
    """Time first, then the rest: corners of the rectilinear control of one series, one after another."""
    corners = [knots[0]]
    for before, after in zip(knots[:-1], knots[1:], strict=True):
        corners += [np.concatenate([after[:1], before[1:]]), after]
    return np.stack(corners)


def slopes(control, knots):
    """The derivative of a control in every piece, as functions of the place in that piece; whole intervals per knot."""
    if control == "rectilinear":
        return [lambda s, step=step: step for step in np.diff(polygon(knots), axis=0)], 2
    steps = np.diff(knots, axis=0)
    spline = CubicHermiteSpline(np.arange(len(knots)), knots, np.concatenate([steps[:1], steps])).derivative()
    return [lambda s, k=k: spline(k + s) for k in range(len(knots) - 1)], 1


@pytest.mark.parametrize("control", ["hermite", "rectilinear"])
def test_the_control_is_the_one_its_name_says(control):
    knots = generator(control).standard_normal((3, 6, 2))
    path, times = neural_cde._CONTROLS[control](torch.from_numpy(knots))
    assert np.allclose(torch.stack([path.evaluate(t) for t in times], 1), knots, atol=1e-14)
    for b in range(3):
        pieces, whole = slopes(control, knots[b])
        assert len(pieces) == whole * 5 == len(path.grid_points) - 1
        for k, piece in enumerate(pieces):
            for s in (0.25, 0.75):
                assert np.allclose(path.derivative(torch.tensor(k + s).double())[b], piece(s), atol=1e-13)


@pytest.mark.parametrize("options", [{"steps": 24}, {"method": "dopri5", "rtol": 1e-10, "atol": 1e-10}], ids=str)
@pytest.mark.parametrize("control", ["hermite", "rectilinear"])
def test_states_are_those_that_scipy_finds_along_the_control(control, options):
    model = Member(NeuralCDE, {"control": control, **options}).model("classification", torch.float64)
    knots = 0.7 * generator(control, 1).standard_normal((2, 4, 11))
    with torch.no_grad():
        begin = model.start(torch.from_numpy(knots[:, 0]))
        states = model._solve(torch.from_numpy(knots), begin)
    for b in range(2):
        pieces, whole = slopes(control, knots[b])
        z, found = begin[b].numpy(), [begin[b].numpy()]
        for k, piece in enumerate(pieces, start=1):

            def slope(s, z, piece=piece):
                with torch.no_grad():
                    return model.field.body(torch.from_numpy(z)).numpy().reshape(len(z), -1) @ piece(s)

            z = solve_ivp(slope, (0, 1), z, rtol=1e-12, atol=1e-12, method="DOP853").y[:, -1]
            found += [z] if k % whole == 0 else []
        assert np.allclose(states[b], np.stack(found), atol=1e-7)


@pytest.mark.parametrize("control", ["hermite", "rectilinear"])
def test_the_whole_model_is_torchcde_on_one_series(control):
    """Where every row is seen and nothing is padded, the model is plain torchcde between a linear map and the head."""
    model = Member(NeuralCDE, {"control": control, "method": "dopri5", "rtol": 1e-9, "atol": 1e-9})
    model = model.model("regression", torch.float64)
    series, _ = batch(lengths=(6,), dtype=torch.float64)
    series.observed[:] = True
    encoded = model.encoder(series, None, 1.0)
    knots = torch.cat([encoded.elapsed.unsqueeze(-1), encoded.features], dim=-1)  # (1, K, C)
    if control == "hermite":
        path = torchcde.CubicSpline(torchcde.hermite_cubic_coefficients_with_backward_differences(knots))
    else:
        path = torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(knots, rectilinear=0))
    field = lambda t, z: model.field.body(z).unflatten(-1, (8, -1))  # noqa: E731
    solver = {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9, "options": {"jump_t": path.grid_points[1:-1]}}
    states = torchcde.cdeint(path, field, model.start(knots[:, 0]), path.grid_points, adjoint=False, **solver)
    states = states if control == "hermite" else states[:, ::2]
    expected = model.head(encoded, states, encoded.rows.committed, states[:, :0])
    assert close(answer(model(series)), answer(expected), 1e-7)


def test_within_an_interval_the_rectilinear_control_knows_nothing_of_its_end():
    knots = torch.from_numpy(generator("end").standard_normal((1, 3, 2)))
    other = knots.clone()
    other[:, 2, 1] += 1.0
    paths = [neural_cde._rectilinear(given)[0] for given in (knots, other)]
    times = torch.tensor([2.2, 2.9], dtype=torch.float64)  # while time goes on to the last observation
    assert torch.equal(*(torch.stack([path.evaluate(t) for t in times]) for path in paths))


def test_gradients_and_evaluations_of_the_rectilinear_control():
    model = Member(NeuralCDE, {"control": "rectilinear"}).model("forecasting")
    series, asked = batch(lengths=(5, 3))
    answer(model(series, asked)).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    intervals = int(model.encoder(series, asked, 1.0).rows.committed.sum(1).max()) - 1
    assert model.evaluations == 4 * 2 * (intervals + 1) + 2  # two pieces an interval; torchcde asks once a call more


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="control 'linear' is unknown; it is one of hermite, rectilinear"):
        NeuralCDE(Problem("classification", 3, 2), control="linear")
