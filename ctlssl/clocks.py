"""The same series told by clocks that say less and less: gaps shuffled, all gaps equal, no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.examples import Examples
from ctlssl.tasks import Split

if TYPE_CHECKING:
    from ctlssl.packed_series import PackedSeries
    from ctlssl.series import TimeSeries

__all__ = ["CLOCKS", "with_clock"]

_PARTS = ("train", "valid", "test")


def with_clock(split: Split, clock: str, seed: int = 0) -> Split:
    """The same series and answers, told by another clock.

    A series has rows at times t_1 .. t_n. They become

        "true"      t_k
        "shuffled"  t_1 plus the sum of the first k - 1 gaps in random order: the start, the end and the set of gaps
                    stay, which values they lie between does not
        "equal"     t_1 + (k - 1) (t_n - t_1) / (n - 1): the start and the end stay
        "none"      (k - 1) units of the model's clock, ``problem.time_scale``: nothing stays but the order

    A query keeps its distance to the first row before which, or the last row after which, it lies, and its relative
    place between two rows; with "none" it lies one unit before, one after, or halfway. With "none" the horizon of the
    problem becomes that of the longest series of the training part.

    Args:
        split: of a task.
        clock: one of `CLOCKS`.
        seed: of the random order.

    Raises:
        ValueError: a clock that does not exist.

    Example:
        >>> from ctlssl.tasks import prepare
        >>> equal = with_clock(prepare("oscillators/frequency"), "equal")
        >>> gaps = equal.test.series.gaps()[0, 1:]
        >>> bool((gaps.max() - gaps.min()).abs() < 1e-9)
        True
    """
    if clock not in CLOCKS:
        raise ValueError(f"clock {clock!r} is unknown; it is one of {', '.join(CLOCKS)}.")
    if clock == "true":
        return split
    unit, problem = split.problem.time_scale, split.problem
    parts = {
        name: _retold(getattr(split, name), clock, unit, np.random.default_rng([seed, number]))
        for number, name in enumerate(_PARTS)
    }
    if clock == "none":
        problem = replace(problem, horizon=unit * max(1, int(split.train.series.lengths.max())))
    return replace(split, problem=problem, **parts)


def _retold(examples: Examples, clock: str, unit: float, draw: np.random.Generator) -> Examples:
    """Examples with the rows and queries of each series at other times."""
    times = examples.series.times.clone()
    queries = None if examples.query_times is None else examples.query_times.clone()
    for b, rows in enumerate(_rows(examples.series)):
        before = times[rows].numpy().copy()
        after = CLOCKS[clock](before, unit, draw) if len(before) else before
        times[rows] = torch.from_numpy(after)
        if queries is not None:
            asked = ~torch.isnan(queries[b])
            queries[b, asked] = _moved(queries[b, asked], before, after, unit if clock == "none" else None)
    return replace(examples, series=replace(examples.series, times=times), query_times=queries)


def _rows(series: TimeSeries | PackedSeries) -> Iterator[Any]:
    """Where the times of each series lie in ``series.times``."""
    lengths = series.lengths.tolist()
    if series.times.dim() == 2:
        yield from ((b, slice(0, length)) for b, length in enumerate(lengths))
        return
    ends = np.cumsum(lengths)
    yield from (slice(end - length, end) for end, length in zip(ends.tolist(), lengths, strict=True))


def _moved(queries: Tensor, before: np.ndarray, after: np.ndarray, unit: float | None) -> Tensor:
    """Queries (q,) at the place among rows that have moved; by whole and half units where there is no time."""
    if not len(before):
        return queries if unit is None else torch.zeros_like(queries)
    asked = queries.numpy()
    if unit is not None:
        passed = np.searchsorted(before, asked, side="right")  # rows at or before the query
        place = np.where(passed == 0, -1.0, np.where(passed == len(before), len(before), passed - 0.5))
        return torch.from_numpy(after[0] + unit * place)
    inside = np.interp(asked, before, after)
    early, late = after[0] + (asked - before[0]), after[-1] + (asked - before[-1])
    return torch.from_numpy(np.where(asked < before[0], early, np.where(asked > before[-1], late, inside)))


def _true(times: np.ndarray, unit: float, draw: np.random.Generator) -> np.ndarray:
    return times


def _shuffled(times: np.ndarray, unit: float, draw: np.random.Generator) -> np.ndarray:
    inner = times[0] + np.cumsum(draw.permutation(np.diff(times)))[:-1]
    return np.concatenate([times[:1], np.minimum(inner, times[-1]), times[1:][-1:]])  # the end to the last bit


def _equal(times: np.ndarray, unit: float, draw: np.random.Generator) -> np.ndarray:
    return np.linspace(times[0], times[-1], len(times))


def _none(times: np.ndarray, unit: float, draw: np.random.Generator) -> np.ndarray:
    return unit * np.arange(len(times), dtype=np.float64)


CLOCKS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "true": _true,
    "shuffled": _shuffled,
    "equal": _equal,
    "none": _none,
}
"""The clocks by name: times (n,) of a series, the unit of the model's clock and a source -> new times (n,)."""
