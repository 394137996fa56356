"""The command that makes a run: `ctlssl train`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctlssl.commands import columns
from ctlssl.commands.console import end as ended
from ctlssl.commands.console import refuse, stopped_code

if TYPE_CHECKING:
    from ctlssl.runs import RunSettings

__all__ = ["combined", "settings_of", "train"]

_Task = Annotated[
    str | None,
    typer.Argument(
        help="A task such as covid19/death, a data set (its first task), or a file of records of your own: "
        ".csv, .tsv, .parquet, .nc.",
        show_default=False,
    ),
]
_Model = Annotated[str | None, typer.Option(help="Name of the model.", show_default="lssl")]
_Epochs = Annotated[int | None, typer.Option(min=1, help="Most passes over the training part.", show_default="40")]
_Seed = Annotated[
    int | None, typer.Option(min=0, help="Of the split, the initial weights and the batches.", show_default="0")
]
_Width = Annotated[int | None, typer.Option(min=1, help="Channels inside the model.", show_default="32")]
_Option = Annotated[
    list[str] | None,
    typer.Option(help="An option of the model, NAME=VALUE with a JSON value; may be repeated.", show_default="none"),
]
_FromDisk = Annotated[
    bool | None,
    typer.Option(
        "--from-disk", help="Records are a .nc larger than memory: only a batch is held at a time.", show_default="no"
    ),
]
_Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file: task (a name, or a table with the options of records), model, width, and the tables options "
        "and training (the fields of ctlssl.Training). What the command line says comes first.",
        show_default="none",
        exists=True,
        dir_okay=False,
    ),
]
_Out = Annotated[Path, typer.Option(help="Folder of the run.", file_okay=False)]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")]
_Minutes = Annotated[float, typer.Option(min=0.01, help="Minutes between checkpoints within an epoch.")]
_Threads = Annotated[int, typer.Option(min=1, help="Threads of torch; small models are faster on one.")]
_Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html at the end.")]


def train(
    task: _Task = None,
    id: columns.Id = None,
    time: columns.Time = None,
    variable: columns.Variable = None,
    value: columns.Value = None,
    wide: columns.Wide = None,
    labels: columns.Labels = None,
    label: columns.Label = None,
    static: columns.Static = None,
    kind: columns.Kind = None,
    landmark: columns.Landmark = None,
    end: columns.End = None,
    until: columns.Until = None,
    unit: columns.Unit = None,
    duplicates: columns.Duplicates = None,
    invalid: columns.Invalid = None,
    limit: columns.Limit = None,
    outside: columns.Outside = None,
    from_disk: _FromDisk = None,
    model: _Model = None,
    epochs: _Epochs = None,
    seed: _Seed = None,
    width: _Width = None,
    option: _Option = None,
    config: _Config = None,
    out: _Out = Path("ctlssl-run"),
    resume: _Resume = False,
    minutes: _Minutes = 5.0,
    threads: _Threads = 1,
    report: _Report = True,
) -> None:
    """Train a model in a folder of its own, on a task of a bundled data set or on records of your own.

    ctlssl train records.csv --id patient --time hours --variable test --value result --labels outcomes.csv
    --label died --landmark 24 --out run

    Records are dealt out by series: 60 % to learn from, 20 % to stop by, 20 % to be scored once. Ended at any moment,
    it goes on with --resume, to the same bits. In several processes:
    torchrun --nproc-per-node=2 -m ctlssl train ...
    """
    names = {"id": id, "time": time, "variable": variable, "value": value, "wide": wide, "labels": labels}
    names |= {"from_disk": from_disk or None}
    asked = {"label": label, "static": static, "kind": kind, "landmark": landmark, "end": end, "until": until}
    policies = {"unit": unit, "duplicates": duplicates, "invalid": invalid, "limits": limit, "outside": outside}
    try:
        before = _before(out) if resume else {}
        values = combined(before, config, {"model": model, "width": width}, option, {"epochs": epochs, "seed": seed})
        settings = settings_of(values, task, columns.given(**names, **asked, **policies))
    except ValueError as error:
        refuse(error)
    _run(settings, out, resume, minutes, threads, report)


def _run(settings: RunSettings, out: Path, resume: bool, minutes: float, threads: int, report: bool) -> None:
    """Train, and say how it went."""
    import torch

    from ctlssl.run_page import write_report
    from ctlssl.runs import train_run
    from ctlssl.training import Interrupted

    torch.set_num_threads(threads)
    try:
        scores = train_run(settings, out, resume, _say_epoch, 60 * minutes)
        if int(os.environ.get("RANK", "0")):  # of several processes the first one speaks
            return
        for note in _notes(out):
            typer.echo(note)
        typer.echo(f"test: {', '.join(f'{name} {value:.4f}' for name, value in scores.items())}")
        page = f", its report in {write_report(out)}" if report else ""
    except Interrupted as stop:
        ended(stopped_code(stop), f"{stop}; go on with: ctlssl train --resume --out {out}")
    except FileNotFoundError as error:
        refuse(error)
    except (FloatingPointError, OSError) as error:
        ended(1, f"Error: {error}\nThe checkpoints in {out / 'checkpoints'} are as they were.")
    except (TypeError, ValueError, ImportError) as error:
        refuse(error)
    typer.echo(f"The run is in {out}{page}; on records of your own: ctlssl predict {out} FILE")


def _before(out: Path) -> dict[str, Any]:
    """The settings of the run that is there, if there is one."""
    from ctlssl.runs import RunFolder

    return RunFolder(out).read_json("config.json") if (out / "config.json").exists() else {}


def _notes(out: Path) -> list[str]:
    from ctlssl.runs import RunFolder

    return RunFolder(out).read_json("data.json").get("notes", [])


def combined(
    before: dict[str, Any],
    config: Path | None,
    given: dict[str, Any],
    options: list[str] | None,
    training: dict[str, Any],
) -> dict[str, Any]:
    """What the run was before, what the file says over it, and the command line over both."""
    from ctlssl.runs import read_settings

    values = before | ({} if config is None else read_settings(config))
    values |= {name: value for name, value in given.items() if value is not None}
    for name, more in {"options": _pairs(options), "training": training}.items():
        earlier = values.get(name, {})
        if not isinstance(earlier, dict):
            raise ValueError(f"{config}: {name} is a table of names and values, found {earlier!r}.")
        values[name] = earlier | {key: value for key, value in more.items() if value is not None}
    return values


def settings_of(values: dict[str, Any], task: str | None, table: dict[str, Any]) -> RunSettings:
    """The settings with the task: a name, or a file with what is said of its columns."""
    from ctlssl.runs import RunSettings
    from ctlssl.tasks import TASKS

    asked = values.get("task") if task is None else task
    named = {name for full in TASKS for name in (full, full.split("/")[0])}
    if isinstance(asked, str) and asked not in named and columns.is_file_of_records(asked):
        before = values.get("task") if isinstance(values.get("task"), dict) else {}
        asked = before | {"records": str(Path(asked).absolute())}
    if isinstance(asked, dict):
        return RunSettings.from_dict(values | {"task": asked | table})
    if table:
        raise ValueError(f"{', '.join(f'--{name}' for name in table)}: these are for a file of records, not {asked!r}.")
    first = next((name for name in TASKS if name.startswith(f"{asked}/")), None)
    asked = asked if first is None else first
    return RunSettings.from_dict(values if asked is None else values | {"task": asked})


def _pairs(options: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE, a value that is no JSON being a text."""
    pairs = {}
    for text in options or []:
        name, sign, value = text.partition("=")
        if not (name and sign):
            raise ValueError(f"--option {text!r} is not NAME=VALUE")
        try:
            pairs[name] = json.loads(value)
        except json.JSONDecodeError:
            pairs[name] = value
    return pairs


def _say_epoch(epoch: int, train_loss: float, valid_loss: float) -> None:
    typer.echo(f"epoch {epoch}: training loss {train_loss:.4f}, validation loss {valid_loss:.4f}")
