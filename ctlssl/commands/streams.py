"""Predictions line by line: `ctlssl stream`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from ctlssl.commands import columns
from ctlssl.commands.console import in_flags, refuse

__all__ = ["stream"]

_LONGEST = 2**20  # bytes of a line that are read

_Run = Annotated[Path, typer.Argument(help="Folder of a run.", exists=True, file_okay=False)]
_At = Annotated[
    list[float] | None,
    typer.Option(help="For forecasts: a time after that of the line; may be repeated.", show_default="none"),
]
_Late = Annotated[
    str,
    typer.Option(help="Observations earlier than the last one of their series: refuse, or replay from a kept state."),
]
_Window = Annotated[
    float | None, typer.Option(help="How far back replay goes, in the unit of time.", show_default="none")
]
_Most = Annotated[int, typer.Option(min=1, help="Series that are kept at a time.")]


def stream(
    run: _Run,
    at: _At = None,
    late: _Late = "refuse",
    window: _Window = None,
    unknown: columns.Unknown = "error",
    most_series: _Most = 100_000,
) -> None:
    """Read observations from standard input, a JSON object a line, and answer each with a line of predictions.

    {"series": "bed 7", "time": 3.5, "values": {"heart_rate": 81, "lactate": null}} is an observation in raw units;
    without values it only asks. The first line of a series also has "static", where the run has static covariates.
    {"series": "bed 7", "end": true} forgets a series. A line that cannot be read is answered by {"error": ...}, which
    names it, and changes nothing; the exit code is then 1 at the end.
    """
    from ctlssl.runs import LiveRun, open_run

    try:
        live = LiveRun(open_run(run), at or (), late, window, unknown, most_series)
    except ValueError as error:
        refuse(error)
    failed = False
    for number, line in enumerate(_lines(sys.stdin.buffer), start=1):
        try:
            if line is None:
                raise ValueError(f"more than {_LONGEST} bytes")
            answer = live.answer(line.decode("utf8")) if line.strip() else None
        except ValueError as error:  # also of bytes that are no UTF-8
            failed, answer = True, {"error": in_flags(f"line {number}: {error}")}
        if answer is not None:
            sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
            sys.stdout.flush()
    raise typer.Exit(int(failed))


def _lines(source: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a stream; None for one that is too long, which is not kept in memory."""
    while line := source.readline(_LONGEST):
        if line.endswith(b"\n") or len(line) < _LONGEST:
            yield line
            continue
        while (rest := source.readline(_LONGEST)) and not rest.endswith(b"\n"):
            pass
        yield None
