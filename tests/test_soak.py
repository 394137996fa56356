"""Training, checkpoints and evaluation for as long as one likes: memory, open files and threads stay what they are.

``CTLSSL_SOAK_SECONDS=1800 python -m pytest -m slow -s tests/test_soak.py`` takes half an hour; a minute is the default.
"""

import gc
import os
import sys
import time

import numpy as np
import pytest

import ctlssl
from ctlssl.runs import RunSettings, open_run, train_run
from ctlssl.tasks import TASKS, prepare
from ctlssl.training import Checkpoints, Interrupted, Training, evaluate, fit

SECONDS = float(os.environ.get("CTLSSL_SOAK_SECONDS", "60")) / 2  # there are two tests
FEWEST = 18  # samples, where the machine is slow
ALLOCATOR = 2.0  # MiB by which memory comes and goes; beyond it 1 MiB in 1000 steps is allowed


def held():
    """MiB in memory, open files, threads."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return (
        pages * os.sysconf("SC_PAGESIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


def slope(x, y):
    """Slope of a line, with a standard error from at most ten blocks: what follows in time is not independent."""
    blocks = np.array_split(np.arange(len(x)), min(10, len(x)))
    x, y = (np.array([part[block].mean() for block in blocks]) for part in (x, y))
    (found, _), covariance = np.polyfit(x, y, 1, cov=True)
    return found, covariance[0, 0] ** 0.5


def judge(name, samples, steps):
    """The first third is for caches to fill; after that nothing grows. `steps` are those between two samples."""
    minutes, memory, files, threads = np.array(samples).T
    kept = np.arange(len(samples)) >= len(samples) // 3
    done = np.arange(len(samples))[kept] * steps / 1000  # thousands of steps
    found, error = slope(done, memory[kept])
    print(
        f"\n{name}: {len(samples) * steps} steps in {minutes[-1]:.1f} min, memory {memory[kept][0]:.1f} to "
        f"{memory[-1]:.1f} MiB, {found:+.3f} +- {error:.3f} MiB in 1000 steps, files {files[kept].min():.0f} to "
        f"{files[kept].max():.0f}, threads {threads[kept].min():.0f} to {threads[kept].max():.0f}"
    )
    assert files[kept].max() == files[kept].min() and threads[kept].max() == threads[kept].min()
    span = done[-1] - done[0]
    assert (found - 3 * error) * span < max(1.0 * span, ALLOCATOR)


@pytest.fixture
def linux():
    assert sys.platform == "linux", "what a process holds is read from /proc"


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 600)
def test_one_long_fit(tmp_path, linux):
    """A checkpoint and an evaluation after every epoch of one fit."""
    split = prepare("covid19/death")
    checkpoints = Checkpoints(tmp_path, seconds=0.05)
    model = ctlssl.LSSLModel(split.problem, width=8)
    training = Training(epochs=10**6, patience=10**6)
    steps = -(-len(split.train) // training.batch_size)
    samples, start = [], time.monotonic()

    def watch(epoch, train_loss, valid_loss):
        evaluate(model, split.test)
        gc.collect()
        samples.append(((time.monotonic() - start) / 60, *held()))
        if time.monotonic() - start > SECONDS and len(samples) >= FEWEST:
            checkpoints.stop()

    with pytest.raises(Interrupted):
        fit(model, split.train, split.valid, training, watch, checkpoints)
    judge("one long fit", samples, steps)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 600)
def test_many_short_runs(tmp_path, linux):
    """Runs in folders, each opened, used on records and evaluated."""
    settings = RunSettings("covid19/death", width=8, training=Training(epochs=1))
    steps = -(-len(prepare("covid19/death").train) // settings.training.batch_size)
    ds, samples, start = ctlssl.load_dataset("covid19"), [], time.monotonic()
    while time.monotonic() - start < SECONDS or len(samples) < FEWEST:
        folder = tmp_path / str(len(samples))
        train_run(settings, folder, checkpoint_seconds=0.05)
        run = open_run(folder)
        run.predict(ds)
        run.evaluate(ds, TASKS["covid19/death"], draws=2)
        gc.collect()
        samples.append(((time.monotonic() - start) / 60, *held()))
    judge("many short runs", samples, steps)
