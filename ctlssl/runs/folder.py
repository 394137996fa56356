"""The folder of a run: one process at a time, every file whole, none of it to be unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ctlssl.durable import write_whole
from ctlssl.runs.settings import RunSettings
from ctlssl.sealed import read_json

__all__ = ["RunFolder"]

_CHANGEABLE = ("epochs", "patience")  # of the training: they decide when it ends


class RunFolder:
    """Where a run keeps what it is, what it learned and how it went.

    | file | content |
    |---|---|
    | config.json | the settings |
    | data.json, data.safetensors | what was learned of the data: problem, channels, unit of time; the normal scores |
    | model.safetensors | the weights of the best epoch so far |
    | metrics.jsonl | a line for every epoch: losses |
    | seconds.jsonl | a line for every epoch: how long it took |
    | report.json | metrics of the test part, once the training is finished |
    | checkpoints/ | where an interrupted training goes on |

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training in this folder, which is made where it does not exist.

        Raises:
            OSError: the folder cannot be made or written.
            ValueError: another process trains in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"another process trains in {self.path}; wait for it, or choose another folder") from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, settings: RunSettings, resume: bool) -> None:
        """Write the settings of a new run, or see that those of the one that is there are the same.

        Raises:
            ValueError: there is a run already and it is not to be resumed, or it has other settings.
        """
        if not (self.path / "data.json").exists():  # what failed before it had read its data left nothing to keep
            self.write_json("config.json", settings.to_dict())
            return
        if not resume:
            raise ValueError(f"{self.path} holds a run; --resume goes on with it, another folder begins a new one")
        before, now = (_flat(part) for part in (self.settings().to_dict(), settings.to_dict()))
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name) and name.removeprefix("training.") not in _CHANGEABLE:
                raise ValueError(
                    f"{self.path} holds a run with {name} = {before.get(name)!r}, and {now.get(name)!r} is asked for; "
                    "only epochs and patience may change"
                )
        self.write_json("config.json", settings.to_dict())

    def settings(self) -> RunSettings:
        """The settings of the run.

        Raises:
            ValueError: no run, or a damaged one.
        """
        return RunSettings.from_dict(self.read_json("config.json"))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write one of the JSON files.

        Raises:
            OSError: the folder cannot be written.
        """
        write_whole(self.path / name, json.dumps(values, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of them.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        try:
            return read_json((self.path / name).read_text(encoding="utf8"))
        except FileNotFoundError:
            raise ValueError(f"{self.path} holds no run that is so far: there is no {name}") from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.path / name} cannot be read ({error})") from error

    def write_line(self, name: str, epoch: int, values: dict[str, float]) -> None:
        """Write the line of an epoch, from 1, after those of the epochs before; what came later is taken away."""
        before = [line for line in self.read_lines(name) if line["epoch"] < epoch]
        self.write_lines(name, [*before, {"epoch": epoch, **values}])

    def write_lines(self, name: str, lines: list[dict[str, float]]) -> None:
        """Write the lines of all epochs.

        Raises:
            OSError: the folder cannot be written.
        """
        write_whole(self.path / name, "".join(json.dumps(line) + "\n" for line in lines))

    def read_lines(self, name: str) -> list[dict[str, float]]:
        """The lines of all epochs; none where the file is not there.

        Raises:
            ValueError: a damaged file.
        """
        path = self.path / name
        if not path.exists():
            return []
        try:
            lines = [read_json(line) for line in path.read_text(encoding="utf8").splitlines()]
            if not all(isinstance(line.get("epoch"), int) for line in lines):
                raise ValueError("a line without an epoch")
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error})") from error
        return lines

    def write_tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write a safetensors file.

        Raises:
            OSError: the folder cannot be written.
        """
        held = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in sorted(tensors.items())}
        write_whole(self.path / name, save(held))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read one.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        try:
            return load((self.path / name).read_bytes())
        except FileNotFoundError:
            raise ValueError(f"{self.path} holds no run that is so far: there is no {name}") from None
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{self.path / name} cannot be read ({error})") from error


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names of nested values joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
