"""The commands of a run: `ctlssl train`, `ctlssl predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctlssl.commands.console import end, refuse

if TYPE_CHECKING:
    import xarray

    from ctlssl.runs import RunSettings

__all__ = ["predict", "train"]

_STOPPED = 143  # as of a process that SIGTERM ends


_Task = typer.Argument(help="A task such as covid19/death, or a data set: its first task.", show_default=False)
_Model = typer.Option(help="Name of the model.", show_default="lssl")
_Epochs = typer.Option(min=1, help="Most passes over the training part.", show_default="40")
_Seed = typer.Option(min=0, help="Of the split, the initial weights and the batches.", show_default="0")
_Width = typer.Option(min=1, help="Channels inside the model.", show_default="32")
_Option = typer.Option(help="An option of the model, NAME=VALUE with a JSON value; may be repeated.")
_Config = typer.Option(
    help="TOML file: task, model, width, the tables options and training (the fields of ctlssl.Training). What the "
    "command line says comes first.",
    exists=True,
    dir_okay=False,
)


def train(
    task: Annotated[str | None, _Task] = None,
    model: Annotated[str | None, _Model] = None,
    epochs: Annotated[int | None, _Epochs] = None,
    seed: Annotated[int | None, _Seed] = None,
    width: Annotated[int | None, _Width] = None,
    option: Annotated[list[str] | None, _Option] = None,
    config: Annotated[Path | None, _Config] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.", file_okay=False)] = Path("ctlssl-run"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    minutes: Annotated[float, typer.Option(min=0.01, help="Between checkpoints within an epoch.")] = 5.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; small models are faster on one.")] = 1,
) -> None:
    """Train a model in a folder of its own. Ended at any moment, it goes on with --resume, to the same bits."""
    import torch

    from ctlssl.runs import RunFolder, train_run
    from ctlssl.training import Interrupted

    torch.set_num_threads(threads)
    given = {"task": task, "model": model, "width": width}
    try:
        before = RunFolder(out).read_json("config.json") if resume and (out / "config.json").exists() else {}
        settings = _settings(before, config, given, option, {"epochs": epochs, "seed": seed})
        scores = train_run(settings, out, resume, _say_epoch, 60 * minutes)
    except Interrupted as stop:
        end(_STOPPED, f"{stop}; go on with: ctlssl train --resume --out {out}")
    except (FloatingPointError, OSError) as error:
        end(1, f"Error: {error}\nThe checkpoints in {out / 'checkpoints'} are as they were.")
    except ValueError as error:
        refuse(error)
    typer.echo(f"test: {', '.join(f'{name} {value:.4f}' for name, value in scores.items())}")
    typer.echo(f"The run is in {out}; on records of your own: ctlssl predict {out} FILE")


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", exists=True, file_okay=False)],
    data: Annotated[
        Path,
        typer.Argument(help="Records: NetCDF of the schema, or a long table as CSV or Parquet.", exists=True),
    ],
    out: Annotated[Path, typer.Option(help="CSV to write.", dir_okay=False)] = Path("predictions.csv"),
    at: Annotated[
        list[float] | None,
        typer.Option(help="For forecasts: a time after the last row of each series; may be repeated."),
    ] = None,
    id: Annotated[str, typer.Option(help="Column of a long table with the series' names.")] = "id",
    time: Annotated[str, typer.Option(help="Its column of times.")] = "time",
    variable: Annotated[str, typer.Option(help="Its column of channel names.")] = "variable",
    value: Annotated[str, typer.Option(help="Its column of values.")] = "value",
    static: Annotated[
        list[str] | None, typer.Option(help="A column of it with a static covariate; may be repeated.")
    ] = None,
) -> None:
    """Predict for records of your own with the model of a run, and write a table."""
    from ctlssl.durable import replacing
    from ctlssl.runs import open_run

    columns = {"id": id, "time": time, "variable": variable, "value": value}
    try:
        trained = open_run(run)
        table = trained.predict(_records(data, columns, static, trained.unit), at or None)
        with replacing(out) as temporary:
            table.to_csv(temporary, index=False)
    except (ValueError, TypeError, OSError) as error:
        refuse(error)
    typer.echo(f"Wrote {len(table)} rows to {out}.")


def _settings(
    before: dict[str, Any],
    config: Path | None,
    given: dict[str, Any],
    options: list[str] | None,
    training: dict[str, Any],
) -> RunSettings:
    """What the run was before, what the file says over it, and the command line over both."""
    from ctlssl.runs import RunSettings, read_settings
    from ctlssl.tasks import TASKS

    values = before | ({} if config is None else read_settings(config))
    values |= {name: value for name, value in given.items() if value is not None}
    for name, more in {"options": _pairs(options), "training": training}.items():
        before = values.get(name, {})
        if not isinstance(before, dict):
            raise ValueError(f"{config}: {name} is a table of names and values, found {before!r}.")
        values[name] = before | {key: value for key, value in more.items() if value is not None}
    first = next((name for name in TASKS if name.startswith(f"{values.get('task')}/")), None)
    if first is not None:
        values["task"] = first
    return RunSettings.from_dict(values)


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


def _records(path: Path, columns: dict[str, str], static: list[str] | None, unit: str) -> xarray.Dataset:
    """The records of a file, by the ending of its name."""
    import pandas as pd

    from ctlssl.files import open_dataset
    from ctlssl.tables import from_long

    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix == ".nc":
        return open_dataset(path)
    if path.suffix not in readers:
        raise ValueError(f"{path}: records are read from .nc, {', '.join(readers)}")
    return from_long(readers[path.suffix](path), **columns, static=static, unit=unit or None)


def _say_epoch(epoch: int, train_loss: float, valid_loss: float) -> None:
    typer.echo(f"epoch {epoch}: training loss {train_loss:.4f}, validation loss {valid_loss:.4f}")
