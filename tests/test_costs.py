"""The cost of a step of training as records grow."""

import pytest

from ctlssl.baselines import BASELINES
from ctlssl.contract import Problem
from ctlssl.costs import _made_up, cost_by_length, ratios
from ctlssl.models import MODELS

PROBLEMS = {
    "classification": Problem("classification", channels=3, outputs=2, static=1, time_scale=0.5),
    "forecasting": Problem("forecasting", channels=3, outputs=3, time_scale=2.0),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_every_model_is_timed_and_its_evaluations_grow_with_length(kind):
    costs = cost_by_length(MODELS | BASELINES, PROBLEMS[kind], lengths=(3, 12), batch=2, repeats=1, width=8)
    assert list(costs.model.values) == [*MODELS, *BASELINES]
    assert (costs.seconds > 0).all()
    evaluations = costs.evaluations.sel(model=["ode_rnn", "neural_cde"])
    assert (evaluations.sel(length=12) > 3 * evaluations.sel(length=3)).all()
    assert (costs.evaluations.sel(model=["lssl", "gru"]) == 0).all()


def test_made_up_records_have_clocks_of_their_own_at_the_problems_scale():
    series, queries = _made_up(PROBLEMS["forecasting"], batch=50, length=200)
    gaps = series.times.diff(dim=1)
    assert gaps.mean().item() == pytest.approx(2.0, rel=0.05)
    assert gaps.std().item() == pytest.approx(2.0, rel=0.05)  # exponential: as large as the mean
    assert len(series.times[:, 0].unique()) == 50
    assert (queries > series.times[:, -1:]).all()


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="of at least 1 are needed"):
        cost_by_length({}, PROBLEMS["forecasting"])
    with pytest.raises(ValueError, match="of at least 1 are needed"):
        cost_by_length(MODELS, PROBLEMS["forecasting"], lengths=(0,))


def test_models_of_one_budget_and_their_ratios():
    models = {name: BASELINES[name] for name in ("gru", "neural_cde")}
    costs = cost_by_length(models, PROBLEMS["classification"], (2, 4), batch=2, repeats=3, parameters=4000)
    assert (abs(costs.parameters - 4000) <= 400).all() and costs.width.sel(model="gru") > costs.width.sel(
        model="neural_cde"
    )
    assert dict(costs.repetitions.sizes) == {"repetition": 3, "model": 2, "length": 2}
    by_hand = [sorted(costs.repetitions.values[:, 1, i] / costs.repetitions.values[:, 0, i])[1] for i in range(2)]
    assert ratios(costs, "gru").sel(model="neural_cde").values == pytest.approx(by_hand)
    assert (ratios(costs, "gru").sel(model="gru") == 1).all()
    with pytest.raises(ValueError, match="'lssl' was not timed; there are gru, neural_cde."):
        ratios(costs, "lssl")
