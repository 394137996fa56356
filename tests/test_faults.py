"""Faults of disks, clocks and processes in the middle of a training: what was kept stays, and the end is the same."""

import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ctlssl
from ctlssl import Examples, Problem, TimeSeries
from ctlssl.training import Checkpoints, Training, fit
from ctlssl.training.checkpoints import Checkpoint
from tests.test_checkpoints import SETTINGS, Crash, build, crashing_after, examples, outcome, untouched

KEPT = Path(__file__).resolve().parent / "data"
CALLS = ((Path, "write_bytes"), (os, "fsync"), (os, "replace"), (Path, "unlink"))  # of `ctlssl.durable` and checkpoints
THIRD_WRITE = range(9, 14)  # two writes of four calls; the third also takes the oldest checkpoint away


class Dead(BaseException):
    """Stands for the end of the process: no error handler of the library is meant for it."""


class EveryStep(Checkpoints):
    """A checkpoint after every step."""

    def due(self):
        return True


def faulty(monkeypatch, number, error):
    """From the given call of the file system on nothing is done where the process is dead, else that one call fails."""
    count = 0

    def failing(name, real):
        def call(*arguments, **named):
            nonlocal count
            count += 1
            if count == number and name == "write_bytes":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if count == number or (error is None and count > number):
                raise Dead if error is None else OSError(error, os.strerror(error))
            return real(*arguments, **named)

        return call

    for owner, name in CALLS:
        monkeypatch.setattr(owner, name, failing(name, getattr(owner, name)))


@pytest.fixture(scope="module")
def expected():
    return untouched()


@pytest.mark.parametrize("number", range(1, THIRD_WRITE.stop))
def test_the_end_at_every_call_of_the_file_system(tmp_path, monkeypatch, expected, number):
    data = examples()
    with monkeypatch.context() as patch:
        faulty(patch, number, None)
        with pytest.raises(Dead):
            fit(build(), data, data, SETTINGS, checkpoints=EveryStep(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that has its name is half written
        model = build()
        assert outcome(model, fit(model, data, data, SETTINGS, checkpoints=EveryStep(tmp_path))) == expected
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_a_disk_that_fails_at_any_call(tmp_path, monkeypatch, expected, error):
    data = examples()
    for number in THIRD_WRITE:
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            faulty(patch, number, error)
            with pytest.raises(OSError, match=os.strerror(error)):
                fit(build(), data, data, SETTINGS, checkpoints=EveryStep(folder))
        names = sorted(path.name for path in folder.iterdir())
        assert names[:2] == [f"checkpoint-{k:09d}.safetensors" for k in range(2)]
        assert not [name for name in names if name.endswith(".tmp")]
        model = build()
        assert outcome(model, fit(model, data, data, SETTINGS, checkpoints=Checkpoints(folder))) == expected


def command(out, epochs, **options):
    """`ctlssl train --resume` in a process of its own."""
    words = ["train", "covid19", "--width", "4", "--epochs", str(epochs), "--resume", "--no-report", "--out", str(out)]
    start, environment = [sys.executable, "-m", "ctlssl"], {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*start, *words], env=environment, capture_output=True, text=True, timeout=240, **options)


@pytest.mark.slow
def test_a_file_system_that_takes_no_more(tmp_path):
    """The system itself cuts every file off at a kilobyte; the command says what happened, and nothing is lost."""
    out = tmp_path / "run"
    assert command(out, 1).returncode == 0
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    limit = (1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done = command(out, 2, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 1 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert f"The checkpoints in {out / 'checkpoints'} are as they were." in done.stderr
    for name in ("model.safetensors", "data.safetensors", *(name for name in before if name.startswith("checkpoint-"))):
        assert next(out.rglob(name)).read_bytes() == before[name]
    assert not list(out.rglob("*.tmp"))
    assert command(out, 2).returncode == 0


def test_a_clock_that_jumps_back_and_another_host(tmp_path, monkeypatch, expected):
    data, now = examples(), iter(range(10**6, 0, -1))
    with pytest.raises(Crash):
        fit(build(), data, data, SETTINGS, checkpoints=crashing_after(5)(tmp_path))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    model = build()
    assert outcome(model, fit(model, data, data, SETTINGS, checkpoints=EveryStep(tmp_path))) == expected


def kept_fit():
    """The fit whose checkpoint after its first epoch is in tests/data; no random number is in its data."""
    B, L, D = 3, 4, 2
    values = torch.arange(B * L * D, dtype=torch.float32).view(B, L, D) / 10
    times, seen = torch.arange(B * L, dtype=torch.float64).view(B, L), torch.ones(B, L, D, dtype=torch.bool)
    series = TimeSeries(values, times, seen, torch.tensor([4, 2, 3]))
    torch.manual_seed(0)
    model = ctlssl.LSSLModel(Problem("classification", D, 2), width=2, state_size=2, dropout=0.0)
    return model, Examples(series, np.arange(B), labels=torch.tensor([0, 1, 0])), Training(epochs=3, batch_size=2)


@pytest.mark.parametrize("path", sorted(KEPT.glob("checkpoint-*.safetensors")), ids=lambda path: path.stem)
def test_checkpoints_of_earlier_versions_go_on(tmp_path, path):
    shutil.copy(path, tmp_path / "checkpoint-000000000.safetensors")
    past = Checkpoints(tmp_path).newest().about["past"]
    model, data, training = kept_fit()
    history = fit(model, data, data, training, checkpoints=Checkpoints(tmp_path))
    assert len(past["train_loss"]) == 1 and len(history.train_loss) == 3
    assert list(history.train_loss[:1]) == past["train_loss"]
    assert history.train_loss[-1] < history.train_loss[0]


def test_a_setting_that_a_checkpoint_does_not_know_was_its_default(tmp_path):
    data = examples()
    with pytest.raises(Crash):
        fit(build(), data, data, SETTINGS, checkpoints=crashing_after(4)(tmp_path))
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.newest()
    del found.about["identity"]["training.average"]
    checkpoints.write(Checkpoint(found.tensors, found.about))
    with pytest.raises(ValueError, match=r"training\.average 0\.0, this one has 0\.5"):
        fit(build(), data, data, replace(SETTINGS, average=0.5), checkpoints=Checkpoints(tmp_path))
    model = build()
    assert outcome(model, fit(model, data, data, SETTINGS, checkpoints=Checkpoints(tmp_path))) == untouched()
