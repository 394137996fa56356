"""Models, records and ways to feed them, for the tests of streams."""

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl import Problem, TimeSeries
from tests.contracts import generator

D, S = 3, 2
NAN = float("nan")


def problem(kind, static=0, **clock):
    outputs = {"forecasting": D, "classification": 2, "regression": 1}[kind]
    return Problem(kind, D, outputs, static, **({"time_scale": 0.5, "first_gap": 0.25, "horizon": 24.0} | clock))


def model(kind="forecasting", name="lssl", static=0, dtype=torch.float64, **options):
    torch.manual_seed(3)
    build = ({"lssl": ctlssl.LSSLModel} | ctlssl.baselines.BASELINES)[name]
    made = build(problem(kind, static), 8, **options).to(dtype)
    with torch.no_grad():  # the heads of forecasts start near zero: a test of their features needs them awake
        for weight in made.head.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return made


def records(key, batch=4, longest=12, static=0, dtype=torch.float64):
    """Series of 0 to `longest` rows with gaps over three decades, of which half the values are missing."""
    rng = generator(key)
    times = np.cumsum(10 ** rng.uniform(-2, 1, (batch, longest)), axis=1) + rng.uniform(-50, 50, (batch, 1))
    observed = rng.random((batch, longest, D)) < 0.5
    lengths = rng.integers(1, longest + 1, batch)
    lengths[0] = longest
    values = torch.from_numpy(rng.normal(size=(batch, longest, D))).to(dtype)
    covariates = torch.from_numpy(rng.normal(size=(batch, static))).to(dtype) if static else None
    return TimeSeries(
        values, torch.from_numpy(times), torch.from_numpy(observed), torch.from_numpy(lengths), covariates
    )


def feed(stream, series, rows=None):
    """All rows, each column of the batch as one call in which some streams may be silent."""
    for k in rows or range(series.length):
        times = torch.where(series.in_length[:, k], series.times[:, k], torch.nan)
        stream.observe(times, series.values[:, k], series.observed[:, k])


def ends(series):
    """Query times (B, 3) after the last row of each series, the last of them absent."""
    last = torch.where(series.in_length, series.times, -torch.inf).amax(1, keepdim=True)
    return last + torch.tensor([[0.0, 3.0, torch.nan]], dtype=torch.float64)


def batch_answer(built, series, queries=None, rate=1.0):
    with torch.no_grad():
        return built.eval()(series, queries, rate=rate)


def assert_same(found, expected, rtol=1e-11):
    """Answers agree relative to their size; the state is compared where both have one."""
    for name in ("logits", "mean", "scale"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape
            assert (a - b).abs().max() <= rtol * b.abs().max(), name


def same_bits(a, b):
    return all(torch.equal(x, b.tensors()[name]) for name, x in a.tensors().items())


def ask(stream, queries):
    return stream.predict(queries if stream.model.problem.kind == "forecasting" else None)


MODELS = {
    "forecast": ("forecasting", {}),
    "forecast-static": ("forecasting", {"static": S}),
    "two-layers": ("forecasting", {"layers": 2}),
    "class": ("classification", {"layers": 2}),
    "class-static": ("classification", {"static": S}),
    "regression": ("regression", {}),
    "foh": ("forecasting", {"method": "foh", "layers": 2}),
    "impulse": ("classification", {"method": "impulse"}),
    "bank-dplr": ("forecasting", {"structure": "dplr", "method": "bilinear", "multi_input": False}),
    "quasiseparable": ("forecasting", {"structure": "quasiseparable", "method": "backward_euler"}),
    "gru": ("forecasting", {"name": "gru", "layers": 2}),
    "gru-class": ("classification", {"name": "gru"}),
    "ode-rnn": ("forecasting", {"name": "ode_rnn"}),
    "gru-d": ("forecasting", {"name": "gru_d"}),
    "cfc-class": ("classification", {"name": "cfc"}),
    "s5": ("forecasting", {"name": "s5", "layers": 2}),
}


SOME = {"two-layers", "class-static", "gru", "gru-d"}  # those that the short tests replay
CASES = [pytest.param(case, marks=() if case in SOME else pytest.mark.slow) for case in MODELS]


def built_of(case):
    kind, options = MODELS[case]
    built = model(kind, **options)
    return built, built.problem.static


def held_bytes(stream):
    """Bytes of all tensors that a stream holds on to, storage by storage."""
    found = {}
    states = [stream._bank.state] + ([stream._replay.base.state] if stream._replay else [])
    tensors = [tensor for state in states for tensor in state.tensors().values()]
    if stream._replay:
        rows = stream._replay.kept._room
        tensors += [rows.series, rows.times, rows.values, rows.observed]
    for tensor in tensors:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())
