"""Normal scores: against scipy's ranks, by hand, and where there is nothing to learn from."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from ctlssl.normalization import Normalizer
from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries

NAN = math.nan


def batch(values, observed=None, static=None):
    """(B, L, D) values as a TimeSeries at times 0, 1, ..."""
    values = torch.as_tensor(values)
    times = torch.arange(values.shape[1], dtype=torch.float64).expand(values.shape[:2])
    observed = ~torch.isnan(values) if observed is None else observed
    return TimeSeries(values, times, observed, torch.full((len(values),), values.shape[1]), static)


VALUES = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 2.0]))


@settings(deadline=None)
@given(VALUES)
def test_few_values_get_the_mid_ranks_of_scipy(values):
    series = batch(values.reshape(1, -1, 1))
    scores = Normalizer.fit(series).apply(series).values[0, :, 0].numpy()
    ranks = stats.rankdata(values, method="average")
    expected = stats.norm.ppf((ranks - 0.5) / len(values))
    np.testing.assert_allclose(scores, expected, atol=1e-9)


@settings(deadline=None)
@given(VALUES, st.lists(st.floats(-1e7, 1e7), min_size=2, max_size=20))
def test_the_map_never_goes_down_and_comes_back(train, values):
    normalizer = Normalizer.fit(batch(train.reshape(1, -1, 1)), limit=1e9)
    values = torch.tensor(sorted(values), dtype=torch.float64)[:, None]
    scores = normalizer.apply_values(values, torch.ones_like(values, dtype=torch.bool))
    assert (scores.diff(dim=0) >= -1e-9).all()
    inside = (values >= train.min()) & (values <= train.max())
    back = normalizer.inverse(scores)
    torch.testing.assert_close(back[inside], values[inside], rtol=1e-6, atol=1e-6)


def test_many_values_are_normal_to_the_resolution_of_the_knots():
    draw = np.random.default_rng(0)
    values = np.exp(3 * draw.normal(size=(5, 1000, 1)))
    series = batch(values)
    normalizer = Normalizer.fit(series)
    assert normalizer.counts.tolist() == [201]
    ranks = stats.rankdata(values)
    expected = stats.norm.ppf((ranks - 0.5) / values.size)
    scores = normalizer.apply(series).values.flatten().numpy()
    assert np.abs(scores - expected).max() < 0.05
    assert abs(scores.std() - 1) < 0.01


def test_ties_among_many_values():
    draw = np.random.default_rng(0)
    values = np.where(draw.random((1, 4000, 1)) < 0.5, 5.0, np.maximum(5.0, 5 + draw.normal(size=(1, 4000, 1))))
    series = batch(values)
    scores = Normalizer.fit(series).apply(series).values.numpy()
    share = (values == 5.0).mean()
    assert np.unique(scores[values == 5.0]) == pytest.approx([stats.norm.ppf(share / 2)], abs=1e-9)
    assert np.isfinite(scores).all()


def test_scores_are_cut_and_the_sign_of_an_outlier_is_right():
    normalizer = Normalizer.fit(batch(np.linspace(0, 1, 11).reshape(1, -1, 1)))
    values = torch.tensor([[-1e300], [-1e3], [1.5], [1e30]], dtype=torch.float64)
    scores = normalizer.apply_values(values, torch.ones_like(values, dtype=torch.bool))[:, 0]
    top = stats.norm.ppf(10.5 / 11)
    assert scores.tolist() == pytest.approx([-5.0, -5.0, top + 0.5 * 2 * top, 5.0])


def test_constant_unseen_and_missing_channels():
    values = torch.tensor([[[1.0, 7.0, NAN], [2.0, 7.0, NAN], [3.0, NAN, NAN]]])
    normalizer = Normalizer.fit(batch(values, static=torch.tensor([[4.0, 4.0]])))
    assert (normalizer.seen.tolist(), normalizer.varying.tolist()) == ([True, True, False], [True, False, False])
    new = batch(torch.tensor([[[2.0, 7.0, 5.0], [2.0, 9.0, NAN]]]), static=torch.tensor([[4.0, 5.0]]))
    result = normalizer.apply(new)
    assert result.observed.tolist() == [[[True, True, False], [True, True, False]]]
    assert result.values[0, :, :2].tolist() == [[0.0, 0.0], [0.0, 2.0]]
    assert result.static.tolist() == [[0.0, 1.0]]
    assert normalizer.inverse(torch.zeros(3)).tolist()[:2] == [2.0, 7.0]
    assert normalizer.inverse(torch.zeros(3)).isnan().tolist() == [False, False, True]


def test_nothing_observed_at_all():
    empty = batch(torch.full((2, 3, 2), NAN))
    result = Normalizer.fit(empty).apply(empty)
    assert not result.observed.any()
    with pytest.raises(ValueError, match="no training series"):
        Normalizer.fit(empty.select([]))


def test_padding_is_not_learned_from():
    values = torch.tensor([[[1.0], [3.0], [1e9]]])
    times, seen = torch.arange(3.0).expand(1, 3), torch.ones(1, 3, 1, dtype=torch.bool)
    normalizer = Normalizer.fit(TimeSeries(values, times, seen, torch.tensor([2])))
    assert normalizer.knots.tolist() == [[1.0, 3.0]]


def test_the_state_is_tensors():
    series = batch(torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0)), static=torch.randn(3, 2))
    normalizer = Normalizer.fit(series)
    tensors = normalizer.tensors()
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    again = Normalizer.from_tensors(tensors).apply(series)
    assert torch.equal(again.values, normalizer.apply(series).values)
    with pytest.raises(ValueError, match="has the tensors"):
        Normalizer.from_tensors({})


def test_other_channels_or_covariates_are_refused():
    normalizer = Normalizer.fit(batch(torch.zeros(1, 2, 2)))
    with pytest.raises(ValueError, match="2 channels of training"):
        normalizer.apply(batch(torch.zeros(1, 2, 3)))
    with pytest.raises(ValueError, match="1 static covariates, training had 0"):
        normalizer.apply(batch(torch.zeros(1, 2, 2), static=torch.zeros(1, 1)))


def test_dtypes():
    series = batch(torch.randn(2, 4, 1, dtype=torch.float64))
    normalizer = Normalizer.fit(series)
    assert normalizer.apply(series).values.dtype == torch.float64
    assert normalizer.apply(series, torch.float32).values.dtype == torch.float32
    assert normalizer.inverse(torch.zeros(1)).dtype == torch.float32


def test_a_linear_scale():
    """(x - zero) / (one - zero), beyond the limits of normal scores, and back; static covariates are standardised."""
    values = torch.tensor([[[3.0, 1e6], [NAN, -20.0]]], dtype=torch.float64)
    static = torch.tensor([[5.0]])
    series = batch(values, static=static)
    normalizer = Normalizer.linear(series, zero=[1.0, 0.0], one=[5.0, 10.0])
    found = normalizer.apply(series)
    np.testing.assert_array_equal(found.values[0].numpy(), [[0.5, 1e5], [NAN, -2.0]])
    assert found.static.tolist() == [[0.0]]
    torch.testing.assert_close(normalizer.inverse(found.values), values, equal_nan=True)
    again = Normalizer.from_tensors(normalizer.tensors())
    assert again.varying.all() and torch.equal(again.apply(series).values.nan_to_num(), found.values.nan_to_num())
    same = Normalizer.unchanged(series).apply(series).values
    np.testing.assert_array_equal(same.numpy(), values.numpy())
    for zero, one in [([0.0], [1.0]), ([0.0, 1.0], [1.0, 1.0])]:
        with pytest.raises(ValueError, match="each of the 2 channels a zero and a larger one"):
            Normalizer.linear(series, zero, one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_packed_series_have_the_bits_of_padded_ones(dtype):
    draw = torch.Generator().manual_seed(5)
    values = torch.randn(6, 9, 3, generator=draw, dtype=torch.float64)
    observed = torch.rand(6, 9, 3, generator=draw) < 0.4
    observed[..., 2] = False  # a channel that is never seen
    times = torch.arange(9, dtype=torch.float64).expand(6, 9)
    lengths, static = torch.tensor([9, 1, 4, 0, 7, 2]), torch.randn(6, 2, generator=draw, dtype=torch.float64)
    padded = TimeSeries(values, times, observed, lengths, static).to(dtype=dtype)
    packed = PackedSeries.from_series(padded)
    normalizer = Normalizer.fit(packed)
    for name, tensor in Normalizer.fit(padded).tensors().items():
        assert torch.equal(normalizer.tensors()[name].nan_to_num(9), tensor.nan_to_num(9))
    found, expected = normalizer.apply(packed, torch.float32), normalizer.apply(padded, torch.float32)
    assert isinstance(found, PackedSeries) and found.values.dtype == torch.float32
    assert torch.equal(found.values.nan_to_num(9), expected.values[expected.in_length].nan_to_num(9))
    assert torch.equal(found.observed, expected.observed[expected.in_length])
    assert torch.equal(found.static, expected.static)
