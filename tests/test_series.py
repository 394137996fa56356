"""The container of series: what it refuses, what it promotes, and the exactness of its gaps."""

import math
from datetime import datetime, timedelta

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from ctlssl.series import TimeSeries, gaps

NAN, INF = math.nan, math.inf


def parts(batch=3, length=4, channels=2, static=None):
    """Sound parts of a TimeSeries."""
    return {
        "values": torch.arange(batch * length * channels, dtype=torch.float32).reshape(batch, length, channels),
        "times": torch.arange(length, dtype=torch.float64).repeat(batch, 1),
        "observed": torch.ones(batch, length, channels, dtype=torch.bool),
        "lengths": torch.full((batch,), length),
        "static": static,
    }


def changed(name, place, value):
    """Sound parts but for one entry."""
    made = parts(static=torch.zeros(3, 1))
    made[name] = made[name].clone()
    made[name][place] = value
    return made


REFUSED = [
    pytest.param(changed("times", (1, 2), 0.5), r"series 1, position 2: time 0.5 < previous 1.0; sort", id="unsorted"),
    pytest.param(changed("times", (2, 0), NAN), r"series 2, position 0: time nan is not finite", id="nan time"),
    pytest.param(changed("times", (0, 3), INF), r"series 0, position 3: time inf is not finite", id="infinite time"),
    pytest.param(changed("values", (1, 3, 0), NAN), r"series 1, position 3, channel 0: value nan", id="nan value"),
    pytest.param(changed("values", (2, 0, 1), -INF), r"series 2, position 0, channel 1: value -inf", id="inf value"),
    pytest.param(changed("lengths", 2, 5), r"series 2: length 5 is not in 0..4", id="too long"),
    pytest.param(changed("lengths", 0, -1), r"series 0: length -1 is not in 0..4", id="negative length"),
    pytest.param(changed("static", (1, 0), NAN), r"series 1: static covariate 0 is nan", id="nan static"),
    pytest.param(parts() | {"values": torch.zeros(3, 4)}, r"values must be \(B, L, D\), found shape", id="2-D"),
    pytest.param(parts() | {"times": torch.zeros(4)}, r"times must be \(3, 4\)", id="one clock"),
    pytest.param(parts() | {"observed": torch.ones(3, 4, dtype=torch.bool)}, r"observed must be \(3, 4, 2\)", id="2-D"),
    pytest.param(parts() | {"lengths": torch.tensor([4])}, r"lengths must be \(3,\)", id="one length"),
    pytest.param(parts() | {"static": torch.zeros(3)}, r"static must be \(3, S\)", id="static 1-D"),
    pytest.param(
        parts() | {"times": torch.full((3, 4), 2**60)},
        r"integers beyond 2\*\*53.*subtract",
        id="integers",
    ),
]


@pytest.mark.parametrize(("made", "message"), REFUSED)
def test_refused_with_place_and_remedy(made, message):
    with pytest.raises(ValueError, match=message):
        TimeSeries(**made)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("values", torch.zeros(3, 4, 2, dtype=torch.complex64)),
        ("values", np.zeros((3, 4, 2))),
        ("times", torch.ones(3, 4, dtype=torch.bool)),
        ("observed", torch.ones(3, 4, 2)),
        ("observed", torch.ones(3, 4, 2, dtype=torch.uint8)),
        ("lengths", torch.full((3,), 4.0)),
    ],
)
def test_types_without_exact_promotion_are_refused(name, part):
    with pytest.raises(TypeError, match=name):
        TimeSeries(**(parts() | {name: part}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_floating_values_keep_their_dtype_and_times_are_float64(dtype):
    made = parts()
    series = TimeSeries(**(made | {"values": made["values"].to(dtype), "times": made["times"].float()}))
    assert series.values.dtype == dtype
    assert series.times.dtype == torch.float64


def test_whole_numbers_are_promoted():
    made = parts()
    series = TimeSeries(**(made | {"values": made["values"].int(), "times": made["times"].int()}))
    assert series.values.dtype == torch.get_default_dtype()
    assert torch.equal(series.values, made["values"])
    assert torch.equal(series.times, made["times"])


def test_padding_and_unobserved_content_are_not_read():
    made = parts()
    made["lengths"] = torch.tensor([4, 2, 0])
    made["times"][1, 2:], made["times"][2] = torch.tensor([NAN, -INF]), NAN
    made["values"][1, 2:], made["values"][2] = INF, NAN
    made["values"][0, 1, 0], made["observed"][0, 1, 0] = NAN, False
    series = TimeSeries(**made)
    expected = torch.tensor([[9.0, 1, 1, 1], [9, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(series.gaps(first=9.0), expected)


def test_equal_times_and_a_single_row_are_allowed():
    series = TimeSeries(**(parts() | {"times": torch.ones(3, 4)}))
    assert torch.equal(series.gaps(2.0)[0], torch.tensor([2.0, 0, 0, 0], dtype=torch.float64))
    assert TimeSeries(**parts(length=1)).gaps(3.0).tolist() == [[3.0]] * 3


@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 0, 2), (3, 4, 0), (0, 0, 0)])
def test_empty_batches_pass(shape):
    series = TimeSeries(**parts(*shape))
    assert (series.batch, series.length, series.channels) == shape
    assert series.gaps().shape == shape[:2]
    assert series.select([]).batch == 0


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0]), np.array([2, 0])])
def test_select_trims_to_its_own_longest(index):
    made = parts(static=torch.tensor([[1.0], [2.0], [3.0]])) | {"lengths": torch.tensor([2, 4, 1])}
    part = TimeSeries(**made).select(index)
    assert part.values.shape == (2, 2, 2)
    assert torch.equal(part.values, made["values"][[2, 0], :2])
    assert part.lengths.tolist() == [1, 2]
    assert part.static.tolist() == [[3.0], [1.0]]


