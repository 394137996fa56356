"""Views and solvers side by side: errors against scipy, gradients against finite differences, and what is counted."""

import math

import numpy as np
import pytest
import torch
import xarray
from scipy.integrate import solve_ivp

import ctlssl
from ctlssl.agreement import _counted_evaluations, _Trial, _true_trial
from ctlssl.baselines import BASELINES
from ctlssl.contract import Problem
from ctlssl.solver_sweep import LayerRun, compare_views, example_runs, model_runs, solver_sweep
from ctlssl.views_report import plot_views, views_cells, views_markdown, views_tables
from tests.members import batch
from tests.problems import observed_order

TINY = {"channels": 2, "state_size": 4, "batch": 2, "length": 3}


def solved_by_scipy(run):
    """y (B, L, H) of a bank, zero-order hold on the next input, by scipy's implicit Radau at tight tolerances."""
    A, B, C, D = (part.detach().numpy() for part in run.layer.system().to_dense())  # (H, N, N) ...
    u, y = run.u.numpy(), np.zeros(run.u.shape)
    for b, h in np.ndindex(len(u), u.shape[2]):
        x = np.zeros(A.shape[1])
        for k, gap in enumerate(np.broadcast_to(np.asarray(run.dt), u.shape[:2])[b]):
            slope = lambda t, x, h=h, drive=u[b, k, h]: A[h] @ x + B[h] * drive  # noqa: E731
            x = solve_ivp(slope, (0, gap), x, method="Radau", jac=A[h], rtol=1e-11, atol=1e-13).y[:, -1]
            y[b, k, h] = C[h, 0] @ x + D[h, 0] * u[b, k, h]
    return y


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("case", ["irregular", "stiff"])
def test_the_reference_is_the_equation_whatever_the_layers_rule(case, method):
    run = example_runs(method=method, decades=3, **TINY)[case]
    truth = solved_by_scipy(run)
    trial = _Trial(run.layer, run.u, {"dt": run.dt})
    exact = _true_trial(trial, "exact").forward("recurrence").y.numpy()
    assert np.abs(exact - truth).max() <= 1e-8 * np.abs(truth).max()
    own = compare_views({case: run}, solver_sweep(["dopri5"], [1e-4], adjoint=False), 1, gradients=False)
    error = own.error.sel(case=case, view="recurrence").item()
    mine = run.layer(run.u, run.dt)[0].detach().numpy()
    assert error == pytest.approx(np.abs(mine - truth).max() / np.abs(truth).max(), abs=1e-8)
    assert (error < 1e-12) == (method == "zoh")


def test_gradients_of_the_reference_are_those_of_finite_differences():
    run = example_runs(**TINY)["irregular"]
    trial = _true_trial(_Trial(run.layer, run.u, {"dt": run.dt}), "exact")
    found = trial.backward("recurrence")
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(run.u.shape, generator=draw, dtype=torch.float64)
    leaves = [trial.u, *trial.layer.parameters()]
    assert len(found) == len(leaves)
    for slope, leaf in zip(found, leaves, strict=True):
        flat, size = leaf.data.view(-1), 1e-6
        for place in range(0, flat.numel(), 3):
            sides = []
            for sign in (1, -1):
                flat[place] += sign * size
                sides.append((trial.forward("recurrence").y * weights).sum().item())
                flat[place] -= sign * size
            assert slope.reshape(-1)[place].item() == pytest.approx((sides[0] - sides[1]) / (2 * size), abs=1e-6)


def test_tighter_solvers_err_less_and_cost_more_forwards_and_backwards():
    runs = {"irregular": example_runs(**TINY)["irregular"]}
    found = compare_views(runs, solver_sweep(["rk4", "dopri5"], [1e-3, 1e-7], [2, 4, 8]), repeats=1).sel(
        case="irregular"
    )
    adaptive = [f"dopri5 rtol={rtol}" for rtol in ("0.001", "1e-07")]
    names = [f"rk4 steps={n}" for n in (2, 4, 8)] + adaptive + [f"{name} adjoint" for name in adaptive]
    assert list(found.view.values) == ["recurrence", "convolution", *names]
    for names in (adaptive, [f"{name} adjoint" for name in adaptive]):
        part = found.sel(view=names)
        for name in ("error", "gradient_error"):
            assert part[name][1] < min(0.1 * part[name][0], 1e-4)
        assert (part.evaluations.diff("view") > 0).all() and (part.gradient_evaluations.diff("view") > 0).all()
    fixed = found.sel(view=[f"rk4 steps={n}" for n in (2, 4, 8)])
    assert fixed.evaluations.values.tolist() == [4 * n * 3 for n in (2, 4, 8)]
    assert observed_order(np.array([1 / 4, 1 / 8]), fixed.error.values[1:]) == pytest.approx(4, abs=0.6)
    assert found.error.sel(view="recurrence") < 1e-13 and found.gradient_error.sel(view="recurrence") < 1e-12
    assert math.isnan(found.error.sel(view="convolution")) and "one gap" in found.note.sel(view="convolution").item()


