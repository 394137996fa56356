"""Channels with clocks of their own: readings, doses, infusions and a plan, as events and without a grid.

A drug leaves the blood in proportion to what is there, doses add to it at once, infusions while they run. Its
concentration is read now and then, another channel at other times. Every event is (time, channel, value), each channel
has its own hold, and what is planned for the time of the forecast is told to the layer. Run it:

    python examples/asynchronous.py
"""

import numpy as np
import torch

import ctlssl

READING, OTHER, DOSE, INFUSION = range(4)
HOLDS = ("next", "linear", "impulse", "previous")
NOW, END = 10.0, 20.0
DECAY = 0.35


def concentration(times, doses, runs):
    """The drug at some times in closed form: doses [(time, amount)], runs [(start, stop, rate)]."""
    level = np.zeros_like(times)
    for time, amount in doses:
        level += np.where(times >= time, amount * np.exp(-DECAY * np.maximum(times - time, 0)), 0)
    for start, stop, rate in runs:
        before, after = np.clip(times, start, None), np.clip(times, stop, None)
        level += rate / DECAY * (np.exp(-DECAY * (after - stop)) - np.exp(-DECAY * (before - start)))
    return level


def patients(rng, count):
    """Events of a number of patients, and where and what their concentration will be."""
    flat, asked, answers = [], [], []
    for patient in range(count):
        doses = [(time, rng.uniform(0.5, 2)) for time in rng.uniform(0, END, 5)]
        start = rng.uniform(0, 15)
        runs = [(start, start + rng.uniform(1, 4), rng.uniform(0.2, 1))]
        read = np.sort(rng.uniform(0, END, 8))
        level = concentration(read, doses, runs) + 0.02 * rng.standard_normal(8)
        flat += [(patient, time, READING, value, False) for time, value in zip(read, level, strict=True)]
        flat += [(patient, time, OTHER, rng.standard_normal(), False) for time in rng.uniform(0, END, 6)]
        flat += [(patient, time, DOSE, amount, True) for time, amount in doses]
        # A rate with a start and a stop is two events: the rate is set, and set to 0.
        for begin, stop, rate in runs:
            one = (torch.tensor([number]) for number in (patient, begin, stop, INFUSION, rate))
            lists = zip(*(part.tolist() for part in ctlssl.infusions(*one)), strict=True)
            flat += [(*event, True) for event in lists]
        asked.append(np.sort(rng.uniform(NOW, END, 10)))
        answers.append(concentration(asked[-1], doses, runs))
    series, times, channel, value, known = (torch.tensor(part) for part in zip(*flat, strict=True))
    # Treatment is known beforehand; readings that lie later than now are in the record, and must not act.
    events = ctlssl.Events.from_flat(series, times, channel, value, channels=4, known=known)
    return events, torch.tensor(np.array(asked)), torch.tensor(np.array(answers)).float()


def main(epochs: int = 150, count: int = 64) -> dict[str, float]:
    """Print what the forecasts are worth with and without the plan; return their errors and a check."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    events, queries, truth = patients(rng, count)  # (B, E) each; (B, Q); (B, Q)

    # One system of 16 states reads all channels, each with its own hold, and answers one number at any time. Real
    # poles, since a drug does not oscillate.
    layer = ctlssl.EventLSSL(4, state_size=16, outputs=1, measure="real", holds=HOLDS, step_range=(0.03, 0.3))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(epochs):
        optimizer.zero_grad()
        forecast, _ = layer(events, queries, now=NOW)
        (forecast[..., 0] - truth).square().mean().backward()
        optimizer.step()

    # Other patients. Later than now only the plan acts, and the state handed on is that of now. Without the plan an
    # infusion that runs now is taken to run on: its stop is a part of what was planned.
    events, queries, truth = patients(rng, count)

    @torch.no_grad()
    def error(record: ctlssl.Events) -> float:
        forecast, _ = layer(record, queries, now=NOW)
        return (forecast[..., 0] - truth).square().mean().sqrt().item()

    unplanned = ctlssl.Events(events.times, events.channel, events.value, events.lengths, 4)
    errors = {"with the plan": error(events), "without it": error(unplanned), "spread": truth.std().item()}
    print({name: round(number, 3) for name, number in errors.items()})

    # What came in is a list. The grid that unites its channels would mostly say: not observed.
    grid = events.to_series()
    print(f"{int(events.lengths.sum())} events are {grid.observed.numel()} cells of a grid of all times and channels")

    # The same record one event at a time, as it comes in: the same state.
    with torch.no_grad():
        whole, state, expected = events.length, None, layer(events)[1]
        for place in range(whole):
            _, state = layer(events.part(place, place + 1), state=state)
    errors["one event at a time"] = (state.x - expected.x).abs().max().item()
    print(f"one event at a time: the state differs by {errors['one event at a time']:.1e}")
    return errors


if __name__ == "__main__":
    main()
