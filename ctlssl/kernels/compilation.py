"""The decorator of compiled loops: machine code that is kept on disk, is never stale, and survives any folder.

numba's own cache looks at a function's file alone, writes an index and the code one after the other, and lets every
error of the folder out. Here the code of one function and its types is one file, replaced in one step and checked by a
sum, in a folder named after all sources; whatever goes wrong with it means compiling again, never a crash.

This module loads numba; nothing imports it before the first kernel runs.
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock

__all__ = ["compiled"]

_log = logging.getLogger("ctlssl")

_VERSIONS_KEPT = 4
"""Folders of code of other sources that stay: enough to go back and forth between versions, and no growing heap."""

_PREFIX = f"ctlssl-{sys.implementation.cache_tag}-{numba.__version__}-{llvmlite.__version__}-"

if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles would wait for ever for a lock that nobody holds.
    _release = global_compiler_lock.release
    os.register_at_fork(before=global_compiler_lock.acquire, after_in_parent=_release, after_in_child=_release)


class _Inside(Compiler):
    """What becomes part of its callers is optimized there, not twice."""

    def _compile_core(self) -> Any:
        level = numba.config.OPT
        numba.config.OPT = type(level)(1)  # under numba's own lock
        try:
            return super()._compile_core()
        finally:
            numba.config.OPT = level


def compiled(function: Callable | None = None, *, inside: bool = False, inline: bool = False) -> Callable:
    """Machine code without the interpreter's lock, kept on disk where a folder can be written.

    Kept beside the source (`__pycache__`), or in the user's cache folder, or where NUMBA_CACHE_DIR says; compiled in
    memory by each process where none can be written. When something is compiled, the logger "ctlssl" says so, once a
    process.

    Args:
        function: what is compiled at its first call, for the types it is called with.
        inside: whether only compiled functions call it: then its code is kept in theirs. Python never may.
        inline: the same, and it becomes part of its callers, so that offsets given as numbers are constants there.
    """
    if function is None:
        return lambda function: compiled(function, inside=inside, inline=inline)
    lax = {"contract", "nsz"}  # NaN and infinity keep their meaning
    options = {"nogil": True, "error_model": "numpy", "fastmath": lax, "no_cfunc_wrapper": True}
    inside = inside or inline
    if inside:
        options |= {"forceinline": inline, "no_cpython_wrapper": True, "pipeline_class": _Inside}
    loop = numba.njit(**options)(function)
    if not numba.config.DISABLE_JIT and not inside:
        try:
            loop._cache = _Kept(function)
        except (RuntimeError, OSError):  # neither beside the file nor in the user's own folder; no sources
            loop._cache = _NotKept()
    return loop


@cache
def _folder_name(sources: Path) -> str:
    """What the code depends on: all modules in the folder of the sources, whose constants it holds, and this file."""
    found = sorted(sources.glob("*.py"))
    if not found:
        raise FileNotFoundError(f"no modules in {sources}: what cannot be told apart is not kept")
    digest = sha256()
    for path in (*found, Path(__file__)):
        digest.update(sha256(path.name.encode()).digest() + sha256(path.read_bytes()).digest())
    return _PREFIX + digest.hexdigest()[:16]


@cache
def _say_once(message: str, *values: object) -> None:
    """Write to the logger, which without any set-up of logging is one line of stderr."""
    _log.warning(message, *values)


def _say_compiling(where: str) -> None:
    _say_once(f"ctlssl: compiling its loops for this machine, which can take a minute; {where}")


class _NotKept(NullCache):
    """Where no folder can be written."""

    def load_overload(self, sig: Any, target_context: Any) -> None:
        """Nothing, which is when numba compiles."""
        _say_compiling("no folder can be written to keep them (NUMBA_CACHE_DIR names one), so every process does")


class _Kept(FunctionCache):
    """Code on disk whose failures are never the caller's."""

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        name = _folder_name(Path(inspect.getfile(function)).parent)
        self._cache_path = os.path.join(self._cache_path, name)
        self._cache_file = _Shelf(self._cache_path, self._impl.filename_base, name)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for these types, or None."""
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # a file that was damaged, or written by something else: any error of unpickling
            found = None
        if found is None:
            _say_compiling(f"kept in {self._cache_path}")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code, if that can be."""
        try:
            super().save_overload(sig, data)
        except OSError as failure:  # no space, no quota, no permission any more
            self.disable()
            _say_once(
                "ctlssl: its compiled loops could not be kept in %s (%s), so every process compiles them; "
                "NUMBA_CACHE_DIR names another folder",
                os.path.dirname(self._cache_path),
                failure.strerror,
            )


class _Shelf(IndexDataCacheFile):
    """One file for a function and types, without the index that two processes or a full disk can leave half written."""

    def save(self, key: Any, data: Any) -> None:
        """Write a file under a name of its own and rename it."""
        if not os.path.isdir(self._cache_path):
            os.makedirs(self._cache_path, exist_ok=True)
            _remove_old_versions(Path(self._cache_path).parent)
        self._save_data(self._name(key), (key, data))

    def load(self, key: Any) -> Any:
        """What was kept under the key, None if nothing was or it is damaged."""
        name = self._name(key)
        try:
            content = Path(self._data_path(name)).read_bytes()
        except OSError:
            return None
        if _sealed(content[:-32]) != content:
            return None
        kept, data = self._load_data(name)
        return data if kept == key else None

    def _name(self, key: Any) -> str:
        return self._data_name(int(sha256(repr(key).encode()).hexdigest()[:12], 16))

    def _dump(self, obj: Any) -> bytes:
        return _sealed(super()._dump(obj))


def _sealed(content: bytes) -> bytes:
    """The content and its sum; what reads the content stops before the sum."""
    return content + sha256(content).digest()


def _remove_old_versions(place: Path) -> None:
    try:
        versions = sorted(place.glob(f"{_PREFIX}*"), key=os.path.getmtime)
    except OSError:  # another process removes them at this moment
        return
    for version in versions[:-_VERSIONS_KEPT]:
        shutil.rmtree(version, ignore_errors=True)
