"""Step sizes: names and fields, and where they start from the gaps of the training data."""

import json

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl.layers.lssl import LSSL
from ctlssl.series import TimeSeries
from ctlssl.step_size import STEP_SIZES, StepSize, named_step_size, step_range_from_gaps
from tests.contracts import generator


def records(times, lengths):
    """Series of one channel at given times, padded with nonsense."""
    times, lengths = torch.as_tensor(times, dtype=torch.float64), torch.tensor(lengths)
    values = torch.zeros(*times.shape, 1)
    return TimeSeries(values, times, torch.ones_like(values, dtype=torch.bool), lengths)


def test_names_and_fields():
    for name, step_size in STEP_SIZES.items():
        assert named_step_size(name) is step_size
        fields = {field: getattr(step_size, field) for field in ("per", "gate", "gap", "rate")}
        assert named_step_size(json.loads(json.dumps(fields))) == step_size
    assert named_step_size("plain") == StepSize() == ctlssl.StepSize()
    for wrong in (None, 3, "gate", ["gated"]):
        with pytest.raises(ValueError, match="choose plain"):
            named_step_size(wrong)


def test_what_has_a_step_of_its_own_by_itself():
    for multi_input, paired, per in ((False, True, "channel"), (False, False, "channel"), (True, True, "state")):
        assert StepSize().resolved(multi_input, paired).per == per
    assert StepSize().resolved(True, False).per == "layer"


def test_range_from_gaps_by_hand():
    """Gaps of 1 to 100: time constants from the 5th to the longest of the 95th and the median record."""
    gaps = torch.cat([torch.zeros(1), torch.arange(1.0, 101.0)])
    low, high = step_range_from_gaps(gaps)
    assert (low, high) == (pytest.approx(1 / (0.5 * 5050)), pytest.approx(1 / (0.5 * 5)))
    low, high = step_range_from_gaps(gaps, quantiles=(0.5, 0.5))
    assert high == pytest.approx(1 / 25)
    lone = torch.tensor([[9.0, 2.0], [9.0, 4.0], [9.0, 100.0]])  # two rows each: a record is as long as its gap
    assert step_range_from_gaps(lone, quantiles=(0.0, 1.0)) == (pytest.approx(0.02), pytest.approx(1.0))


def test_padding_first_gaps_and_gaps_of_zero_do_not_count():
    rng = generator("range")
    times = np.cumsum(rng.exponential(1.0, (5, 40)), 1)
    times[:, 7] = times[:, 6]
    series = records(times, [40, 30, 20, 1, 0])
    expected = step_range_from_gaps(series)
    gaps = series.gaps(first=1e9)
    assert step_range_from_gaps(gaps, series.lengths) == expected
    gaps[1, 30:] = torch.nan
    assert step_range_from_gaps(gaps, series.lengths) == expected
    alone = np.concatenate([np.diff(times[b, :n]) for b, n in enumerate([40, 30, 20])])
    shortest = np.quantile(alone[alone > 0], 0.05, method="inverted_cdf")
    assert expected[1] == pytest.approx(2 / shortest)
    spans = sorted(times[b, n - 1] - times[b, 0] for b, n in enumerate([40, 30, 20]))
    assert expected[0] == pytest.approx(2 / spans[1])


def test_units():
    """Hours or minutes with the clock's own unit give the same steps, and layers start in that range."""
    times = np.cumsum(generator("units of range").exponential(1.0, (3, 20)), 1)
    hours = step_range_from_gaps(records(times, [20, 20, 9]), time_scale=0.5)
    minutes = step_range_from_gaps(records(60 * times, [20, 20, 9]), time_scale=30.0)
    assert hours == pytest.approx(minutes)
    steps = LSSL(8, 4, step_range=hours).log_step.detach().exp()
    assert (steps.min().item(), steps.max().item()) == pytest.approx(hours, rel=1e-5)


@pytest.mark.slow
def test_more_gaps_than_torch_has_quantiles_for():
    gaps = torch.ones(2**24 + 2)
    assert step_range_from_gaps(gaps)[1] == 2.0


@pytest.mark.parametrize(
    ("gaps", "options", "message"),
    [
        (torch.zeros(4), {}, "no gaps"),
        (torch.ones(1), {}, "no gaps"),
        (torch.ones(0), {}, "no gaps"),
        (torch.tensor([1.0, torch.nan, torch.inf]), {}, "finite"),
        (torch.ones(3), {"quantiles": (0.9, 0.1)}, "quantiles|low <= high"),
        (torch.ones(3), {"quantiles": (-0.1, 0.5)}, "low <= high"),
        (torch.ones(3), {"time_scale": 0.0}, "time_scale"),
    ],
)
def test_what_has_no_range_is_refused(gaps, options, message):
    with pytest.raises(ValueError, match=message):
        step_range_from_gaps(gaps, **options)
