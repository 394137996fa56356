"""The container of events: what it refuses, and the ways in and out."""

import numpy as np
import pytest
import torch

import ctlssl
from tests.contracts import generator
from tests.event_cases import draw_events, records


def parts(**changed):
    given = {
        "times": torch.tensor([[0.0, 1.0, 1.0], [2.0, 5.0, 0.0]], dtype=torch.float64),
        "channel": torch.tensor([[0, 1, 0], [2, 2, 99]]),
        "value": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, torch.nan]]),
        "lengths": torch.tensor([3, 2]),
        "channels": 3,
    }
    return {**given, **changed}


def test_padding_is_never_read():
    events = ctlssl.Events(**parts())
    assert (events.batch, events.length, events.channels, len(events)) == (2, 3, 3, 2)
    assert records(events)[1] == [(2.0, 2, 4.0), (5.0, 2, 5.0)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"times": torch.tensor([[0.0, 2.0, 1.0], [2.0, 5.0, 0.0]])}, "series 0, position 2: time 1.0 < previous"),
        ({"times": torch.tensor([[0.0, torch.inf, 1.0], [2.0, 5.0, 0.0]])}, "series 0, position 1: time inf"),
        ({"channel": torch.tensor([[0, 3, 0], [2, 2, 0]])}, r"series 0, position 1: channel 3 is not in 0\.\.2"),
        ({"channel": torch.tensor([[0, 1, 0], [-1, 2, 0]])}, "series 1, position 0: channel -1"),
        ({"value": torch.tensor([[1.0, 2.0, torch.nan], [4.0, 5.0, 0.0]])}, "series 0, position 2: value nan"),
        ({"value": torch.zeros(2, 2)}, r"value must be \(2, 3\)"),
        ({"times": torch.zeros(3)}, r"times must be \(B, E\)"),
        ({"lengths": torch.tensor([4, 2])}, "series 0: length 4"),
        ({"channels": 0}, "channels counts the channels"),
        ({"known": torch.zeros(2, 2, dtype=torch.bool)}, r"known must be \(2, 3\)"),
    ],
)
def test_what_cannot_be_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        ctlssl.Events(**parts(**changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"times": [[0.0]]}, "times must be a torch.Tensor"),
        ({"channel": torch.zeros(2, 3)}, "channel must be one of"),
        ({"value": torch.zeros(2, 3, dtype=torch.complex64)}, "value must be one of"),
        ({"known": torch.zeros(2, 3)}, "known must be one of bool"),
    ],
)
def test_kinds_that_cannot_be_are_refused(changed, message):
    with pytest.raises(TypeError, match=message):
        ctlssl.Events(**parts(**changed))


def test_a_flat_list_in_any_order():
    rng = generator("flat events")
    events = draw_events(rng, batch=3, count=15, ties=False)
    b, place = events.in_length.nonzero(as_tuple=True)
    mixed = torch.from_numpy(rng.permutation(len(b)))
    lists = [part[mixed] for part in (b, *(p[b, place] for p in (events.times, events.channel, events.value)))]
    known = torch.from_numpy(rng.random(len(b)) > 0.5)
    again = ctlssl.Events.from_flat(*lists, channels=4, batch=3, known=known)
    assert records(again) == records(events)
    flags = {
        tuple(event): flag for *event, flag in zip(*(part.tolist() for part in lists), known.tolist(), strict=True)
    }
    for b, record in enumerate(records(again)):
        assert [flags[(b, *event)] for event in record] == again.known[b, : len(record)].tolist()
    with pytest.raises(ValueError, match=r"series must be 0\.\.1"):
        ctlssl.Events.from_flat(*lists, channels=4, batch=2)
    with pytest.raises(ValueError, match="value must be"):
        ctlssl.Events.from_flat(*lists[:3], lists[3][1:], channels=4)


def test_to_series_and_back():
    rng = generator("events and series")
    events = draw_events(rng, batch=3, count=20)
    series = events.to_series()
    assert series.length < 20 and int(series.observed.sum()) == int(events.lengths.sum())
    for b, record in enumerate(records(events)):
        rows = int(series.lengths[b])
        assert series.times[b, :rows].tolist() == sorted({time for time, _, _ in record})
    back = records(ctlssl.Events.from_series(series))
    assert back == [sorted(record) for record in records(events)]


