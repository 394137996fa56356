"""The processes that rows run in, and the machine under them."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

THREADS = 2
PACKAGES = ("torch", "numba", "llvmlite", "numpy", "torchdiffeq", "torchcde", "jax", "jaxlib", "s5-pytorch")


def environment(**more: str) -> dict[str, str]:
    """Variables of a row's process: as many threads for everybody."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(THREADS)), "JAX_PLATFORMS": "cpu", **more}


def hold_threads() -> None:
    """Hold this process to as many cores as it has threads, since XLA takes a thread a core."""
    import torch

    torch.set_num_threads(THREADS)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine() -> list[str]:
    """Processor, cores, memory, versions and threads, a line each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"processor: {processor()}, {cores} cores",
        f"memory: {_memory()}",
        f"system: {platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages: " + ", ".join(f"{name} {installed(name)}" for name in PACKAGES),
        f"threads: {THREADS} for torch, for the compiled loops and for XLA, each row's process held to as many cores",
    ]


def processor() -> str:
    facts = _facts("/proc/cpuinfo")
    wide = "AVX-512" if "avx512f" in facts.get("flags", "") else "AVX2" if "avx2" in facts.get("flags", "") else ""
    model = facts.get("model name") or platform.processor() or platform.machine()
    family = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    return f"{model}{family}{', ' + wide if wide else ''}"


def _memory() -> str:
    kilobytes = _facts("/proc/meminfo").get("MemTotal", "").split()
    return f"{int(kilobytes[0]) / 2**20:.0f} GiB" if kilobytes else "unknown"


def _facts(path: str) -> dict[str, str]:
    """The first of each `name : value` of a file, nothing where there is no such file."""
    found: dict[str, str] = {}
    if not Path(path).exists():
        return found
    for line in Path(path).read_text(encoding="utf8").splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found
