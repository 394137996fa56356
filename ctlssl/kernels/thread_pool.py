"""Threads for compiled loops, as many as torch uses, that survive forks and leave no trace in the result."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import torch

__all__ = ["run_tasks"]

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = Lock()


def _forget() -> None:
    """A forked child has the pools of its parent without their threads, and perhaps a lock that nobody holds."""
    global _lock
    _pools.clear()
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run_tasks(kernel: Callable[[int, int], None], tasks: int, work: int) -> None:
    """Run kernel(first, last) over all tasks, in parallel where that pays.

    Args:
        kernel: releases the interpreter's lock; each task writes to places of its own.
        tasks: how many there are.
        work: state updates in all; small ones run in the caller's thread.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads < 2 or work < 50_000:
        if tasks:
            kernel(0, tasks)
        return
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="ctlssl")
        pool = _pools[threads]
    pieces = min(tasks, 4 * threads)
    bounds = [tasks * piece // pieces for piece in range(pieces + 1)]
    for done in [pool.submit(kernel, *pair) for pair in zip(bounds, bounds[1:], strict=False)]:
        done.result()
