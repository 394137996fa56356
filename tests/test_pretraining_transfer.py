"""What a transfer takes, what it leaves, and the models between which there is none."""

from dataclasses import replace

import pytest
import torch

from ctlssl.baselines import BASELINES, GRU
from ctlssl.models import MODELS, EventModel, LSSLModel
from ctlssl.pretraining import transfer
from tests.members import PROBLEMS, batch

FORECAST, LABELS = PROBLEMS["forecasting"], PROBLEMS["classification"]


@pytest.mark.parametrize("build", [*MODELS.values(), *BASELINES.values(), EventModel])
def test_all_but_the_head_is_taken(build):
    torch.manual_seed(0)
    pretrained, model = build(FORECAST, width=8), build(LABELS, width=8)
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.add_(torch.randn_like(parameter))
    source = {name: value.clone() for name, value in pretrained.state_dict().items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = transfer(pretrained, model)
    after = model.state_dict()
    assert set(done.taken) == {name for name in after if not name.startswith("head.")} and done.taken
    assert set(done.kept) == {name for name in after if name.startswith("head.")} and done.kept
    assert set(done.taken) | set(done.left) == set(source) and not set(done.taken) & set(done.left)
    assert all(torch.equal(after[name], source[name]) for name in done.taken)
    assert all(torch.equal(after[name], before[name]) for name in done.kept)
    assert all(torch.equal(value, source[name]) for name, value in pretrained.state_dict().items())
    with torch.no_grad():  # weights of its own, not shared with the pre-trained model
        next(model.parameters()).add_(1)
    assert all(torch.equal(value, source[name]) for name, value in pretrained.state_dict().items())


def test_the_features_are_those_of_the_pretrained_model():
    torch.manual_seed(0)
    pretrained, model = LSSLModel(FORECAST, width=8).eval(), LSSLModel(LABELS, width=8).eval()
    series, _ = batch()
    model(series)  # whatever it keeps of its first weights
    transfer(pretrained, model)
    hidden = {}
    for name, part in {"pretrained": pretrained, "model": model}.items():
        part.norm.register_forward_hook(lambda module, given, out, name=name: hidden.update({name: out}))
    with torch.no_grad():
        model(series)
        pretrained(series, torch.empty(len(series), 0, dtype=torch.float64))
    assert torch.equal(hidden["model"], hidden["pretrained"])


@pytest.mark.parametrize(
    ("pretrained", "message"),
    [
        (GRU(FORECAST, width=8), "weights of a GRU do not fit a LSSLModel"),
        (LSSLModel(FORECAST, width=16), "the models differ in"),
        (LSSLModel(FORECAST, width=8, layers=2), r"the models differ in 'blocks.1'.*nothing in the other"),
        (LSSLModel(FORECAST, width=8, method="bilinear"), r"'blocks.0.layer'.*bilinear.*zoh"),
        (LSSLModel(FORECAST, width=8, bidirectional=True), "the models differ in"),
        (
            LSSLModel(replace(FORECAST, time_scale=1.0), width=8),
            "differ in time_scale: 1.0 in the pre-trained model, 0.5",
        ),
        (LSSLModel(replace(FORECAST, channels=4, outputs=4), width=8), "differ in channels: 4"),
    ],
)
def test_models_that_do_not_fit(pretrained, message):
    model = LSSLModel(LABELS, width=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        transfer(pretrained, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_dropout_is_no_other_model():
    transfer(LSSLModel(FORECAST, width=8, dropout=0.1), LSSLModel(LABELS, width=8, dropout=0.5))
