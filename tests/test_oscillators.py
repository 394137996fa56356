"""What the oscillators show: whoever does not read the clock is at chance, and LSSL reads it.

`test_only_the_clock_tells_the_classes_apart` in test_synthetic.py holds the data themselves to this: boosting on the
values in their order stays at chance, a periodogram is right.
"""

from functools import cache, partial

import pytest
import torch

from ctlssl import synthetic
from ctlssl.baselines import BASELINES, GRU, REFERENCES
from ctlssl.clock_ablation import clock_ablation
from ctlssl.models import LSSLModel
from ctlssl.tasks import prepare
from ctlssl.training import Training, evaluate, fit, score

OURS = partial(LSSLModel, state_size=64, dropout=0.1)
"""Chosen on the validation part among states of 16 and 64, dropouts of 0, 0.1 and 0.5, and two starts of A."""
BUDGET = Training(epochs=40, patience=40)
"""All epochs for everyone: the loss stays level for ten and more before a frequency is found."""


@pytest.mark.parametrize("name", ["linear", "boosting"])
def test_summaries_are_at_chance(name):
    """They know times by their slopes, their counts and the span, and none of these tells."""
    split = prepare("oscillators/frequency", 0, synthetic.oscillators.generate(series=4000, seed=1))
    fitted = REFERENCES[name](split.problem, seed=0).fit(split.train.series, split.train.labels)
    found = score("classification", fitted.predict(split.test.series), split.test)["auroc"]
    assert abs(found - 0.5) < 0.07  # 3.5 standard deviations of chance


def parameters(model):
    """How many numbers a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def width_of(factory, problem, budget):
    """The width at which a model has as many parameters as another, within 10 %."""
    counts = {}
    for width in range(4, 65):
        try:
            counts[width] = parameters(factory(problem, width))
        except ValueError:  # some widths do not divide into heads
            continue
    width = min(counts, key=lambda width: abs(counts[width] - budget))
    assert abs(counts[width] - budget) < 0.1 * budget
    return width


@cache
def trained(name):
    """The area under the curve of the test part, of LSSL or of a baseline with as many parameters."""
    split = prepare("oscillators/frequency", 0)
    factory, width = OURS, 32
    if name != "lssl":
        torch.manual_seed(0)
        factory = partial(BASELINES[name], dropout=0.1)
        width = width_of(factory, split.problem, parameters(OURS(split.problem, 32)))
    torch.manual_seed(0)
    model = factory(split.problem, width)
    fit(model, split.train, split.valid, BUDGET)
    return evaluate(model, split.test)["auroc"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_is_above_ours_at_equal_parameters(name):
    assert trained("lssl") > 0.99
    assert trained(name) < trained("lssl") + 0.005


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_true_gaps_make_the_difference():
    """With true times LSSL is right; with the same gaps in another order, equal gaps or none, it is at chance."""
    models = {"lssl": OURS, "gru": partial(GRU, dropout=0.1)}
    results = clock_ablation("oscillators", models=models, seeds=1, training=BUDGET, progress=False)
    auroc = results["auroc"].sel(task="oscillators/frequency", seed=0)
    ours = auroc.sel(model="lssl")
    assert (ours.sel(clock="true") > 0.99).all()
    assert (abs(ours.sel(clock=["shuffled", "equal", "none"]) - 0.5) < 0.15).all()  # 3.6 standard deviations of chance
    assert (abs(auroc.sel(model="gru") - 0.5) < 0.15).all()
