"""Summaries of channels against numpy, one series and one channel at a time; in chunks as in one."""

import numpy as np
import pytest
import torch

from ctlssl.channel_summaries import ChannelSummaries
from ctlssl.contract import Problem
from ctlssl.encoders import Encoder
from ctlssl.models import LayerModel, LSSLModel
from ctlssl.piecewise_linear import piecewise_linear
from ctlssl.series import TimeSeries
from tests.members import PROBLEMS, answer, batch, close

SPANS = [(0.0, np.inf), (0.0, 0.5), (0.5, np.inf), (0.75, np.inf)]
HORIZON = 4.0
PROBLEM = Problem("classification", 3, 2, 2, time_scale=0.5, first_gap=0.75, horizon=HORIZON)


def by_hand(values, least, most):
    """Positions on six pieces, one number after the other."""
    knots = np.linspace(least, most, 7)
    return [
        float(np.clip((v - a) / (b - a), 0, 1) - 0.5)
        for v in values
        for a, b in zip(knots[:-1], knots[1:], strict=True)
    ]


def late_by_hand(times, values, end, fading):
    """How far the last value is from the fading mean, and the fading spread, of one channel."""
    weights = [np.exp((time - end) / (fading * HORIZON)) for time in times]
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True)) / sum(weights)
    return values[-1] - mean, np.sqrt(variance)


def features_by_hand(series, b, spans, fading=0.0):
    """The features of one series from plain lists of times and values."""
    n, D = int(series.lengths[b]), series.channels
    times, values, seen = series.times[b, :n].numpy(), series.values[b, :n].numpy(), series.observed[b, :n].numpy()
    rows = seen.any(axis=1)
    start = times[rows][0] if rows.any() else 0.0
    since = (times - start) / HORIZON
    cells = {}
    for after, until in spans:
        inside = (since >= after) & (since <= until)
        cells[after, until] = [values[inside & seen[:, d], d] for d in range(D)]
    whole = cells[SPANS[0]]
    scores = []
    for statistic in (np.mean, np.min, np.max):
        for span in spans:
            for part in cells[span]:
                scores += by_hand([statistic(part)], -3, 3) if len(part) else [0.0] * 6
    for part in whole:
        scores += by_hand([part[-1]], -3, 3) if len(part) else [0.0] * 6
    for part in whole:
        scores += by_hand([part.std()], 0, 2) if len(part) else [0.0] * 6
    for span in spans:
        for part in cells[span]:
            scores += by_hand([np.log1p(len(part))], 0, 5)
    if fading:
        cells_of = [(times[seen[:, d]], values[seen[:, d], d]) for d in range(D)]
        late = [late_by_hand(*cell, times[rows][-1], fading) if len(cell[0]) else None for cell in cells_of]
        for place, ends in enumerate([(-1.5, 1.5), (0.0, 1.5)]):
            for pair in late:
                scores += [0.0] * 6 if pair is None else by_hand([pair[place]], *ends)
    return scores + [float(len(part) > 0) for span in spans for part in cells[span]]


@pytest.mark.parametrize(
    ("seed", "whole", "fading"), [(0, False, 0.0), (1, False, 0.07), (2, False, 2.0), (3, True, 0.0), (4, True, 0.07)]
)
def test_the_features_are_those_of_numpy(seed, whole, fading):
    series, _ = batch(lengths=(9, 1, 4, 0, 6), seed=seed, dtype=torch.float64)
    summaries = ChannelSummaries(PROBLEM, fading, whole)
    encoded = Encoder(PROBLEM, 4).double().eval()(series, None, 1.0)
    found = summaries(summaries.gather(encoded), encoded.seen)  # (B, F)
    assert found.shape == (5, summaries.features)
    for b in range(5):
        assert found[b].tolist() == pytest.approx(
            features_by_hand(series, b, SPANS[:1] if whole else SPANS, fading), abs=1e-7
        )


@pytest.mark.parametrize("fading", [0.0, 0.2])
def test_the_statistics_are_those_of_numpy(fading):
    series, _ = batch(lengths=(9, 1, 4, 0, 6), dtype=torch.float64)
    summaries = ChannelSummaries(PROBLEM, fading)
    encoded = Encoder(PROBLEM, 4).double().eval()(series, None, 1.0)
    found = summaries.statistics(summaries.gather(encoded), encoded.seen)  # (B, 7 D)
    for b in range(5):
        n = int(series.lengths[b])
        times, values = series.times[b, :n].numpy(), series.values[b, :n].numpy()
        seen = series.observed[b, :n].numpy()
        rows = []
        for d in range(series.channels):
            own, at = values[seen[:, d], d], times[seen[:, d]]
            numbers = [own.mean(), own.min(), own.max(), own[-1], own.std()] if len(own) else [0.0] * 5
            late = late_by_hand(at, own, times[seen.any(axis=1)][-1], fading or 1.0) if len(own) else (0.0, 0.0)
            ends = [(-3, 3)] * 4 + [(0, 2), (-1.5, 1.5), (0, 1.5)]
            cut = [6 * np.clip(v, a, b) / (b - a) for v, (a, b) in zip([*numbers, *late], ends, strict=True)]
            rows.append((cut if len(own) else [0.0] * 7)[: 7 if fading else 5])
        assert found[b].tolist() == pytest.approx(np.array(rows).T.ravel().tolist(), abs=1e-7)


