"""The paper's models by name: their sizes, what is learned, and the contract that they share with all models."""

import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.models import PAPER_MODELS, PAPER_SETTINGS, PaperSize, paper_model
from ctlssl.models.paper import LARGE, SMALL
from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples
from ctlssl.training import Training, evaluate, fit
from ctlssl.training.optimization import parameter_groups
from tests.contracts import generator, same_bits
from tests.problems import relative_error

PIXELS = Problem("classification", channels=1, outputs=10)
TINY = PaperSize(layers=2, width=8, state_size=6, heads=2)


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


def body(model):
    """C and the linear maps, which are what the paper counts."""
    return sum(block.layer.C.numel() + block.mix.weight.numel() for block in model.blocks)


@pytest.mark.parametrize(
    ("name", "said"),
    [("lssl-small", 200e3), ("lssl-fixed-small", 200e3), ("lssl-large", 2e6), ("lssl-fixed-large", 2e6)],
)
def test_parameter_counts_of_the_paper(name, said):
    """M H (H + N) a block exactly, and all that is learned within 6 % of what the paper says in round numbers."""
    model, size = PAPER_MODELS[name](PIXELS), LARGE if "large" in name else SMALL
    assert body(model) == size.parameters
    assert len(model.blocks) == size.layers
    learned = count(parameter for parameter in model.parameters() if parameter.requires_grad)
    print(name, size.parameters, learned)
    assert abs(learned - said) < 0.06 * said
    assert size.parameters < learned < 1.06 * size.parameters


def test_every_setting_of_the_paper():
    """Sizes of table 11 by the paper's own count."""
    counts = {name: setting.size.parameters for name, setting in PAPER_SETTINGS.items()}
    small = ("smnist", "pmnist", "bidmc-rr", "bidmc-hr", "bidmc-spo2", "speech-mfcc")
    assert {counts[name] for name in small} == {6 * 128 * (128 + 128)}
    assert counts["scifar"] == 4 * 4 * 256 * (256 + 256)
    assert counts["speech-raw"] == 4 * 2 * 256 * (256 + 128)
    assert counts["celeba"] == counts["celeba-smiling"] == 3 * 4 * 256 * (256 + 128)


def test_what_is_shared_and_what_is_learned():
    """One A and one B for all channels, a step size for each; LSSL-fixed learns none of them."""
    learned, fixed = (paper_model(PIXELS, TINY, fixed=fixed) for fixed in (False, True))
    layer = learned.blocks[0].layer
    assert layer.B.shape == (8, 6) and layer.parametrizations.B.original.shape == (6,)
    assert layer.log_step.shape == (8,)
    assert all(getattr(layer, name).ndim == 1 for name in dict(layer.named_parameters()) if name.startswith("A_"))
    names = {name for name, _ in fixed.blocks[0].layer.named_parameters()}
    assert names == {"C", "D"}
    dynamics = parameter_groups(learned, Training())[-1]["params"]
    own = {id(parameter) for parameter in dynamics}
    assert id(layer.parametrizations.B.original) in own and id(layer.log_step) in own and id(layer.C) not in own


def records(problem, B=5, L=9, dtype=torch.float64):
    rng = generator("paper records", problem.kind)
    times = torch.from_numpy(rng.exponential(1.0, (B, L)).cumsum(1))
    observed = torch.from_numpy(rng.random((B, L, problem.channels)) < 0.8)
    observed[..., 0] |= ~observed.any(-1)
    values = torch.from_numpy(rng.standard_normal((B, L, problem.channels))).to(dtype)
    static = torch.from_numpy(rng.standard_normal((B, problem.static))).to(dtype) if problem.static else None
    return TimeSeries(values, times, observed, torch.tensor([L, 7, 4, 1, L])[:B], static)


@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(Problem("classification", channels=2, outputs=3, static=2), id="classification"),
        pytest.param(Problem("regression", channels=2, outputs=1), id="regression"),
        pytest.param(Problem("forecasting", channels=2, outputs=2), id="forecasting"),
    ],
)
def test_answers_in_one_pass_and_in_chunks(problem, prenorm):
    model = paper_model(problem, TINY, prenorm=prenorm, step_range=(0.1, 1.0)).double().eval()
    series = records(problem)
    asked = torch.full((5, 1), 60.0, dtype=torch.float64) if problem.kind == "forecasting" else None
    whole = model(series, query_times=asked)
    cut = TimeSeries(
        series.values[:, :4], series.times[:, :4], series.observed[:, :4], series.lengths.clamp(max=4), series.static
    )
    rest = TimeSeries(
        series.values[:, 4:], series.times[:, 4:], series.observed[:, 4:], (series.lengths - 4).clamp(min=0),
        series.static,
    )  # fmt: skip
    state = model(cut, query_times=asked).state
    found = model(rest, query_times=asked, state=state)
    for name in ("logits", "mean", "scale"):
        if getattr(whole, name) is not None:
            assert relative_error(getattr(found, name).detach(), getattr(whole, name).detach()) < 1e-12


def test_a_paper_model_trains_and_is_saved():
    problem = Problem("classification", channels=1, outputs=2)
    rng = generator("paper training")
    labels = torch.from_numpy(rng.integers(0, 2, 64))
    t = torch.arange(20, dtype=torch.float64).expand(64, 20)
    values = torch.sin(t * (0.3 + 0.6 * labels[:, None])) + 0.1 * torch.from_numpy(rng.standard_normal((64, 20)))
    values = values[..., None].float()
    series = TimeSeries(values, t, values == values, torch.full((64,), 20))
    examples = Examples(series, ids=labels.numpy(), labels=labels)
    model = paper_model(problem, TINY, step_range=(0.05, 1.0), dropout=0.1)
    before = model.blocks[0].layer.B.detach().clone()
    fit(model, examples, training=Training(epochs=15, batch_size=16, learning_rate=1e-2))
    assert evaluate(model, examples)["auroc"] > 0.95
    after = model.blocks[0].layer.B
    assert not torch.equal(after, before) and torch.equal(after[0], after[-1])
    again = paper_model(problem, TINY, step_range=(0.05, 1.0))
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert same_bits(again.eval()(series).logits, model.eval()(series).logits)
