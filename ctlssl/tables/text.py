"""Times and values that a text file holds as words: read where there is one way to, and named where there is not."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["INVALID", "check_invalid", "is_text", "stamps_of_text", "values_of_text"]

INVALID = ("error", "missing")
"""What a value can be that is infinite, or no number."""

_CLOCK = r"\s*(\d+):(\d\d)(?::(\d\d(?:\.\d*)?))?\s*"
_ZONE = r"[T ]\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)\s*$"


def check_invalid(invalid: str) -> None:
    """Refuse a policy that does not exist."""
    if invalid not in INVALID:
        raise ValueError(f"unknown invalid={invalid!r}; choose from {', '.join(INVALID)}.")


def is_text(column: pd.Series) -> bool:
    """Whether a column has words in it."""
    return pd.api.types.infer_dtype(column, skipna=True) in ("string", "mixed", "mixed-integer")


def stamps_of_text(column: pd.Series, ids: pd.Series) -> pd.Series:
    """Times as numbers, durations or stamps; a column that is no text is given back as it is.

    Args:
        column: (rows,) numbers, ISO 8601 stamps, hh:mm or hh:mm:ss.
        ids: (rows,) the series, for the messages.

    Raises:
        ValueError: text that is none of them, and stamps of which only some have a time zone.

    Example:
        >>> stamps_of_text(pd.Series(["00:30", "36:00"]), pd.Series(["a", "a"])).dt.total_seconds().tolist()
        [1800.0, 129600.0]
        >>> stamps_of_text(pd.Series(["2020-01-01 08:00", "2020-01-02"]), pd.Series(["a", "a"])).dt.day.tolist()
        [1, 2]
    """
    if not len(column):
        return column.astype(np.float64)
    if not is_text(column):
        return column
    text = column.astype("string")
    parts = text.str.extract(f"^{_CLOCK}$").astype("Float64")
    if parts[0].notna().any():
        _refuse_first(column, ids, text.notna() & parts[0].isna(), "no hh:mm as the times around it")
        seconds = parts[0] * 3600 + parts[1] * 60 + parts[2].fillna(0)
        return pd.to_timedelta(seconds.to_numpy(dtype=np.float64, na_value=np.nan), unit="s").to_series(column.index)
    zoned = text.str.contains(_ZONE, regex=True).fillna(False)
    if zoned.any():
        _refuse_first(column, ids, text.notna() & ~zoned, "a stamp without a time zone among others with one")
    stamps = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=bool(zoned.any()))
    _refuse_first(column, ids, text.notna() & stamps.isna(), "neither a number nor an ISO 8601 stamp")
    return stamps


def _refuse_first(column: pd.Series, ids: pd.Series, bad: pd.Series, what: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad.to_numpy())[0])
        raise ValueError(
            f"series {_plain(ids.iloc[row])!r}, row {row} of the table: the time {column.iloc[row]!r} is {what}; "
            "write 2020-01-31 08:00, or numbers."
        )


def values_of_text(
    column: pd.Series, variable: pd.Series | str, ids: pd.Series, time: pd.Series, invalid: str
) -> pd.Series:
    """A column of values as numbers; text among them is an error, or missing.

    Args:
        column: (rows,) numbers, or text.
        variable: what it is, or (rows,) what each of its values is, for the messages.
        ids: (rows,) the series, for the messages.
        time: (rows,) likewise.
        invalid: "error" or "missing".

    Raises:
        ValueError: text, under "error", with its series, variable and time.
    """
    check_invalid(invalid)
    if not len(column):
        return column.astype(np.float64)
    if not is_text(column):
        return column
    values = pd.to_numeric(column.astype("string").str.strip(), errors="coerce").astype("Float64")
    bad = np.flatnonzero((column.notna() & values.isna()).to_numpy())
    if len(bad) and invalid == "error":
        row = int(bad[0])
        what = variable if isinstance(variable, str) else variable.iloc[row]
        raise ValueError(
            f"series {_plain(ids.iloc[row])!r}, time {time.iloc[row]}: {what} is "
            f'{column.iloc[row]!r}, no number ({len(bad)} such values); correct it, or take invalid="missing".'
        )
    return values


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
