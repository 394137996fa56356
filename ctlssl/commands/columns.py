"""Options that say which columns of a table are what, and what becomes of odd values; shared by several commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "Duplicates",
    "End",
    "Id",
    "Invalid",
    "Kind",
    "Label",
    "Labels",
    "Landmark",
    "Limit",
    "Outside",
    "Static",
    "Time",
    "Unit",
    "Unknown",
    "Until",
    "Value",
    "Variable",
    "Wide",
    "given",
    "is_file_of_records",
    "limits_in",
]

_USUAL = "found by the usual names"

Id = Annotated[
    str | None, typer.Option(help="Column of the series' names, in all tables: patient, say.", show_default=_USUAL)
]
Time = Annotated[
    str | None,
    typer.Option(help="Column of times: numbers, ISO 8601 stamps, or hh:mm.", show_default=_USUAL),
]
Variable = Annotated[str | None, typer.Option(help="Column of channel names of a long table.", show_default=_USUAL)]
Value = Annotated[str | None, typer.Option(help="Column of values of a long table.", show_default=_USUAL)]
Wide = Annotated[
    bool | None,
    typer.Option(
        "--wide/--long", help="One row per time and a column per channel, or one row per value.", show_default="long"
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Second table, CSV or Parquet, one row per series: labels, static covariates, ends.",
        show_default="in the records",
        dir_okay=False,
        exists=True,
    ),
]
Label = Annotated[
    list[str] | None,
    typer.Option(help="Column of what is to be predicted; may be repeated for numbers.", show_default="none: forecast"),
]
Static = Annotated[
    list[str] | None,
    typer.Option(help="Column of a static covariate, known from the start; may be repeated.", show_default="none"),
]
Landmark = Annotated[
    float | None,
    typer.Option(help="Time up to which records are shown, in their unit.", show_default="all is shown"),
]
End = Annotated[
    str | None,
    typer.Option(
        help="Column of the time at which a series ended; those that ended before the landmark are left out.",
        show_default="none",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(help="classification, regression or forecasting.", show_default="seen from the labels"),
]
Until = Annotated[
    float | None, typer.Option(help="For forecasts, the last time asked for.", show_default="all that there is")
]
Unit = Annotated[
    str | None, typer.Option(help="Unit of time: s, min, h, d.", show_default="h for stamps, none for numbers")
]
Duplicates = Annotated[
    str | None,
    typer.Option(help="Two values of a variable at one time: error, first, last or mean.", show_default="error"),
]
Invalid = Annotated[
    str | None, typer.Option(help="Text or infinity among the values: error or missing.", show_default="error")
]
Limit = Annotated[
    list[str] | None,
    typer.Option(help="Plausible range of a variable, NAME=LOW:HIGH; may be repeated.", show_default="none"),
]
Outside = Annotated[
    str | None, typer.Option(help="Values outside their range: error, missing or clip.", show_default="error")
]
Unknown = Annotated[str, typer.Option(help="Variables that the model does not know: error or drop.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, with files as absolute paths and limits as pairs."""
    options = {name: value for name, value in options.items() if value is not None and value != []}
    for name, value in options.items():
        options[name] = str(value.absolute()) if isinstance(value, Path) else value
    if "limits" in options:
        options["limits"] = limits_in(options["limits"])
    return options


def is_file_of_records(text: str) -> bool:
    """Whether a text names a file of records, and not a data set or a task.

    Raises:
        ValueError: a folder, or a file of another kind.
    """
    from ctlssl.tables import SUFFIXES

    path = Path(text)
    if path.suffix in SUFFIXES:
        return True
    if path.is_dir():
        raise ValueError(f"{text} is a folder; records are read from a file: {', '.join(SUFFIXES)}.")
    if path.suffix or path.is_file():
        raise ValueError(f"{text}: records are read from {', '.join(SUFFIXES)}; convert it to one of these.")
    return False


def limits_in(texts: list[str]) -> Mapping[str, tuple[float, float]]:
    """The pairs of NAME=LOW:HIGH.

    Raises:
        ValueError: a text that is none.
    """
    limits = {}
    for text in texts:
        name, sign, ends = text.rpartition("=")
        low, colon, high = ends.partition(":")
        try:
            limits[name] = (float(low), float(high))
        except ValueError:
            colon = ""
        if not (name and sign and colon):
            raise ValueError(f"--limit {text!r} is not NAME=LOW:HIGH")
    return limits
