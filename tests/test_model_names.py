"""Models by name, with options behind it."""

import pytest

from ctlssl.baselines import BASELINES, ODERNN
from ctlssl.comparison import plan
from ctlssl.contract import Model, Prediction, Problem
from ctlssl.estimators import LSSLClassifier
from ctlssl.model_names import models_by_name, options_of
from ctlssl.models import MODELS

PROBLEM = Problem("classification", channels=2, outputs=2)


def test_options_reach_the_constructor():
    names = ["ode_rnn:method=dopri5:rtol=1e-3", 'lssl:learn=["B"]:state_size=8:bidirectional=true', "gru"]
    found = models_by_name(names)
    assert list(found) == names
    solver = found[names[0]](PROBLEM, width=4).solver
    assert (solver.method, solver.rtol) == ("dopri5", 1e-3)
    model = found[names[1]](PROBLEM, width=4)
    assert model.bidirectional and not model.blocks[0].layer.log_step.requires_grad
    assert found["gru"] is BASELINES["gru"]


def test_all_and_one():
    assert models_by_name("all").keys() == {**MODELS, **BASELINES}.keys() == models_by_name(["all"]).keys()
    assert list(models_by_name("gru")) == ["gru"] == list(models_by_name(["gru", "gru"]))


@pytest.mark.parametrize(
    "name, message",
    [
        ("lstm", "model 'lstm' is unknown; there are lssl, "),
        ("lstm:layers=2", "model 'lstm:layers=2' is unknown"),
        ("gru:layers", "'layers' in model 'gru:layers' is no option=value; options of gru are dropout, layers."),
        ("gru:depth=2", "'depth=2' in model 'gru:depth=2' is no option=value"),
        ("gru:width=2", "'width=2'"),
        ([], "No model was asked for"),
    ],
)
def test_what_does_not_exist(name, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        models_by_name(name)


class Mine(Model):
    """A model that has no name."""

    def forward(self, series, query_times=None, state=None, rate=1.0):
        return Prediction()


@pytest.mark.parametrize("given", [Mine, [Mine], ["gru", Mine]])
def test_a_class_is_no_name(given):
    with pytest.raises(TypeError, match=r'named by texts here, found Mine; .* compare as models=\{"mine": Mine\}'):
        models_by_name(given)
    with pytest.raises(TypeError, match="found Mine"):
        plan("covid19", models=given)
    with pytest.raises(TypeError, match="found Mine"):
        LSSLClassifier(model=Mine, epochs=1).fit([[0.0], [1.0]] * 5, [0, 1] * 5)


def test_options_of_anything():
    assert options_of(ODERNN) == {"method", "steps", "rtol", "atol", "dropout"}
    assert options_of(lambda problem, width, **rest: None) is None