def test_select_by_flags_and_slices():
    series = TimeSeries(**parts())
    flags = torch.tensor([True, False, True])
    assert torch.equal(series.select(flags).values, series.values[[0, 2]])
    assert torch.equal(series.select(slice(1, 3)).values, series.values[1:])


def test_to_casts_values_and_never_times():
    series = TimeSeries(**parts(static=torch.zeros(3, 1))).to(dtype=torch.float16)
    assert (series.values.dtype, series.static.dtype) == (torch.float16, torch.float16)
    assert series.times.dtype == torch.float64
    with pytest.raises(TypeError, match="floating"):
        series.to(dtype=torch.int64)


def test_gradients_reach_the_values_and_the_times():
    made = parts()
    made["values"].requires_grad_()
    made["times"].requires_grad_()
    series = TimeSeries(**made)
    (series.gaps(0.0).square().sum() + series.values.sum()).backward()
    assert torch.equal(made["values"].grad, torch.ones_like(made["values"]))
    # d/dt of (t1-t0)^2 + (t2-t1)^2 + (t3-t2)^2 on unit gaps
    assert made["times"].grad[0].tolist() == [-2.0, 0.0, 0.0, 2.0]


EPOCH = 1_700_000_000_123_456_789  # nanoseconds: float64 resolves 256 of them here


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda ticks: gaps(ticks), id="numpy int64"),
        pytest.param(lambda ticks: gaps(ticks.astype(np.uint64)), id="numpy uint64"),
        pytest.param(lambda ticks: gaps(torch.from_numpy(ticks)), id="tensor"),
        pytest.param(lambda ticks: gaps(ticks.tolist()), id="list"),
        pytest.param(lambda ticks: gaps(ticks.view("datetime64[ns]"), unit="ns"), id="datetime64"),
        pytest.param(lambda ticks: gaps(ticks[None], lengths=[4])[0], id="batch"),
    ],
)
def test_epoch_nanoseconds_are_exact(read):
    ticks = EPOCH + np.array([0, 1, 3, 1000])
    assert read(ticks).tolist() == [1.0, 1.0, 2.0, 997.0]
    assert np.diff(ticks.astype(np.float64)).tolist() != [1.0, 2.0, 997.0]


@pytest.mark.parametrize(
    ("stamps", "unit", "expected"),
    [
        (["1969-12-31T23:00", "1970-01-01T01:30"], "h", 2.5),
        (["2020-02-28", "2020-03-01"], "D", 2.0),
        (["2020-01", "2020-02"], "d", 31.0),
        (["2020-01-01T00:00:00.000001", "2020-01-01T00:00:01"], "s", 0.999999),
    ],
)
def test_datetimes_in_units(stamps, unit, expected):
    assert gaps(np.array(stamps, dtype="datetime64"), unit=unit)[1].item() == expected


@settings(deadline=None)
@given(st.lists(st.integers(-(2**61), 2**61), min_size=1, max_size=20))
def test_gaps_of_integers_are_the_differences_of_python(ticks):
    ticks = sorted(ticks)
    expected = [0.0] + [float(b - a) for a, b in zip(ticks, ticks[1:], strict=False)]
    assert gaps(ticks, first=0.0).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.timedeltas(timedelta(0), timedelta(days=9000)), min_size=2, max_size=9), st.integers(1900, 2100))
def test_gaps_of_datetimes_are_the_differences_of_python(steps, year):
    stamps = [datetime(year, 1, 1)]
    for step in steps:
        stamps.append(stamps[-1] + step)
    measured = gaps(np.array(stamps, dtype="datetime64[us]"), first=0.0, unit="us")
    assert measured.tolist()[1:] == [float(step // timedelta(microseconds=1)) for step in steps]


@pytest.mark.parametrize(
    ("times", "options", "message"),
    [
        ([0.0, NAN], {}, "series 0, position 1: time nan"),
        ([1.0, 0.0], {}, "series 0, position 1: time 0.0 < previous 1.0"),
        (np.array(["NaT", "2020"], dtype="datetime64[s]"), {"unit": "h"}, "NaT at position"),
        (np.array(["2020"], dtype="datetime64[s]"), {}, "unit is needed"),
        ([0.0, 1.0], {"unit": "h"}, "only with them"),
        (np.array(["2020"], dtype="datetime64[s]"), {"unit": "hours"}, "unknown unit 'hours'; choose from"),
        (np.zeros((1, 1, 1)), {}, "must be"),
        (np.array([2**64 - 1], dtype=np.uint64), {}, "subtract an origin"),
        ([-(2**62), 2**62], {}, "more than 2.* ticks apart"),
        ([[0.0, 1.0]], {"lengths": [3]}, "series 0: length 3"),
        ([[0.0, 1.0]], {"first": torch.zeros(2)}, "first must be"),
    ],
)
def test_gaps_refuse(times, options, message):
    with pytest.raises(ValueError, match=message):
        gaps(times, **options)


@pytest.mark.parametrize("times", [["a"], [True], [1j], torch.zeros(2, dtype=torch.complex64), [datetime(2020, 1, 1)]])
def test_gaps_refuse_what_is_no_time(times):
    with pytest.raises(TypeError, match="real numbers, datetime64"):
        gaps(times)


def test_first_gap_may_differ_by_series():
    dt = gaps(torch.zeros(2, 3, dtype=torch.float64), first=torch.tensor([5.0, 7.0]), lengths=[2, 0])
    assert dt.tolist() == [[5.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("first", [-1.0, math.nan, math.inf])
def test_a_first_gap_that_cannot_be_is_refused(first):
    with pytest.raises(ValueError, match="first gap must be finite and not negative"):
        gaps([1.0, 2.0], first=first)
