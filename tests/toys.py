"""Models and examples small enough that their training has a closed form, and made-up results of a comparison."""

import numpy as np
import torch
import xarray

from ctlssl.contract import Model, Prediction, Problem
from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples
from ctlssl.training.metrics import HIGHER_IS_BETTER


class Affine(Model):
    """The first observation times a matrix plus a bias: linear regression, logistic regression or a constant scale."""

    def __init__(self, problem, width=1, dropout=0.0, dtype=torch.float32):
        super().__init__(problem)
        self.linear = torch.nn.Linear(problem.channels, problem.outputs, dtype=dtype)
        self.log_scale = torch.nn.Parameter(torch.zeros(problem.outputs, dtype=dtype))
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, series, query_times=None, state=None, rate=1.0):
        self.evaluations += 3
        seen = torch.where(series.observed[:, 0], series.values[:, 0], 0.0).to(self.linear.weight.dtype)  # (B, D)
        answer = self.linear(self.dropout(seen))  # (B, K)
        if self.problem.kind == "classification":
            return Prediction(logits=answer)
        if self.problem.kind == "regression":
            return Prediction(mean=answer)
        mean = answer[:, None] * torch.nan_to_num(query_times)[..., None].to(answer.dtype)  # (B, Q, D)
        return Prediction(mean=mean, scale=self.log_scale.exp().expand_as(mean))


def series(inputs, lengths=None):
    """Each row of (B, D) as the first observation of a series, followed by others that no toy reads."""
    batch, channels = inputs.shape
    lengths = torch.ones(batch, dtype=torch.int64) if lengths is None else torch.as_tensor(lengths)
    longest = int(lengths.max())
    times = torch.arange(longest, dtype=torch.float64).expand(batch, longest)
    values = torch.zeros(batch, longest, channels, dtype=inputs.dtype)
    values[:, 0] = inputs
    return TimeSeries(values, times, torch.ones_like(values, dtype=torch.bool), lengths)


def names(batch):
    """The ids s0, s1, ..."""
    return np.array([f"s{i}" for i in range(batch)])


def regression(seed, batch=64, noise=0.3):
    """Two inputs, one noisy linear target, float64."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batch, 2, generator=draw, dtype=torch.float64)
    targets = inputs @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64) + 0.5
    targets = targets + noise * torch.randn(batch, 1, generator=draw, dtype=torch.float64)
    problem = Problem("regression", channels=2, outputs=1)
    return problem, Examples(series(inputs), names(batch), labels=targets)


def classification(seed, batch=96, classes=2):
    """Two inputs; the class is where their sum falls, with a few labels changed."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batch, 2, generator=draw)
    rank = torch.argsort(torch.argsort(inputs.sum(1) + 0.3 * torch.randn(batch, generator=draw)))
    lengths = torch.randint(1, 9, (batch,), generator=draw)
    problem = Problem("classification", channels=2, outputs=classes)
    return problem, Examples(series(inputs, lengths), names(batch), labels=(rank * classes) // batch)


def forecasting(seed, batch=40, longest=5):
    """Targets that grow with the query time; later queries are absent in some series, some targets unobserved."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batch, 2, generator=draw)
    counts = torch.randint(1, longest + 1, (batch,), generator=draw)
    times = torch.rand(batch, longest, generator=draw, dtype=torch.float64)
    absent = torch.arange(longest) >= counts[:, None]  # (B, Q)
    targets = (inputs * torch.tensor([2.0, -1.0]))[:, None] * times[..., None].float()  # (B, Q, D)
    observed = (torch.rand(batch, longest, 2, generator=draw) < 0.7) & ~absent[..., None]  # (B, Q, D)
    problem = Problem("forecasting", channels=2, outputs=2)
    examples = Examples(
        series(inputs),
        names(batch),
        query_times=torch.where(absent, torch.nan, times),
        targets=torch.where(observed, targets, torch.nan),
        target_observed=observed,
    )
    return problem, examples


_MODELS = ["lssl", "gru", "ode_rnn", "boosting", "last_value"]
_NAN = [np.nan] * 3


def comparison(seeds=3):
    """Made-up results of two tasks, three neural models and one reference each, as `ctlssl.compare` returns them."""
    scores = {
        "auroc": [[[0.90, 0.92, 0.94], [0.89, 0.90, 0.93], [0.80, 0.82, 0.84], [0.95, 0.96, 0.97], _NAN], [_NAN] * 5],
        "rmse": [[_NAN] * 5, [[0.70, 0.60, 0.65], [0.60, 0.50, 0.55], [0.9, 0.9, 0.9], _NAN, [0.80, 0.70, 0.75]]],
        "train_seconds": [[[4.0] * 3, [2.0] * 3, [40.0] * 3, [0.5] * 3, _NAN]] * 2,
        "seconds_per_epoch": [[[0.2, 0.2, 0.4], [0.1, 0.1, 0.2], [2.0, 2.0, 4.0], _NAN, _NAN]] * 2,
        "epochs": [[[20.0] * 3] * 3 + [_NAN] * 2] * 2,
        "evaluations_per_epoch": [[[0.0] * 3, [0.0] * 3, [160.0] * 3, _NAN, _NAN]] * 2,
        "parameters": [[[9000.0] * 3] * 3 + [_NAN] * 2] * 2,
    }
    for name in HIGHER_IS_BETTER:
        scores.setdefault(name, [[_NAN] * 5] * 2)
    curve = 1.0 / np.arange(1.0, 5.0)  # (E,)
    losses = np.where(np.isnan(np.array(scores["epochs"])[..., None]), np.nan, curve)[:, :, :seeds]  # (T, M, S, E)
    losses[:, 1, 0, 2:] = np.nan  # gru stopped early on the first seed
    return xarray.Dataset(
        {"valid_loss": (("task", "model", "seed", "epoch"), losses)}
        | {name: (("task", "model", "seed"), np.array(values)[..., :seeds]) for name, values in scores.items()},
        {
            "task": ["toy/death", "toy/forecast"],
            "model": _MODELS,
            "seed": list(range(seeds)),
            "epoch": [1, 2, 3, 4],
            "kind": ("task", ["classification", "forecasting"]),
            "family": ("model", ["neural"] * 3 + ["reference"] * 2),
        },
    )
