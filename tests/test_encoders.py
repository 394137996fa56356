"""Rows and their features against a slow reading of the definitions, one series, one row and one channel at a time."""

import math

import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.encoders import Encoder
from ctlssl.series import TimeSeries
from tests.members import batch, gradients, same_bits
from tests.test_interleaving import FIRST, SEEDS, slow_rows


def slow_features(rows, unseen, problem, rate):
    """The features of the rows of one series, before the linear map."""

    def clock(time):
        return math.log1p(rate * time / problem.time_scale) / math.log1p(problem.horizon / problem.time_scale)

    value, when, start, features = dict(enumerate(unseen)), {}, None, []
    for row in rows:
        start = row["time"] if start is None and row["seen"] else start
        value |= row["seen"]
        when |= dict.fromkeys(row["seen"], row["time"])
        elapsed = 0.0 if start is None else row["time"] - start
        ages = [min(1.0, clock(row["time"] - when[d])) if d in when else 1.0 for d in value]
        spans = rate * elapsed / problem.horizon
        clocks = [clock(row["dt"]), clock(elapsed), spans / (1 + spans)]
        features.append([*value.values(), *(float(d in row["seen"]) for d in value), *ages, *clocks])
    return features


@pytest.mark.parametrize("rate", [1.0, 2.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_features(seed, rate):
    series, asked = batch(seed=seed, dtype=torch.float64)
    problem = Problem("forecasting", 3, 3, 2, time_scale=0.5, first_gap=FIRST, horizon=24.0)
    encoder = Encoder(problem, width=12).double()
    with torch.no_grad():
        encoder.unseen.copy_(torch.tensor([0.5, -1.0, 2.0]))
        encoder.linear.weight.copy_(torch.eye(12))
        encoder.linear.bias.zero_()
    encoded = encoder(series, asked, rate)
    for b in range(5):
        expected = slow_features(slow_rows(series, asked, b, FIRST / rate), [0.5, -1.0, 2.0], problem, rate)
        n = len(expected)
        truth = torch.tensor(expected, dtype=torch.float64).view(n, 12)
        torch.testing.assert_close(encoded.features[b, :n], truth, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(encoded.filled[b, :n], truth[:, :3], rtol=0, atol=0)
    torch.testing.assert_close(encoded.gaps, encoded.rows.dt / 0.5)


def test_queries_are_read_only_where_a_forecast_is_asked():
    series, asked = batch()
    encoder = Encoder(Problem("classification", 3, 2), width=4)
    assert encoder(series, asked, 1.0).rows.times.shape == (5, 7)


def test_a_value_before_it_was_first_seen_is_learned():
    values, times = torch.tensor([[[torch.nan, 1.0], [3.0, torch.nan]]]), torch.tensor([[0.0, 1.0]])
    series = TimeSeries(values, times, ~values.isnan(), torch.tensor([2]))
    encoder = Encoder(Problem("classification", 2, 2), width=4)
    found = gradients(encoder, encoder(series, None, 1.0).filled[0, :, 0].sum())
    assert found["unseen"].tolist() == [1.0, 0.0]  # read once, in the first row


@pytest.mark.parametrize("filler", [1e30, float("nan"), float("inf")])
def test_what_was_not_observed_changes_no_bit(filler):
    series, asked = batch()
    hidden = ~(series.observed & series.in_length.unsqueeze(-1))
    values = torch.where(hidden, filler, series.values)
    other = TimeSeries(values, series.times, series.observed, series.lengths, series.static)
    encoder = Encoder(Problem("forecasting", 3, 3, 2), width=4)
    one, two = encoder(series, asked, 1.0), encoder(other, asked, 1.0)
    assert same_bits(one.features, two.features) and same_bits(one.filled, two.filled)
    assert same_bits(gradients(encoder, one.features.sum()), gradients(encoder, two.features.sum()))


def test_without_carrying_a_value_is_shown_in_its_row_alone():
    values = torch.tensor([[[torch.nan, 1.0], [3.0, torch.nan], [torch.nan, -2.0]]])
    series = TimeSeries(values, torch.arange(3.0).view(1, 3), ~values.isnan(), torch.tensor([3]))
    encoder = Encoder(Problem("classification", 2, 2), width=9, carried=False).eval()
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.eye(9))
        encoder.linear.bias.zero_()
    assert encoder(series, None, 1.0).features[0, :, :2].tolist() == [[0, 1], [3, 0], [0, -2]]


def test_dropped_channels_are_never_observed_and_only_in_training():
    series, _ = batch(lengths=(6,) * 400)
    encoder = Encoder(Problem("classification", 3, 2, 2), width=4, channel_dropout=0.3)
    whole = series.observed & series.in_length.unsqueeze(-1)
    torch.manual_seed(0)
    seen = encoder(series, None, 1.0).seen.known  # (400, 3)
    assert not (seen & ~whole.any(dim=1)).any()
    share = 1 - float(seen.sum() / whole.any(dim=1).sum())
    assert abs(share - 0.3) < 3 * math.sqrt(0.3 * 0.7 / 1200)
    assert torch.equal(encoder.eval()(series, None, 1.0).seen.known, whole.any(dim=1))
    with pytest.raises(ValueError, match="channel_dropout is 1.0"):
        Encoder(Problem("classification", 3, 2), width=4, channel_dropout=1.0)


def test_a_value_in_pieces_can_mean_the_same_at_both_ends():
    problem = Problem("classification", 1, 2)
    encoder = Encoder(problem, width=1, pieces=4).eval()
    values = torch.tensor([[[-2.0], [0.0], [2.0]]])
    series = TimeSeries(values, torch.arange(3.0).view(1, 3), ~values.isnan(), torch.tensor([3]))
    with torch.no_grad():
        encoder.linear.weight.zero_()
        encoder.linear.bias.zero_()
        encoder.linear.weight[0, :4] = torch.tensor([-1.5, -1.5, 1.5, 1.5])  # |v|, less than 3
    found = encoder(series, None, 1.0).features.flatten()
    torch.testing.assert_close(found - found[1], torch.tensor([2.0, 0.0, 2.0]))
    assert encoder.linear.in_features == 4 + 2 + 3
    with pytest.raises(ValueError, match="pieces is -1"):
        Encoder(problem, width=1, pieces=-1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_in_half_precision_are_refused(dtype):
    series, problem = batch()[0], Problem("classification", batch()[0].channels, 2)
    with pytest.raises(TypeError, match=f"parameters in {dtype} are not supported"):
        Encoder(problem, 4).to(dtype)(series, None, 1.0)
