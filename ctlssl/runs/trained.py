"""A trained run, for records of one's own: predictions as a table, in the units of the data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from ctlssl.contract import Model, Prediction, Problem
from ctlssl.normalization import Normalizer
from ctlssl.runs.folder import RunFolder
from ctlssl.runs.intervals import bootstrap_intervals
from ctlssl.runs.settings import RunSettings
from ctlssl.runs.table_task import TableTask
from ctlssl.schema import channels, check_dataset, select_rows, to_packed, to_series
from ctlssl.series import TimeSeries
from ctlssl.target_scale import TargetScale
from ctlssl.tasks import TASKS, Examples, Task, in_scores, warn_of_another_unit
from ctlssl.training import predict, score

__all__ = ["TrainedRun", "open_run"]


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """The model of a run with its best weights, and all that it must know of the data; made by `open_run`.

    Args:
        model: in evaluation mode.
        settings: of the run.
        normalizer: from raw units to those of the model, and back.
        variables: names of the channels.
        static: names of the static covariates.
        unit: of time.
        classes: names of the classes, where they are other than 0, 1, ...
        categories: words of the static covariates that are text.
        targets: the scale of the numbers that are predicted, where the model answers in standard scores.
        asked: channels that training asked forecasts of, where that were not all.
    """

    model: Model
    settings: RunSettings
    normalizer: Normalizer
    variables: tuple[str, ...]
    static: tuple[str, ...]
    unit: str
    classes: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    targets: TargetScale | None = None
    asked: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of what is answered: class_0, ..., survival_0, ..., the targets of a regression, or the channels."""
        problem, task = self.model.problem, self.settings.task
        if problem.kind == "survival":
            return tuple(f"survival_{k}" for k in range(problem.outputs))
        if problem.kind in ("classification", "labelling"):
            return tuple(f"class_{name}" for name in self.classes or range(problem.outputs))
        if problem.kind == "regression":
            named = isinstance(task, TableTask)
            return task.label if named else tuple(f"target_{k}" for k in range(problem.outputs))
        return self.variables

    def predict(self, ds: xr.Dataset, at: Sequence[float] | None = None, missing: str = "unobserved") -> pd.DataFrame:
        """What the model says of the series of a Dataset, a row for each, or for each time and channel.

        All rows of the Dataset are read, but for a run whose question has a landmark, which reads those up to it: cut
        it to what may be known where that is less.

        Args:
            ds: of the schema, in the units and with the time unit of the training data. Its channels may stand in any
                order.
            at: times after the last row of each series, in its unit, for which forecasts or labels are wanted; needed
                by these, and refused by what has one answer a series.
            missing: what a channel is that the model knows and the Dataset lacks: "unobserved" or "error".

        Returns:
            columns series and `answers` (probabilities of classes, numbers, or probabilities to outlive intervals); or
            series, time and `answers` (classes at times); or series, time, variable, mean, low and high (the middle
            90 % of what the model holds likely).

        Raises:
            ValueError: another unit of time, channels that the model does not know, no covariate that it needs,
                times that do not fit the question, or a question that makes its own rows of a record.
        """
        self.check_as_recorded()
        ds = self.aligned(ds, missing)
        ds = ds if self.landmark is None else select_rows(ds, ds["time"].values <= self.landmark)
        ds = ds if self._rows is None else self._rows(ds)
        raw = to_series(ds, self.variables, self._as_they_are(ds), torch.float64)
        warn_of_another_unit(raw, self.model.problem)
        made = self._made
        raw = raw if made is None else replace(raw, static=made(ds).double())
        ids, queries = np.asarray(ds["series"].values), self._queries(raw, at)
        examples = Examples(self.normalizer.apply(raw, torch.float32), ids, query_times=queries)
        found = self.answer(examples)
        if self.model.problem.kind == "labelling":
            columns = torch.softmax(found.logits.double(), 2).flatten(0, 1)  # (B Q, K)
            rows = {"series": np.repeat(ids, queries.shape[1]), "time": queries.numpy().reshape(-1)}
            return pd.DataFrame(rows | dict(zip(self.answers, columns.numpy().T, strict=True)))
        if self.model.problem.kind == "classification":
            columns = torch.softmax(found.logits.double(), 1)  # (B, K)
        elif self.model.problem.kind == "survival":
            columns = found.log_survival.exp()  # (B, K)
        elif self.model.problem.kind == "regression":
            columns = found.mean  # (B, T)
        else:
            return self.forecasts(ids, queries, found)
        return pd.DataFrame({"series": ids, **dict(zip(self.answers, columns.numpy().T, strict=True))})

    def evaluate(self, ds: xr.Dataset, task: Task, draws: int = 200) -> dict[str, tuple[float, float, float]]:
        """The metrics on records whose answers are known, each with a 95 % bootstrap interval over series.

        Args:
            ds: of the schema, with labels and covariates, or later values, as the task wants them.
            task: what is asked, which says what is seen.
            draws: of the bootstrap.

        Returns:
            (value, low, high) by metric, in the units in which the run's own test part is scored.

        Raises:
            ValueError: records that do not fit, or no series that the task can be asked of.
        """
        if task.as_recorded:
            ds = self.aligned(ds, "unobserved")
        self._check_unit(ds)
        raw = task.build(ds)
        if raw.variables and raw.variables != self.variables:
            raise ValueError(
                f"the question shows {', '.join(raw.variables)}; the model knows {', '.join(self.variables)}"
            )
        if not len(raw):
            raise ValueError("no series of these records can be asked: none has a row that may be seen")
        examples = in_scores(raw, self.normalizer)
        found = self.answer(examples)
        kind = self.model.problem.kind
        scores, intervals = score(kind, found, examples), bootstrap_intervals(kind, found, examples, draws)
        return {name: (value, *intervals[name]) for name, value in scores.items()}

    def answer(self, examples: Examples) -> Prediction:
        """What the model says of examples in normal scores; targets in raw units."""
        found = predict(self.model, examples)
        return found if self.targets is None else self.targets.inverse(found)

    def aligned(self, ds: xr.Dataset, missing: str = "unobserved") -> xr.Dataset:
        """A Dataset with the channels that the model knows, in its order, after units and names were checked.

        Args:
            ds: of the schema.
            missing: as in `predict`.

        Raises:
            ValueError: another unit of time, channels that the model does not know, or that are missing under "error".
        """
        check_dataset(ds)
        self._check_unit(ds)
        if unknown := [name for name in channels(ds) if name not in self.variables]:
            shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            raise ValueError(f"the model does not know {shown}; leave them out, or rename them to what it knows")
        to_packed(ds, self.variables, self._as_they_are(ds), torch.float64, missing)  # refuses what is absent
        nothing = ("obs", np.full(ds.sizes["obs"], np.nan))
        own = {name: ds[name].variable if name in ds.variables else nothing for name in self.variables}
        return ds.drop_vars(list(channels(ds))).assign(own)

    def _check_unit(self, ds: xr.Dataset) -> None:
        unit = ds["time"].attrs.get("units", "")
        if unit != self.unit:
            raise ValueError(f"the times are in {unit!r}, those of the training in {self.unit!r}; convert them first")

    @property
    def landmark(self) -> float | None:
        """The time up to which the question shows a record; None shows all of it."""
        task = self.settings.task
        return task.landmark if isinstance(task, TableTask) else TASKS[task].landmark

    @property
    def _rows(self) -> Callable[[xr.Dataset], xr.Dataset] | None:
        """What makes the rows that the model sees of those of the records."""
        task = self.settings.task
        return TASKS[task].rows if isinstance(task, str) else None

    def check_as_recorded(self, line_by_line: bool = False) -> None:
        """Refuse a question that makes other rows of a record than were recorded.

        Args:
            line_by_line: whether records come row by row, so that no row can be made of several.

        Raises:
            ValueError: naming it, with what answers it.
        """
        task = self.settings.task
        made = line_by_line and self._rows is not None
        if isinstance(task, str) and (made or not TASKS[task].as_recorded):
            raise ValueError(
                f"{task} makes its own rows of a record, so this run cannot read records as they come: score it by "
                f"`ctlssl evaluate`, or ask `ctlssl.predict(run.model, ...)` of what `ctlssl.tasks.TASKS` builds."
            )

    @property
    def _made(self) -> Callable[[xr.Dataset], Tensor] | None:
        """What makes the covariates that the model sees of those of the records."""
        task = self.settings.task
        return TASKS[task].covariates if isinstance(task, str) else None

    def _as_they_are(self, ds: xr.Dataset) -> tuple[str, ...]:
        """The covariates that the model sees as they are in the records; others may be NaN there."""
        if self._made is None:
            return self.static
        if absent := [name for name in self.static if name not in ds.variables]:
            raise ValueError(f"the Dataset has no {', '.join(map(repr, absent))} over series")
        return ()

    def _queries(self, series: TimeSeries, at: Sequence[float] | None) -> Tensor | None:
        forecasts = self.model.problem.asks_queries
        if forecasts != (at is not None and len(at) > 0):
            has = "forecasts need times" if forecasts else "there is one answer a series"
            raise ValueError(f"{has}; found at={at!r}")
        if not forecasts:
            return None
        ahead = torch.tensor(list(at), dtype=torch.float64)  # (Q,)
        if not bool((ahead.isfinite() & (ahead >= 0)).all()):
            raise ValueError(f"times after the last row are finite and not negative; found {at!r}")
        last = torch.where(series.in_length, series.times, -torch.inf).amax(1) if series.times.shape[1] else None
        last = torch.zeros(series.batch, dtype=torch.float64) if last is None else last.where(last.isfinite(), 0)
        return last[:, None] + ahead  # (B, Q)

    def forecasts(self, ids: Sequence[Any] | np.ndarray, queries: Tensor, found: Prediction) -> pd.DataFrame:
        """Forecasts (B, Q, D) in raw units as a table, without channels that training never saw or never asked for.

        Args:
            ids: (B,).
            queries: (B, Q) times.
            found: what the model answered to them.
        """
        spread = 1.6448536269514722 * found.scale  # to the 5th and the 95th percentile of a normal variable
        scores = {"mean": found.mean, "low": found.mean - spread, "high": found.mean + spread}
        B, Q, D = found.mean.shape
        table = {
            "series": np.repeat(ids, Q * D),
            "time": np.repeat(queries.numpy().reshape(-1), D),
            "variable": np.tile(np.array(self.variables), B * Q),
        }
        values = {name: self.normalizer.inverse(part.double()).numpy().reshape(-1) for name, part in scores.items()}
        rows = pd.DataFrame(table | values)
        asked = self.asked or self.variables
        known = self.normalizer.seen.numpy() & np.array([name in asked for name in self.variables])  # (D,)
        return rows[np.tile(known, B * Q)].reset_index(drop=True)


