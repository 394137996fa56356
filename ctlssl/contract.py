"""What every model and every baseline obeys: training and comparison know nothing else of them."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ctlssl.model_state import ModelState, check_like
from ctlssl.series import TimeSeries

if TYPE_CHECKING:
    from ctlssl.packed_series import PackedSeries
    from ctlssl.streaming import Stream

__all__ = ["KINDS", "Model", "Prediction", "Problem", "check_precision", "check_request", "rate_per_series"]

KINDS = ("classification", "regression", "forecasting", "survival", "labelling")
_ASKING = ("forecasting", "labelling")  # one answer a query time
_LOGITS = ("classification", "survival", "labelling")
_NUMBERS = ("regression", "forecasting")


@dataclass(frozen=True)
class Problem:
    """What a model must know of the data before it is built; every field is a plain JSON value.

    The clock of a model is `time_scale`: data time divided by it is the unit of every layer and time feature, so
    that the same records in hours and in minutes (all three times x 60) give the same model.

    Args:
        kind: "classification", "regression", "survival" (one answer a series), "forecasting" or "labelling" (one
            answer a query time: the values of all channels, or a class).
        channels: D, the number of channels observed.
        outputs: the number of classes (2 for a binary label), of targets, of forecast channels (= `channels`), or of
            intervals of time in which an event may happen.
        static: S, the number of static covariates.
        time_scale: data time of one unit of the model's clock, usually the median gap of the training part.
        first_gap: data time given to the first observation of a series, which has none before it; a convention, and
            so nothing that `rate` multiplies.
        horizon: data time that a series typically spans; the longest time constants start there.
        quantiles: rising levels in (0, 1) at which numbers are predicted, instead of a mean and a standard deviation;
            of regression and forecasting.

    Raises:
        ValueError: for an unknown kind, a count or a time that cannot be, forecasts of other than all channels, or
            levels that are none or belong to another kind.

    >>> problem = Problem("classification", channels=3, outputs=2, time_scale=0.5, first_gap=0.5, horizon=48.0)
    >>> Problem.from_dict(problem.to_dict()) == problem
    True
    """

    kind: str
    channels: int
    outputs: int
    static: int = 0
    time_scale: float = 1.0
    first_gap: float = 1.0
    horizon: float = 1.0
    quantiles: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"problem kind {self.kind!r} is unknown; it is one of {', '.join(KINDS)}")
        least = {"channels": 1, "outputs": 2 if self.kind in ("classification", "labelling") else 1, "static": 0}
        for name, lowest in least.items():
            object.__setattr__(self, name, _count(name, getattr(self, name), lowest, self.kind))
        for name in ("time_scale", "first_gap", "horizon"):
            object.__setattr__(self, name, _positive(name, getattr(self, name)))
        if self.kind == "forecasting" and self.outputs != self.channels:
            raise ValueError(f"a forecast is of all {self.channels} channels: outputs cannot be {self.outputs}")
        object.__setattr__(self, "quantiles", _levels(self.quantiles))
        if self.quantiles and self.kind not in _NUMBERS:
            raise ValueError(f"quantiles are of numbers, a problem of {self.kind} has none; leave them out")

    @property
    def asks_queries(self) -> bool:
        """Whether there is one answer a query time, not one a series."""
        return self.kind in _ASKING

    @property
    def answers_logits(self) -> bool:
        """Whether the answers are logits, not numbers with a scale or quantiles."""
        return self.kind in _LOGITS

    def to_dict(self) -> dict[str, str | int | float | list[float]]:
        """The fields as a dictionary of JSON values; without `quantiles` where there are none."""
        values = asdict(self) | {"quantiles": list(self.quantiles)}
        return values if self.quantiles else {name: value for name, value in values.items() if name != "quantiles"}

    @classmethod
    def from_dict(cls, values: dict[str, str | int | float | list[float]]) -> Problem:
        """The problem of a dictionary written by `to_dict`.

        Raises:
            ValueError: for a key that is missing or unknown, or a value that a problem cannot have.
        """
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"a problem has no field {', '.join(sorted(map(str, unknown)))}; it has {sorted(known)}")
        if missing := {"kind", "channels", "outputs"} - set(values):
            raise ValueError(f"a problem needs {', '.join(sorted(missing))}; found {sorted(values)}")
        return cls(**values)


@dataclass(frozen=True)
class Prediction:
    """What a model answers; what it does not answer is None.

    Args:
        logits: (B, K), unnormalised log-probabilities of K classes, or (B, Q, K) at the query times; of survival the
            logits of the hazards of K intervals, the probabilities that an event happens in an interval if not before.
        mean: (B, T) of the targets of a series, or (B, Q, D) of the channels at the query times; where there are
            quantiles the median, or the mean of them if it is not among them.
        scale: standard deviation, of the shape of `mean`, positive; None where there are quantiles.
        quantiles: of the shape of `mean` with one axis more, not falling along it.
        state: what a later chunk of the same series starts from; None of a model that keeps none.
        penalty: (B,), what training adds to the summed loss of the targets of each series, as a variational bound
            needs it; None of a model that has none, and in evaluation mode.

    A query time that is NaN has logits, mean and quantiles 0 and scale 1: finite, so that a loss which leaves it out
    has finite gradients.
    """

    logits: Tensor | None = None
    mean: Tensor | None = None
    scale: Tensor | None = None
    quantiles: Tensor | None = None
    state: ModelState | None = None
    penalty: Tensor | None = None

    @property
    def log_survival(self) -> Tensor:
        """Of survival: log S_k = sum_{i <= k} log(1 - h_i), that the event comes after interval k, (B, K) float64.

        References:
            Gensheimer, Narasimhan (2019), arXiv:1805.00917.
        """
        return -softplus(self.logits.double()).cumsum(dim=1)


class Model(nn.Module, ABC):
    """A map from irregular series to predictions, built as `Cls(problem, width=32, ...)`.

    `problem` is what it was built for; `evaluations` counts the evaluations of the vector field by ODE solvers since
    construction, and stays 0 in a model that solves nothing. Values are expected already normalised.
    """

    problem: Problem
    evaluations: int

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.evaluations = 0

    @abstractmethod
    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: ModelState | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """Predict for every series, or at every query time.

        Args:
            series: B right-padded series of D channels.
            query_times: (B, Q) float64, NaN-padded, in any order, before, between or after the observations. Read by
                problems of forecasting and labelling; one with one answer a series has nothing to say at a query.
            state: the `state` of the prediction for the rows before these, from which the series go on; a model that
                cannot take it raises ValueError.
            rate: a number, or (B,), that multiplies every elapsed time the model reads; the same for all chunks.

        Raises:
            ValueError: where the series are not those of `problem`, or the request cannot be met.
        """

    def initial_state(self, batch: int) -> ModelState:
        """The state of series of which nothing was observed: to start from it is to start from None.

        Args:
            batch: the number of series.

        Raises:
            ValueError: a model that keeps no state.
        """
        raise ValueError(f"{type(self).__name__} reads whole series and keeps no state from one chunk to the next")

    def stream(
        self,
        batch: int = 1,
        rate: float | Tensor = 1.0,
        static: Tensor | None = None,
        late: str = "refuse",
        window: float | None = None,
    ) -> Stream:
        """Series that are observed one row at a time, with a prediction whenever one is wanted.

        Args:
            batch: the number of series observed side by side.
            rate: a number, or (B,), that multiplies every elapsed time.
            static: (B, S) covariates of the series, where the problem has them.
            late: what happens to an observation earlier than the last one: "refuse" or "replay".
            window: how far back, in data time, a late observation may lie and still be replayed.

        Raises:
            ValueError: a model that keeps no state, or settings that cannot be.
        """
        from ctlssl.streaming import Stream

        return Stream(self, batch, rate=rate, static=static, late=late, window=window)

    def packed(
        self,
        series: PackedSeries,
        query_times: Tensor | None = None,
        state: ModelState | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """What `forward` answers, for series without padding: run over batches of like length, in as much memory.

        Args:
            series: B series of D channels, one after another.
            query_times: as in `forward`.
            state: as in `forward`.
            rate: as in `forward`.

        Raises:
            TypeError: series that are not packed.
            ValueError: as `forward`.
        """
        from ctlssl.packed_calls import call_packed

        return call_packed(self, series, query_times, state, rate)


def check_request(
    problem: Problem,
    series: TimeSeries,
    query_times: Tensor | None,
    state: object | None,
    expected: ModelState | None = None,
) -> None:
    """Refuse, at the door of a model, series, queries and states which it and its problem do not fit.

    Args:
        problem: of the model.
        series: as given.
        query_times: as given.
        state: as given.
        expected: a state of the model, of any number of series; None of a model that takes none.

    Raises:
        TypeError: series of another kind.
        ValueError: naming what was found, what was expected, and what to do.
    """
    if not isinstance(series, TimeSeries):
        remedy = "model.packed(series) reads it" if hasattr(series, "groups") else "build one of its parts"
        raise TypeError(f"a model reads a TimeSeries, found {type(series).__name__}; {remedy}")
    if series.channels != problem.channels:
        raise ValueError(f"the series have {series.channels} channels, the model was built for {problem.channels}")
    found = 0 if series.static is None else series.static.shape[-1]
    if found != problem.static:
        raise ValueError(f"the series have {found} static covariates, the model was built for {problem.static}")
    if state is not None and expected is None:
        raise ValueError("this model takes no state from an earlier chunk; pass the whole series and state=None")
    _check_queries(problem, series, query_times)
    if state is not None:
        _check_order(series, query_times, check_like(state, expected, series.batch))


def _check_queries(problem: Problem, series: TimeSeries, query_times: Tensor | None) -> None:
    if query_times is None:
        if problem.asks_queries:
            what = "a forecast" if problem.kind == "forecasting" else f"a problem of {problem.kind}"
            raise ValueError(f"{what} needs query_times of shape (series, queries); none were given")
        return
    if query_times.dim() != 2 or query_times.shape[0] != series.batch:
        found = tuple(query_times.shape)
        raise ValueError(f"query_times has shape {found}; give ({series.batch}, queries), padded with NaN")
    if query_times.dtype != torch.float64:
        raise ValueError(f"query_times is {query_times.dtype}; times are float64, pass query_times.double()")
    if torch.compiler.is_exporting():  # a program of tensors has no eyes for what is in them
        return
    if (infinite := torch.isinf(query_times)).any():
        position = tuple(infinite.nonzero()[0].tolist())
        raise ValueError(f"query_times is infinite at (series, query) {position}; use NaN for a query that is absent")


def _check_order(series: TimeSeries, query_times: Tensor | None, state: ModelState) -> None:
    """Refuse rows and queries (B, Q) before the last observation that a state knows of."""
    seen = state.seen
    last = torch.where(seen.started, seen.time, -torch.inf).detach().unsqueeze(1)  # (B, 1)
    given = {"row": torch.where(series.in_length, series.times.detach(), torch.inf)}  # (B, L)
    if query_times is not None:
        given["query"] = query_times.detach()  # (B, Q), NaN is before nothing
    for kind, times in given.items():
        if (early := times < last).any():
            b, k = early.nonzero()[0].tolist()
            raise ValueError(
                f"series {b}, {kind} {k}: time {times[b, k].item()} is before {last[b, 0].item()}, the last "
                "observation that the state holds; go on from an earlier state, or give the whole series and state=None"
            )


def check_precision(dtype: torch.dtype) -> None:
    """Refuse parameters in which phases, and with them the clock, would be lost.

    Raises:
        TypeError: half precision.
    """
    if dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"parameters in {dtype} are not supported; keep them in float32, or call .float()")


def rate_per_series(rate: float | Tensor, series: TimeSeries) -> Tensor:
    """The rate of each series as (B,) float64.

    Raises:
        ValueError: unless it is one positive number, or one a series.
    """
    rates = torch.as_tensor(rate, dtype=torch.float64, device=series.times.device)
    if rates.shape not in ((), (series.batch,)):
        raise ValueError(f"rate has shape {tuple(rates.shape)}; give a number or one a series, ({series.batch},)")
    if not bool((torch.isfinite(rates) & (rates > 0)).all()):
        raise ValueError("rate multiplies elapsed times: it must be positive and finite")
    return rates.expand(series.batch)  # (B,)


def _count(name: str, value: object, lowest: int, kind: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it must be a whole number") from None
    if number < lowest:
        raise ValueError(f"{name} is {number}; a {kind} problem needs at least {lowest}")
    return number


def _positive(name: str, value: object) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be a number of data time") from None
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} is {number}; it must be positive and finite")
    return number


def _levels(value: object) -> tuple[float, ...]:
    try:
        levels = tuple(float(level) for level in value)
    except (TypeError, ValueError):
        raise ValueError(f"quantiles is {value!r}; give levels such as (0.05, 0.5, 0.95), or ()") from None
    if not all(0.0 < level < 1.0 for level in levels) or any(a >= b for a, b in zip(levels, levels[1:], strict=False)):
        raise ValueError(f"quantiles is {value!r}; levels lie between 0 and 1 and rise")
    return levels