def test_the_head_reads_the_statistics():
    torch.manual_seed(0)
    series, _ = batch(dtype=torch.float64)
    problem = PROBLEMS["classification"]
    model = LSSLModel(problem, width=6, summaries=True, fading=0.2, statistics=True).double().eval()
    encoded = model.encoder(series, None, 1.0)
    numbers = model.readout.summaries.statistics(model.readout.summaries.gather(encoded), encoded.seen)
    seen = []
    model.head.body.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(series)
    told = torch.cat([series.static, numbers], dim=1)  # (B, S + 7 D)
    assert torch.equal(seen[0][:, -told.shape[1] :], told)


def test_what_faded_beyond_the_range_of_numbers_has_not_changed():
    times = torch.tensor([[0.0, 1.0, 1e9]], dtype=torch.float64)
    values = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [0.0, 5.0]]])
    seen = torch.tensor([[[True, True], [True, True], [False, True]]])
    problem = Problem("classification", 2, 2, horizon=HORIZON)
    encoded = Encoder(problem, 4).eval()(TimeSeries(values, times, seen, torch.tensor([3])), None, 1.0)
    summaries = ChannelSummaries(problem, fading=0.1)
    features = summaries(summaries.gather(encoded), encoded.seen)[0]  # (F,)
    late = features[-24 - 8 : -8]  # of two channels: changes, then spreads
    assert late.tolist() == 2 * by_hand([0.0], -1.5, 1.5) + 2 * by_hand([0.0], 0.0, 1.5)


def test_a_piecewise_linear_map_of_the_encoding_is_interpolation():
    draw = np.random.default_rng(0)
    heights, points = draw.normal(size=9), draw.uniform(-4, 4, size=50)
    encoded = piecewise_linear(torch.from_numpy(points)[:, None], -2.0, 2.0, pieces=8).numpy()  # (50, 8)
    found = heights[0] + (encoded + 0.5) @ np.diff(heights)
    np.testing.assert_allclose(found, np.interp(points, np.linspace(-2, 2, 9), heights), atol=1e-12)


@pytest.mark.parametrize("summaries", [True, "deep"])
@pytest.mark.parametrize(
    "build",
    [
        LSSLModel,
        lambda *a, **k: LSSLModel(*a, fading=0.2, statistics=True, **k),
        lambda *a, **k: LayerModel(*a, layer="signed", fading=0.2, **k),
    ],
)
def test_a_model_in_chunks_is_the_model_in_one(build, summaries):
    torch.manual_seed(0)
    series, _ = batch(lengths=(7, 5), dtype=torch.float64)
    model = build(PROBLEMS["classification"], width=6, summaries=summaries).double().eval()
    parts = (series.values, series.times, series.observed)
    first = TimeSeries(*(part[:, :3] for part in parts), torch.tensor([3, 3]), series.static)
    rest = TimeSeries(*(part[:, 3:] for part in parts), torch.tensor([4, 2]), series.static)
    none = TimeSeries(*(part[:, :0] for part in parts), torch.tensor([0, 0]), series.static)
    whole, begun = answer(model(series)), model(first).state
    assert close(answer(model(rest, state=begun)), whole, 1e-12)
    assert close(answer(model(first, state=model.initial_state(2))), answer(model(first)), 1e-12)
    assert close(answer(model(none, state=model(series).state)), whole, 1e-12)
    stream = model.stream(batch=2, static=series.static)
    for k in range(3):
        stream.observe(series.times[:, k], series.values[:, k], series.observed[:, k])
    assert close(stream.predict().logits, answer(model(first)), 1e-12)


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_rate_and_units_are_one(rate):
    torch.manual_seed(0)
    series, _ = batch(dtype=torch.float64)
    model = LSSLModel(PROBLEMS["classification"], width=6, summaries=True, fading=0.2).double().eval()
    faster = TimeSeries(series.values, series.times * rate, series.observed, series.lengths, series.static)
    encoded = [model.encoder(series, None, rate), model.encoder(faster, None, 1.0)]
    summaries = model.readout.summaries
    one, two = (summaries(summaries.gather(item), item.seen) for item in encoded)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_what_the_summaries_say_is_added(kind):
    torch.manual_seed(0)
    series, _ = batch(dtype=torch.float64)
    model = LSSLModel(PROBLEMS[kind], width=6, summaries=True).double().eval()
    encoded = model.encoder(series, None, 1.0)
    summaries = model.readout.summaries
    read = torch.cat([0.3 * summaries(summaries.gather(encoded), encoded.seen), series.static], dim=1)
    with torch.no_grad():
        model.readout.linear.weight.normal_()
        model.readout.body[-1].weight.zero_()
    with_it, linear = answer(model(series)), read @ model.readout.linear.weight.T
    with torch.no_grad():
        model.readout.linear.weight.zero_()
    outputs = PROBLEMS[kind].outputs
    torch.testing.assert_close(with_it[:, :outputs], answer(model(series))[:, :outputs] + linear)


def test_no_summaries_of_what_a_query_comes_before():
    with pytest.raises(ValueError, match="tell a query of what comes after it"):
        LSSLModel(PROBLEMS["forecasting"], summaries=True)


def test_a_time_constant_that_is_none():
    for fading in (-0.1, np.inf, np.nan, True, "slow"):
        with pytest.raises(ValueError, match="fading is .*; it is a time constant in horizons, or 0"):
            ChannelSummaries(PROBLEM, fading)
    for option in ({"fading": 0.1}, {"statistics": True}):
        with pytest.raises(ValueError, match="use them with summaries=True"):
            LSSLModel(PROBLEM, **option)
