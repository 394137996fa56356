"""What commands say, and how they end."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

    from ctlssl.training import Interrupted

__all__ = ["end", "in_flags", "names_in", "refuse", "show", "stopped_code"]

_COMMA = re.compile(r",(?![^\[]*\])")
_SETTING = re.compile(
    r"""\b(duplicates|id|invalid|late|outside|time|unknown|value|variable|window)=(\.\.\.|(["'])\w+\3"""
    r"""(?:(?:, | or )(["'])\w+\4)*|[\d.]+\b)"""
)
_QUOTES = re.compile("[\"']")
_SAID = {  # where a message speaks of an argument and gives it no value
    "give that one as labels": "give that one as --labels",
    "Give label, a column; or landmark, the time": "Give --label, a column; or --landmark, the time",
    "leave label out": "leave --label out",
    "needs a label: the column": "needs a --label, the column",
    "limits name ": "--limit names ",
    "forecasts need times; found at=None": "forecasts need times: give --at, once or several times",
    "there is one answer a series; found at=": "there is one answer a series; leave --at out, found ",
    "Files of your own are opened by ctlssl.open_dataset.": "Files of your own end in .csv, .tsv, .parquet or .nc.",
}
_WIDE = 160  # columns of a table that goes to a file or a pipe


def refuse(error: Exception) -> NoReturn:
    """One line on standard error, which names arguments as the command line does, and exit code 2."""
    end(2, f"Error: {in_flags(str(error))}")


def in_flags(text: str) -> str:
    """A message of the library with its arguments as options of the command line.

    Example:
        >>> in_flags('correct it, or take invalid="missing"; choose duplicates="last", "first" or "mean".')
        'correct it, or take --invalid missing; choose --duplicates last, first or mean.'
        >>> in_flags("which column is the time? name it: time=...")
        'which column is the time? name it: --time ...'
    """
    text = _SETTING.sub(lambda found: f"--{found[1]} {re.sub(_QUOTES, '', found[2])}", text)
    for words, flags in _SAID.items():
        text = text.replace(words, flags)
    return text


def end(code: int, words: str) -> NoReturn:
    """Words on standard error, and an exit code."""
    typer.echo(words, err=True)
    raise typer.Exit(code)


def stopped_code(stop: Interrupted) -> int:
    """The exit code of a process that a signal ends: 143 after SIGTERM, 130 after SIGINT."""
    return 128 + (signal.SIGTERM if stop.signal is None else stop.signal)


def names_in(text: str | None) -> list[str] | None:
    """What stands between commas that are not within brackets; None of None.

    Example:
        >>> names_in("lssl:step_range=[0.01,0.1], gru")
        ['lssl:step_range=[0.01,0.1]', 'gru']
    """
    return None if text is None else [name.strip() for name in _COMMA.split(text) if name.strip()]


def show(tables: Iterable[Table], verdict: str | None = None) -> None:
    """Print tables, and words after them, as wide as the terminal or as a file may be."""
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDE)
    for table in tables:
        console.print(table)
    if verdict is not None:
        console.print(verdict, highlight=False, markup=False, soft_wrap=not console.is_terminal)
