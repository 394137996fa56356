"""Clock ablation: models retrained and re-tested with true times, gaps shuffled, all gaps equal, and no time."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray
from torch import Tensor

from ctlssl.comparison import Plan, plan
from ctlssl.contract import Model
from ctlssl.examples import Examples
from ctlssl.tasks import Split, Task, prepare
from ctlssl.training import Progress, Training, evaluate, fit
from ctlssl.training.metrics import HIGHER_IS_BETTER

if TYPE_CHECKING:
    from ctlssl.packed_series import PackedSeries
    from ctlssl.series import TimeSeries

__all__ = ["CLOCKS", "TRAININGS", "clock_ablation", "run_ablation", "with_clock"]

TRAININGS = ("retrained", "true times")
"""What the training part showed: the clock that is tested, or true times whatever is tested."""

_PARTS = ("train", "valid", "test")


def clock_ablation(
    dataset: str | xarray.Dataset = "covid19",
    task: str | Task | Sequence[str | Task] | None = None,
    models: str | Sequence[str] | Mapping[str, Callable[..., Model]] | None = None,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    training: Training | None = None,
    width: int = 32,
    threads: int = 1,
    progress: bool = True,
) -> xarray.Dataset:
    """Train and test models with clocks that say less and less: which of them read the clock, and where it matters.

    Four clocks, in all three parts of the split (see `with_clock`): the true times; the gaps of each series in random
    order; all gaps of a series equal; no time. Each model is trained anew with each clock and tested with the same one
    ("retrained": what it loses is what only that clock says). Beside it, the model that was trained with true times is
    tested with every clock ("true times": what it loses shows that it reads the clock). Splits, seeds, weights at the
    start and training are those of `ctlssl.compare`.

    Args:
        dataset: name of a data set with tasks, or a Dataset of your own for tasks of your own.
        task: a name, a `Task`, several of them, or None for all tasks of the data set.
        models: as in `ctlssl.compare`.
        seeds: how many (0, 1, ...) or which; None is 3, and 1 where ``quick``.
        quick: a sixth of the epochs: to see that it runs.
        training: the budget; its seed is not read.
        width: of every model.
        threads: of torch while it runs.
        progress: show bars in the terminal.

    Returns:
        Dataset over (task, model, training, clock, seed) with the metrics of the test part (NaN where a task has no
        such metric or a fit failed); ``epochs`` and ``train_seconds`` over (task, model, clock, seed); ``kind`` over
        tasks.

    Raises:
        ValueError: a name that does not exist, with those that do.
    """
    planned = plan(dataset, task, models, seeds, quick, training, width, references=False, threads=threads, lengths=())
    return run_ablation(planned, progress)


def run_ablation(plan: Plan, progress: bool = True) -> xarray.Dataset:
    """Carry out the ablation of a plan of `ctlssl.comparison.plan`; what comes back is described at `clock_ablation`.

    Args:
        plan: whose references and lengths are not read.
        progress: show bars in the terminal.
    """
    results = _empty(plan)
    with _threads(plan.threads), _bars(plan, progress) as watch:
        for seed in plan.seeds:
            for task_name, task in plan.tasks.items():
                split = prepare(task, seed, plan.data)
                splits = {clock: with_clock(split, clock, seed) for clock in CLOCKS}
                for name, factory in plan.models.items():
                    place = {"task": task_name, "model": name, "seed": seed}
                    for clock, shown in splits.items():
                        tests = splits if clock == "true" else {clock: shown}
                        label = f"{task_name}, seed {seed}: {name}, {clock} clock"
                        try:
                            scores = _scores(plan, factory, shown, tests, seed, watch(label))
                        except FloatingPointError as error:
                            warnings.warn(f"{label} failed and counts as missing: {error}", stacklevel=2)
                            continue
                        _write(results, place | {"clock": clock}, clock, scores)
    return results


def _scores(
    plan: Plan,
    factory: Callable[..., Model],
    shown: Split,
    tests: Mapping[str, Split],
    seed: int,
    watch: Progress,
) -> dict[str, dict[str, float]]:
    """Train one model with one clock; its costs under "costs", and the metrics of each clock it is tested with."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = factory(shown.problem, width=plan.width)
    started = time.perf_counter()
    history = fit(model, shown.train, shown.valid, replace(plan.training, seed=seed), watch)
    costs = {"epochs": float(len(history.seconds)), "train_seconds": time.perf_counter() - started}
    return {"costs": costs} | {clock: evaluate(model, split.test) for clock, split in tests.items()}


def _write(results: xarray.Dataset, place: dict[str, Any], clock: str, scores: dict[str, dict[str, float]]) -> None:
    for name, value in scores.pop("costs").items():
        results[name].loc[place] = value
    for tested, metrics in scores.items():
        for name, value in metrics.items():
            if tested == clock:
                results[name].loc[place | {"training": "retrained"}] = value
            if clock == "true":
                results[name].loc[place | {"training": "true times", "clock": tested}] = value


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


def _empty(plan: Plan) -> xarray.Dataset:
    coordinates: dict[str, Any] = {
        "task": list(plan.tasks),
        "model": list(plan.models),
        "training": list(TRAININGS),
        "clock": list(CLOCKS),
        "seed": list(plan.seeds),
        "kind": ("task", [task.kind for task in plan.tasks.values()]),
    }
    over = ("task", "model", "training", "clock", "seed")
    shape = tuple(len(coordinates[name]) for name in over)
    values = {name: (over, np.full(shape, math.nan)) for name in HIGHER_IS_BETTER}
    for name in ("epochs", "train_seconds"):
        values[name] = (over[:2] + over[3:], np.full(shape[:2] + shape[3:], math.nan))
    attributes = {
        "title": "Test metrics of models with clocks that say less and less",
        "settings": json.dumps(plan.training.to_dict()),
        "width": plan.width,
        "threads": plan.threads,
    }
    results = xarray.Dataset(values, coordinates, attributes)
    results["train_seconds"].attrs["units"] = "s"
    return results


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bars(plan: Plan, shown: bool) -> Iterator[Callable[[str], Progress]]:
    """What gives, for the label of a fit that begins, the function that is called after each of its epochs."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bars:
        total = len(plan.seeds) * len(plan.tasks) * len(plan.models) * len(CLOCKS)
        fits, epochs = bars.add_task("fits", total=total, completed=-1), bars.add_task("", total=plan.training.epochs)

        def watch(label: str) -> Callable[[int, float, float], None]:
            bars.advance(fits)
            bars.update(epochs, description=label, completed=0)
            return lambda epoch, *_: bars.update(epochs, completed=epoch)

        yield watch
