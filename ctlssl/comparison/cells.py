"""Where finished cells are kept: one small JSON file each, whole or absent, shared by processes."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ctlssl.comparison.claims import Claims
from ctlssl.comparison.keys import key_of
from ctlssl.durable import write_whole

__all__ = ["Cell", "CellFiles", "Cells", "NoFiles", "cells_in", "finite_or_none"]

_FORMAT = 1
_WAIT = 0.25  # seconds between two looks at a folder where others are at work

Result = dict[str, Any]  # JSON values


@dataclass(frozen=True)
class Cell:
    """One piece of work, whose result depends on nothing but what its spec says.

    Args:
        label: for a reader, and the first part of the file's name.
        spec: all that decides the result, JSON values.
    """

    label: str
    spec: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Digest of the spec."""
        return key_of(self.spec)

    @property
    def name(self) -> str:
        """The name of the file, without its ending."""
        return f"{re.sub(r'[^A-Za-z0-9]+', '_', self.label)[:80].strip('_')}-{self.key[:20]}"


class Cells(ABC):
    """Results of cells, asked for by `obtain`."""

    @abstractmethod
    def obtain(self, cell: Cell, compute: Callable[[], Result]) -> Result | None:
        """The result of a cell, computed here if nobody did; None while another process is at it."""

    @abstractmethod
    def wait(self) -> None:
        """Let others get on with what this process needs of them."""


class NoFiles(Cells):
    """Every cell is computed, and nothing is kept."""

    def obtain(self, cell: Cell, compute: Callable[[], Result]) -> Result | None:
        """See `Cells.obtain`."""
        return compute()

    def wait(self) -> None:
        """See `Cells.wait`: there are no others."""


class CellFiles(Cells):
    """One file a cell in a folder that any number of processes may share, on one machine or several.

    A file is written under a temporary name, synchronised and renamed: a process killed at any moment leaves a whole
    file or none. It holds the key of its cell and a checksum; one that does not fit, by damage or by hand, is computed
    again, with a warning. Cells of other plans lie beside each other, told apart by their keys.

    Args:
        folder: exists.
        claims: of this process, in the same folder.
    """

    def __init__(self, folder: Path, claims: Claims) -> None:
        self._folder, self._claims = folder, claims
        self._warned: set[str] = set()

    def obtain(self, cell: Cell, compute: Callable[[], Result]) -> Result | None:
        """See `Cells.obtain`."""
        found = self._read(cell)
        if found is not None:
            return found
        with self._claims.claim(cell.name) as mine:
            if not mine:
                return None
            found = self._read(cell)  # its owner may have finished between the two lines above
            if found is not None:
                return found
            for left in self._folder.glob(f".{cell.name}.*.tmp"):  # by an owner that was killed while it wrote
                left.unlink(missing_ok=True)
            result = compute()
            self._write(cell, result)
            return result

    def wait(self) -> None:
        """See `Cells.wait`."""
        time.sleep(_WAIT)

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.json"

    def _read(self, cell: Cell) -> Result | None:
        path = self._path(cell)
        try:
            content = json.loads(path.read_text(encoding="utf8"))
            if content["checksum"] != _checksum(content) or content["key"] != cell.key or content["format"] != _FORMAT:
                raise ValueError("its checksum or its key is another's")
            return content["result"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            if cell.name not in self._warned:
                self._warned.add(cell.name)
                warnings.warn(f"{path} is damaged and computed again: {error}", stacklevel=2)
            return None

    def _write(self, cell: Cell, result: Result) -> None:
        content = {
            "format": _FORMAT,
            "label": cell.label,
            "key": cell.key,
            "spec": cell.spec,
            "result": result,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        text = json.dumps(content | {"checksum": _checksum(content)}, indent=1, allow_nan=False)
        write_whole(self._path(cell), text + "\n")


@contextmanager
def cells_in(folder: Path | None) -> Iterator[Cells]:
    """The cells of a folder, made where it is missing; None keeps nothing.

    Args:
        folder: where the files are.

    Raises:
        OSError: the folder cannot be made or written.
    """
    if folder is None:
        yield NoFiles()
        return
    folder.mkdir(parents=True, exist_ok=True)
    with Claims(folder) as claims:
        yield CellFiles(folder, claims)


def finite_or_none(value: float) -> float | None:
    """A number as JSON has it: what is not finite is None."""
    return value if math.isfinite(value) else None


def _checksum(content: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode("utf8")).hexdigest()
