"""A model beside its series: what is seen goes in as it comes, and a prediction is there whenever one is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ctlssl.model_state import ModelState
from ctlssl.packed_calls import ABSENT
from ctlssl.series import TimeSeries
from ctlssl.streaming import door
from ctlssl.streaming.bank import Bank
from ctlssl.streaming.kept import FlatRows, KeptRows, seen_rows
from ctlssl.streaming.reader import Reader
from ctlssl.streaming.replay import Replay
from ctlssl.streaming.saving import restore, store

__all__ = ["Stream"]


class Stream:
    """B series side by side, observed one row at a time; the state of each is all that is kept of its past.

    What it predicts is what the model would, to rounding, had it been given the rows so far as one batch, in the order
    of their times (rows of one time: in the order in which they came). The model runs in evaluation mode and without
    gradients, and is left as it was found. A call that raises has changed nothing.

    A row in which nothing was observed is no row: it moves no clock. An observation earlier than the last one of its
    stream is *late*. "refuse" raises; "replay" goes back to a state from before the window and reads the rows since
    then again, the late one at its place. Each stream has a window of its own, which ends at its last observation.

    Args:
        model: a `Model` that keeps a state. Streams may share it; its weights must stay as they are.
        batch: B, the number of streams.
        rate: a number, or (B,), that multiplies every elapsed time.
        static: (B, S) covariates of the streams, where the problem has them.
        late: "refuse" or "replay".
        window: for "replay", how far before the last observation of its stream a late one may lie, in data time.

    Raises:
        ValueError: a model that keeps no state, or settings that cannot be.

    References:
        Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
        Layers, arXiv:2110.13985 (the recurrence that a state makes possible).

    Example:
        >>> import ctlssl
        >>> problem = ctlssl.Problem("forecasting", channels=2, outputs=2, time_scale=1.0, horizon=48.0)
        >>> beds = ctlssl.LSSLModel(problem, width=8).stream(batch=3, late="replay", window=12.0)
        >>> beds.observe(0.5, [[80.0, float("nan")], [91.0, 37.2], [75.0, 36.6]])  # hours; NaN: not seen
        >>> beds.observe([2.0, 2.5, float("nan")], [[84.0, 36.9], [95.0, 37.9], [0.0, 0.0]])  # nothing of bed 2
        >>> beds.observe(1.0, [88.0, 37.5], series=1)  # a result that comes late
        >>> beds.predict(6.0).mean.shape, beds.predict([[3.0, 9.0]], series=1).mean.shape
        (torch.Size([3, 2]), torch.Size([1, 2, 2]))
        >>> again = Stream.load(beds.model, beds.save())
        >>> bool((again.predict(6.0).mean == beds.predict(6.0).mean).all())
        True
    """

    def __init__(
        self,
        model: nn.Module,
        batch: int = 1,
        rate: float | Tensor = 1.0,
        static: Any = None,
        late: str = "refuse",
        window: float | None = None,
    ) -> None:
        self.model, self.batch = model, door.read_batch(batch)
        self.late, self.window = late, door.read_window(late, window)
        state = model.initial_state(self.batch)
        like, size = state.seen.values, (self.batch, model.problem.static)
        self._device = like.device
        rates = door.read_rates(rate, self.batch, self._device)
        self._reader = Reader(model, rates, door.read_static(static, size, None, like))
        self._bank = Bank(state)
        self._replay = None
        if self.window is not None:
            kept = KeptRows(FlatRows.none(like))
            self._replay = Replay(self._reader, self.window, self._bank.copy(), kept)

    @property
    def last_time(self) -> Tensor:
        """(B,) float64: the time of the last observation of each stream, NaN before the first."""
        seen = self._bank.state.seen
        return torch.where(seen.started, seen.time, torch.nan)

    @property
    def state(self) -> ModelState:
        """The state of all streams, as a copy: `model(series, state=stream.state)` goes on from it."""
        return self._bank.copy().state

    def observe(self, time: Any, values: Any, observed: Any = None, series: Any = None) -> None:
        """Take one row of each stream, or of some.

        Args:
            time: when it was seen, a number or (M,); NaN where a stream sees nothing now.
            values: (M, D), or (D,) where M is 1, on the scale that the model was trained on (`Normalizer`). NaN means
                not observed, unless flags are given.
            observed: (M, D) bool, True = seen; what values hold elsewhere is not read.
            series: which M streams: a number, a list of numbers, or flags (B,); None is all B.

        Raises:
            TypeError: dates, flags that are not boolean, or what is no number.
            ValueError: shapes that do not fit, a value that is not finite, or an observation that comes too late; the
                message names the stream and the time. No stream has moved then.
        """
        index, count = self._which(series)
        like = self._bank.state.seen.values
        times = door.read_times(time, count, index, self._device)  # (M,)
        given, flags = door.read_values(values, observed, (count, like.shape[1]), index, like)  # (M, D)
        moves = flags.any(dim=-1) & ~torch.isnan(times)  # (M,)
        if not bool(moves.all()):
            index = moves.nonzero()[:, 0] if index is None else index[moves]
            times, given, flags = times[moves], given[moves], flags[moves]
        if len(times):
            lengths = torch.ones_like(times, dtype=torch.int64)
            self._take(index, TimeSeries(given[:, None], times[:, None], flags[:, None], lengths))

    def extend(self, rows: TimeSeries, series: Any = None) -> None:
        """Take many rows of each stream, or of some, at once: a history, or what came while nobody listened.

        Args:
            rows: M series of D channels; their static covariates may be left out. A row in which nothing was
                observed is left out, whenever it was.
            series: which M streams they belong to; None is all B.

        Raises:
            TypeError: no `TimeSeries`.
            ValueError: as `observe`, of which this is many in a row.
        """
        if not isinstance(rows, TimeSeries):
            raise TypeError(f"rows are a TimeSeries, found {type(rows).__name__}; observe takes one row a stream")
        index, count = self._which(series)
        like, static = self._bank.state.seen.values, self._reader.static
        if (rows.batch, rows.channels) != (count, like.shape[1]):
            found = f"{rows.batch} series of {rows.channels} channels"
            raise ValueError(f"rows hold {found}; give {count} of {like.shape[1]}, one for each stream")
        rows = rows.to(like.device, like.dtype)
        own = static if index is None or static is None else static[index]
        if rows.static is not None and (own is None or not torch.equal(rows.static, own)):
            raise ValueError("rows have static covariates that are not those of the streams; leave them out, or reset")
        moves = (rows.observed.any(dim=-1) & rows.in_length).any(dim=-1)  # (M,)
        if bool(moves.any()):
            moved = moves.nonzero()[:, 0]
            self._take(moved if index is None else index[moved], seen_rows(rows.select(moved)))

    def predict(self, time: Any = None, series: Any = None) -> Any:
        """What the model says of each stream, or of some, from what was observed so far; nothing moves.

        Args:
            time: of the forecasts or labels: a number or (M,) for one a stream, (M, Q) for several, NaN for none.
                With late="replay" they may lie before the last observation, in the window: such an answer knows
                nothing of what was observed after it. None where the problem has one answer a series.
            series: which M streams; None is all B.

        Returns:
            a `Prediction` without state: logits (M, K), or mean and scale (M, T); of forecasts mean and scale (M, D),
            or (M, Q, D) where a list of times was given; of labels at a time logits (M, K), or (M, Q, K).

        Raises:
            ValueError: a time for a problem that reads none, none for one that does, or one that has passed.
        """
        index, count = self._which(series)
        if (time is not None) != self._reader.forecasts:
            remedy = "a forecast needs a time" if time is None else "its answer is of all that was seen: leave time out"
            raise ValueError(f"this is a problem of {self.model.problem.kind}: {remedy}")
        if time is None:
            return replace(self._reader.ask(self._bank.at(index), index), state=None)
        queries, several = door.read_queries(time, count, index, self._device)  # (M, Q)
        answer = self._forecast(index, queries)
        parts = {name: getattr(answer, name) for name in ABSENT}
        parts = {name: part if several or part is None else part[:, 0] for name, part in parts.items()}
        return replace(answer, state=None, **parts)

    def reset(self, series: Any = None, static: Any = None) -> None:
        """Forget all of some streams, or of all: the next observation is the first of a new series.

        Args:
            series: which M streams; None is all B.
            static: (M, S) covariates of the new series, where the problem has them.

        Raises:
            ValueError: as at the making of a stream.
        """
        index, count = self._which(series)
        size = (count, self.model.problem.static)
        static = door.read_static(static, size, index, self._bank.state.seen.values)
        everyone, fresh = self._numbers(index), self.model.initial_state(count)
        self._bank.write(everyone, fresh)
        if static is not None:
            self._reader.static[everyone] = static
        if self._replay is not None:
            self._replay.reset(everyone, fresh)

    def save(self) -> bytes:
        """All that the streams hold, as the bytes of a safetensors file with a digest; `load` goes on from there.

        The weights of the model are not among it, only their digest, and the options that it was built with.
        """
        kept = None if self._replay is None else self._replay.kept
        base = None if self._replay is None else self._replay.base.state
        return store(self._reader, self._bank.state, (self.late, self.window), base, kept)

    @classmethod
    def load(cls, model: nn.Module, data: bytes) -> Stream:
        """The streams that `save` wrote, bit for bit, on the device of the model.

        Args:
            model: the same, built with the same options, with the same weights.
            data: bytes from anywhere: nothing in them is run, and all is checked before it is used.

        Raises:
            TypeError: no bytes.
            ValueError: bytes that are damaged or no stream, or a stream of another model, other options or weights.
        """
        saved = restore(model, data)
        late, window = saved.policy
        stream = cls(model, saved.state.batch, rate=saved.rates, static=saved.static, late=late, window=window)
        stream._bank = Bank(saved.state)
        if saved.kept is not None:
            stream._replay = Replay(stream._reader, stream.window, Bank(saved.base), saved.kept)
        return stream

    def _which(self, series: Any) -> tuple[Tensor | None, int]:
        index = door.read_index(series, self.batch, self._device)
        return index, self.batch if index is None else len(index)

    def _numbers(self, index: Tensor | None) -> Tensor:
        return torch.arange(self.batch, device=self._device) if index is None else index  # (M,)

    def _last(self, index: Tensor | None) -> Tensor:
        """The time of the last observation, (M,), -inf before the first."""
        seen = self._bank.state.seen
        last = torch.where(seen.started, seen.time, -torch.inf)  # (B,)
        return last if index is None else last[index]

    def _take(self, index: Tensor | None, rows: TimeSeries) -> None:
        """Read rows (M, L, D) of streams that have at least one observation each."""
        if rows.length == 1:
            first = rows.times[:, 0]  # (M,)
        else:
            seen = rows.observed.any(dim=-1) & rows.in_length  # (M, L)
            first = torch.where(seen, rows.times, torch.inf).amin(dim=1)  # (M,)
        last = self._last(index)
        late = first < last  # (M,)
        any_late = bool(late.any())
        if any_late:
            self._refuse_early(index, first, last, "an observation")
        if self._replay is None:
            self._bank.write(index, self._reader.run(self._bank.at(index), index, rows).state)
            return
        numbers = self._numbers(index)
        with self._replay.keeping(FlatRows.of(numbers, rows), self._last(None)):
            moved = []
            if any_late:
                moved.append(self._replay.again(numbers[late]))
                prompt = (~late).nonzero()[:, 0]
                index, rows = numbers[prompt], rows.select(prompt)
            if rows.batch:
                moved.append((index, self._reader.run(self._bank.at(index), index, rows).state))
        for streams, state in moved:
            self._bank.write(streams, state)

    def _forecast(self, index: Tensor | None, queries: Tensor) -> Any:
        """Answers at queries (M, Q), those before the last observation from the rows before them alone."""
        earliest = torch.where(torch.isnan(queries), torch.inf, queries).amin(dim=1) if queries.shape[1] else None
        last = self._last(index)
        if earliest is None or not bool((early := earliest < last).any()):
            return self._reader.ask(self._bank.at(index), index, queries)
        self._refuse_early(index, earliest, last, "a query")
        prompt = torch.where(early[:, None], torch.nan, queries)  # (M, Q)
        answer = self._reader.ask(self._bank.at(index), index, prompt)
        numbers, rank = self._numbers(index)[early].sort()  # (E,)
        place = early.nonzero()[:, 0][rank]  # (E,)
        state, rows = self._replay.history(numbers)
        past = self._reader.run(state, numbers, rows, queries[place])
        for name in ABSENT:
            if (part := getattr(answer, name)) is not None:
                part[place] = getattr(past, name)
        return answer

    def _refuse_early(self, index: Tensor | None, times: Tensor, last: Tensor, what: str) -> None:
        """Refuse times (M,) of which some lie before the last observation and the window."""
        allowed = last if self.window is None else last - self.window  # (M,)
        early = times < allowed
        if not bool(early.any()):
            return
        row, more = int(early.nonzero()[0, 0]), int(early.sum()) - 1
        remedy = "late='replay' with a window takes such times" if self.window is None else f"window={self.window:g}"
        raise ValueError(
            f"stream {door.which(index, row)}: {what} at time {times[row].item()} is before {allowed[row].item()}, the "
            f"{'last observation' if self.window is None else 'start of its window'} ({remedy}); give NaN as its time "
            f"to leave it out{f'. So it is with {more} streams more' if more else ''}"
        )
