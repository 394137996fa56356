"""A trained run, for records of one's own: predictions as a table, in the units of the data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import softplus

from ctlssl.contract import Model, Prediction, Problem
from ctlssl.normalization import Normalizer
from ctlssl.runs.folder import RunFolder
from ctlssl.runs.settings import RunSettings
from ctlssl.schema import channels, to_series
from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples
from ctlssl.training import predict

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
    """

    model: Model
    settings: RunSettings
    normalizer: Normalizer
    variables: tuple[str, ...]
    static: tuple[str, ...]
    unit: str

    def predict(self, ds: xr.Dataset, at: Sequence[float] | None = None, missing: str = "unobserved") -> pd.DataFrame:
        """What the model says of the series of a Dataset, a row for each, or for each time and channel.

        All rows of the Dataset are read: cut it to what may be known where that is less.

        Args:
            ds: of the schema, in the units and with the time unit of the training data. Its channels may stand in any
                order.
            at: times after the last row of each series, in its unit, for which forecasts or labels are wanted; needed
                by these, and refused by what has one answer a series.
            missing: what a channel is that the model knows and the Dataset lacks: "unobserved" or "error".

        Returns:
            columns series, class_0 ... class_K-1 (probabilities); or series, target_0 ...; or series, survival_0 ...
            (probabilities to outlive each interval); or series, time, class_0 ...; or series, time, variable, mean, low
            and high (the middle 90 % of what the model holds likely).

        Raises:
            ValueError: another unit of time, channels that the model does not know, no covariate that it needs, or
                times that do not fit the question.
        """
        problem = self.model.problem
        series = self.normalizer.apply(self._read(ds, missing), torch.float32)
        ids, queries = np.asarray(ds["series"].values), self._queries(series, at)
        found = predict(self.model, Examples(series, ids, query_times=queries))
        if problem.kind == "classification":
            shares = torch.softmax(found.logits.double(), 1)  # (B, K)
            return pd.DataFrame({"series": ids, **{f"class_{k}": shares[:, k].numpy() for k in range(problem.outputs)}})
        if problem.kind == "regression":
            return pd.DataFrame({"series": ids, **{f"target_{k}": part.numpy() for k, part in enumerate(found.mean.T)}})
        if problem.kind == "survival":
            curves = torch.exp(-softplus(found.logits.double()).cumsum(1))  # (B, K)
            return pd.DataFrame({"series": ids, **{f"survival_{k}": part.numpy() for k, part in enumerate(curves.T)}})
        if problem.kind == "labelling":
            shares = torch.softmax(found.logits.double(), 2).flatten(0, 1)  # (B Q, K)
            rows = {"series": np.repeat(ids, queries.shape[1]), "time": queries.numpy().reshape(-1)}
            return pd.DataFrame(rows | {f"class_{k}": part.numpy() for k, part in enumerate(shares.T)})
        return self._forecasts(ids, queries, found)

    def _read(self, ds: xr.Dataset, missing: str) -> TimeSeries:
        unit = ds["time"].attrs.get("units", "")
        if unit != self.unit:
            raise ValueError(f"the times are in {unit!r}, those of the training in {self.unit!r}; convert them first")
        if unknown := [name for name in channels(ds) if name not in self.variables]:
            shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            raise ValueError(f"the model does not know {shown}; leave them out, or rename them to what it knows")
        return to_series(ds, self.variables, self.static, torch.float64, missing)

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

    def _forecasts(self, ids: np.ndarray, queries: Tensor, found: Prediction) -> pd.DataFrame:
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
        known = np.tile(self.normalizer.seen.numpy(), B * Q)
        return rows[known].reset_index(drop=True)


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
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: the files of the run do not fit each other ({error})") from error
    return TrainedRun(model.eval(), settings, normalizer, *names, unit=str(about.get("unit", "")))
