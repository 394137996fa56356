"""A look at records before anything is trained: counts, gaps, what is missing, and what gives the label away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ctlssl.schema import channels, check_dataset, series_of_row

__all__ = ["SHARES", "Inspection", "Leak", "Variable", "inspect_dataset", "leak_of"]

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The shares of the quantiles that are told."""

_FOLDS = 5
_MOST_CLASSES = 10
_SUSPECT = 0.6  # an AUROC beyond this, and beyond three standard errors of chance, is called a likely leak


@dataclass(frozen=True)
class Variable:
    """A channel.

    Args:
        name: of it.
        unit: "" where it is unknown.
        values: number of them.
        missing: share of the rows that have none.
        series: share of the series that have one.
        low: smallest value; NaN where there is none.
        median: middle value.
        high: largest value.
        constant: whether there is one value at most.
    """

    name: str
    unit: str
    values: int
    missing: float
    series: float
    low: float
    median: float
    high: float
    constant: bool


@dataclass(frozen=True)
class Leak:
    """How well a label is told by what says nothing of any value.

    Args:
        label: name of it.
        source: what tells: the number of rows, the time of the last row, and so on.
        auroc: of the source alone; the greater one of both directions.
        deviation: standard deviation of an AUROC of chance, with as many series of each class.
        suspect: whether that is far beyond chance.
    """

    label: str
    source: str
    auroc: float
    deviation: float
    suspect: bool


@dataclass(frozen=True, eq=False)
class Inspection:
    """What there is in some records.

    Args:
        series: number of them.
        rows: number of rows.
        empty: number of series without a row.
        unit: of time, "" where it is unknown.
        lengths: quantiles of the rows of a series, at `SHARES`.
        spans: quantiles of the time from the first to the last row of a series.
        gaps: quantiles of the time between rows.
        ties: number of rows at the time of the row before.
        variables: the channels.
        labels: of each label, what values it has, in words.
        leaks: for each label and source.
        all_gaps: (G,) the gaps, for pictures.
        all_lengths: (B,) the rows of each series.
    """

    series: int
    rows: int
    empty: int
    unit: str
    lengths: tuple[float, ...]
    spans: tuple[float, ...]
    gaps: tuple[float, ...]
    ties: int
    variables: tuple[Variable, ...]
    labels: dict[str, str]
    leaks: tuple[Leak, ...]
    all_gaps: np.ndarray
    all_lengths: np.ndarray


def inspect_dataset(ds: xr.Dataset, labels: Sequence[str] = (), names: Sequence[str] = ()) -> Inspection:
    """Count what there is, and try to tell the labels without any value.

    The number of rows, the time of the last row and the number of values alone are ranked against each label; the
    counts of all variables with the times are given to a logistic regression whose answers are taken out of fold. What
    tells a label well may be honest (the ill are measured more often) or a leak (the record ends at the event): cut
    the records at a landmark, and look again.

    Args:
        ds: of the schema.
        labels: variables over series: classes, or numbers, which are split at their median.
        names: of the classes of the first label.

    Raises:
        ValueError: a Dataset that breaks the schema, or a label that it does not have.

    Example:
        >>> from ctlssl import load_dataset
        >>> found = inspect_dataset(load_dataset("covid19"), ["outcome"])
        >>> found.series, found.rows, [leak.source for leak in found.leaks if leak.suspect]
        (375, 6120, ['time of the last row', 'all times and counts'])
    """
    check_dataset(ds)
    absent = [name for name in labels if name not in ds.variables or ds[name].dims != ("series",)]
    if absent:
        raise ValueError(f"no label {', '.join(map(repr, absent))} over series.")
    time, size, of = ds["time"].values, ds["row_size"].values.astype(np.int64), series_of_row(ds)
    steps = np.diff(time)[of[1:] == of[:-1]] if len(time) else np.empty(0)
    filled = size > 0
    ends = np.cumsum(size)
    spans = time[ends[filled] - 1] - time[(ends - size)[filled]]
    return Inspection(
        series=len(size),
        rows=len(time),
        empty=int((~filled).sum()),
        unit=str(ds["time"].attrs.get("units", "")),
        lengths=_quantiles(size),
        spans=_quantiles(spans),
        gaps=_quantiles(steps),
        ties=int((steps == 0).sum()),
        variables=tuple(_variable(ds, name, of) for name in channels(ds)),
        labels={name: _told(ds[name].values, names if k == 0 else ()) for k, name in enumerate(labels)},
        leaks=tuple(leak for name in labels for leak in _leaks(ds, name, of)),
        all_gaps=steps,
        all_lengths=size,
    )


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values, SHARES).tolist()) if len(values) else (math.nan,) * len(SHARES)