def open_run(path: str | os.PathLike) -> TrainedRun:
    """The model of a run folder, from JSON and safetensors alone.

    Args:
        path: the folder that `ctlssl train` or `train_run` wrote.

    Raises:
        ValueError: no run, one that has no finished epoch, or a damaged one.

    Example:
        >>> import tempfile
        >>> from ctlssl import load_dataset
        >>> from ctlssl.runs import train_run
        >>> from ctlssl.training import Training
        >>> settings = RunSettings("covid19/death", training=Training(epochs=1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train_run(settings, folder)
        ...     run = open_run(folder)
        >>> run.predict(load_dataset("covid19")).columns.tolist()
        ['series', 'class_0', 'class_1']
    """
    folder = RunFolder(path)
    settings, about = folder.settings(), folder.read_json("data.json")
    weights, learned = folder.read_tensors("model.safetensors"), folder.read_tensors("data.safetensors")
    try:
        model = settings.build(Problem.from_dict(about["problem"]))
        model.load_state_dict(weights)
        normalizer = Normalizer.from_tensors(learned)
        names = [tuple(map(str, about[name])) for name in ("variables", "static")]
        categories = {str(name): tuple(map(str, words)) for name, words in about.get("categories", {}).items()}
        classes, asked = (tuple(map(str, about.get(name, ()))) for name in ("classes", "asked"))
        targets = about.get("targets")
        targets = None if targets is None else TargetScale.from_dict(targets)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: the files of the run do not fit each other ({error})") from error
    unit = str(about.get("unit", ""))
    return TrainedRun(model.eval(), settings, normalizer, *names, unit, classes, categories, targets, asked)
