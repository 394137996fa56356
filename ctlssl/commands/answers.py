"""What a trained run says of records: `ctlssl predict`, `ctlssl evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctlssl.commands import columns
from ctlssl.commands.console import refuse

if TYPE_CHECKING:
    import xarray

    from ctlssl.runs import TableTask, TrainedRun

__all__ = ["evaluate", "predict"]

_Run = Annotated[Path, typer.Argument(help="Folder of a run.", exists=True, file_okay=False)]
_Data = Annotated[
    Path,
    typer.Argument(
        help="Records: .nc of the schema, or a table as .csv, .tsv, .parquet. What is not said of its columns is as in "
        "training.",
        exists=True,
    ),
]
_Out = Annotated[Path, typer.Option(help="CSV to write.", dir_okay=False)]
_At = Annotated[
    list[float] | None,
    typer.Option(help="For forecasts: a time after the last row of each series; may be repeated.", show_default="none"),
]
_Draws = Annotated[int, typer.Option(min=10, help="Draws of the bootstrap that gives the intervals.")]


def predict(
    run: _Run,
    data: _Data,
    out: _Out = Path("predictions.csv"),
    at: _At = None,
    id: columns.Id = None,
    time: columns.Time = None,
    variable: columns.Variable = None,
    value: columns.Value = None,
    wide: columns.Wide = None,
    labels: columns.Labels = None,
    static: columns.Static = None,
    unit: columns.Unit = None,
    duplicates: columns.Duplicates = None,
    invalid: columns.Invalid = None,
    limit: columns.Limit = None,
    outside: columns.Outside = None,
    unknown: columns.Unknown = "error",
) -> None:
    """Predict for records of your own with the model of a run, and write a table.

    A run that was trained with a landmark reads the records up to it.
    """
    from ctlssl.durable import replacing
    from ctlssl.runs import open_run

    names = {"id": id, "time": time, "variable": variable, "value": value, "wide": wide, "labels": labels}
    policies = {"unit": unit, "duplicates": duplicates, "invalid": invalid, "limits": limit, "outside": outside}
    try:
        trained = open_run(run)
        task = _task_of(trained, data, columns.given(static=static, **names, **policies), labels)
        table = trained.predict(_records(trained, task, unknown), at or None)
        with replacing(out) as temporary:
            table.to_csv(temporary, index=False)
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(error)
    typer.echo(f"Wrote {len(table)} rows to {out}.")


def evaluate(
    run: _Run,
    data: _Data,
    id: columns.Id = None,
    time: columns.Time = None,
    variable: columns.Variable = None,
    value: columns.Value = None,
    wide: columns.Wide = None,
    labels: columns.Labels = None,
    unit: columns.Unit = None,
    duplicates: columns.Duplicates = None,
    invalid: columns.Invalid = None,
    limit: columns.Limit = None,
    outside: columns.Outside = None,
    unknown: columns.Unknown = "error",
    draws: _Draws = 200,
) -> None:
    """Score the model of a run on records whose answers are known, with 95 % intervals over series.

    The question is that of the training: its labels, covariates, landmark and end.
    """
    from ctlssl.runs import TableTask, open_run
    from ctlssl.tables import read_table
    from ctlssl.tasks import TASKS

    names = {"id": id, "time": time, "variable": variable, "value": value, "wide": wide, "labels": labels}
    policies = {"unit": unit, "duplicates": duplicates, "invalid": invalid, "limits": limit, "outside": outside}
    try:
        trained = open_run(run)
        if isinstance(trained.settings.task, TableTask):
            task = _task_of(trained, data, columns.given(**names, **policies), labels)
            loaded = task.load(trained.classes, trained.categories, trained.variables, unknown)
            ds, question, notes = loaded.ds, loaded.task, loaded.notes
        else:
            ds, question, notes = read_table(data), TASKS[trained.settings.task], ()
        scores = trained.evaluate(ds, question, draws)
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        refuse(error)
    for note in notes:
        typer.echo(note)
    for name, (found, low, high) in scores.items():
        typer.echo(f"{name} {found:.4f}   95 % interval {low:.4f} to {high:.4f}")


def _task_of(trained: TrainedRun, data: Path, given: dict[str, Any], labels: Path | None) -> TableTask:
    """The question of the training, put to another file; of a run without one, how its file is to be read."""
    from ctlssl.runs import TableTask

    records = {"records": str(data)}
    if isinstance(trained.settings.task, TableTask):
        # the second table of the training is not that of other records
        kind = trained.model.problem.kind  # which few records of another file need not show
        asked = {"labels": None, "kind": None if kind == "forecasting" else kind}
        return replace(trained.settings.task, **asked | records | given)
    unit = {} if "unit" in given else {"unit": trained.unit or None}
    return TableTask(**records, landmark=0.0, **unit, **given)  # nothing is asked of it: it is only read


def _records(trained: TrainedRun, task: TableTask, unknown: str) -> xarray.Dataset:
    """The records with the static covariates that the model knows."""
    from ctlssl.runs.outcomes import attach

    covariates = tuple(dict.fromkeys(name for name in trained.static if name not in _flags(trained)))
    covariates += tuple(trained.categories)
    ds, outcomes = task.read(trained.variables, unknown, needed=covariates)
    return attach(ds, outcomes, "none", (), covariates, categories=trained.categories).ds


def _flags(trained: TrainedRun) -> set[str]:
    """The static covariates that stand for the words of one."""
    return {f"{name}={word}" for name, words in trained.categories.items() for word in words}
