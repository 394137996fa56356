"""Who is at work on what, in a folder that processes share: claims that outlive no owner and have one at a time."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

__all__ = ["Claims"]

_CLAIM, _DIGITS = ".claim-", 6  # a claim is called .claim-NAME-000001
_BEAT = 20.0  # seconds between the signs of life that an owner gives to other machines
_PROCESSES_ARE_KNOWN = os.name == "posix"  # elsewhere the signs of life tell, as of other machines
_SILENT = 300.0  # seconds without one after which an owner on another machine counts as gone


class Claims:
    """The claims of one process in a folder.

    The process writes one small file that says who it is, and claims a name by a hard link to that file: a link is
    made whole or not at all, and only once. A claim whose owner is gone is taken over by the next number of the same
    name, never by removing it, so that of several who find it one wins. On the owner's machine it is gone when its
    process is (its start is compared, since numbers of processes return); on another, when the file was not touched for
    five minutes of the observer's own time. An owner that sleeps longer than that may find that another did the same
    work; as both write the same result under the same name, nothing is lost but time.

    Args:
        folder: exists, on a file system that has hard links.

    Raises:
        OSError: the folder cannot be written, or has no hard links.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, tuple[int, float]] = {}  # claim -> its last sign of life, and when we first saw that one
        self._stop = threading.Event()
        self._me = folder / f".owner-{uuid.uuid4().hex}"
        self._me.write_text(json.dumps(_person(os.getpid())), encoding="utf8")
        self._beats = threading.Thread(target=self._beat, name="ctlssl signs of life", daemon=True)

    def __enter__(self) -> Claims:
        """Begin to give signs of life, and remove what dead owners left."""
        self._beats.start()
        for other in self._folder.glob(".owner-*"):
            if other != self._me and not self._lives(other):
                other.unlink(missing_ok=True)
        for name in {path.name[len(_CLAIM) : -_DIGITS - 1] for path in self._folder.glob(f"{_CLAIM}*")}:
            with self.claim(name):  # to take over and give up is the one safe way to remove
                pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind."""
        self._stop.set()
        self._beats.join()
        self._me.unlink(missing_ok=True)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Whether the name is this process's own in the block; False where a living owner has it.

        Args:
            name: part of a file name.
        """
        mine = self._take(name)
        try:
            yield mine is not None
        finally:
            if mine is not None:  # the older numbers first: the newest is the one that counts
                for claim in self._claims(name):
                    claim.unlink(missing_ok=True)

    def _take(self, name: str) -> Path | None:
        claims = self._claims(name)
        if claims and self._lives(claims[-1]):
            return None
        number = int(claims[-1].name.rpartition("-")[2]) + 1 if claims else 1
        mine = self._folder / f"{_CLAIM}{name}-{number:0{_DIGITS}d}"
        try:
            os.link(self._me, mine)
        except FileExistsError:  # another was faster
            return None
        except OSError as error:
            told = f"{self._folder}: cells are claimed by hard links, which fail here ({error}); choose another folder."
            raise OSError(error.errno, told) from error
        if any(self._lives(other) for other in self._claims(name) if other != mine):  # numbers can begin anew meanwhile
            mine.unlink(missing_ok=True)
            return None
        return mine

    def _claims(self, name: str) -> list[Path]:
        """All claims of a name, the one that counts last."""
        return sorted(self._folder.glob(f"{_CLAIM}{name}-" + _DIGITS * "[0-9]"))

    def _lives(self, claim: Path) -> bool:
        try:
            owner, sign = json.loads(claim.read_text(encoding="utf8")), claim.stat().st_mtime_ns
        except FileNotFoundError:
            return True  # it has just been given up: to ask again will tell
        except (OSError, ValueError):
            owner, sign = {}, 0
        if _PROCESSES_ARE_KNOWN and isinstance(owner, dict) and owner.get("machine") == _machine():
            return owner == _person(owner.get("pid"))
        known = self._seen.get(claim)
        if known is None or known[0] != sign:
            self._seen[claim] = (sign, time.monotonic())
            return True
        return time.monotonic() - known[1] < _SILENT

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT):
            try:
                os.utime(self._me)
            except OSError:
                return


def _person(pid: object) -> dict[str, object]:
    """A process of this machine, so that it is told from a later one of the same number; no start if it is gone."""
    return {"machine": _machine(), "pid": pid, "started": _start(pid) if isinstance(pid, int) else None}


def _machine() -> str:
    """This machine, or this container of it: where a process number means the same."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _start(pid: int) -> str | None:
    """When a process of this machine began, in a form of the system's own; None where there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf8").rpartition(")")[2].split()
        return None if state in "ZX" else f"{boot} {rest[18]}"  # a zombie does no more work
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)  # a system without /proc
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"
