"""The threads that torch itself computes with, where its OpenMP runtime can be asked for them.

After every operation these threads wait for the next one busily, for some milliseconds. Any other thread that is woken
on their processors waits until they give up: a helper of our own would come too late to help.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

__all__ = ["run_on_torch_threads"]

_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_forked = False


def _note_fork() -> None:
    """GNU's runtime waits for ever for the threads that a forked child does not have."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@cache
def _parallel() -> Callable | None:
    """GNU OpenMP's entry into a parallel region, in the library that came with torch; None where there is none."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            enter = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        enter.argtypes, enter.restype = [_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return enter
    return None


def run_on_torch_threads(work: Callable[[], None]) -> bool:
    """Call `work` once in each of torch's threads, the caller among them; False, and no call, where that cannot be.

    Args:
        work: raises nothing. Inside another such call it may be called by one thread alone.
    """
    enter = None if _forked else _parallel()
    if enter is None:
        return False
    enter(_Body(lambda _: work()), None, torch.get_num_threads(), 0)
    return True
