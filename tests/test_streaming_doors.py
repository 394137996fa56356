"""What cannot be is refused at the door of a stream, by name and with the remedy, and nothing has moved."""

import datetime

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl import Stream
from tests.streaming_cases import NAN, D, S, model, problem, same_bits

BAD_CALLS = {
    "values-shape": (lambda s: s.observe(1.0, torch.ones(D)), ValueError, r"values has shape \(3,\); give \(2, 3\)"),
    "values-inf": (
        lambda s: s.observe(1.0, [[1, 2, 3], [1, torch.inf, 3]]), ValueError, "stream 1, channel 1: value inf"),
    "values-number": (
        lambda s: s.observe(1.0, [[1, 2, torch.inf]], series=[1]), ValueError, "stream 1, channel 2: value inf"),
    "values-text": (lambda s: s.observe(1.0, [["a"] * D] * 2), TypeError, "values must be numbers"),
    "flags-int": (lambda s: s.observe(1.0, torch.ones(2, D), torch.ones(2, D)), TypeError, "observed must be bool"),
    "flags-shape": (lambda s: s.observe(1.0, torch.ones(2, D), torch.ones(2) > 0), ValueError, "observed has shape"),
    "flagged-nan": (
        lambda s: s.observe(1.0, [[NAN] * D] * 2, torch.ones(2, D) > 0), ValueError, "stream 0, channel 0: value nan"),
    "time-shape": (lambda s: s.observe([1.0] * 3, torch.ones(2, D)), ValueError, r"time has shape \(3,\)"),
    "time-inf": (lambda s: s.observe([1.0, torch.inf], torch.ones(2, D)), ValueError, "stream 1: time is infinite"),
    "time-date": (
        lambda s: s.observe(np.datetime64("2020-01-01"), torch.ones(2, D)), TypeError, "A date becomes a number by"),
    "time-datetime": (
        lambda s: s.observe(datetime.datetime(2020, 1, 1), torch.ones(2, D)), TypeError, "A date becomes a number by"),
    "time-nanoseconds": (
        lambda s: s.observe(1_577_836_800_000_000_001, torch.ones(2, D)), ValueError, "beyond 2\\*\\*53 .* origin"),
    "series-none-such": (lambda s: s.observe(1.0, torch.ones(1, D), series=2), ValueError, "no stream 2; .* 0 to 1"),
    "series-negative": (lambda s: s.predict(1.0, series=-1), ValueError, "no stream -1"),
    "series-twice": (lambda s: s.observe(1.0, torch.ones(2, D), series=[1, 1]), ValueError, "stream 1 is named twice"),
    "series-float": (lambda s: s.observe(1.0, torch.ones(1, D), series=[0.5]), TypeError, "by integers or flags"),
    "series-name": (lambda s: s.predict(1.0, series="bed 3"), TypeError, "numbers the streams, 0 to 1; keep names"),
    "series-flags": (lambda s: s.predict(1.0, series=[True]), ValueError, "flags of shape"),
    "no-time": (lambda s: s.predict(), ValueError, "a problem of forecasting: a forecast needs a time"),
    "query-shape": (lambda s: s.predict(torch.ones(3, 1)), ValueError, r"time has shape \(3, 1\); give \(2, queries\)"),
    "query-inf": (lambda s: s.predict(torch.inf), ValueError, "stream 0: time is infinite"),
    "static": (lambda s: s.reset(0, static=[[1.0]]), ValueError, "without static covariates; leave static out"),
    "batch": (lambda s: s.model.stream(0), ValueError, "batch is 0"),
    "late": (lambda s: s.model.stream(late="drop"), ValueError, "late is 'drop'; it is one of refuse, replay"),
    "no-window": (lambda s: s.model.stream(late="replay"), ValueError, "a window belongs to late='replay'"),
    "window-alone": (lambda s: s.model.stream(window=1.0), ValueError, "a window belongs to late='replay'"),
    "window-nan": (lambda s: s.model.stream(late="replay", window=NAN), ValueError, "positive and finite"),
    "rate": (lambda s: s.model.stream(rate=0.0), ValueError, "rate multiplies elapsed times"),
    "rate-shape": (lambda s: s.model.stream(2, rate=[1.0] * 3), ValueError, "rate has shape"),
    "extend-tensor": (lambda s: s.extend(torch.ones(2, 4, D)), TypeError, "rows are a TimeSeries, found Tensor"),
    "load-text": (lambda s: Stream.load(s.model, "stream"), TypeError, "bytes that it was saved as"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CALLS)
def test_what_cannot_be_is_refused_at_the_door(case):
    call, kind, message = BAD_CALLS[case]
    stream = model().stream(2)
    stream.observe(0.5, torch.ones(2, D))
    before = stream.state
    with pytest.raises(kind, match=message):
        call(stream)
    assert same_bits(stream.state, before)


def test_static_covariates_are_asked_for():
    built = model(static=S)
    with pytest.raises(ValueError, match=r"reads 2 static covariates; give static of shape \(3, 2\)"):
        built.stream(3)
    with pytest.raises(ValueError, match="stream 1: static covariate 0 is nan"):
        built.stream(2, static=[[1.0, 2.0], [NAN, 1.0]])


def test_an_answer_of_the_series_takes_no_time():
    with pytest.raises(ValueError, match="a problem of classification: .* leave time out"):
        model("classification").stream().predict(3.0)


@pytest.mark.parametrize(
    "build", [lambda p: ctlssl.baselines.NeuralCDE(p), lambda p: ctlssl.LSSLModel(p, 8, bidirectional=True)]
)
def test_a_model_without_a_state_cannot_stream(build):
    with pytest.raises(ValueError, match="whole series"):
        build(problem("classification")).stream()
