"""Peak memory of one contender, forward + backward, in a fresh process.

The process runs the contender at small sizes first (imports, compiled code, thread pools), builds it at full size,
gives unused memory back, and resets the high-water mark of its resident memory (VmHWM of Linux). The peak is
VmHWM after one forward + backward, less the resident memory before it, plus the bytes of the inputs.
"""

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.surroundings import environment, hold_threads

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(row: str, contender: str, quick: bool = False) -> float | None:
    """Bytes, or None where the system has no high-water mark to read."""
    if not STATUS.exists():
        return None
    command = [sys.executable, "-m", "benchmarks.peak", row, contender, *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    if done.returncode:
        raise RuntimeError(f"the peak of {contender} in {row} could not be measured:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident(name: str) -> int:
    """VmRSS or VmHWM, in bytes."""
    (line,) = [line for line in STATUS.read_text(encoding="utf8").splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def measured(passes) -> float:
    """Peak of passes.both() in this process."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it keeps a little more
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # where the mark cannot be reset, what came before may raise it
        CLEAR.write_text("5", encoding="utf8")
    before = resident("VmRSS")
    passes.both()
    return max(0, resident("VmHWM") - before) * passes.scale + passes.input_bytes


def main() -> None:
    from benchmarks.rows import ROWS

    hold_threads()
    row = ROWS[sys.argv[1]]
    (contender,) = [contender for contender in row.contenders if contender.name == sys.argv[2]]
    contender.build(row.quick).both()
    print(json.dumps(measured(contender.build(row.at("--quick" in sys.argv)))))


if __name__ == "__main__":
    main()
