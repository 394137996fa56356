"""Find by how much a clock is off: one factor on all elapsed times, one a series, or the step sizes of the layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ctlssl.contract import Model, Prediction
from ctlssl.examples import Examples
from ctlssl.packed_series import PackedSeries
from ctlssl.sampling import keep_rows
from ctlssl.training import History, Training, fit, predict
from ctlssl.training.losses import loss_of

__all__ = ["TimeScale", "fit_step_sizes", "fit_timescale", "step_sizes"]

_PER_OCTAVE, _FINER = 4, 8  # points of the grid, of shared rates and of those of single series
_BASINS = 3  # minima of the grid that are refined
_ASKED = 1 / 3  # the share of a series that is forecast from the rest where nothing else is known


@dataclass(frozen=True, eq=False)
class TimeScale:
    """By how much a clock is off, and how sure that is.

    Args:
        rate: what `Model.forward` takes as `rate`: one number, or one a series (B,), float64.
        shared: the one number, or the middle of those of the series.
        interval: around the shared rate, the nearest ones of the grid whose mean loss is worse by more than twice its
            standard error over the series, or the end of the grid: rates outside can be told from the best.
        grid: (G,) shared rates that were tried, ascending.
        curve: (G,) mean loss at each.
        before: mean loss at rate 1.
        after: mean loss at `rate`.

    A loss is the mean over the targets of a series; their sum, as a likelihood weighs it against the spread of the
    rates, where each series has a rate of its own.

    Example:
        >>> found = TimeScale(2.0, 2.0, (1.4, 2.8), np.array([1.0, 2.0]), np.array([0.9, 0.4]), before=0.9, after=0.4)
        >>> found.interval[0] < found.rate < found.interval[1]
        True
    """

    rate: float | Tensor
    shared: float
    interval: tuple[float, float]
    grid: np.ndarray
    curve: np.ndarray
    before: float
    after: float


def fit_timescale(
    model: Model,
    examples: Examples,
    between: tuple[float, float] = (1 / 128, 128.0),
    criterion: str = "loss",
    spread: float = 0.0,
    batch_size: int = 64,
) -> TimeScale:
    r"""Find the rate at which a trained model understands series whose clock it does not know; all else is frozen.

        rate = argmin_r  sum_b loss_b(r)                                                           spread = 0
        (shared, rate_b) = argmin  sum_b loss_b(rate_b) + (log rate_b - log shared)^2 / (2 spread^2)    else

    The sum is taken on a grid of four rates an octave, and its three deepest minima are refined by bounded scalar
    minimisation (Brent); with a spread the grid has eight rates an octave, and those of single series are refined by a
    parabola. Where the gaps tell the truth the rate found is near 1. Where each series has a clock of its own no one
    rate need be good for all: give a spread.

    Args:
        model: of any kind, trained; its weights and mode stay as they are.
        examples: B series whose clock is in question, a few suffice, with their answers where the criterion is "loss".
        between: smallest and largest rate that are looked at.
        criterion: "loss", that of training, which reads the answers; or "self", which needs none: the entropy of the
            classes, the logarithm of the spread that the model gives to a target, or the loss of the last third of
            each series forecast from what came before. A model may be sure and wrong: give answers where there are any.
        spread: of the logarithm of the rates of single series around the shared one; 0 is one rate for all.
        batch_size: series in a batch.

    Raises:
        ValueError: no series or no answers, a range that is none, or a criterion that the model cannot be asked.

    References:
        Gu et al. (2021), LSSL, arXiv:2110.13985, for a known rate; Wang et al. (2021), Tent, arXiv:2006.10726, for the
        entropy of predictions as a criterion.

    Example:
        >>> from ctlssl import LSSLModel, prepare
        >>> split = prepare("spirals/direction")
        >>> model = LSSLModel(split.problem, width=4)
        >>> found = fit_timescale(model, split.valid.select(range(8)), between=(0.5, 2.0))
        >>> len(found.grid), bool(found.after <= found.before)
        (9, True)
    """
    low, high = between
    if not (0 < low < high < math.inf and 0 <= spread < math.inf):
        raise ValueError(f"need 0 < low < high and spread >= 0; found between={between!r} and spread={spread!r}.")
    losses = _losses(model, examples, criterion, batch_size, summed=spread > 0)
    at_one = losses(1.0)  # (B,)
    before = float(at_one.mean())
    grid = _grid(low, high, _FINER if spread else _PER_OCTAVE)  # (G,)
    table = np.stack([losses(rate) for rate in grid])  # (G, B)
    if spread:
        apart = (np.log(grid[:, None] / grid) / spread) ** 2 / 2  # (G own, G shared)
        profile = np.stack([(table + apart[:, [g]]).min(axis=0) for g in range(len(grid))])  # (G shared, B)
        curve = profile.mean(axis=1)  # (G,)
        best = int(curve.argmin())
        shared, interval = float(grid[best]), _interval(grid, profile, grid[best], profile[best])
        rates = torch.from_numpy(_own_rates(grid, table + apart[:, [best]]))  # (B,)
        return TimeScale(rates, shared, interval, grid, curve, before, float(losses(rates).mean()))
    curve = table.mean(axis=1)  # (G,)
    unchanged = [(before, 1.0)] if low <= 1 <= high else []
    after, rate = min([*_refined(grid, curve, losses), *unchanged])
    return TimeScale(rate, rate, _interval(grid, table, rate, losses(rate)), grid, curve, before, after)


def fit_step_sizes(
    model: Model, examples: Examples, valid: Examples | None = None, training: Training | None = None
) -> History:
    """Train the step sizes of the layers alone, in place: every other weight stays.

    A layer's step size multiplies all its gaps, so that this is a rate of each layer's, channel's or state's own. Time
    features of an encoder are not reached by it, a rate reaches them.

    Args:
        model: with layers of `ctlssl.layers`, whose step sizes are called `log_step`.
        examples: to learn from.
        valid: as in `ctlssl.fit`.
        training: as in `ctlssl.fit`; None takes 60 epochs at a rate of 0.05.

    Raises:
        ValueError: a model without step sizes.

    References:
        Gu et al. (2021), LSSL, arXiv:2110.13985, for step sizes that are learned.

    Example:
        >>> from ctlssl import LSSLModel, prepare
        >>> split = prepare("spirals/direction")
        >>> model = LSSLModel(split.problem, width=4)
        >>> before = {name: weight.clone() for name, weight in model.named_parameters()}
        >>> _ = fit_step_sizes(model, split.valid.select(range(8)), training=Training(epochs=1))
        >>> [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
        ['blocks.0.layer.log_step']
    """
    steps = step_sizes(model)
    if not steps:
        raise ValueError(f"{type(model).__name__} has no layer with a step size; fit_timescale finds a rate for it.")
    training = Training(epochs=60, learning_rate=0.05, dynamics_rate=1.0) if training is None else training
    with _only(model, {id(parameter) for parameter in steps}):
        return fit(model, examples, valid, training)


def step_sizes(model: Model) -> list[nn.Parameter]:
    """The logarithms of the step sizes of all layers that have one."""
    return [parameter for name, parameter in model.named_parameters() if name.rpartition(".")[2] == "log_step"]


@contextmanager
def _only(model: Model, learned: set[int]) -> Iterator[None]:
    """In the block no parameter needs a gradient but these."""
    needed = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for parameter in needed:
            parameter.requires_grad_(id(parameter) in learned)
        yield
    finally:
        for parameter, before in needed.items():
            parameter.requires_grad_(before)


def _losses(
    model: Model, examples: Examples, criterion: str, batch_size: int, summed: bool
) -> Callable[[float | Tensor], np.ndarray]:
    """What a rate costs each series, (B,): by the criterion, a mean or a sum over the targets of the series."""
    kind = model.problem.kind
    if criterion not in ("loss", "self"):
        raise ValueError(f"criterion {criterion!r} is unknown; it is loss or self.")
    if criterion == "self" and kind == "forecasting":
        examples, criterion = _last_rows_asked(examples), "loss"
    if criterion == "self" and (kind not in _SELF or model.problem.quantiles):
        what = "quantiles" if model.problem.quantiles else kind
        raise ValueError(f"criterion='self' does not know how sure an answer of {what} is; give answers and 'loss'.")
    measure = _SELF[kind] if criterion == "self" else loss_of(model.problem)
    answers = examples.targets if model.problem.asks_queries else examples.labels
    if not len(examples):
        raise ValueError("there is no series whose clock could be looked at; give a few.")
    if criterion == "loss" and answers is None:
        raise ValueError("the series have no answers, which criterion='loss' reads; criterion='self' needs none.")

    def losses(rate: float | Tensor) -> np.ndarray:
        prediction = predict(model, examples, batch_size, rate=rate)
        if criterion == "self":
            found = measure(prediction)
        else:
            terms = measure(prediction, examples)
            total = terms.total if summed else terms.total / terms.count.clamp(min=1)  # (B,)
            found = total.double().numpy(force=True)
        return np.where(np.isfinite(found), found, np.inf)  # a rate at which a model overflows is no candidate

    return losses


def _grid(low: float, high: float, per_octave: int) -> np.ndarray:
    return np.geomspace(low, high, max(2, math.ceil(per_octave * math.log2(high / low) - 1e-9)) + 1)


def _refined(grid: np.ndarray, curve: np.ndarray, losses: Callable[[float], np.ndarray]) -> list[tuple[float, float]]:
    """Loss and rate at the bottom of the deepest basins of a curve."""
    from scipy.optimize import minimize_scalar

    around = np.concatenate([[np.inf], curve, [np.inf]])
    minima = np.flatnonzero((curve <= around[:-2]) & (curve <= around[2:]))
    found = []
    for place in minima[np.argsort(curve[minima], kind="stable")][:_BASINS]:
        sides = np.log(grid[[max(place - 1, 0), min(place + 1, len(grid) - 1)]])
        done = minimize_scalar(
            lambda log_rate: losses(math.exp(log_rate)).mean(), bounds=sides, method="bounded", options={"xatol": 1e-3}
        )
        found += [(float(done.fun), math.exp(done.x)), (float(curve[place]), float(grid[place]))]
    return found


def _interval(grid: np.ndarray, table: np.ndarray, rate: float, at_best: np.ndarray) -> tuple[float, float]:
    """On either side of the best the nearest rate of the grid that is told from it; its end where there is none."""
    with np.errstate(invalid="ignore"):  # infinite losses
        worse = table - at_best  # (G, B)
        error = worse.std(axis=1, ddof=1) / math.sqrt(len(at_best)) if len(at_best) > 1 else np.inf
        told = ~(worse.mean(axis=1) <= 2 * error)  # (G,)
    below, above = grid[told & (grid < rate)], grid[told & (grid > rate)]
    return float(below[-1] if len(below) else grid[0]), float(above[0] if len(above) else grid[-1])


def _own_rates(grid: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The minimum of each column of (G, B), by the parabola through the best point and its neighbours."""
    place = np.clip(table.argmin(axis=0), 1, len(grid) - 2)  # (B,)
    left, middle, right = (np.take_along_axis(table, (place + d)[None], axis=0)[0] for d in (-1, 0, 1))  # (B,) each
    with np.errstate(invalid="ignore"):  # infinite losses
        bend = left - 2 * middle + right
        bent = (bend > 0) & np.isfinite(bend)
        shift = np.where(bent, 0.5 * (left - right) / np.where(bent, bend, 1.0), 0.0)
    at_edge = table.argmin(axis=0) - place  # -1 or 1 where the best point is the first or last
    shift = np.where(at_edge == 0, np.clip(shift, -0.5, 0.5), at_edge)
    return np.exp(np.log(grid[place]) + shift * math.log(grid[1] / grid[0]))


def _last_rows_asked(examples: Examples) -> Examples:
    """The last rows of each series as queries about their own values, and the rows before them as what is seen."""
    series = examples.series
    series = series.to_series() if isinstance(series, PackedSeries) else series
    asked = torch.floor(_ASKED * series.lengths).long()  # (B,)
    first = (series.lengths - asked).unsqueeze(1)  # (B, 1)
    width = int(asked.max()) if len(asked) else 0
    place = (first + torch.arange(width)).clamp(max=max(series.length - 1, 0))  # (B, Q)
    there = torch.arange(width) < asked.unsqueeze(1)  # (B, Q)
    cells = place.unsqueeze(-1).expand(-1, -1, series.channels)  # (B, Q, D)
    times = torch.gather(series.times, 1, place)  # (B, Q)
    return Examples(
        series=keep_rows(series, torch.arange(series.length) < first),
        ids=examples.ids,
        query_times=torch.where(there, times, torch.nan),
        targets=torch.gather(series.values, 1, cells),
        target_observed=torch.gather(series.observed, 1, cells) & there.unsqueeze(-1),
    )


def _entropy(prediction: Prediction) -> np.ndarray:
    logs = torch.log_softmax(prediction.logits.double(), dim=1)  # (B, K)
    return -(logs.exp() * logs).sum(dim=1).numpy(force=True)  # (B,)


def _log_spread(prediction: Prediction) -> np.ndarray:
    if prediction.scale is None:
        raise ValueError("this model tells no spread of its targets: criterion='self' has nothing to read.")
    return prediction.scale.double().log().mean(dim=1).numpy(force=True)  # (B,)


_SELF: dict[str, Callable[[Prediction], np.ndarray]] = {"classification": _entropy, "regression": _log_spread}
