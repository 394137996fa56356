"""What there is once for every series, from a second table or from the records: labels, covariates, ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from ctlssl.schema import select_series, static
from ctlssl.tables.columns import plain_array
from ctlssl.tables.reading import Columns, read_frame
from ctlssl.tables.text import is_text

__all__ = ["Attached", "Outcomes", "attach", "join"]

_MOST_CLASSES = 10  # of labels that are whole numbers and were not said to be classes


@dataclass(frozen=True, eq=False)
class Outcomes:
    """A table with one row per series.

    Args:
        table: indexed by id.
    """

    table: pd.DataFrame

    @classmethod
    def nothing(cls) -> Outcomes:
        """No table at all."""
        return cls(pd.DataFrame())

    @classmethod
    def read(cls, path: str, id: str | None) -> Outcomes:
        """The table of a .csv, .tsv or .parquet file.

        Args:
            path: the file.
            id: its column of ids; None looks for the usual names.

        Raises:
            FileNotFoundError: there is no such file.
            TypeError: ids that are neither whole numbers nor text.
            ValueError: no such column, an id that is missing or occurs twice, or a file that is no table.
        """
        df = read_frame(path)
        id = Columns(id, "", wide=True).found_in(df, path).id
        if id not in df.columns:
            raise ValueError(f"{path}: no column {id!r}; it has {', '.join(map(repr, df.columns[:12]))}.")
        missing = np.flatnonzero(df[id].isna().to_numpy())
        if len(missing):
            raise ValueError(f"{path}: row {missing[0]} has no id in column {id!r}; drop the row or name it.")
        keys = pd.Index(plain_array(df[id], f"{path}: id column {id!r}"))
        if not keys.is_unique:
            double = keys[keys.duplicated()].tolist()[0]
            raise ValueError(f"{path}: series {double!r} has several rows; give one per series.")
        return cls(df.drop(columns=id).set_index(keys))

    def kind(self, label: Sequence[str]) -> str:
        """What labels seem to be: "classification" or "regression"."""
        if len(label) > 1:
            return "regression"
        column = self.table[label[0]].dropna()
        if is_text(column) or pd.api.types.is_bool_dtype(column.dtype) or column.dtype == object:
            return "classification"
        whole = bool((column == np.floor(column)).all())
        return "classification" if whole and column.nunique() <= _MOST_CLASSES else "regression"


@dataclass(frozen=True, eq=False)
class Attached:
    """A Dataset with its outcomes, and what of them must be remembered; the fields are those of `Loaded`."""

    ds: xr.Dataset
    classes: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def join(
    ds: xr.Dataset, outcomes: Outcomes, own: Sequence[str], needed: Sequence[str], source: object
) -> tuple[xr.Dataset, Outcomes]:
    """The records without what there is once for every series, and all of that as one table over their series.

    Args:
        ds: the records; columns ``own`` are variables over series.
        outcomes: the second table.
        own: columns that the second table does not have.
        needed: all columns that are wanted.
        source: the files, for the messages.

    Raises:
        ValueError: a column that is nowhere, or ids of another kind.
    """
    absent = [name for name in own if name not in ds.variables or ds[name].dims != ("series",)]
    if absent:
        have = ", ".join(map(repr, [*outcomes.table.columns[:12], *static(ds)]))
        raise ValueError(
            f"{source}: no column {', '.join(map(repr, absent))} with a value per series; there are {have}."
        )
    ids = pd.Index(ds["series"].values)
    if len(outcomes.table) and len(ids) and (ids.dtype.kind == "i") != (outcomes.table.index.dtype.kind == "i"):
        raise ValueError(
            f"{source}: the ids are of {ids.dtype} and {outcomes.table.index.dtype}, as {ids[0]!r} and "
            f"{outcomes.table.index[0]!r}; write them alike."
        )
    table = outcomes.table.reindex(ids)
    columns = {name: pd.Series(ds[name].values, ids) if name in own else table[name] for name in needed}
    drop = [name for name, item in ds.data_vars.items() if item.dims == ("series",) and name != "row_size"]
    return ds.drop_vars(drop), Outcomes(pd.DataFrame(columns, index=ids))


def attach(
    ds: xr.Dataset,
    outcomes: Outcomes,
    kind: str,
    label: Sequence[str],
    covariates: Sequence[str],
    end: str | None = None,
    classes: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
) -> Attached:
    """Put labels, static covariates and ends into a Dataset; series without a label are left out.

    Args:
        ds: the records.
        outcomes: over their series.
        kind: of the problem.
        label: columns.
        covariates: columns.
        end: column, or None.
        classes: names, where they are known.
        categories: words of the covariates, where they are known.

    Raises:
        TypeError: labels or ends that are no numbers.
        ValueError: no series with a label, a class or word that was not there in training, a covariate that is missing.
    """
    table, notes = outcomes.table, []
    for names, what in ((label, "outcome"), ([end] if end else [], "time of their end")):
        lacking = table[list(names)].isna().all(axis=1).to_numpy() if names else np.zeros(len(table), dtype=bool)
        if lacking.any():
            notes.append(f"{lacking.sum()} of {len(lacking)} series have no {what} and are left out.")
            ds, table = select_series(ds, ~lacking), table[~lacking]
    if not ds.sizes["series"]:
        raise ValueError("no series is left: do the ids of records and outcomes agree?" if notes else "no series.")
    columns: dict[str, tuple[str, np.ndarray]] = {}
    if kind == "classification":
        codes, classes = _codes(table[label[0]], label[0], classes)
        if len(np.unique(codes)) < 2:
            notes.append(f"{label[0]} is {classes[codes[0]]} in all series: there is nothing to tell apart.")
        columns[label[0]] = ("label", codes)
    elif kind == "regression":
        columns |= {name: ("label", _numbers(table[name], name)) for name in label}
    words: dict[str, tuple[str, ...]] = {}
    for name in covariates:
        columns |= _covariate(table[name], name, (categories or {}).get(name), words)
    if end is not None:
        columns[end] = ("context", _numbers(table[end], end))
    taken = [name for name in columns if name in ds.variables]
    if taken:
        raise ValueError(f"{', '.join(map(repr, taken))} is a variable of the records too; rename one of them.")
    values = {name: ("series", column, {"role": role}) for name, (role, column) in columns.items()}
    return Attached(ds.assign(values), tuple(classes), words, tuple(notes))


def word(value: object) -> str:
    """How a class or a category is written: 1.0 of a column with gaps is 1."""
    plain = value.item() if isinstance(value, np.generic) else value
    return str(int(plain)) if isinstance(plain, float) and plain.is_integer() else str(plain)


def _codes(column: pd.Series, name: str, classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    if not classes:
        found = column.unique().tolist()
        classes = tuple(dict.fromkeys(word(value) for value in sorted(found, key=lambda item: (str(type(item)), item))))
        classes = classes if len(classes) > 1 else (*classes, f"not {classes[0]}")
    place = {text: code for code, text in enumerate(classes)}
    texts = [word(value) for value in column.tolist()]
    strange = [k for k, text in enumerate(texts) if text not in place]
    if strange:
        k = strange[0]
        raise ValueError(f"series {column.index[k]!r}: {name} is {texts[k]!r}; the classes are {', '.join(classes)}.")
    return np.array([place[text] for text in texts], dtype=np.int64), tuple(classes)


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    array = plain_array(column, f"column {name!r}")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"column {name!r} holds text, as {array[0]!r}; give numbers.")
    array = array.astype(np.float64)
    if np.isinf(array).any():
        raise ValueError(f"series {column.index[np.isinf(array)][0]!r}: {name} is infinite; correct it.")
    return array


def _covariate(
    column: pd.Series, name: str, known: Sequence[str] | None, words: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, np.ndarray]]:
    """A static covariate as numbers; of text, a flag for each of its words, which are noted in ``words``."""
    lacking = column.isna().to_numpy()
    if lacking.any():
        raise ValueError(
            f"series {column.index[lacking][0]!r}: {name} is missing ({lacking.sum()} such series); fill it in, or "
            "make it a variable of the records, where values may be missing."
        )
    if known is None and not is_text(column):
        return {name: ("static", _numbers(column, name))}
    texts = np.array([word(value) for value in column.tolist()])
    words[name] = tuple(np.unique(texts).tolist()) if known is None else tuple(known)
    strange = np.flatnonzero(~np.isin(texts, words[name]))
    if len(strange):
        found, key = str(texts[strange[0]]), column.index[strange[0]]
        raise ValueError(f"series {key!r}: {name} is {found!r}; known are {', '.join(words[name])}.")
    return {f"{name}={text}": ("static", (texts == text).astype(np.float64)) for text in words[name]}
