"""Records and layers for the tests of events."""

import numpy as np
import torch

import ctlssl

MIXED = ("next", "linear", "impulse", "previous")


def draw_events(rng, batch=2, count=12, channels=4, ties=True, dtype=torch.float64):
    """Asynchronous records of different lengths; some events fall on one time if `ties`."""
    gaps = rng.exponential(0.4, (batch, count))
    if ties:
        gaps[:, 1:] *= rng.random((batch, count - 1)) > 0.3
    times = 3.0 + gaps.cumsum(1)
    channel = rng.integers(0, channels, (batch, count))
    value = rng.standard_normal((batch, count)).astype(np.float32)
    lengths = np.maximum(count - np.arange(batch) * 3, 0)
    for b in range(batch):  # a channel has one event at a time
        for e in range(1, count):
            while (times[b, :e] == times[b, e])[channel[b, :e] == channel[b, e]].any():
                times[b, e:] += 0.25
    parts = (torch.from_numpy(part) for part in (times, channel))
    return ctlssl.Events(*parts, torch.from_numpy(value).to(dtype), torch.from_numpy(lengths), channels)


def draw_layer(channels=4, N=6, dtype=torch.float64, **options):
    """A small layer with steps that matter over a few unit gaps."""
    options.setdefault("step_range", (0.1, 1.0))
    return ctlssl.EventLSSL(channels, N, **options).to(dtype)


def records(events):
    """The events of each series as a list of (time, channel, value)."""
    lists = zip(events.times.tolist(), events.channel.tolist(), events.value.tolist(), strict=True)
    return [
        [event for place, event in enumerate(zip(*row, strict=True)) if place < length]
        for row, length in zip(lists, events.lengths.tolist(), strict=True)
    ]


def spread_queries(events, rng, count=5):
    """Query times (B, Q) before, at, between and after the events, out of order, one of them NaN."""
    times = events.times.detach().numpy()
    queries = rng.uniform(times.min() - 1, times.max() + 2, (events.batch, count))
    queries[:, 1] = times[:, 3]
    queries[0, 2] = np.nan
    return torch.from_numpy(queries)
