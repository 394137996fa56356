"""An ensemble against the mixture written out, and its state against those of its members."""

import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.models import Ensemble, LayerModel, LSSLModel
from tests.members import PROBLEMS, answer, batch, close


def members(kind, summaries=False):
    """Three models of one problem that differ in depth, width and kind."""
    torch.manual_seed(3)
    problem = PROBLEMS[kind]
    first = LSSLModel(problem, width=6, layers=2, summaries=summaries)
    others = LSSLModel(problem, width=8), LayerModel(problem, width=4, layer="signed")
    return [model.double().eval() for model in (first, *others)]


def test_probabilities_are_averaged():
    series, _ = batch(dtype=torch.float64)
    models = members("classification")
    found = Ensemble(models)(series).logits.exp()
    expected = sum(model(series).logits.softmax(1) for model in models) / 3
    torch.testing.assert_close(found / found.sum(1, keepdim=True), expected)


def test_probabilities_at_queries_are_averaged():
    series, asked = batch(dtype=torch.float64)
    models = members("labelling")
    found = Ensemble(models)(series, asked).logits
    expected = sum(model(series, asked).logits.softmax(2) for model in models) / 3
    torch.testing.assert_close(found.softmax(2), expected)
    assert (found[asked.isnan()] == 0).all()


def test_survival_curves_are_averaged():
    series, _ = batch(dtype=torch.float64)
    models = members("survival")

    def curve(model):
        return torch.cumprod(1 - model(series).logits.sigmoid(), dim=1)

    torch.testing.assert_close(curve(Ensemble(models)), sum(map(curve, models)) / 3)


def test_quantiles_are_averaged():
    series, asked = batch(dtype=torch.float64)
    models = members("quantiles")
    found = Ensemble(models)(series, asked)
    torch.testing.assert_close(found.quantiles, sum(model(series, asked).quantiles for model in models) / 3)
    torch.testing.assert_close(found.mean, found.quantiles[..., 1])


@pytest.mark.parametrize("kind", ["regression", "forecasting"])
def test_mean_and_scale_are_those_of_the_mixture(kind):
    series, asked = batch(dtype=torch.float64)
    models = members(kind)
    found = Ensemble(models).requires_grad_(False)(series, asked)
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers = [model(series, asked) for model in models]
    flat = [(one.mean.flatten()[0], one.scale.flatten()[0]) for one in answers]
    sample = torch.cat([mean + scale * normal for mean, scale in flat])
    assert float(found.mean.flatten()[0]) == pytest.approx(float(sample.mean()), abs=0.02)
    assert float(found.scale.flatten()[0]) == pytest.approx(float(sample.std()), rel=0.02)


@pytest.mark.parametrize(
    ("kind", "summaries"), [("classification", True), ("regression", False), ("forecasting", False)]
)
def test_in_chunks_with_the_state_handed_over(kind, summaries):
    series, asked = batch(lengths=(7, 5), dtype=torch.float64)
    model = Ensemble(members(kind, summaries))
    whole = model(series, torch.full_like(asked[:2], torch.nan) if kind == "forecasting" else None)
    first = type(series)(
        *(part[:, :3] for part in (series.values, series.times, series.observed)), torch.tensor([3, 3])
    )
    rest = type(series)(*(part[:, 3:] for part in (series.values, series.times, series.observed)), torch.tensor([4, 2]))
    none = torch.full((2, 1), torch.nan, dtype=torch.float64) if kind == "forecasting" else None
    first, rest = (with_static(part, series.static) for part in (first, rest))
    state = model(first, none).state
    after = model(rest, none, state=state)
    assert whole.state.tensors().keys() == after.state.tensors().keys()
    for name, tensor in whole.state.tensors().items():
        torch.testing.assert_close(after.state.tensors()[name], tensor, rtol=1e-9, atol=1e-9)
    if kind != "forecasting":
        assert close(answer(whole), answer(after), 1e-9)
    again = type(state).from_tensors(state.tensors())
    assert torch.equal(answer(model(rest, none, state=again)), answer(after))


def with_static(series, static):
    """The same series with covariates."""
    return type(series)(series.values, series.times, series.observed, series.lengths, static)


def test_members_of_several_problems_are_refused():
    with pytest.raises(ValueError, match="models of one problem"):
        Ensemble([LSSLModel(PROBLEMS["regression"]), LSSLModel(PROBLEMS["classification"])])
    with pytest.raises(ValueError, match="models of one problem; found 0"):
        Ensemble([])


def test_a_member_without_a_state_leaves_the_ensemble_without_one():
    problem = Problem("classification", 3, 2, 2)
    model = Ensemble([LSSLModel(problem, width=4), LSSLModel(problem, width=4, bidirectional=True)]).eval()
    assert model(batch()[0]).state is None
    with pytest.raises(ValueError, match="keeps and takes no state"):
        model.initial_state(1)
