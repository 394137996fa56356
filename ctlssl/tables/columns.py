"""Columns of tables: ids, names, numbers and what is constant within a series."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["covariate_table", "id_codes", "numbers", "plain_array", "variable_names"]


def plain_array(column: pd.Series | pd.Index, what: str) -> np.ndarray:
    """A column as a numpy array of numbers or of strings: never of objects.

    Raises:
        TypeError: content that is neither.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.dtype.categories.dtype)
    if pd.api.types.is_bool_dtype(column.dtype) and not column.isna().any():
        return column.to_numpy(dtype=bool)
    if pd.api.types.is_integer_dtype(column.dtype) and not column.isna().any():
        array = column.to_numpy()
        return array.astype(np.int64) if array.dtype.kind == "O" else array
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    content = column.to_numpy(dtype=object)
    if all(isinstance(item, str) for item in content):
        return np.array(content, dtype=np.str_)
    if all(isinstance(item, int | np.integer) for item in content):
        return np.array(content, dtype=np.int64)
    kinds = sorted({type(item).__name__ for item in content})
    raise TypeError(f"{what} has {', '.join(kinds)}; give numbers only, or strings only.")


def id_codes(column: pd.Series, others: list[pd.Index]) -> tuple[np.ndarray, np.ndarray]:
    """The position of each row's series among the sorted ids, and these ids.

    Args:
        column: (rows,) ids.
        others: ids of further tables, which may have series that the rows have not.

    Raises:
        TypeError: ids that are neither integers nor strings.
        ValueError: a missing id.
    """
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise ValueError(f"row {missing[0]} of the table: no id in column {column.name!r}; drop the row or name it.")
    parts = [_ids(column, f"id column {column.name!r}")]
    parts += [_ids(index, "the index of the table of covariates") for index in others]
    parts = [part for part in parts if len(part)] or parts[:1]
    if len({part.dtype.kind for part in parts}) > 1:
        kinds = " and ".join(str(part.dtype) for part in parts)
        raise TypeError(f"ids are of {kinds} in different tables; make them one kind.")
    ids, codes = np.unique(np.concatenate(parts), return_inverse=True)
    return codes.reshape(-1)[: len(column)], ids


def _ids(column: pd.Series | pd.Index, what: str) -> np.ndarray:
    array = plain_array(column, what)
    if array.dtype.kind == "f" and len(array) and (array != np.floor(array)).any():
        raise TypeError(f"{what} has fractions; ids are integers or strings.")
    return array if array.dtype.kind == "U" else array.astype(np.int64)


def variable_names(column: pd.Series) -> np.ndarray:
    """The names of channels as an object array of strings.

    Raises:
        ValueError: a missing name, or two names that are written alike.
    """
    if column.isna().any():
        row = int(np.flatnonzero(column.isna().to_numpy())[0])
        raise ValueError(f"row {row} of the table: no name in column {column.name!r}; drop the row or name it.")
    codes, unique = pd.factorize(column.to_numpy(dtype=object))
    names = [str(name) for name in unique]
    if len(set(names)) < len(names):
        double = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"several variables are written {', '.join(map(repr, double))}; rename them.")
    return np.array(names, dtype=object)[codes] if len(names) else np.empty(0, dtype=object)


def numbers(column: pd.Series, name: object) -> np.ndarray:
    """A column of values as float64, NaN where missing.

    Raises:
        TypeError: content that is not a real number.
    """
    if isinstance(column.dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(column.dtype):
        if len(column) and column.notna().any():
            raise TypeError(
                f"column {name!r} is of dtype {column.dtype}; make it numbers, e.g. by pandas.to_numeric, or drop it."
            )
        return np.full(len(column), np.nan)
    if pd.api.types.is_complex_dtype(column.dtype):
        raise TypeError(f"column {name!r} is complex; give the two parts as two channels.")
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def covariate_table(
    df: pd.DataFrame, id: str, source: pd.DataFrame | pd.Series | object, columns: list, role: str
) -> pd.DataFrame:
    """What is constant within a series, indexed by id.

    Args:
        df: the table.
        id: its column of ids.
        source: a table or column indexed by id, or anything else where ``columns`` of ``df`` are meant.
        columns: columns of ``df``.
        role: what it is, for the messages.

    Raises:
        ValueError: two values in one series, or an id that the table of covariates has twice or not at all.
    """
    if isinstance(source, pd.Series):
        source = source.to_frame(role if source.name is None else source.name)
    if isinstance(source, pd.DataFrame):
        if not source.index.is_unique:
            double = source.index[source.index.duplicated()].tolist()[0]
            raise ValueError(f"series {double!r}: several rows in the table of {role} variables; give one per id.")
        lacking = df.loc[~df[id].isin(source.index), id]
        if len(lacking):
            found = lacking.tolist()[0]
            raise ValueError(
                f"series {found!r}: not in the table of {role} variables ({lacking.nunique()} such series); "
                "index that table by id, and give every series a row."
            )
        return source
    grouped = df.groupby(id, sort=True, observed=True)[columns]
    varying = grouped.nunique(dropna=True) > 1
    for name in columns:
        if varying[name].any():
            raise ValueError(
                f"series {varying.index[varying[name]].tolist()[0]!r}: {role} column {name!r} takes several values; "
                "a variable that changes within a series is a channel."
            )
    return grouped.first()
