"""Treatment as events: rates with a start and a stop."""

from __future__ import annotations

import torch
from torch import Tensor

from ctlssl.event_parts import promoted

__all__ = ["infusions"]


def infusions(
    series: Tensor,
    start: Tensor,
    stop: Tensor,
    channel: Tensor,
    rate: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rates with a start and a stop as events that set the rate of a channel: what hold "previous" reads.

    Infusions of one channel that overlap add up. The result is the lists of `Events.from_flat`.

    Args:
        series: (T,) the series of each infusion.
        start: (T,) when it starts.
        stop: (T,) when it stops, not before the start.
        channel: (T,).
        rate: (T,) amount per unit of time.

    Returns:
        series, times, channel, value of 2 T events in the order of series, channel and time.

    Raises:
        ValueError: lists of different lengths, or a stop before its start.

    Example:
        >>> zeros, start, stop = torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])
        >>> series, times, channel, value = infusions(zeros, start, stop, zeros, rate=torch.tensor([5.0, 1.0]))
        >>> times.tolist(), value.tolist()
        ([0.0, 1.0, 2.0, 3.0], [5.0, 6.0, 1.0, 0.0])
    """
    lists = {"series": series, "times": start, "stop": stop, "channel": channel, "value": rate}
    kinds = {"series": "channel", "stop": "times"}
    for name, part in lists.items():
        lists[name] = promoted(name, part, kinds.get(name))
        if part.ndim != 1 or len(part) != len(series):
            raise ValueError(f"the {name} of infusions must be ({len(series)},), found {tuple(part.shape)}.")
    series, start, stop, channel, rate = lists.values()
    if not bool((stop >= start).all()):
        wrong = int((~(stop >= start)).nonzero()[0])
        raise ValueError(f"infusion {wrong} stops at {stop[wrong].item()}, before its start {start[wrong].item()}.")
    times = torch.cat([start, stop])  # (2 T,)
    series, channel, change = series.repeat(2), channel.repeat(2), torch.cat([rate, -rate])
    order = torch.argsort(times.detach(), stable=True)
    order = order[torch.argsort(channel[order], stable=True)]
    order = order[torch.argsort(series[order], stable=True)]
    series, times, channel, change = series[order], times[order], channel[order], change[order]
    new = torch.ones_like(series, dtype=torch.bool)
    new[1:] = (series[1:] != series[:-1]) | (channel[1:] != channel[:-1])
    first = torch.where(new, torch.arange(len(new), device=new.device), 0).cummax(0).values  # (2 T,)
    total = change.double().cumsum(0)  # (2 T,)
    running = total - (total - change.double())[first]  # of this series and channel alone
    # What has stopped leaves no rounding behind: as many starts as stops is a rate of 0.
    open_ = torch.where(order < len(rate), 1, -1).cumsum(0)
    return series, times, channel, torch.where(open_ == 0, 0, running).to(rate.dtype)
