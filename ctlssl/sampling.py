"""The same series sampled by another law, or told by a clock that is off: what a model meets that it never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ctlssl.examples import Examples
from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries

__all__ = ["CHANGES", "RATES", "Changed", "change_sampling", "jitter", "keep_rows", "stretch"]

Draw = np.random.Generator


@dataclass(frozen=True, eq=False)
class Changed:
    """Examples under another law of sampling.

    Args:
        examples: the same series and answers, with fewer rows or other times.
        rate: (B,) float64, the `rate` of a model that takes the times back to the true ones; 1 where they are true.
    """

    examples: Examples
    rate: Tensor


def keep_rows(series: TimeSeries, keep: Tensor) -> TimeSeries:
    """The rows that are flagged, at their own times; a series of which none is flagged keeps its first.

    Args:
        series: B series of L rows.
        keep: (B, L) bool.

    Example:
        >>> seen = torch.ones(1, 3, 1, dtype=torch.bool)
        >>> series = TimeSeries(torch.zeros(1, 3, 1), torch.arange(3.0)[None], seen, torch.tensor([3]))
        >>> keep_rows(series, torch.tensor([[True, False, True]])).times
        tensor([[0., 2.]], dtype=torch.float64)
    """
    inside = series.in_length
    keep = keep & inside  # (B, L)
    none = ~keep.any(dim=1, keepdim=True) & inside  # (B, L)
    keep = keep | (none & (torch.arange(series.length, device=keep.device) == 0))
    lengths = keep.sum(dim=1)  # (B,)
    longest = int(lengths.max()) if len(lengths) else 0
    place = torch.argsort((~keep).long(), dim=1, stable=True)[:, :longest]  # (B, longest), the kept ones first
    cells = place.unsqueeze(-1).expand(-1, -1, series.channels)  # (B, longest, D)
    return TimeSeries(
        values=torch.gather(series.values, 1, cells),
        times=torch.gather(series.times, 1, place),
        observed=torch.gather(series.observed, 1, cells),
        lengths=lengths,
        static=series.static,
    )


def jitter(series: TimeSeries, spread: float, seed: int = 0) -> TimeSeries:
    """Stamps that are a little off, t_k + spread gap e_k with e_k standard normal; the first and last stay.

    The gap is the mean one of the series. Stamps that would pass each other are put back into order.

    Args:
        series: B series.
        spread: standard deviation in mean gaps.
        seed: of what is drawn.
    """
    draw, times = np.random.default_rng(seed), series.times.clone()
    for b, length in enumerate(series.lengths.tolist()):
        if length > 2:
            own = times[b, :length].numpy()
            moved = own[1:-1] + spread * (own[-1] - own[0]) / (length - 1) * draw.standard_normal(length - 2)
            times[b, 1 : length - 1] = torch.from_numpy(np.sort(np.clip(moved, own[0], own[-1])))
    return replace(series, times=times)


def stretch(examples: Examples, factor: float | Tensor) -> Examples:
    """The same told by a clock that runs `factor` times as fast: t_1 + factor (t - t_1), queries as well.

    Args:
        examples: B series, padded.
        factor: a number or (B,).
    """
    factor = torch.as_tensor(factor, dtype=torch.float64).expand(len(examples)).unsqueeze(1)  # (B, 1)
    times, queries = examples.series.times, examples.query_times
    start = times[:, :1] if examples.series.length else times.new_zeros(len(examples), 1)  # (B, 1)
    start = torch.where(examples.series.lengths.unsqueeze(1) > 0, start, 0.0)
    series = replace(examples.series, times=start + factor * (times - start))
    return replace(examples, series=series, query_times=None if queries is None else start + factor * (queries - start))


def change_sampling(examples: Examples, change: str, seed: int = 0, base: int = 1) -> Changed:
    """Examples as they would be under another law of sampling; the series themselves stay what they were.

        "x1/2", "x4", ...   so many times the base rate: every (base / rate)-th row
        "drop30" ...        30 % of the rows are missing, each by itself
        "bursts"            half of the rows are missing, in runs of 8 on the mean: the mean gap of "drop50"
        "jitter"            stamps are off by half a mean gap (standard deviation)
        "drift"             the clock of each series runs by a factor of its own, e^{0.3 z} with z standard normal
        "unit60" ...        all times are told in a unit 60 times too small: they are 60 times too large

    Where rows are left out the times of the others stay true: the gaps tell what happened, and the rate is 1. With
    "drift" and the units the clock lies, and no gap tells: `Changed.rate` would mend it.

    Args:
        examples: B series at the finest rate there is.
        change: one of `CHANGES`.
        seed: of what is drawn.
        base: the base rate is every base-th row, from which all changes start.

    Raises:
        ValueError: a change that does not exist, or a rate that no whole number of rows makes.

    Example:
        >>> seen = torch.ones(1, 8, 1, dtype=torch.bool)
        >>> series = TimeSeries(torch.zeros(1, 8, 1), torch.arange(8.0)[None], seen, torch.tensor([8]))
        >>> examples = Examples(series, ids=np.array(["a"]), labels=torch.tensor([0]))
        >>> change_sampling(examples, "x2", base=4).examples.series.times
        tensor([[0., 2., 4., 6.]], dtype=torch.float64)
        >>> change_sampling(examples, "unit60").rate
        tensor([0.0167], dtype=torch.float64)
    """
    if change not in CHANGES:
        raise ValueError(f"change {change!r} is unknown; it is one of {', '.join(CHANGES)}.")
    if isinstance(examples.series, PackedSeries):
        padded = change_sampling(replace(examples, series=examples.series.to_series()), change, seed, base)
        packed = PackedSeries.from_series(padded.examples.series)
        return Changed(replace(padded.examples, series=packed), padded.rate)
    draw, step = np.random.default_rng([seed, list(CHANGES).index(change)]), base / RATES.get(change, 1.0)
    if step < 1 or step != round(step):
        raise ValueError(f"{change} of every {base}th row is no whole number of rows; choose a base that it divides.")
    series = keep_rows(examples.series, _every(examples.series, round(step)))
    examples = replace(examples, series=series)
    factor = torch.ones(len(examples), dtype=torch.float64)  # (B,)
    if change in _ROWS:
        keep = _ROWS[change](draw, (len(examples), series.length))  # (B, L)
        examples = replace(examples, series=keep_rows(series, torch.from_numpy(keep)))
    elif change == "jitter":
        examples = replace(examples, series=jitter(series, _JITTER, int(draw.integers(2**31))))
    elif change in _FACTORS:
        factor = torch.from_numpy(_FACTORS[change](draw, len(examples)))
        examples = stretch(examples, factor)
    return Changed(examples, 1.0 / factor)


def _every(series: TimeSeries, step: int) -> Tensor:
    return (torch.arange(series.length) % step == 0).expand(len(series), -1)  # (B, L)


def _dropped(share: float) -> Callable[[Draw, tuple[int, int]], np.ndarray]:
    return lambda draw, shape: draw.random(shape) >= share


def _bursts(draw: Draw, shape: tuple[int, int]) -> np.ndarray:
    """Rows kept in runs: each row turns from kept to left out, or back, with probability 1 / 8."""
    turns = draw.random(shape) < 1 / _BURST
    turns[:, :1] = draw.random((shape[0], 1)) < 0.5
    return np.cumsum(turns, axis=1) % 2 == 0


def _same(factor: float) -> Callable[[Draw, int], np.ndarray]:
    return lambda draw, series: np.full(series, factor)


def _drift(draw: Draw, series: int) -> np.ndarray:
    return np.exp(_DRIFT * draw.standard_normal(series))


_BURST, _JITTER, _DRIFT = 8, 0.5, 0.3

RATES = {"x8": 8.0, "x4": 4.0, "x2": 2.0, "x1": 1.0, "x1/2": 1 / 2, "x1/4": 1 / 4, "x1/8": 1 / 8}
"""Times the base rate, by name."""

_ROWS: dict[str, Callable[[Draw, tuple[int, int]], np.ndarray]] = {
    "drop30": _dropped(0.3),
    "drop50": _dropped(0.5),
    "drop70": _dropped(0.7),
    "bursts": _bursts,
}
_FACTORS: dict[str, Callable[[Draw, int], np.ndarray]] = {
    "drift": _drift,
    "unit60": _same(60.0),
    "unit1/60": _same(1 / 60),
}

CHANGES = (*RATES, *_ROWS, "jitter", *_FACTORS)
"""The names of the changes."""
