"""A look at records: `ctlssl inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctlssl.commands import columns
from ctlssl.commands.console import in_flags, refuse

if TYPE_CHECKING:
    import xarray

    from ctlssl.runs import TableTask

__all__ = ["inspect"]

_Data = Annotated[str, typer.Argument(help="A file of records (.csv, .tsv, .parquet, .nc), or a bundled data set.")]
_Html = Annotated[
    Path | None, typer.Option(help="Write the findings as a page, with pictures.", dir_okay=False, show_default="none")
]


def inspect(
    data: _Data,
    html: _Html = None,
    id: columns.Id = None,
    time: columns.Time = None,
    variable: columns.Variable = None,
    value: columns.Value = None,
    wide: columns.Wide = None,
    labels: columns.Labels = None,
    label: columns.Label = None,
    landmark: columns.Landmark = None,
    end: columns.End = None,
    unit: columns.Unit = None,
) -> None:
    """Count series, rows, gaps and what is missing, and see whether times alone tell the label.

    Values that occur twice, and such that are no numbers, are told of and read leniently here; the other commands
    refuse them unless told otherwise.
    """
    from ctlssl.durable import write_whole
    from ctlssl.inspection import inspect_dataset
    from ctlssl.inspection_page import inspection_page, inspection_text

    given = {"time": time, "variable": variable, "value": value, "wide": wide, "labels": labels, "label": label}
    try:
        ds, asked, names, notes = _data(data, columns.given(id=id, landmark=landmark, end=end, unit=unit, **given))
        found = inspect_dataset(ds, asked, names)
        typer.echo(inspection_text(found, data, notes))
        if html is not None:
            write_whole(html, inspection_page(found, data, notes))
            typer.echo(f"\nThe page is {html}.")
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(error)


def _data(data: str, given: dict) -> tuple[xarray.Dataset, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The records, their labels, the classes of these, and what was met on the way."""
    from ctlssl.catalogue import dataset_names, load_dataset
    from ctlssl.runs import TableTask
    from ctlssl.schema import labels, select_rows
    from ctlssl.tables import read_table

    if data in dataset_names() or not columns.is_file_of_records(data):
        ds = load_dataset(data)
        cut = given.get("landmark")
        ds = ds if cut is None else select_rows(ds, ds["time"].values <= cut)
        return ds, tuple(given.get("label") or labels(ds)), (), ()
    if given.get("label"):
        return _labelled(TableTask(records=data, **given))
    if Path(data).suffix == ".nc":
        ds, note = read_table(data), ()
    else:
        ds, note = _leniently(TableTask(**{"landmark": 0.0} | given, records=data))
    cut = given.get("landmark")
    return ds if cut is None else select_rows(ds, ds["time"].values <= cut), labels(ds), (), note


def _labelled(task: TableTask) -> tuple[xarray.Dataset, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    from dataclasses import replace

    _, note = _leniently(task)
    loaded = (replace(task, duplicates="first", invalid="missing") if note else task).load()
    ds = task.cut(loaded.ds)
    if task.end is not None and task.landmark is not None:
        from ctlssl.schema import select_series

        ds = select_series(ds, ds[task.end].values > task.landmark)
    return ds, task.label, loaded.classes, (*note, *loaded.notes)


def _leniently(task: TableTask) -> tuple[xarray.Dataset, tuple[str, ...]]:
    """The records; where policies are wanted for them, a note of each."""
    from dataclasses import replace

    duplicates, invalid = {"duplicates": "first"}, {"invalid": "missing"}
    try:
        return task.read(needed=())[0], ()
    except (ValueError, TypeError):
        ds = replace(task, **duplicates, **invalid).read(needed=())[0]
    notes = []
    for eased in (duplicates, invalid):  # what is then refused is for the other to settle
        try:
            replace(task, **eased).read(needed=())
        except (ValueError, TypeError) as error:
            notes.append(in_flags(f"A policy is wanted: {error}"))
    return ds, (*notes, "Read here with --duplicates first --invalid missing.")