def test_the_adjoint_asks_the_field_again_and_remembers_less():
    runs = {"stiff": example_runs(**TINY | {"state_size": 8})["stiff"]}
    found = compare_views(runs, solver_sweep(["dopri5"], [1e-4]), repeats=1).sel(case="stiff")
    direct, adjoint = (found.sel(view=f"dopri5 rtol=0.0001{kind}") for kind in ("", " adjoint"))
    assert direct.gradient_evaluations == direct.evaluations == adjoint.evaluations
    assert adjoint.gradient_evaluations > 1.5 * adjoint.evaluations
    assert adjoint.gradient_memory < 0.5 * direct.gradient_memory


def test_a_solver_lands_on_the_samples():
    """Interpolation past the end would err by 1e-6 here, however tight the tolerance."""
    run = example_runs(channels=2, state_size=8, batch=2, length=6)["irregular"]
    found = compare_views({"mild": run}, [ctlssl.Integration("dopri8", 1e-9, 1e-12)], 1, gradients=False)
    assert found.error.values[0, -1] < 1e-8


def test_stiffness_costs_an_explicit_solver_and_blows_up_a_fixed_one():
    runs = example_runs(channels=2, state_size=16, batch=1, length=4, decades=4)
    found = compare_views(runs, solver_sweep(["rk4", "dopri5"], [1e-3], [1], adjoint=False), 1, gradients=False)
    assert found.fastest.sel(case="stiff") / found.slowest.sel(case="stiff") > 1e4
    evaluations = found.evaluations.sel(view="dopri5 rtol=0.001")
    assert evaluations.sel(case="stiff") > 2 * evaluations.sel(case="irregular")
    assert found.error.sel(case="stiff", view="rk4 steps=1") > 1e2
    assert (found.error.sel(view="recurrence") < 1e-12).all()
    assert found.error.sel(case="uniform grid", view="convolution") < 1e-12


def test_fastest_and_slowest_are_eigenvalues_times_the_gap():
    run = example_runs(**TINY)["stiff"]
    A = run.layer.system().to_dense()[0].detach().numpy()
    speeds = np.abs(np.linalg.eigvals(A)) * run.dt.median().item()
    found = compare_views({"stiff": run}, solver_sweep(["rk4"], steps=[1]), 1, gradients=False)
    assert found.fastest.item() == pytest.approx(speeds.max(), rel=1e-9)
    assert found.fastest / found.slowest == pytest.approx(speeds.max() / speeds.min(), rel=1e-9)


def test_layers_of_a_model_run_on_what_reaches_them():
    series, asked = batch(lengths=(7, 2, 4))
    torch.manual_seed(2)
    problem = Problem("forecasting", 3, 3, 2, time_scale=5.0, first_gap=5.0, horizon=24.0)
    model = ctlssl.LSSLModel(problem, width=6, layers=2, state_size=4, measure="real")
    heard = []
    hooks = [b.layer.register_forward_hook(lambda m, i, o: heard.append((i[0], o[0]))) for b in model.blocks]
    runs = model_runs(model, series, asked, rows=5, dtype=torch.float64)
    assert model.training and list(runs) == ["blocks.0.layer", "blocks.1.layer"]
    assert next(model.parameters()).dtype == torch.float32
    for hook in hooks:
        hook.remove()
    for run, (u, y) in zip(runs.values(), heard[:], strict=True):
        assert run.u.shape == (3, 5, 6) and torch.equal(run.u.float(), u[:, :5])
        again = run.layer(run.u, run.dt, run.lengths, is_query=run.is_query, rate=run.rate)[0]
        assert torch.allclose(again.float(), y[:, :5], atol=1e-5)
    found = compare_views(runs, solver_sweep(["dopri5"], [1e-5], adjoint=False), 1)
    assert (found.error.sel(view="dopri5 rtol=1e-05") < 1e-3).all()
    assert (found.error.sel(view="recurrence") < 1e-12).all()


