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
PER_MINUTE = 2.0  # MiB that memory may seem to grow by in a short soak; see `slope`


def held():
    """MiB in memory, open files, threads."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return (
        pages * os.sysconf("SC_PAGESIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


def slope(minutes, memory):
    """MiB a minute, with a standard error from ten blocks, since what follows in time is not independent."""
    blocks = np.array_split(np.arange(len(minutes)), 10)
    x, y = (np.array([np.mean(np.asarray(part)[block]) for block in blocks]) for part in (minutes, memory))
    (found, _), covariance = np.polyfit(x, y, 1, cov=True)
    return found, covariance[0, 0] ** 0.5


def judge(name, samples):
    """The first third is for caches to fill; after that nothing grows."""
    minutes, memory, files, threads = np.array(samples).T
    kept = minutes > minutes[-1] / 3
    assert kept.sum() >= 20, f"only {kept.sum()} samples: give more time"
    found, error = slope(minutes[kept], memory[kept])
    print(
        f"\n{name}: {len(samples)} samples in {minutes[-1]:.1f} min, memory {memory[kept][0]:.1f} to {memory[-1]:.1f} MiB, "
        f"{found:+.3f} +- {error:.3f} MiB a minute, files {files[kept].min():.0f} to {files[kept].max():.0f}, "
        f"threads {threads[kept].min():.0f} to {threads[kept].max():.0f}"
    )
    assert files[kept].max() == files[kept].min() and threads[kept].max() == threads[kept].min()
    assert found < 3 * error + PER_MINUTE / max(minutes[-1], 1.0)


@pytest.fixture
def linux():
    assert sys.platform == "linux", "what a process holds is read from /proc"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_one_long_fit(tmp_path, linux):
    """A checkpoint and an evaluation after every epoch of one fit."""
    split = prepare("covid19/death")
    checkpoints = Checkpoints(tmp_path, seconds=0.05)
    model = ctlssl.LSSLModel(split.problem, width=8)
    training = Training(epochs=10**6, patience=10**6)
    samples, start = [], time.monotonic()

    def watch(epoch, train_loss, valid_loss):
        evaluate(model, split.test)
        gc.collect()
        samples.append(((time.monotonic() - start) / 60, *held()))
        if time.monotonic() - start > SECONDS:
            checkpoints.stop()

    with pytest.raises(Interrupted):
        fit(model, split.train, split.valid, training, watch, checkpoints)
    judge("one long fit", samples)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_many_short_runs(tmp_path, linux):
    """Runs in folders, each opened, used on records and evaluated."""
    settings = RunSettings("covid19/death", width=8, training=Training(epochs=1))
    ds, samples, start = ctlssl.load_dataset("covid19"), [], time.monotonic()
    while time.monotonic() - start < SECONDS:
        folder = tmp_path / str(len(samples))
        train_run(settings, folder, checkpoint_seconds=0.05)
        run = open_run(folder)
        run.predict(ds)
        run.evaluate(ds, TASKS["covid19/death"], draws=2)
        gc.collect()
        samples.append(((time.monotonic() - start) / 60, *held()))
    judge("many short runs", samples)
