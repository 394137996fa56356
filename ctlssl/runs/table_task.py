"""A question put to one's own files: what is read, what is asked, and what may be seen for it, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import has_row, later_values, part_of, rows_with_a_value
from ctlssl.runs.outcomes import Outcomes, attach, join
from ctlssl.schema import channels, select_rows, select_series, series_of_row
from ctlssl.tables import read_table, screen
from ctlssl.tables.reading import Columns, from_frame, read_frame

__all__ = ["Loaded", "TableTask"]

_KINDS = ("classification", "regression", "forecasting")  # what a table can ask


@dataclass(frozen=True, eq=False)
class Loaded:
    """The data of a task, and what of them must be remembered to read others in the same way.

    Args:
        ds: of the schema.
        task: what is asked of it.
        classes: names of the classes, in the order of the outputs; none for other than classification.
        categories: of each static covariate that is text, its words.
        notes: sentences on what was left out.
    """

    ds: xr.Dataset
    task: Task
    classes: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableTask:
    """A question put to a table of records; every field is a plain JSON value.

    Records that end at an event tell of it by their length: what is predicted is asked at a landmark, nothing after it
    is shown, and series that ended before it (``end``) are left out. Without a landmark whole records are shown.

    Args:
        records: file of the records, as `ctlssl.read_table` reads them.
        id: its columns, as there.
        time: as there.
        variable: as there.
        value: as there.
        wide: as there.
        labels: second file, with one row per series: labels, static covariates and ends; None: they are in ``records``.
        label: columns of what is to be predicted; none: later values are forecast.
        static: columns of what is known of a series from the start; text becomes a flag for each word.
        kind: "classification", "regression" or "forecasting"; None sees it from the labels: text, truth values and up
            to ten whole numbers are classes.
        landmark: time up to which records are shown.
        end: column of the time at which a series ended (discharge, death).
        until: for forecasts, the last time asked for; None is all that there is.
        unit: as in `ctlssl.from_long`.
        duplicates: as there.
        invalid: as in `ctlssl.read_table`.
        limits: plausible range (low, high) by variable, as in `ctlssl.screen`.
        outside: as there.
        from_disk: records are a .nc that may be larger than memory; only a batch of them is held at a time.

    Raises:
        ValueError: values that cannot be.

    Example:
        >>> task = TableTask("records.csv", labels="outcomes.csv", label=("died",), landmark=24.0)
        >>> TableTask.from_dict(task.to_dict()) == task
        True
    """

    records: str
    id: str | None = None
    time: str | None = None
    variable: str | None = None
    value: str | None = None
    wide: bool = False
    labels: str | None = None
    label: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    kind: str | None = None
    landmark: float | None = None
    end: str | None = None
    until: float | None = None
    unit: str | None = None
    duplicates: str = "error"
    invalid: str = "error"
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    outside: str = "error"
    from_disk: bool = False

    def __post_init__(self) -> None:
        for name in ("label", "static"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if not isinstance(self.limits, Mapping) or any(len(pair) != 2 for pair in self.limits.values()):
            raise ValueError(f"limits are (low, high) by variable, found {self.limits!r}.")
        object.__setattr__(self, "limits", {name: tuple(map(float, pair)) for name, pair in self.limits.items()})
        if self.kind not in (None, *_KINDS):
            raise ValueError(f"kind {self.kind!r} is unknown; it is one of {', '.join(_KINDS)}.")
        for name in ("landmark", "until"):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, int | float) and math.isfinite(given)):
                raise ValueError(f"{name} is {given!r}; it is a time in the unit of the records.")
        self._check_question()

    def _check_question(self) -> None:
        forecasts = self.kind == "forecasting" or (self.kind is None and not self.label)
        if forecasts and self.label:
            raise ValueError("forecasts are of the variables of the records: leave label out.")
        if not forecasts and not self.label:
            raise ValueError(f"{self.kind} needs a label: the column of what is to be predicted.")
        if forecasts and self.landmark is None:
            raise ValueError(
                "what is to be predicted? Give label, a column; or landmark, the time after which values are forecast."
            )
        if self.until is not None and (not forecasts or self.until <= self.landmark):
            raise ValueError(f"until is {self.until!r}; it is for forecasts, and a time after the landmark.")
        if self.kind == "classification" and len(self.label) > 1:
            raise ValueError(f"classes are in one column, found {', '.join(self.label)}.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableTask:
        """The task of a dictionary such as `to_dict` gives.

        Raises:
            ValueError: a name that is unknown, no records, or a value that cannot be.
        """
        if unknown := set(values) - {part.name for part in fields(cls)}:
            known = ", ".join(part.name for part in fields(cls))
            raise ValueError(f"the task does not know {', '.join(sorted(map(str, unknown)))}; it has {known}.")
        if "records" not in values:
            raise ValueError("the task needs records: the file that they are in.")
        return cls(**values)

    def read(
        self, variables: Sequence[str] | None = None, unknown: str = "error", needed: Sequence[str] | None = None
    ) -> tuple[xr.Dataset, Outcomes]:
        """The records, screened, with the columns of one value per series beside them.

        Args:
            variables: channels that are expected; None all.
            unknown: what becomes of others, as in `ctlssl.screen`.
            needed: columns of one value per series; None is labels, static covariates and end.

        Raises:
            FileNotFoundError: a file that is not there.
            TypeError: as `ctlssl.read_table`.
            ValueError: as there and as `ctlssl.screen`, or a column that neither file has.
        """
        path = Path(self.records)
        outcomes, wanted = self.outcomes()
        needed = wanted if needed is None else list(needed)
        own = [name for name in needed if name not in outcomes.table.columns]
        if path.suffix == ".nc":
            ds = read_table(path)
        else:
            df = read_frame(path)
            columns = Columns(self.id, self.time, self.variable, self.value, self.wide).found_in(df, path)
            # what is no channel is left out of a wide table, where every other column is one
            if (absent := [name for name in own if name not in df.columns]) and self.labels is None:
                raise ValueError(
                    f"{path}: no column {', '.join(map(repr, absent))}; if it stands in a second table, with one row "
                    "per series, give that one as labels."
                )
            df = df.drop(columns=[name for name in wanted if name in df.columns and name not in own])
            policies = {"unit": self.unit, "duplicates": self.duplicates, "invalid": self.invalid}
            ds = from_frame(df, columns, path, own or None, None, **policies)
        ds, outcomes = join(ds, outcomes, own, needed, f"{self.records} and {self.labels}" if self.labels else path)
        named = set(channels(ds)) | set(variables or ())
        if unknown_limits := [name for name in self.limits if name not in named]:
            raise ValueError(
                f"limits name {', '.join(map(repr, unknown_limits))}, which is no channel; there are "
                f"{', '.join(sorted(named)[:12])}."
            )
        known = {name: pair for name, pair in self.limits.items() if name in channels(ds)}
        return screen(ds, variables, unknown, known, self.outside), outcomes

    def outcomes(self) -> tuple[Outcomes, list[str]]:
        """The second table, if there is one, and the columns of one value per series that the question needs.

        Raises:
            FileNotFoundError: the file is not there.
            TypeError: as `Outcomes.read`.
            ValueError: as there.
        """
        ends = () if self.end is None else (self.end,)
        table = Outcomes.nothing() if self.labels is None else Outcomes.read(self.labels, self.id)
        return table, list(dict.fromkeys((*self.label, *self.static, *ends)))

    def load(
        self,
        classes: Sequence[str] = (),
        categories: Mapping[str, Sequence[str]] | None = None,
        variables: Sequence[str] | None = None,
        unknown: str = "error",
    ) -> Loaded:
        """The records with their outcomes, and the question.

        Args:
            classes: names of the classes, where they are known; else those of the labels.
            categories: words of the static covariates, likewise.
            variables: as in `read`.
            unknown: as in `read`.

        Raises:
            FileNotFoundError: as `read`.
            TypeError: as `read`, and labels that are no numbers where numbers are asked for.
            ValueError: as `read`, and no series with a label.
        """
        return self.ask(*self.read(variables, unknown), classes, categories)

    def ask(
        self,
        ds: xr.Dataset,
        outcomes: Outcomes,
        classes: Sequence[str] = (),
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> Loaded:
        """The question, put to records that `read` gave; arguments and errors as of `load`."""
        kind = "forecasting" if not self.label else self.kind or outcomes.kind(self.label)
        found = attach(ds, outcomes, kind, self.label, self.static, self.end, classes, categories)
        name = f"{Path(self.records).stem}/{', '.join(self.label) or 'forecast'}"
        shown = "whole records" if self.landmark is None else f"records up to {self.landmark:g}"
        build = self._later if kind == "forecasting" else self._labelled
        task = Task(name, self.records, kind, f"{', '.join(self.label) or 'later values'}, from {shown}", None, build)
        return Loaded(found.ds, task, found.classes, found.categories, found.notes)

    def cut(self, ds: xr.Dataset) -> xr.Dataset:
        """The rows that may be seen: those up to the landmark."""
        return ds if self.landmark is None else select_rows(ds, ds["time"].values <= self.landmark)

    def _still_there(self, ds: xr.Dataset) -> np.ndarray:
        if self.end is None or self.landmark is None:
            return np.ones(ds.sizes["series"], dtype=bool)
        return ds[self.end].values > self.landmark  # (series,)

    def seen(self, ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Rows (obs,) that are shown, and series (series,) that have one and were still there."""
        rows = rows_with_a_value(ds, -np.inf, np.inf if self.landmark is None else self.landmark)
        return rows, has_row(ds, rows) & self._still_there(ds)

    def answers(self, ds: xr.Dataset) -> torch.Tensor:
        """What is to be predicted of all series: classes (series,), or numbers (series, T)."""
        columns = [ds[name].values for name in self.label]
        if len(columns) == 1 and columns[0].dtype.kind == "i":
            return torch.from_numpy(columns[0].astype(np.int64))
        return torch.from_numpy(np.stack(columns, axis=1).astype(np.float64)).float()

    def _labelled(self, ds: xr.Dataset) -> Examples:
        rows, chosen = self.seen(ds)
        labels = self.answers(ds)[torch.from_numpy(chosen)]
        return Examples(part_of(ds, rows, chosen), ds["series"].values[chosen], labels, variables=channels(ds))

    def _later(self, ds: xr.Dataset) -> Examples:
        ds = select_series(ds, self._still_there(ds))
        if self.end is not None:
            ds = select_rows(ds, ds["time"].values <= ds[self.end].values[series_of_row(ds)])
        if self.until is not None:
            ds = select_rows(ds, ds["time"].values <= self.until)
        return later_values(ds, self.landmark)
