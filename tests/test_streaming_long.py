"""A million observations in single precision: constant memory, finite, and the batch answer of double precision."""

import gc
import sys

import pytest
import torch

from ctlssl import LSSLModel, Problem, TimeSeries
from ctlssl.streaming import kept
from tests.contracts import generator
from tests.streaming_cases import held_bytes

D, MILLION, CHUNK = 2, 10**6, 10_000


def problem(kind):
    return Problem(kind, D, D if kind == "forecasting" else 2, time_scale=1.0, horizon=1e4)


def pair(kind, **options):
    """A model in single precision, and its twin of the same parameters in double."""
    torch.manual_seed(0)
    single = LSSLModel(problem(kind), 8, **options)
    with torch.no_grad():
        for weight in single.head.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    double = LSSLModel(problem(kind), 8, **options).double()
    double.load_state_dict({name: weight.double() for name, weight in single.state_dict().items()})
    return single.eval(), double.eval()


def record(length):
    """One series of single precision values at gaps over five decades, a third of the values missing."""
    rng = generator("million")
    times = torch.from_numpy(10 ** rng.uniform(-3, 2, length)).cumsum(0)[None]
    values = torch.from_numpy(rng.normal(size=(1, length, D))).float()
    observed = torch.from_numpy(rng.random((1, length, D)) < 0.67)
    return TimeSeries(values, times, observed, torch.tensor([length]))


def rows(series, start, stop):
    parts = (series.values[:, start:stop], series.times[:, start:stop], series.observed[:, start:stop])
    return TimeSeries(*parts, torch.tensor([stop - start]))


def asked(series, stop):
    return series.times[:, stop - 1 : stop] + torch.tensor([[0.0, 1.0, 100.0]], dtype=torch.float64)


def answers(prediction):
    return torch.cat([part.double().flatten() for part in (prediction.logits, prediction.mean) if part is not None])


def resident():
    """Bytes that the process holds in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def compare(stream, double, series, stop):
    """The largest difference from the batch answer of double precision, relative to that answer."""
    queries = asked(series, stop)
    found = answers(stream.predict(queries if stream.model.problem.kind == "forecasting" else None))
    with torch.no_grad():
        expected = answers(double(rows(series, 0, stop), queries))
    assert torch.isfinite(found).all()
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["forecasting", "classification"])
def test_a_million_rows_in_chunks(kind):
    single, double = pair(kind, layers=2)
    series = record(MILLION)
    stream, sizes, memory = single.stream(), [], []
    for start in range(0, MILLION, CHUNK):
        stream.extend(rows(series, start, start + CHUNK))
        sizes.append(held_bytes(stream))
        memory.append(resident())
    assert max(sizes) == sizes[0]
    state = stream.state.tensors()
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    error = compare(stream, double, series, MILLION)
    print(
        f"{kind}: {sizes[-1]} bytes held, process +{(max(memory[20:]) - memory[20]) / 2**20:.1f} MiB, error {error:.1e}"
    )
    assert error < 1e-3
    if sys.platform == "linux":
        assert max(memory[20:]) - memory[20] < 32 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "policy"),
    [pytest.param(20_000, {}, id="refuse"), pytest.param(5_000, {"late": "replay", "window": 500.0}, id="replay")],
)
def test_thousands_of_rows_one_at_a_time(count, policy):
    single, double = pair("forecasting", layers=2)
    series, stream, tensors, memory = record(count), single.stream(**policy), [], []
    for k in range(count):
        stream.observe(series.times[0, k], series.values[:, k], series.observed[:, k])
        if k % 1000 == 999:
            gc.collect()
            tensors.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
            memory.append(resident())
    error = compare(stream, double, series, count)
    print(
        f"tensors {tensors[0]} to {tensors[-1]}, process +{(memory[-1] - memory[1]) / 2**20:.1f} MiB, error {error:.1e}"
    )
    assert max(tensors) == min(tensors)
    if policy:
        assert len(stream._replay.kept) <= kept.FEWEST_KEPT
    assert error < 1e-3
    if sys.platform == "linux":
        assert memory[-1] - memory[1] < 32 * 2**20
