"""The command that searches for the settings of a run: `ctlssl tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctlssl.commands import columns
from ctlssl.commands.console import end as ended
from ctlssl.commands.console import names_in, refuse, stopped_code
from ctlssl.commands.runs import combined, settings_of

if TYPE_CHECKING:
    from ctlssl.runs import RunSettings
    from ctlssl.tuning import SearchSpace, Tried

__all__ = ["tune"]

_Task = Annotated[
    str | None,
    typer.Argument(help="As of `ctlssl train`: a task, a data set, or a file of records.", show_default=False),
]
_Trials = Annotated[int, typer.Option(min=1, help="Trainings, those that the folder has already included.")]
_Widths = Annotated[str | None, typer.Option(help="Widths that are tried.", show_default="16,32,64")]
_States = Annotated[str | None, typer.Option(help="State sizes that are tried.", show_default="8,16,32,64")]
_Layers = Annotated[str | None, typer.Option(help="Numbers of layers that are tried.", show_default="1,2,3")]
_Dropout = Annotated[str | None, typer.Option(help="Range of the dropout.", show_default="0:0.6")]
_Rate = Annotated[str | None, typer.Option(help="Range of the learning rate.", show_default="0.0003:0.03")]
_Model = Annotated[str | None, typer.Option(help="Name of the model.", show_default="lssl")]
_Epochs = Annotated[int | None, typer.Option(min=1, help="Most epochs of a training.", show_default="40")]
_Seed = Annotated[int | None, typer.Option(min=0, help="Of the split, the trainings and the draws.", show_default="0")]
_Option = Annotated[
    list[str] | None,
    typer.Option(help="An option of the model that is not searched, NAME=VALUE.", show_default="none"),
]
_Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file as of `ctlssl train`, with what is not searched.", show_default="none", exists=True,
        dir_okay=False,
    ),
]  # fmt: skip
_Out = Annotated[Path, typer.Option(help="Folder of the search, from which it goes on.", file_okay=False)]
_Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


def tune(
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
    trials: _Trials = 20,
    widths: _Widths = None,
    states: _States = None,
    layers: _Layers = None,
    dropout: _Dropout = None,
    rate: _Rate = None,
    model: _Model = None,
    epochs: _Epochs = None,
    seed: _Seed = None,
    option: _Option = None,
    config: _Config = None,
    out: _Out = Path("ctlssl-tune"),
    threads: _Threads = 1,
) -> None:
    """Search for width, state size, layers, dropout and learning rate, on the validation part alone.

    ctlssl tune covid19/death --trials 20 --out search

    ctlssl train --config search/best.toml --out run

    Ended at any moment, the same command goes on with the search. Started twice, in two terminals or on two machines
    with a common folder, both work on it, each on other trials.
    """
    names = {"id": id, "time": time, "variable": variable, "value": value, "wide": wide, "labels": labels}
    asked = {"label": label, "static": static, "kind": kind, "landmark": landmark, "end": end, "until": until}
    policies = {"unit": unit, "duplicates": duplicates, "invalid": invalid, "limits": limit, "outside": outside}
    try:
        values = combined({}, config, {"model": model}, option, {"epochs": epochs, "seed": seed})
        settings = settings_of(values, task, columns.given(**names, **asked, **policies))
        space = _space(widths, states, layers, dropout, rate)
    except ValueError as error:
        refuse(error)
    _search(settings, space, trials, out, threads)


def _search(settings: RunSettings, space: SearchSpace, trials: int, out: Path, threads: int) -> None:
    """Search, and say what was found."""
    import torch

    from ctlssl.training import Interrupted
    from ctlssl.tuning import tune as search

    torch.set_num_threads(threads)
    try:
        found = search(settings, out, space, trials, _say)
    except Interrupted as stop:
        ended(stopped_code(stop), f"{stop}; the same command goes on")
    except KeyboardInterrupt:  # between two trainings
        ended(130, "stopped; the same command goes on")
    except FileNotFoundError as error:
        refuse(error)
    except OSError as error:
        ended(1, f"Error: {error}\nThe trials in {out} are as they were; the same command goes on.")
    except (TypeError, ValueError, ImportError) as error:
        refuse(error)
    typer.echo(f"The best of {len(found.trials)} trials is {_described(found.best)}.")
    typer.echo(f"Train and score it with: ctlssl train --config {out / 'best.toml'}")


def _space(
    widths: str | None, states: str | None, layers: str | None, dropout: str | None, rate: str | None
) -> SearchSpace:
    """What is tried, from the texts of the command line."""
    from ctlssl.tuning import SearchSpace

    parts: dict[str, Any] = {}
    for name, option, text in (
        ("width", "widths", widths),
        ("state_size", "states", states),
        ("layers",) * 2 + (layers,),
    ):
        if text is not None:
            parts[name] = _numbers(option, names_in(text) or [], int, "whole numbers with commas between")
    for name, option, text in (("dropout", "dropout", dropout), ("learning_rate", "rate", rate)):
        if text is not None:
            low, _, high = text.partition(":")
            parts[name] = _numbers(option, [low, high or low], float, "LOW:HIGH")
    return SearchSpace(**parts)


def _numbers(option: str, texts: list[str], kind: type, form: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(text) for text in texts)
    except ValueError:
        raise ValueError(f"--{option} is {form}, found {', '.join(texts)}.") from None


def _say(tried: Tried) -> None:
    typer.echo(_described(tried))


def _described(tried: Tried) -> str:
    values = ", ".join(f"{name} {value:.3g}" for name, value in tried.values.items())
    loss = "diverged" if tried.valid_loss is None else f"validation loss {tried.valid_loss:.4f}"
    return f"trial {tried.number} ({values}): {loss}"
