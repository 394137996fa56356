"""Peak memory of a step of training, measured where it runs."""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["peak_bytes"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(run: Callable[[], object]) -> float:
    """The most resident memory that a call takes beyond what was resident before it; NaN where that cannot be read.

    Memory that earlier work has freed is first given back to the system and the mark of the highest is reset (VmHWM,
    Linux alone), so that a call in a process that has done much before is measured as in a fresh one; it sees all
    memory of the process, whoever allocates it, in pages.

    Args:
        run: called once.
    """
    gc.collect(1)  # what the last work left; a full collection takes as long as many a step
    with suppress(OSError, AttributeError):  # a C library without it keeps a little more
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5", encoding="utf8")
        before = _resident("VmRSS")
    except OSError:
        run()
        return math.nan
    run()
    return float(max(0, _resident("VmHWM") - before))


def _resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    (line,) = [line for line in _STATUS.read_text(encoding="utf8").splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])
