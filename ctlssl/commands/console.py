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

__all__ = ["end", "names_in", "refuse", "show", "stopped_code"]

_COMMA = re.compile(r",(?![^\[]*\])")
_WIDE = 160  # columns of a table that goes to a file or a pipe


def refuse(error: Exception) -> NoReturn:
    """One line on standard error, exit code 2."""
    end(2, f"Error: {error}")


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
