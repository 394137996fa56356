"""Files that are there whole or not at all, whenever the power or the process ends."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_whole"]


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside a file; when the block ends without an error, what was written there is the file.

    It is synchronised and renamed, and so is the folder: what was there before stays whole until the new file is.

    Args:
        path: the file, replaced where it exists; its folder must.

    Raises:
        OSError: the folder cannot be written, or is full; the file is as it was then.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "words") as temporary:
        ...         _ = temporary.write_text("all of them")
        ...     (Path(folder) / "words").read_text(), len(list(Path(folder).iterdir()))
        ('all of them', 1)
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        _synchronise(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if hasattr(os, "O_DIRECTORY"):  # where a folder can be opened, the new name is made to last too
            _synchronise(path.parent, os.O_RDONLY)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: str | os.PathLike, data: bytes | str) -> None:
    """Write a file by `replacing`; a text as UTF-8.

    Args:
        path: the file.
        data: all of it.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def _synchronise(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
