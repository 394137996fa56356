"""The compiled loops in the life of processes: threads, forks, data loaders, torchrun, the end of the interpreter.

Each case runs in processes of its own with a time limit: a deadlock or an abort is a failed test, not a hung suite.
"""

import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ctlssl.kernels import thread_pool
from ctlssl.kernels.torch_threads import run_on_torch_threads

ROOT = Path(__file__).resolve().parent.parent
MUCH = 10**9
"""Work that is worth threads."""

SETUP = """
import os, sys, warnings
import torch
import ctlssl

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons mention that a process with threads forks
torch.set_num_threads(2)
torch.manual_seed(0)
layer = ctlssl.LSSL(8, 16, structure="diagonal", method="zoh")
u, dt = torch.randn(16, 200, 8), torch.rand(16, 200)  # enough work for two threads

def run():
    leaf = u.clone().requires_grad_()
    y, _ = layer(leaf, dt)
    return y.detach(), *torch.autograd.grad(y.square().sum(), [leaf, *layer.parameters()])

def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def finished(code, *command, timeout=150):
    """Standard output of a process that must end well within the time."""
    command = command or (sys.executable, "-c", SETUP + textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(params=["torch's threads", "own threads"])
def threads(request, monkeypatch):
    """Sets torch's number of threads for a test, which runs with torch's own (where they can be had) and without."""
    if request.param == "own threads":
        monkeypatch.setattr(thread_pool, "run_on_torch_threads", lambda work: False)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 100])
def test_every_task_runs_once_in_no_more_threads_than_torch_has(threads, count, tasks):
    threads(count)
    seen, workers = [], set()

    def kernel(first, last):
        workers.add(threading.get_ident())
        seen.extend(range(first, last))
        time.sleep(0.001)

    thread_pool.run_tasks(kernel, tasks, MUCH)
    assert sorted(seen) == list(range(tasks))
    assert len(workers) <= count


def test_helpers_help_and_small_work_stays_with_the_caller(threads):
    threads(2)
    meeting = threading.Barrier(2, timeout=60)  # passed by two at the same time or not at all
    thread_pool.run_tasks(lambda first, last: meeting.wait(), 2, MUCH)
    workers = set()
    thread_pool.run_tasks(lambda first, last: workers.add((threading.get_ident(), first, last)), 50, 1000)
    assert workers == {(threading.get_ident(), 0, 50)}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_error_is_reported_and_the_other_tasks_are_run(threads, count):
    threads(count)
    seen = []

    def kernel(first, last):
        seen.extend(range(first, last))
        if first == 0:
            raise ZeroDivisionError("of a task")

    for _ in range(3):
        seen.clear()
        with pytest.raises(ZeroDivisionError, match="of a task"):
            thread_pool.run_tasks(kernel, 40, MUCH)
        assert sorted(seen) == list(range(40))


def test_calls_inside_tasks_and_from_many_threads(threads):
    """Three deep, from 8 threads at once, with helpers that are all busy: nobody waits for a helper that waits."""
    threads(3)

    def nested(depth):
        counts = []

        def kernel(first, last):
            counts.append(sum(nested(depth - 1) if depth else 1 for _ in range(first, last)))

        thread_pool.run_tasks(kernel, 5, MUCH)
        return sum(counts)

    with ThreadPoolExecutor(8) as callers:
        assert list(callers.map(nested, [2] * 16, timeout=120)) == [125] * 16


def test_work_is_called_once_in_each_of_torchs_threads(threads):
    threads(3)
    seen, meeting = [], threading.Barrier(3, timeout=60)

    def work():
        meeting.wait()
        seen.append(threading.get_ident())

    if run_on_torch_threads(work):
        assert len(set(seen)) == 3 and threading.get_ident() in seen
    else:  # torch computes with another runtime than GNU's
        assert not seen


def test_no_more_threads_to_be_had(threads, monkeypatch):
    """Where the system gives none, and while the interpreter ends, the caller does it alone."""

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    threads(2)
    monkeypatch.setattr(thread_pool, "run_on_torch_threads", lambda work: False)
    monkeypatch.setattr(thread_pool.ThreadPoolExecutor, "submit", refuse)
    seen = []
    thread_pool.run_tasks(lambda first, last: seen.extend(range(first, last)), 9, MUCH)
    assert sorted(seen) == list(range(9))


def test_threads_of_the_user_forks_and_spawned_processes():
    """One process after another's way of life: the results are those of one thread, bit for bit, in all of them."""
    code = """
    from concurrent.futures import ThreadPoolExecutor

    torch.set_num_threads(1)
    alone = run()
    torch.set_num_threads(2)
    print(same(run(), alone))
    with ThreadPoolExecutor(8) as pool:
        print(all(same(found, alone) for found in pool.map(lambda _: run(), range(32))))

    child = os.fork()
    if not child:  # in the middle of a process that has used its threads
        grandchild = os.fork()
        if not grandchild:
            os._exit(0 if same(run(), alone) else 1)
        os._exit(0 if same(run(), alone) and exit_code(grandchild) == 0 else 1)
    print(exit_code(child), same(run(), alone))

    class Reads(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            with torch.no_grad():
                return layer(u + index, dt)[0].sum((1, 2))

    data = Reads()
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    print(all(torch.equal(found, data[index]) for index, found in enumerate(loader)))
    """
    assert finished(code) == ["True", "True", "0", "True", "True"]


