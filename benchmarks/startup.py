"""What a user waits for before the first result: import, first call, compilation."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measures import Measure, Target, at_most
from benchmarks.row import Row
from benchmarks.surroundings import THREADS, environment

IMPORT = """
import json, time
begin = time.perf_counter()
import torch
between = time.perf_counter()
import ctlssl
print(json.dumps([time.perf_counter() - between, between - begin]))
"""
CALL = """
import json, sys, time
import torch, ctlssl
torch.set_num_threads(int(sys.argv[2]))
seconds = []
for options in json.loads(sys.argv[1]):
    view = options.pop("view", "recurrence")
    layer = ctlssl.LSSL(8, 16, **options)
    u = torch.randn(2, 70, 8, requires_grad=True)
    begin = time.perf_counter()
    y, _ = layer(u, 1.0 if view == "convolution" else torch.rand(2, 70), view=view)
    between = time.perf_counter()
    y.square().mean().backward()
    seconds.append([time.perf_counter() - begin, between - begin])
print(json.dumps(seconds))
"""
MAIN = {"structure": "diagonal", "method": "zoh", "multi_input": True}
SYSTEMS = [
    MAIN,
    {"structure": "diagonal", "method": "zoh"},
    {"structure": "diagonal", "method": "bilinear"},
    *[
        {"structure": structure, "method": "bilinear", "multi_input": multi_input}
        for structure in ("quasiseparable", "dplr", "dense")
        for multi_input in (False, True)
    ],
]
EVERYTHING = SYSTEMS + [{**options, "view": "convolution"} for options in SYSTEMS]
COMPILE, FIRST = "compilation into an empty cache", "first call, warm cache"
TARGETS: dict[str, Target] = {
    "import ctlssl, beyond torch": at_most(0.5),
    f"{FIRST}: multi-input diagonal": at_most(2),
    f"{FIRST}: bank diagonal": at_most(2),
    f"{FIRST}: bank quasiseparable": at_most(2),
    f"{FIRST}: bank dplr": at_most(2),
    f"{COMPILE}: all kernels": at_most(60),
}
FIRST_CALLS = {
    f"{FIRST}: {'multi-input' if options.get('multi_input') else 'bank'} {options['structure']}": options
    for options in (MAIN, SYSTEMS[1], SYSTEMS[3], SYSTEMS[5])
}


def _answer(code: str, *arguments: str, **variables: str) -> list:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**variables), timeout=600)
    if done.returncode:
        raise RuntimeError(f"a process of the startup row failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _called(systems: list[dict], cache: str) -> list[tuple[float, float]]:
    """Seconds of each system's forward + backward, and of forward alone within it."""
    return _answer(CALL, json.dumps(systems), str(THREADS), NUMBA_CACHE_DIR=cache)


def run(row: Row, quick: bool = False) -> list[Measure]:
    """Seconds; every process is fresh, and the caches are temporary folders."""
    repetitions = 1 if quick else row.repetitions
    found: dict[str, tuple[float, ...]] = {}
    pairs = [_answer(IMPORT) for _ in range(repetitions)]
    found["import ctlssl, beyond torch"] = tuple(own for own, _ in pairs)
    note = {"import ctlssl, beyond torch": f"torch itself {statistics.median(torch for _, torch in pairs):.2f} s"}
    with tempfile.TemporaryDirectory() as folder:
        main, rest = _called([MAIN], folder), _called(EVERYTHING[1:], folder)
        files = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
        found[f"{COMPILE}: multi-input diagonal"] = (main[0][0],)
        found[f"{COMPILE}: all kernels"] = (sum(whole for whole, _ in main + rest),)
        note[f"{COMPILE}: all kernels"] = f"{len(files)} files, {sum(files) / 1e6:.1f} MB"
        for what, options in FIRST_CALLS.items():
            calls = [_called([options], folder)[0] for _ in range(repetitions)]
            found[what] = tuple(whole for whole, _ in calls)
            note[what] = f"of it forward {statistics.median(forward for _, forward in calls):.2f} s"
    return [Measure(what, values, "s", (), row.targets.get(what), note.get(what, "")) for what, values in found.items()]


ROW = Row(
    name="startup",
    title="Import, first call, compilation",
    run=run,
    repetitions=3,
    targets=TARGETS,
    notes=(
        "Each number comes from fresh processes. A first call is a forward + backward of a small layer, float32, with "
        "the compiled code in a cache folder on disk; compilation is the same with that folder empty.",
        "All kernels: every structure, as a bank and multi-input, recurrence and convolution, float32, each with its "
        "first call's other costs. Code for float64 is compiled when float64 is first used.",
    ),
)
