"""A fit in two processes is the fit in one: weights, losses and scores, resumed or not, on ragged data."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from ctlssl.examples import Examples
from ctlssl.series import TimeSeries
from ctlssl.training.processes import Processes, own_rows, present


def train(out, *more, processes=2, **options):
    """Run `ctlssl train` on the bundled deaths in so many processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(start if processes > 1 else [sys.executable]), "-m", "ctlssl", "train", "covid19/death", "--no-report"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--width", "8", "--out", str(out), *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(process):
    """Wait for a training that must end well."""
    said, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return said


def results(out):
    """Weights, losses and scores of a run."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return load_file(out / "model.safetensors"), lines, json.loads((out / "report.json").read_text())["test"]


def near(one, two):
    """The same but for the rounding of a few hundred steps."""
    for name, weights in one[0].items():
        torch.testing.assert_close(two[0][name], weights, rtol=2e-3, atol=2e-4)
    for before, after in zip(one[1], two[1], strict=True):
        assert after == pytest.approx(before, rel=1e-3)
    assert two[2] == pytest.approx(one[2], rel=1e-2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of three epochs in one process."""
    out = tmp_path_factory.mktemp("alone")
    finished(train(out / "run", "--epochs", "3", processes=1))
    return results(out / "run")


@pytest.mark.timeout(600)
def test_two_processes_are_one(alone, tmp_path):
    said = finished(train(tmp_path / "run", "--epochs", "3"))
    assert said.count("test: ") == 1
    near(alone, results(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_resumes_in_another_number_of_processes(alone, tmp_path):
    finished(train(tmp_path / "run", "--epochs", "1"))
    finished(train(tmp_path / "run", "--epochs", "2", "--resume", processes=1))
    finished(train(tmp_path / "run", "--epochs", "3", "--resume"))
    near(alone, results(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_process_that_dies_ends_the_others_and_the_run_goes_on(alone, tmp_path):
    running = train(tmp_path / "run", "--epochs", "3", start_new_session=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.05)
        assert running.poll() is None
    children = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, error = running.communicate(timeout=120)
    assert running.returncode != 0 and "exitcode: -9" in error.replace(" ", "").replace("exitcode:", "exitcode: ")
    finished(train(tmp_path / "run", "--epochs", "3", "--resume"))
    near(alone, results(tmp_path / "run"))


def batch(series=5, rows=4):
    """A batch of ragged series."""
    draw = torch.Generator().manual_seed(0)
    times = torch.rand(series, rows, generator=draw, dtype=torch.float64).cumsum(1)
    lengths = torch.arange(series) % rows + 1
    values = torch.randn(series, rows, 2, generator=draw)
    parts = TimeSeries(values, times, torch.ones(series, rows, 2, dtype=torch.bool), lengths)
    return Examples(parts, np.arange(series), labels=torch.arange(series), weights=torch.rand(series, generator=draw))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_record_is_in_one_part_with_its_own_dropout(count):
    whole = batch()
    features = torch.randn(5, 4, 3, requires_grad=True)
    torch.manual_seed(1)
    expected, after = functional.dropout(features, 0.4), torch.rand(1)
    seen, dropped = [], torch.zeros(5, 4, 3)
    for rank in range(count):
        processes = Processes(rank, count)
        torch.manual_seed(1)
        with own_rows(whole, processes) as own:
            rows = processes.rows(5)
            if not len(rows):
                assert own.ids.tolist() == [0] and own.weights.tolist() == [0.0]
                functional.dropout(features[[0]], 0.4)
                assert torch.equal(torch.rand(1), after)
                continue
            assert own.ids.tolist() == rows.tolist() == own.labels.tolist()
            assert torch.equal(own.series.values, whole.series.values[rows]) and own.series.length == 4
            assert torch.equal(own.weights, whole.weights[rows])
            dropped[rows] = functional.dropout(features[rows], 0.4).detach()
            assert torch.equal(functional.dropout(features[rows], 0.4, training=False), features[rows])
        seen += own.ids.tolist()
        assert torch.equal(torch.rand(1), after)
    assert sorted(seen) == list(range(5))
    assert torch.equal(dropped, expected)


def test_one_process_is_alone():
    assert present() == Processes() and not present().several
    assert Processes().added(1.0, 2.0) == [1.0, 2.0]