def test_a_channel_twice_at_one_time_takes_two_rows():
    events = ctlssl.Events(
        torch.tensor([[0.0, 1.0, 1.0, 1.0]]),
        torch.tensor([[0, 0, 1, 0]]),
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        torch.tensor([4]),
        channels=2,
    )
    series = events.to_series()
    assert series.times.tolist() == [[0.0, 1.0, 1.0]]
    assert series.values.tolist() == [[[1.0, 0.0], [2.0, 3.0], [4.0, 0.0]]]
    assert series.observed.tolist() == [[[True, False], [True, True], [True, False]]]


def test_nothing_at_all():
    events = ctlssl.Events(*(torch.zeros(2, 0, dtype=kind) for kind in (torch.float64, torch.int64, torch.float32)),
                           torch.zeros(2, dtype=torch.int64), channels=3)  # fmt: skip
    series = events.to_series()
    assert series.values.shape == (2, 0, 3)
    assert ctlssl.Events.from_series(series).length == 0
    empty = (torch.zeros(0, dtype=kind) for kind in (torch.int64, torch.float64, torch.int64, torch.float32))
    assert ctlssl.Events.from_flat(*empty, channels=3, batch=2).times.shape == (2, 0)


def test_parts_and_series_can_be_chosen():
    rng = generator("event parts")
    events = draw_events(rng, batch=3, count=9)
    whole = records(events)
    pieces = [records(events.part(begin, begin + 4)) for begin in (0, 4, 8)]
    assert [sum((piece[b] for piece in pieces), []) for b in range(3)] == whole
    chosen = events.select([2, 0])
    assert records(chosen) == [whole[2], whole[0]]
    assert events.select(slice(2, 3)).length == 3
    assert events.select(torch.tensor([False, True, False])).batch == 1
    assert events.to(dtype=torch.float32).value.dtype == torch.float32
    with pytest.raises(TypeError, match="floating"):
        events.to(dtype=torch.int64)


def test_infusions_that_overlap_add_up():
    rng = generator("infusions")
    series, channel = torch.from_numpy(rng.integers(0, 2, 12)), torch.from_numpy(rng.integers(0, 2, 12))
    start = torch.from_numpy(rng.uniform(0, 10, 12))
    stop = start + torch.from_numpy(rng.uniform(0, 5, 12))
    rate = torch.from_numpy(rng.uniform(0.1, 1, 12))
    lists = ctlssl.infusions(series, start, stop, channel, rate)
    events = ctlssl.Events.from_flat(*lists, channels=2, batch=2)
    for b, record in enumerate(records(events)):
        for moment in rng.uniform(-1, 16, 20):
            for c in range(2):
                set_to = [value for time, of, value in record if of == c and time <= moment]
                mine = (series == b) & (channel == c) & (start <= moment) & (moment < stop)
                np.testing.assert_allclose(set_to[-1] if set_to else 0.0, rate[mine].sum(), atol=1e-14)
    assert records(events)[0][-1][2] == 0.0  # nothing is left of what has stopped
    with pytest.raises(ValueError, match="infusion 3 stops"):
        ctlssl.infusions(series, start, torch.where(torch.arange(12) == 3, start - 1, stop), channel, rate)


def test_ticks_that_float64_has_no_numbers_for_are_refused():
    """Nanoseconds since 1970 would lose their last digits."""
    ticks, zeros = 1_700_000_000_000_000_000 + torch.tensor([0, 100]), torch.zeros(2, dtype=torch.int64)
    value = torch.ones(2)
    refused = [
        ("times", lambda: ctlssl.Events(ticks[None], zeros[None], value[None], torch.tensor([2]), 1)),
        ("times", lambda: ctlssl.Events.from_flat(zeros, -ticks, zeros, value, channels=1)),
        ("times", lambda: ctlssl.infusions(zeros, ticks, ticks + 50, zeros, value)),
        ("stop", lambda: ctlssl.infusions(zeros, ticks - ticks[0], ticks, zeros, value)),
    ]
    for name, call in refused:
        with pytest.raises(ValueError, match=rf"^{name}: integers beyond 2\*\*53"):
            call()
    events = ctlssl.Events.from_flat(zeros, ticks - ticks[0], zeros, value, channels=1)
    assert events.times.tolist() == [[0.0, 100.0]]
