"""The problem that a model is built for, and what is refused at its door."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from ctlssl.contract import Model, Prediction, Problem, check_request, rate_per_series
from ctlssl.series import TimeSeries


def test_a_problem_survives_json():
    problem = Problem("regression", channels=np.int64(4), outputs=2, static=1, time_scale=np.float32(0.5), horizon=7)
    assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem


def test_a_problem_without_quantiles_is_written_as_it_always_was():
    names = {"kind", "channels", "outputs", "static", "time_scale", "first_gap", "horizon"}
    assert set(Problem("regression", 1, 1).to_dict()) == names
    problem = Problem("regression", 1, 1, quantiles=[0.1, 0.9])
    assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem
    assert problem.to_dict() == json.loads(json.dumps(problem.to_dict()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "clustering"}, "clustering"),
        ({"kind": "labelling", "outputs": 1}, "outputs is 1"),
        ({"quantiles": (0.5,)}, "classification has none"),
        ({"kind": "regression", "quantiles": (0.5, 0.1)}, "rise"),
        ({"kind": "regression", "quantiles": (0.0, 0.5)}, "between 0 and 1"),
        ({"kind": "regression", "quantiles": 0.5}, "quantiles is 0.5"),
        ({"channels": 0}, "channels is 0"),
        ({"channels": 2.5}, "channels is 2.5"),
        ({"outputs": 1}, "outputs is 1"),
        ({"static": -1}, "static is -1"),
        ({"time_scale": 0.0}, "time_scale"),
        ({"first_gap": float("nan")}, "first_gap"),
        ({"horizon": float("inf")}, "horizon"),
        ({"horizon": "long"}, "horizon"),
        ({"kind": "forecasting", "outputs": 2}, "all 3 channels"),
    ],
)
def test_a_problem_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        Problem(**{"kind": "classification", "channels": 3, "outputs": 2, **changes})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "regression", "channels": 1}, "needs outputs"),
        ({"kind": "regression", "channels": 1, "outputs": 1, "colour": 3}, "colour"),
    ],
)
def test_a_dictionary_that_is_no_problem(values, words):
    with pytest.raises(ValueError, match=words):
        Problem.from_dict(values)


def test_a_prediction_is_empty_until_it_is_filled():
    assert not any(vars(Prediction()).values())


def test_a_model_is_abstract():
    with pytest.raises(TypeError):
        Model(Problem("classification", 1, 2))


def series(channels=2):
    seen = torch.ones(3, 4, channels, dtype=torch.bool)
    return TimeSeries(seen.float(), torch.arange(4.0).expand(3, 4), seen, torch.tensor([4, 4, 4]))


def test_a_request_that_fits():
    problem = Problem("forecasting", 2, 2)
    check_request(problem, series(), torch.full((3, 5), torch.nan, dtype=torch.float64), None)
    check_request(Problem("classification", 2, 2), series(), None, None)


def test_the_position_of_an_infinite_query_is_named():
    asked = torch.zeros(3, 5, dtype=torch.float64)
    asked[1, 4] = torch.inf
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        check_request(Problem("forecasting", 2, 2), series(), asked, None)


@pytest.mark.parametrize("rate", [2.0, 2, torch.tensor(2.0), torch.full((3,), 2.0), np.float32(2)])
def test_rates(rate):
    assert torch.equal(rate_per_series(rate, series()), torch.full((3,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), torch.ones(2), torch.ones(3, 1)])
def test_rates_that_cannot_be(rate):
    with pytest.raises(ValueError, match="rate"):
        rate_per_series(rate, series())


def test_no_solver_is_loaded_before_it_is_used():
    code = "import sys, ctlssl, ctlssl.models, ctlssl.baselines; print({'torchdiffeq', 'torchcde'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
