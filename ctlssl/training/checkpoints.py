"""Checkpoints of a fit: one sealed file each, the last two kept, nothing believed that was damaged."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ctlssl.durable import write_whole
from ctlssl.sealed import pack, read_json, unpack

__all__ = ["Checkpoint", "Checkpoints", "Interrupted"]

_KIND = "checkpoint 1"
_NAME = re.compile(r"checkpoint-(\d{9})\.safetensors")
_KEPT = 2


class Interrupted(Exception):
    """A fit was asked to stop; where it stopped is in its last checkpoint.

    The attribute `signal` is the number of the signal that asked, or None.
    """

    signal: int | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A fit at one moment.

    Args:
        tensors: weights, those of the best epoch, moments of the optimizer, states of the random generators.
        about: everything else, JSON values.
    """

    tensors: dict[str, Tensor]
    about: dict


class Checkpoints:
    """Where a fit keeps its checkpoints, and when it writes them.

    A checkpoint is written after every epoch, and between two of them where an epoch takes longer than `seconds`. The
    last two are kept. A fit that is given a folder with checkpoints goes on from the newest sound one, and ends in the
    same weights and losses, bit for bit, as if nothing had happened.

    Args:
        folder: made where it does not exist; one for each fit.
        seconds: time from one checkpoint to the next inside an epoch.
        writes: False: a fit only reads them, as in all its processes but the first.

    Raises:
        ValueError: a time that is not positive.
        OSError: the folder cannot be made.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(folder)
        ...     checkpoints.write(Checkpoint({"x": torch.ones(1)}, {"epoch": 3}))
        ...     checkpoints.newest().about
        {'epoch': 3}
    """

    def __init__(self, folder: str | os.PathLike, seconds: float = 300.0, writes: bool = True) -> None:
        if not seconds > 0:
            raise ValueError(f"seconds between checkpoints are {seconds!r}; they must be positive")
        self.folder, self.seconds, self.writes = Path(folder), seconds, writes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stop_requested = False
        self._written = time.monotonic()

    def stop(self) -> None:
        """Ask the fit to write a checkpoint after its present step and to raise `Interrupted`."""
        self.stop_requested = True

    def due(self) -> bool:
        """Whether one is to be written in the middle of an epoch."""
        return self.stop_requested or time.monotonic() - self._written > self.seconds

    def write(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint, and take away those before the last two.

        Raises:
            OSError: the folder cannot be written, or is full; the checkpoints before are as they were.
        """
        numbers = [number for number, _ in self._files()]
        path = self.folder / f"checkpoint-{max(numbers, default=-1) + 1:09d}.safetensors"
        write_whole(path, pack(checkpoint.tensors, {"about": json.dumps(checkpoint.about)}, _KIND))
        for _, old in self._files()[:-_KEPT]:
            old.unlink(missing_ok=True)
        for left in self.folder.glob(".checkpoint-*.safetensors.*.tmp"):  # by a process that was killed
            left.unlink(missing_ok=True)
        self._written = time.monotonic()

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is sound, or None where there is none at all.

        Raises:
            ValueError: there are checkpoints, and all of them are damaged.
        """
        errors = []
        for _, path in reversed(self._files()):
            try:
                checkpoint = _read(path)
            except (OSError, ValueError) as error:
                errors.append(f"{path.name}: {error}")
                continue
            if errors:
                warnings.warn(f"{'; '.join(errors)}; going on from {path.name}, the one before", stacklevel=3)
            return checkpoint
        if errors:
            raise ValueError(f"no checkpoint in {self.folder} is sound ({'; '.join(errors)}); begin in another folder")
        return None

    def _files(self) -> list[tuple[int, Path]]:
        """Numbers and paths, in order."""
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(name[1]), path) for name, path in found if name)


def _read(path: Path) -> Checkpoint:
    tensors, about = unpack(path.read_bytes(), _KIND)
    return Checkpoint(tensors, read_json(about.get("about", "null")))
