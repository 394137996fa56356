"""Every model and baseline under the contract of `ctlssl.contract.Model`, and irregular batches to hold them to it.

A new model or baseline in MODELS or BASELINES is here at once and inherits all tests of `test_members`.
"""

from dataclasses import dataclass, field, replace

import pytest
import torch

from ctlssl.baselines import BASELINES
from ctlssl.contract import KINDS, Model, Problem
from ctlssl.layers import FAMILY
from ctlssl.models import MODELS
from ctlssl.series import TimeSeries

CHANNELS, STATIC = 3, 2


@dataclass(frozen=True)
class Member:
    """A class under contract.

    Args:
        build: the class, or what builds one.
        options: of its constructor.
        neighbours: how far one series may move when the batch around it changes, relative to the largest output;
            more than rounding only for a solver that chooses its steps for the whole batch.
        kinds: of problems that it answers.
    """

    build: type[Model]
    options: dict = field(default_factory=dict)
    neighbours: float = 1e-5
    kinds: tuple[str, ...] = KINDS

    def model(self, kind, dtype=torch.float32, **changes):
        """The model of a kind of problem, ready to predict, always with the same weights."""
        torch.default_generator.manual_seed(7)
        model = self.build(replace(PROBLEMS[kind], **changes), width=8, **self.options).to(dtype).eval()
        with torch.no_grad():  # away from the start, where a bias is zero and a forecast is close to the last value
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model


PROBLEMS = {
    "classification": Problem("classification", CHANNELS, 3, STATIC, time_scale=0.5, first_gap=0.75, horizon=24.0),
    "regression": Problem("regression", CHANNELS, 2, STATIC, time_scale=0.5, first_gap=0.75, horizon=24.0),
    "forecasting": Problem("forecasting", CHANNELS, CHANNELS, STATIC, time_scale=0.5, first_gap=0.75, horizon=24.0),
    "survival": Problem("survival", CHANNELS, 4, STATIC, time_scale=0.5, first_gap=0.75, horizon=24.0),
    "labelling": Problem("labelling", CHANNELS, 3, STATIC, time_scale=0.5, first_gap=0.75, horizon=24.0),
}
PROBLEMS["quantiles"] = replace(PROBLEMS["forecasting"], quantiles=(0.1, 0.5, 0.8))
FURTHER = ("survival", "labelling", "quantiles")  # other heads on the features of the kinds before them
ADAPTIVE = {
    f"{name}-dopri5": Member(BASELINES[name], {"method": "dopri5"}, neighbours=1e-2)
    for name in ("ode_rnn", "neural_cde", "log_ncde")
}
VARIANTS = {
    "neural_cde-rectilinear": Member(BASELINES["neural_cde"], {"control": "rectilinear"}),
    "lssl-pieces": Member(MODELS["lssl"], {"pieces": 4, "pooling": ("mean", "last")}),
    "lssl-summaries": Member(MODELS["lssl"], {"summaries": True}, kinds=("classification", "regression")),
    "lssl-deep-summaries": Member(MODELS["lssl"], {"summaries": "deep"}, kinds=("classification", "regression")),
}
MEMBERS = {name: Member(build) for name, build in {**MODELS, **BASELINES}.items()} | ADAPTIVE | VARIANTS


def marks(name):
    """Stacks of the family differ in their layer alone, which `test_family` holds to its contract: all else is slow."""
    return (pytest.mark.slow,) if name in FAMILY else ()


def marks_of(name, kind):
    """What the further kinds ask of a model is what the first do: most models stand to them in the slow tests."""
    return (pytest.mark.slow,) if kind in FURTHER and name not in ("lssl", "gru", "mtan") else marks(name)


EVERY_MEMBER = [
    pytest.param(member, id=name, marks=marks(name)) for name, member in MEMBERS.items() if member.kinds == KINDS
]
EVERY_PROBLEM = [
    pytest.param(member, kind, id=f"{name}-{kind}", marks=marks_of(name, kind))
    for name, member in MEMBERS.items()
    for kind, problem in PROBLEMS.items()
    if problem.kind in member.kinds
]


def batch(lengths=(7, 1, 4, 0, 5), queries=4, seed=0, dtype=torch.float32):
    """Irregular series with missing values, rows that repeat a time and rows with nothing in them, and query times.

    Times are multiples of 1/64, so that shifts by and products with powers of two are exact.
    """
    draw = torch.Generator().manual_seed(seed)
    size = (len(lengths), max(lengths, default=0))
    gaps = torch.exp(2 * torch.randn(size, generator=draw, dtype=torch.float64)).mul(64).round() / 64
    times = 100 + torch.where(torch.rand(size, generator=draw) < 0.2, 0.0, gaps).cumsum(1)  # (B, L)
    observed = torch.rand(*size, CHANNELS, generator=draw) < 0.5  # (B, L, D)
    observed[..., 2] &= torch.rand(size, generator=draw) < 0.2  # so rare that some series never see it
    observed[:1, :1, 0] = True
    series = TimeSeries(
        torch.randn(*size, CHANNELS, generator=draw, dtype=dtype),
        times,
        observed,
        torch.tensor(lengths, dtype=torch.int64),
        torch.randn(len(lengths), STATIC, generator=draw, dtype=dtype),
    )
    asked = 100 + 40 * torch.rand(len(lengths), queries, generator=draw, dtype=torch.float64).mul(64).round() / 64
    asked[:, 1:2] = 99.0  # before the first observation
    asked[1:2, 2:] = torch.nan
    return series, asked


def answer(prediction):
    """All numbers of a prediction side by side, the last axis over outputs."""
    parts = [part for part in (prediction.logits, prediction.mean, prediction.scale) if part is not None]
    if prediction.quantiles is not None:
        parts.append(prediction.quantiles.flatten(-2))
    return torch.cat(parts, dim=-1)


def gradients(model, loss):
    """The gradient of every parameter, by name."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def same_bits(a, b):
    """Whether two tensors, or two dictionaries of them, are equal bit for bit; None is equal to None."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)
    return a is b if a is None or b is None else bool(torch.equal(a, b))


def close(a, b, tolerance):
    """Whether the largest difference is within `tolerance` of the largest number."""
    return a.shape == b.shape and (a - b).abs().max().item() <= tolerance * max(1.0, b.abs().max().item())