def _variable(ds: xr.Dataset, name: str, of: np.ndarray) -> Variable:
    values = ds[name].values
    seen = ~np.isnan(values)
    low, median, high = np.quantile(values[seen], (0.0, 0.5, 1.0)).tolist() if seen.any() else (math.nan,) * 3
    return Variable(
        name=name,
        unit=str(ds[name].attrs.get("units", "")),
        values=int(seen.sum()),
        missing=1.0 - float(seen.mean()) if len(seen) else math.nan,
        series=len(np.unique(of[seen])) / max(ds.sizes["series"], 1),
        low=low,
        median=median,
        high=high,
        constant=not seen.any() or low == high,
    )


def _are_classes(column: np.ndarray) -> bool:
    """Whether a label is of classes: text, truth values, or few whole numbers."""
    return column.dtype.kind in "bU" or (column.dtype.kind in "iu" and len(np.unique(column)) <= _MOST_CLASSES)


def _told(column: np.ndarray, names: Sequence[str]) -> str:
    if _are_classes(column):
        found, counts = np.unique(column, return_counts=True)
        named = [names[int(value)] if names else str(value) for value in found.tolist()]
        return ", ".join(f"{name}: {count}" for name, count in zip(named, counts.tolist(), strict=True))
    low, median, high = np.nanquantile(column, (0.0, 0.5, 1.0)).tolist()
    return f"{np.isfinite(column).sum()} numbers from {low:g} to {high:g}, median {median:g}"


def _leaks(ds: xr.Dataset, label: str, of: np.ndarray) -> list[Leak]:
    column = ds[label].values
    known = np.isfinite(column) if column.dtype.kind == "f" else np.ones(len(column), dtype=bool)
    if not _are_classes(column):
        column = column > np.nanmedian(column)
    classes, codes = np.unique(column[known], return_inverse=True)
    if len(classes) < 2:
        return []
    size = ds["row_size"].values.astype(np.float64)
    seen = np.stack([~np.isnan(ds[name].values) for name in channels(ds)] or [np.zeros(len(of), dtype=bool)])  # (D, T)
    counts = np.stack([np.bincount(of[row], minlength=len(size)) for row in seen], axis=1)  # (B, D)
    time = ds["time"].values
    last = np.full(len(size), time.min(initial=0.0))  # of a series without rows: as early as any
    np.maximum.at(last, of, time)
    sources = {"number of rows": size, "time of the last row": last, "number of values": counts.sum(1)}
    found = [leak_of(label, source, values[known], codes) for source, values in sources.items()]
    features = np.column_stack([np.log1p(size), last, np.log1p(counts)])[known]
    if np.bincount(codes).min() >= _FOLDS:
        found.append(leak_of(label, "all times and counts", _out_of_fold(features, codes), codes))
    return found


def leak_of(label: str, source: str, scores: np.ndarray, codes: np.ndarray) -> Leak:
    """How well some scores tell a label: the AUROC of each class against the rest, of the class that is told best.

    Args:
        label: name of it.
        source: what the scores are.
        scores: (B,) of either direction, or (B, K), one for each class.
        codes: (B,) classes, integers from 0, of which there are two at least.
    """
    from sklearn.metrics import roc_auc_score

    best, deviation = 0.5, math.nan
    for code in range(codes.max() + 1):
        truth = codes == code
        own = scores[:, code] if scores.ndim > 1 else scores
        area = float(roc_auc_score(truth, own))
        area = area if scores.ndim > 1 else max(area, 1 - area)
        here = math.sqrt((len(truth) + 1) / (12 * truth.sum() * (~truth).sum()))  # of ranks that tell nothing
        if area >= best or math.isnan(deviation):
            best, deviation = area, here
    return Leak(label, source, best, deviation, best > max(_SUSPECT, 0.5 + 3 * deviation))


def _out_of_fold(features: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Probabilities (B, K) of a logistic regression that did not see the series it is asked of."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    return cross_val_predict(model, features, codes, cv=folds, method="predict_proba")
