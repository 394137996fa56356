"""Scripts that make a file of the schema of a user's own download: what they take, where they write, how they end."""

from __future__ import annotations

import argparse
import inspect
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from ctlssl.files import save_dataset

__all__ = ["member_of", "place_for", "run_script", "write_prepared"]

_REFUSED = (OSError, ValueError, ImportError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error)


def run_script(main: Callable[..., Any], about: str, arguments: Sequence[str] | None = None, **sources: str) -> None:
    """Call the `main` of a script with what its command line says; a source that is no good ends it with exit code 2.

    Args:
        main: takes the sources, one a parameter, and then ``target``, where to write; or all of them as ``*sources``.
        about: the docstring of the script, whose first line is its description.
        arguments: of the command line; None is that of the process.
        sources: what is said of each source in the help, by the name of its parameter.

    Raises:
        SystemExit: with code 2 where something given is no good, after one line on standard error; with 0 for --help.
    """
    parser = argparse.ArgumentParser(description=about.strip().splitlines()[0])
    several = any(item.kind is item.VAR_POSITIONAL for item in inspect.signature(main).parameters.values())
    for name, told in sources.items():
        parser.add_argument(name, help=told, nargs="+" if several else None)
    if not several:
        where = "where to write: a file that ends in .nc, or a folder; else it is the folder of this script"
        parser.add_argument("target", help=where, nargs="?")
    given = vars(parser.parse_args(arguments))
    try:
        main(*(given["sources"] if several else given.values()))
    except _REFUSED as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def place_for(target: str | os.PathLike | None, script: str | os.PathLike) -> Path:
    """The file that a script will write, found good before the work begins.

    Args:
        target: a file that ends in .nc, a folder, or None for the folder of the script.
        script: the path of the script, whose folder bears the name of the data set.

    Raises:
        ValueError: a target that is neither, or whose folder does not exist or cannot be written.
    """
    folder = Path(script).resolve().parent
    path = folder if target is None else Path(target)
    if path.is_dir():
        path = path / f"{folder.name}.nc"
    if path.suffix != ".nc":
        raise ValueError(f"{path} is no folder, and no file that ends in .nc; give one of them as the target.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path.parent} is no folder that can be written; make it, or give another target.")
    return path


def write_prepared(ds: xr.Dataset, path: Path, counts: Mapping[str, Any]) -> None:
    """Write a data set, and say where it is and what is in it.

    Args:
        ds: of the schema.
        path: from `place_for`.
        counts: what is printed, by name.

    Raises:
        OSError: the file cannot be written.
    """
    save_dataset(ds, path)
    print(f"{path}: {path.stat().st_size} bytes")
    for name, number in counts.items():
        print(f"  {name}: {number}")


def member_of(archive: str | os.PathLike, name: str) -> bytes:
    """A file of a zip archive, such as a wheel.

    Args:
        archive: the path.
        name: of the file inside.

    Raises:
        OSError: the archive cannot be read.
        ValueError: no such archive, or no such file in it.
    """
    try:
        with zipfile.ZipFile(archive) as members:
            return members.read(name)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no wheel or other zip archive, or a damaged one ({error}).") from error
    except KeyError:
        raise ValueError(f"{archive} holds no {name}; README.md beside the script names the archive.") from None
