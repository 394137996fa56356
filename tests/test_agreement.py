"""The report on the views, and the example that shows it."""

import math

import pytest
import torch

import ctlssl
from ctlssl.agreement import _with_peak_memory
from examples import three_views


def layer_and_inputs(method="zoh", **options):
    torch.manual_seed(5)
    layer = ctlssl.LSSL(3, 8, "diagonal", method=method, **options).double()
    return layer, torch.randn(2, 10, 3, dtype=torch.float64)


def test_all_views_agree_on_a_regular_grid():
    layer, u = layer_and_inputs()
    tight = ctlssl.Integration(rtol=1e-8, atol=1e-10)
    report = ctlssl.views_agree(layer, u, 0.5, solvers=[tight], repeats=1)
    assert list(report.view.values) == ["recurrence", "convolution", "dopri5 rtol=1e-08"]
    assert report.error.sel(view="recurrence") == 0
    assert report.error.sel(view="convolution") < 1e-12
    assert report.error.sel(view="dopri5 rtol=1e-08") < 1e-6
    assert (report.seconds > 0).all() and (report.memory > u.numel() * 8).all()
    assert report.evaluations.values.tolist()[:2] == [0, 0] and report.evaluations.values[2] > 10 * 6


def test_a_looser_tolerance_costs_less_and_errs_more():
    layer, u = layer_and_inputs()
    solvers = [ctlssl.Integration(rtol=rtol, atol=rtol / 100) for rtol in (1e-3, 1e-6)]
    report = ctlssl.views_agree(layer, u, torch.rand(2, 10, dtype=torch.float64), solvers=solvers, repeats=1)
    assert math.isnan(report.error.sel(view="convolution"))
    loose, tight = report.error.values[-2:]
    assert tight < loose < 1e-1
    assert report.evaluations.values[-2] < report.evaluations.values[-1]


def test_a_gbt_rule_differs_from_the_solver_by_its_order():
    errors = []
    for count in (16, 32):
        torch.manual_seed(1)
        layer = ctlssl.LSSL(1, 4, method="trapezoid", step_range=(1.0, 1.0)).double()
        times = torch.linspace(0, 2, count, dtype=torch.float64)
        u = torch.sin(3 * times)[None, :, None]
        report = ctlssl.views_agree(layer, u, 2 / (count - 1), solvers=[ctlssl.Integration(rtol=1e-7)], repeats=1)
        errors.append(report.error.values[-1])
    assert 3 < errors[0] / errors[1] < 5


def test_bad_arguments_are_refused():
    layer, u = layer_and_inputs()
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        ctlssl.views_agree(layer, u, repeats=0)
    with pytest.raises(ValueError, match="u needs shape"):
        ctlssl.views_agree(layer, u[..., :2])


def test_with_peak_memory_counts_what_is_held_at_one_time():
    def run():
        a = torch.zeros(1000, dtype=torch.float64)
        b = a + 1
        del a
        return (b * 2)[:10]

    assert _with_peak_memory(run)[1] == 16_000


def test_the_example_runs_and_shows_agreement():
    differences = three_views.main(channels=2, length=16)
    assert differences["convolution"] < 1e-12
    assert differences["solver"] < 1e-4
    assert differences["chunks"] < 1e-14
