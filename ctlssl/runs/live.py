"""A trained run beside records that come line by line: JSON in, JSON out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ctlssl.runs.outcomes import word
from ctlssl.runs.trained import TrainedRun
from ctlssl.streaming import Stream

__all__ = ["LiveRun"]

_KEYS = ("series", "time", "values", "static", "end")


class LiveRun:
    """Answers one line of JSON after another; a line that is refused changes nothing.

    A line is {"series": "bed 7", "time": 3.5, "values": {"heart_rate": 81, "lactate": null}}: an observation, in raw
    units, of the time unit of the training. Without values it only asks. The first line of a series also has "static",
    where the run has static covariates. {"series": "bed 7", "end": true} forgets a series.

    The answer is {"series": ..., "time": ..., and the `answers` of the run}; of forecasts a list under "forecasts". A
    run with a landmark does not read what comes after it, and says so under "note".

    Args:
        run: whose model keeps a state.
        at: for forecasts, times after the line's own.
        late: "refuse" or "replay", as in `Model.stream`.
        window: how far back "replay" goes.
        unknown: what a variable is that the model does not know: "error", or "drop".
        most_series: series that are kept at a time.

    Raises:
        ValueError: a model that keeps no state, or settings that cannot be.
    """

    def __init__(
        self,
        run: TrainedRun,
        at: Sequence[float] = (),
        late: str = "refuse",
        window: float | None = None,
        unknown: str = "error",
        most_series: int = 100_000,
    ) -> None:
        if unknown not in ("error", "drop"):
            raise ValueError(f"unknown={unknown!r} is neither error nor drop.")
        forecasts = run.model.problem.asks_queries
        if forecasts != bool(at):
            raise ValueError(
                "forecasts need times ahead (--at)" if forecasts else "there is one answer a series: no at"
            )
        if not all(math.isfinite(ahead) and ahead >= 0 for ahead in at):
            raise ValueError(f"times ahead are finite and not negative; found {list(at)}")
        self.run, self.at, self.unknown, self.most_series = run, tuple(at), unknown, most_series
        self.policy = {"late": late, "window": window}
        blank = torch.zeros(1, run.model.problem.static) if run.model.problem.static else None
        run.model.stream(1, static=blank, **self.policy)  # refuses what cannot be, before the first line
        self.place = {name: d for d, name in enumerate(run.variables)}
        run.check_as_recorded(line_by_line=True)
        self.landmark = run.landmark
        self.streams: dict[str | int, Stream] = {}

    def answer(self, line: str) -> dict[str, Any]:
        """What is said of a line.

        Args:
            line: JSON.

        Returns:
            plain values, to be written as JSON.

        Raises:
            ValueError: no JSON, a name or a number that cannot be, or an observation that comes too late.
        """
        said = _parsed(line)
        key = said.get("series")
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise ValueError(f"series is {key!r}; give its name or number")
        if "end" in said:
            if said["end"] is not True or len(said) > 2:
                raise ValueError('"end" is true, and stands beside "series" alone')
            return {"series": key, "ended": self.streams.pop(key, None) is not None}
        time = _number(said.get("time"), "time")
        values, observed = self._values(said.get("values", {}))
        stream = self._stream(key, said.get("static"))
        late = self.landmark is not None and time > self.landmark
        if bool(observed.any()) and not late:
            try:
                stream.observe(time, values, observed)
            except ValueError as error:
                raise ValueError(str(error).replace("stream 0", f"series {key!r}", 1)) from error
        self.streams[key] = stream
        told = {"series": key, "time": time} | self._told(stream, time)
        read = float(stream.last_time[0])
        if late:
            told["note"] = f"not read: this run reads up to the landmark {self.landmark:g}"
        elif read > time and not self.run.model.problem.asks_queries:
            told["note"] = f"the answer also reads what was observed until {read:g}"
        return told

    def _stream(self, key: str | int, static: Any) -> Stream:
        if key in self.streams:
            if static is not None:
                raise ValueError(f"series {key!r} has told its static covariates; end it first to begin it anew")
            return self.streams[key]
        if len(self.streams) >= self.most_series:
            raise ValueError(f'{len(self.streams)} series are kept; end some, {{"series": ..., "end": true}}')
        return self.run.model.stream(1, static=self._static(static), **self.policy)

    def _static(self, given: Any) -> Tensor | None:
        """Covariates (1, S), standardised; a text as the flags of its words."""
        names, words = self.run.static, self.run.categories
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise ValueError(f"static is {given!r}; give names and values")
        flags = {f"{name}={text}": (name, text) for name, texts in words.items() for text in texts}
        known = {*words, *(name for name in names if name not in flags)}
        if set(given) != known:
            raise ValueError(f"static of a new series names {sorted(known)}, found {sorted(given)}")
        if not names:
            return None
        for name, texts in words.items():
            if word(given[name]) not in texts:
                raise ValueError(f"static {name!r} is {given[name]!r}; known are {', '.join(texts)}")
        row = [
            float(word(given[flags[name][0]]) == flags[name][1]) if name in flags else _number(given[name], name)
            for name in names
        ]
        return self.run.normalizer.apply_static(torch.tensor([row], dtype=torch.float64), torch.float32)

    def _values(self, given: Any) -> tuple[Tensor, Tensor]:
        """Values (1, D) in normal scores, and which of them were observed."""
        if not isinstance(given, Mapping):
            raise ValueError(f"values is {given!r}; give names and numbers")
        if self.unknown == "error" and (strange := [name for name in given if name not in self.place]):
            raise ValueError(f"the model does not know {', '.join(map(repr, strange[:5]))}")
        raw = torch.full((1, len(self.place)), torch.nan, dtype=torch.float64)  # (1, D)
        for name, value in given.items():
            if name in self.place and value is not None:
                raw[0, self.place[name]] = _number(value, name)
        observed = ~raw.isnan() & self.run.normalizer.seen
        return self.run.normalizer.apply_values(raw, observed, torch.float32), observed

    def _told(self, stream: Stream, time: float) -> dict[str, Any]:
        kind, run = self.run.model.problem.kind, self.run
        if kind == "forecasting":
            return {"forecasts": self._forecasts(stream, time)}
        if kind == "labelling":
            times = [time + ahead for ahead in self.at]
            shares = torch.softmax(stream.predict([times]).logits.double(), 2)[0].tolist()  # Q lists of K
            named = (dict(zip(run.answers, part, strict=True)) for part in shares)
            return {"labels": [{"time": at, **part} for at, part in zip(times, named, strict=True)]}
        found = stream.predict()
        if kind == "survival":
            return dict(zip(run.answers, found.log_survival.exp()[0].tolist(), strict=True))
        if kind == "classification":
            return dict(zip(run.answers, torch.softmax(found.logits.double(), 1)[0].tolist(), strict=True))
        found = found if run.targets is None else run.targets.inverse(found)
        return dict(zip(run.answers, found.mean[0].tolist(), strict=True))

    def _forecasts(self, stream: Stream, time: float) -> list[dict[str, Any]]:
        times = [time + ahead for ahead in self.at]
        found = stream.predict([times])  # (1, Q, D)
        table = self.run.forecasts([0], torch.tensor([times], dtype=torch.float64), found)
        return table.drop(columns="series").to_dict("records")


def _parsed(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(said, dict):
        raise ValueError('give {"series": ..., "time": ..., "values": {...}}')
    if strange := [name for name in said if name not in _KEYS]:
        raise ValueError(f"{', '.join(map(repr, strange[:5]))} means nothing here; a line has {', '.join(_KEYS)}")
    return said


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON; what was not observed is null, or left out")


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}; give a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is beyond what a number holds")
    return number
