"""What a run is: plain values, from the command line or a TOML file, kept beside the weights as JSON."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ctlssl.catalogue import load_dataset
from ctlssl.contract import Model, Problem
from ctlssl.model_names import NAMED, own_options
from ctlssl.runs.table_task import Loaded, TableTask
from ctlssl.tasks import TASKS
from ctlssl.training import Training

__all__ = ["RunSettings", "read_settings"]


@dataclass(frozen=True)
class RunSettings:
    """A task, a model and a training; every field is a plain JSON value.

    Args:
        task: a name in `ctlssl.tasks.TASKS`, such as "covid19/death", or a question put to files of one's own.
        model: a name in `ctlssl.model_names.NAMED`, which has the models and the baselines.
        width: of the model.
        options: further options of the model, as its class names them.
        training: how; its seed also gives the split and the initial weights.

    Raises:
        ValueError: a name that does not exist, with those that do.

    Example:
        >>> settings = RunSettings("covid19/death", options={"state_size": 16})
        >>> RunSettings.from_dict(settings.to_dict()) == settings
        True
    """

    task: str | TableTask
    model: str = "lssl"
    width: int = 32
    options: dict[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if isinstance(self.task, Mapping):
            object.__setattr__(self, "task", TableTask.from_dict(self.task))
        known = {"model": NAMED} | ({"task": TASKS} if isinstance(self.task, str) else {})
        for name, names in known.items():
            if getattr(self, name) not in names:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; there are {', '.join(names)}.")
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise ValueError(f"width is {self.width!r}; give a whole number from 1 on.")
        if not isinstance(self.options, dict):
            raise ValueError(f"options of a model are names and values, found {self.options!r}.")
        known = own_options(self.model)
        if unknown := sorted(set(self.options) - set(known)):
            raise ValueError(
                f"options of {self.model}: there is no {', '.join(unknown)}; there are {', '.join(known)}."
            )

    def build(self, problem: Problem) -> Model:
        """The model with the initial weights of the seed; the global random state is put back.

        Raises:
            ValueError: an option that the model does not have, or a value that it refuses.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.training.seed)
            try:
                return NAMED[self.model](problem, width=self.width, **self.options)
            except TypeError as error:
                raise ValueError(f"options of {self.model}: {error}") from error

    def load(self) -> Loaded:
        """The data of the task.

        Raises:
            FileNotFoundError: a file, or a data set that its users prepare themselves, is not there.
            TypeError: as `TableTask.load`.
            ValueError: as `TableTask.load`.
        """
        if isinstance(self.task, TableTask):
            return self.task.load()
        task = TASKS[self.task]
        return Loaded(load_dataset(task.dataset), task)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of JSON values."""
        values = asdict(self)
        return values | ({"task": self.task.to_dict()} if isinstance(self.task, TableTask) else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSettings:
        """The settings of a dictionary such as `to_dict` gives.

        Raises:
            ValueError: a name that is unknown, no task, or a value that cannot be.
        """
        training = values.get("training", {})
        for kind, given in {cls: values, Training: training}.items():
            known = {part.name for part in fields(kind)}
            if not isinstance(given, Mapping) or (unknown := set(given) - known):
                found = ", ".join(sorted(map(str, unknown))) if isinstance(given, Mapping) else repr(given)
                raise ValueError(f"settings do not know {found}; {kind.__name__} has {', '.join(sorted(known))}.")
        if "task" not in values:
            raise ValueError(f"settings need a task: one of {', '.join(TASKS)}, or a table.")
        return cls(**{**values, "training": Training(**training)})


def read_settings(path: str | os.PathLike) -> dict[str, Any]:
    r"""The values of a TOML file: fields of `RunSettings`, those of `Training` in a table [training].

    A task of one's own files is a table [task] with the fields of `TableTask`.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "run.toml"
        ...     _ = path.write_text('task = "covid19/death"\n[training]\nepochs = 5\n')
        ...     read_settings(path)
        {'task': 'covid19/death', 'training': {'epochs': 5}}
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error}).") from error