def test_what_cannot_be_is_refused():
    series, asked = batch(lengths=(3,))
    with pytest.raises(ValueError, match="GRU has no linear state-space layer"):
        model_runs(BASELINES["gru"](Problem("classification", 3, 2, 2), 4), series)
    with pytest.raises(ValueError, match="no case"):
        compare_views({})
    with pytest.raises(ValueError, match="at least one solver"):
        solver_sweep([])
    with pytest.raises(ValueError, match="2 channels and positive decades"):
        example_runs(channels=1)
    with pytest.raises(ValueError, match="Invalid method"):
        compare_views({"one": example_runs(**TINY)["irregular"]}, [ctlssl.Integration("runge")], 1)
    with pytest.raises(ValueError, match="reference 'truth' is unknown; it is one of recurrence, exact"):
        ctlssl.views_agree(ctlssl.LSSL(2, 4), torch.zeros(1, 2, 2), reference="truth")


def test_a_rule_that_blew_up_is_noted():
    layer = ctlssl.LSSL(2, 4, "diagonal", measure="real", method="forward_euler", step_range=(1e3, 1e4)).double()
    run = LayerRun(layer, torch.ones(1, 200, 2, dtype=torch.float64))
    found = compare_views({"euler": run}, [ctlssl.Integration("rk4", steps=1)], 1, gradients=False)
    assert "grew without bound" in found.note.sel(view="recurrence").item()
    assert math.isnan(found.error.sel(case="euler", view="recurrence"))


def test_evaluations_are_counted_only_inside():
    run = example_runs(**TINY)["irregular"]
    with _counted_evaluations() as count:
        run.layer(run.u, run.dt, view=ctlssl.Integration("rk4", steps=3))
    assert count == [3 * 3 * 4]
    run.layer(run.u, run.dt, view=ctlssl.Integration("rk4", steps=3))
    assert count == [3 * 3 * 4]


@pytest.fixture(scope="module")
def small():
    runs = example_runs(**TINY)
    runs = {name: runs[name] for name in ("uniform grid", "stiff")}
    return compare_views(runs, solver_sweep(["rk4", "dopri5"], [1e-3], [1, 2]), repeats=1)


def test_tables_and_markdown_show_every_number(small):
    header, rows = views_cells(small, "uniform grid")
    assert header[:5] == ["view", "error", "ms", "evaluations", "KiB"] and len(header) == 9
    (rk4,) = [row for row in rows if row[0] == "rk4 steps=2"]
    place = small.sel(case="uniform grid", view="rk4 steps=2")
    assert rk4[1] == f"{place.error.item():.1e}" and rk4[2] == f"{1000 * place.seconds.item():.2f}"
    assert rk4[3] == "24" and rk4[4] == f"{place.memory.item() / 1024:.0f}"
    text = views_markdown(small)
    assert "### stiff: inputs (2, 3, 2), |lambda| times the median gap" in text
    assert "| recurrence |" in text and "| convolution | - |" in text
    assert "- convolution: the convolution view needs one gap" in text
    assert [table.row_count for table in views_tables(small)] == [6, 6]


def test_the_picture_has_a_line_a_solver(small, tmp_path):
    figure = plot_views(small)
    top = figure.axes[0]
    lines = {line.get_label(): line for line in top.get_lines()}
    assert list(lines) == ["recurrence", "convolution", "rk4", "dopri5", "dopri5 adjoint"]
    drawn = lines["rk4"].get_xydata()
    part = small.sel(case="uniform grid", view=["rk4 steps=1", "rk4 steps=2"])
    assert np.allclose(drawn, np.stack([part.seconds, part.error], axis=1))
    assert (top.get_xscale(), top.get_yscale()) == ("log", "log") and len(figure.axes) == 4
    figure.savefig(tmp_path / "views.png")
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_is_a_file(small, tmp_path):
    small.to_netcdf(tmp_path / "views.nc", engine="netcdf4")
    again = xarray.load_dataset(tmp_path / "views.nc")
    assert again.identical(small.load()) or np.allclose(again.error, small.error, equal_nan=True)
    assert again.seconds.attrs["units"] == "s" and again.memory.attrs["units"] == "bytes"
