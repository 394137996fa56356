"""Threads for compiled loops, as many as torch uses, that survive forks and leave no trace in the result."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import torch

from ctlssl.kernels.torch_threads import run_on_torch_threads

__all__ = ["run_tasks"]

_WORTH_A_THREAD = 100_000
"""State updates below which waking another thread takes longer than the work."""

_PIECES = 4
"""Pieces a thread, so that the fast ones take over from the slow."""

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

    The caller takes pieces as its helpers do and waits only for pieces that a running thread has begun: calls from
    many threads, calls inside tasks and calls while the interpreter ends cannot wait for one another.

    Args:
        kernel: releases the interpreter's lock; each task writes to places of its own, whatever is run beside it.
        tasks: how many there are.
        work: state updates in all; small ones run in the caller's thread.

    Raises:
        Exception: the first error of a task, after all others were run.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads < 2 or work < _WORTH_A_THREAD:
        if tasks:
            kernel(0, tasks)
        return
    call = _Call(kernel, tasks, min(tasks, _PIECES * threads))
    if not run_on_torch_threads(call.take_pieces):
        _ask_for_help(call, threads - 1)
        call.take_pieces()
    call.wait()


def _ask_for_help(call: _Call, helpers: int) -> None:
    try:
        with _lock:
            if helpers not in _pools:
                _pools[helpers] = ThreadPoolExecutor(helpers, thread_name_prefix="ctlssl")
            pool = _pools[helpers]
        for _ in range(helpers):
            pool.submit(call.take_pieces)
    except RuntimeError:  # the interpreter ends, or the system gives no more threads: the caller does it alone
        return


class _Call:
    """The pieces of one call, for whoever comes to take them."""

    def __init__(self, kernel: Callable[[int, int], None], tasks: int, pieces: int) -> None:
        bounds = [tasks * piece // pieces for piece in range(pieces + 1)]
        self.kernel, self.unfinished = kernel, pieces
        self.left = deque(zip(bounds, bounds[1:], strict=False))
        self.count, self.finished = Lock(), Event()
        self.failure: BaseException | None = None

    def take_pieces(self) -> None:
        """Run pieces until none is left; a failing one does not keep the others from being run."""
        while True:
            try:
                piece = self.left.popleft()
            except IndexError:
                return
            try:
                self.kernel(*piece)
            except BaseException as failure:
                self.failure = self.failure or failure
            with self.count:
                self.unfinished -= 1
                if not self.unfinished:
                    self.finished.set()

    def wait(self) -> None:
        """Until the pieces that helpers have begun are done; then raise what went wrong."""
        self.finished.wait()
        if self.failure is not None:
            raise self.failure