def test_forks_while_other_threads_run_the_loops():
    code = """
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    expected, ended = run(), Event()

    def keep_running():
        while not ended.is_set():
            run()

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(keep_running) for _ in range(2)]
        for _ in range(10):
            child = os.fork()
            if not child:
                os._exit(0 if same(run(), expected) else 1)
            print(exit_code(child))
        ended.set()
        [done.result() for done in busy]
    """
    assert finished(code) == ["0"] * 10


SPAWN = """
import sys
import torch, ctlssl
from multiprocessing import get_context

def total(seed):
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    layer = ctlssl.LSSL(8, 16, structure="diagonal", method="zoh")
    return layer(torch.randn(16, 200, 8), torch.rand(16, 200))[0].sum().item()

if __name__ == "__main__":
    expected = [total(seed) for seed in range(2)]
    with get_context("spawn").Pool(2) as pool:
        print(pool.map(total, range(2)) == expected)
"""


def test_spawned_processes(tmp_path):
    script = tmp_path / "spawned.py"
    script.write_text(SPAWN)
    assert finished("", sys.executable, str(script)) == ["True"]


def test_the_end_of_the_interpreter():
    """Helpers do not hold it up, a thread that still calls finishes, and a call at the very end is answered."""
    code = """
    import atexit, threading, time
    from ctlssl.kernels.thread_pool import run_tasks

    def without_end():
        while True:
            run_tasks(lambda first, last: time.sleep(0.001), 9, 10**9)

    expected = run()
    atexit.register(lambda: print(same(run(), expected)))
    threading.Thread(target=lambda: [run() for _ in range(20)]).start()
    threading.Thread(target=without_end, daemon=True).start()  # not with torch, which aborts in daemon threads
    """
    assert finished(code) == ["True"]


DISTRIBUTED = """
import torch, ctlssl
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(2)
torch.manual_seed(0)
layer = ctlssl.LSSL(8, 16, structure="diagonal", method="zoh")
u, dt = torch.randn(32, 200, 8), torch.rand(32, 200)
layer(u, dt)[0].square().mean().backward()
expected = [p.grad.clone() for p in layer.parameters()]
layer.zero_grad()

dist.init_process_group("gloo")
part = slice(16 * dist.get_rank(), 16 * (dist.get_rank() + 1))
model = DistributedDataParallel(layer)
model(u[part], dt[part])[0].square().mean().backward()
close = all(torch.allclose(p.grad, g, rtol=1e-4, atol=1e-5 * g.abs().max()) for p, g in
            zip(layer.parameters(), expected, strict=True))
agreed = torch.tensor(int(close))
dist.all_reduce(agreed)
if dist.get_rank() == 0:
    print(agreed.item())
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_torchrun_with_two_processes(tmp_path):
    """Gradients of a layer under DistributedDataParallel are those of one process, within rounding."""
    script = tmp_path / "distributed.py"
    script.write_text(DISTRIBUTED)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script))
    assert finished("", *torchrun, timeout=280) == ["2"]


MEMORY = """
import re

def status(field):
    with open("/proc/self/status") as lines:
        return int(re.search(field + r":\\s+(\\d+)", lines.read())[1]) * 1024

torch.set_num_threads(1)
layer = ctlssl.LSSL(64, 64, structure="diagonal", method="zoh")

def run(length):
    leaf = torch.randn(1, length, 64).requires_grad_()
    y, _ = layer(leaf, torch.rand(1, length))
    y.backward(torch.ones_like(y))
    return y

run(300)
length = int(sys.argv[1])
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as peaks:
    peaks.write("5")
run(length)
print((status("VmHWM") - before) / (4 * length * 64 * 4))
"""


@pytest.mark.parametrize("length", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_peak_memory_of_a_bank(length):
    """Forward and backward, in bytes of the input, the output and their gradients."""
    assert float(finished("", sys.executable, "-c", SETUP + MEMORY, str(length))[0]) < 6
