"""Runs in folders: killed at any moment, stopped by signals, shared, damaged, and then used on records."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ctlssl
from ctlssl.contract import Problem
from ctlssl.runs import RunFolder, RunSettings, open_run, read_settings, train_run
from ctlssl.runs.live import LiveRun
from ctlssl.schema import select_rows, select_series, series_of_row
from ctlssl.tasks import TASKS, prepare
from ctlssl.training import Training, predict
from tests.contracts import generator

ROOT = Path(__file__).resolve().parent.parent
FINAL = ("model.safetensors", "metrics.jsonl", "report.json", "config.json", "data.json", "data.safetensors")
SHORT = RunSettings("covid19/death", width=8, training=Training(epochs=3))


def started(folder, epochs=6):
    """A process that trains, with a checkpoint every few steps."""
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from ctlssl.runs import RunSettings, train_run\n"
        "from ctlssl.training import Training\n"
        f"settings = RunSettings('covid19/death', width=8, training=Training(epochs={epochs}, patience={epochs}))\n"
        "print('begins', flush=True)\n"
        "train_run(settings, sys.argv[1], resume=True, checkpoint_seconds=0.001)\n"
    )
    return process("-c", code, str(folder))


def process(*command):
    """A process of this Python."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *command], env=environment, **pipes)


def sums(folder):
    """SHA-256 of everything that a finished run leaves, but for seconds and checkpoints."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FINAL}


def finished(running):
    out, error = running.communicate(timeout=240)
    return running.returncode, out.decode(), error.decode()


def killed_again_and_again(folder, kills, rng):
    """Kill -9 soon after a checkpoint was written, so that every life gets somewhere; the last life is not killed."""
    for _ in range(kills):
        running = started(folder)
        try:
            before = newest(folder)
            while newest(folder) == before and running.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.15))
            if running.poll() is not None:
                break
        finally:
            running.send_signal(signal.SIGKILL)
            running.communicate()
    code, _, error = finished(started(folder))
    assert code == 0, error


def newest(folder):
    names = sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*")) if folder.exists() else []
    return names[-1] if names else None


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_killed_at_any_moment(tmp_path, kills):
    code, _, error = finished(started(tmp_path / "whole"))
    assert code == 0, error
    killed_again_and_again(tmp_path / "killed", kills, generator("kills", kills))
    assert sums(tmp_path / "killed") == sums(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_is_obeyed_after_the_step(tmp_path, number):
    running = started(tmp_path, epochs=2000)
    while newest(tmp_path) is None and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(number)
    code, _, error = finished(running)
    assert code == 1 and "Interrupted: stopped in epoch" in error
    assert newest(tmp_path) is not None and not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("number", "expected"), [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)]
)
def test_the_command_line_says_how_to_go_on(tmp_path, number, expected):
    out = ("--out", str(tmp_path))
    first = process("-m", "ctlssl", "train", "covid19", "--width", "8", "--epochs", "2000", *out)
    while newest(tmp_path) is None and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(number)
    code, _, error = finished(first)
    assert code == expected and f"ctlssl train --resume --out {tmp_path}" in error
    epochs = len(RunFolder(tmp_path).read_lines("metrics.jsonl")) + 1
    code, said, error = finished(process("-m", "ctlssl", "train", "--resume", "--epochs", str(epochs), *out))
    assert code == 0 and "test: auroc" in said, error
    assert [line["epoch"] for line in RunFolder(tmp_path).read_lines("metrics.jsonl")] == [*range(1, epochs + 1)]


def test_two_processes_do_not_share_a_folder(tmp_path):
    first = started(tmp_path, epochs=2000)
    try:
        while newest(tmp_path) is None and first.poll() is None:
            time.sleep(0.01)
        with pytest.raises(ValueError, match="another process trains in"):
            train_run(SHORT, tmp_path, resume=True)
    finally:
        first.kill()
        first.communicate()


def test_another_run_is_refused(tmp_path):
    train_run(SHORT, tmp_path)
    before = sums(tmp_path)
    with pytest.raises(ValueError, match="--resume goes on with it"):
        train_run(SHORT, tmp_path)
    wider = RunSettings("covid19/death", width=16, training=Training(epochs=3))
    with pytest.raises(ValueError, match="width = 8, and 16 is asked for"):
        train_run(wider, tmp_path, resume=True)
    other = RunSettings("covid19/death", width=8, training=Training(epochs=3, learning_rate=0.1))
    with pytest.raises(ValueError, match=r"training\.learning_rate"):
        train_run(other, tmp_path, resume=True)
    assert train_run(SHORT, tmp_path, resume=True) == RunFolder(tmp_path).read_json("report.json")["test"]
    assert sums(tmp_path) == before


def test_a_longer_run_goes_on(tmp_path):
    longer = RunSettings("covid19/death", width=8, training=Training(epochs=5))
    train_run(SHORT, tmp_path / "a")
    train_run(longer, tmp_path / "a", resume=True)
    train_run(longer, tmp_path / "b")
    assert sums(tmp_path / "a") == sums(tmp_path / "b")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        train_run(SHORT, tmp_path / "file" / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_run(SHORT, folder)
    return folder


def test_predictions_are_those_of_the_model(trained):
    """On the test part of the task, as `ctlssl.predict` gives them; channels in another order, some of them gone."""
    run, split = open_run(trained), prepare("covid19/death", 0)
    raw = TASKS["covid19/death"].build(ctlssl.load_dataset("covid19"))
    place = {name: k for k, name in enumerate(raw.ids.tolist())}
    chosen = [place[name] for name in split.test.ids.tolist()]
    ds = ctlssl.load_dataset("covid19")
    keep = np.isin(ds["series"].values, split.test.ids)
    seen = ds["time"].values <= 24.0
    shown = select_series(select_rows(ds, seen), keep)
    table = run.predict(shown).set_index("series")
    pd.testing.assert_frame_equal(run.predict(select_series(ds, keep)).set_index("series"), table)  # by the landmark
    expected = torch.softmax(predict(run.model, split.test).logits.double(), 1).numpy()
    np.testing.assert_allclose(table.loc[split.test.ids.tolist(), ["class_0", "class_1"]].values, expected, atol=1e-6)
    assert len(chosen) == len(table)
    turned = shown[[*reversed(list(shown.data_vars))]]
    pd.testing.assert_frame_equal(run.predict(turned).set_index("series"), table)
    fewer = run.predict(shown.drop_vars(run.variables[0]))
    assert len(fewer) == len(table) and np.isfinite(fewer["class_1"]).all()


def test_records_that_do_not_fit_are_refused(trained):
    run, ds = open_run(trained), ctlssl.load_dataset("covid19")
    with pytest.raises(ValueError, match="does not know lactate of mars"):
        run.predict(ds.assign({"lactate of mars": ds[run.variables[0]]}))
    minutes = ds.copy()
    minutes["time"] = ds["time"].copy()
    minutes["time"].attrs["units"] = "min"
    with pytest.raises(ValueError, match="the times are in 'min', those of the training in 'h'"):
        run.predict(minutes)
    with pytest.raises(ValueError, match="there is one answer a series"):
        run.predict(ds, at=[1.0])
    with pytest.raises(ValueError, match="lacks|has no"):
        run.predict(ds.drop_vars(run.variables[0]), missing="error")


def test_what_failed_before_it_began_leaves_the_folder_free(tmp_path):
    wrong = RunSettings("covid19/death", options={"state_size": -1}, training=Training(epochs=1))
    with pytest.raises(ValueError, match="state_size|state size"):
        train_run(wrong, tmp_path / "run")
    right = RunSettings("covid19/death", width=4, training=Training(epochs=1))
    assert train_run(right, tmp_path / "run")["auroc"] > 0
    with pytest.raises(ValueError, match="holds a run"):
        train_run(right, tmp_path / "run")


def test_a_question_that_makes_its_own_rows_is_not_asked_of_records(tmp_path):
    train_run(RunSettings("pendulum/angle", width=4, training=Training(epochs=1)), tmp_path)
    run, ds = open_run(tmp_path), ctlssl.load_dataset("pendulum")
    for ask in (lambda: run.predict(ds), lambda: LiveRun(run)):
        with pytest.raises(ValueError, match="pendulum/angle makes its own rows of a record"):
            ask()
    assert np.isfinite(run.evaluate(ds, TASKS["pendulum/angle"], draws=10)["rmse"][0])


def test_channels_that_were_never_asked_are_not_forecast(tmp_path):
    train_run(RunSettings("drug_kinetics/forecast", width=4, training=Training(epochs=1)), tmp_path)
    table = open_run(tmp_path).predict(ctlssl.load_dataset("drug_kinetics"), at=[1.0])
    assert set(table["variable"]) == {"concentration"} and len(table) == 500


def test_forecasts_are_in_raw_units(tmp_path):
    train_run(RunSettings("covid19/forecast", width=8, training=Training(epochs=2)), tmp_path)
    run, ds = open_run(tmp_path), ctlssl.load_dataset("covid19")
    table = run.predict(ds, at=[1.0, 24.0])
    last = np.full(ds.sizes["series"], -24.0)  # a record without a row begins at 0
    seen = ds["time"].values <= 72.0  # the landmark
    np.maximum.at(last, series_of_row(ds)[seen], ds["time"].values[seen])
    last[last == -24.0] = 0.0
    assert table.groupby("series")["time"].max().sort_index().values == pytest.approx(last + 24.0)
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()
    for name in run.variables[:5]:
        seen, found = ds[name].values[~np.isnan(ds[name].values)], table[table["variable"] == name]["mean"]
        assert np.quantile(seen, 0.01) <= found.median() <= np.quantile(seen, 0.99)
    with pytest.raises(ValueError, match="forecasts need times"):
        run.predict(ds)
    with pytest.raises(ValueError, match="finite and not negative"):
        run.predict(ds, at=[-1.0])


@pytest.mark.parametrize("name", ["config.json", "data.json", "model.safetensors", "data.safetensors"])
def test_damaged_runs_are_refused(trained, tmp_path, name):
    for path in trained.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(ValueError):
        open_run(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"there is no {name}"):
        open_run(tmp_path)


def test_settings_are_checked(tmp_path):
    for wrong, message in (
        ({"task": "covid19/cure"}, "task 'covid19/cure' is unknown"),
        ({"task": "covid19/death", "model": "oracle"}, "model 'oracle' is unknown"),
        ({"task": "covid19/death", "width": 0}, "width is 0"),
        ({"task": "covid19/death", "depth": 3}, "do not know depth"),
        ({"task": "covid19/death", "training": {"epoch": 3}}, "do not know epoch"),
        ({"task": "covid19/death", "training": 3}, "do not know 3"),
        ({"model": "lssl"}, "settings need a task"),
    ):
        with pytest.raises(ValueError, match=message):
            RunSettings.from_dict(wrong)
    with pytest.raises(ValueError, match="options of lssl: .*depths"):
        RunSettings("covid19/death", options={"depths": 3}).build(Problem("classification", 2, 2))
    (tmp_path / "run.toml").write_text("task = ")
    with pytest.raises(ValueError, match="not a TOML file"):
        read_settings(tmp_path / "run.toml")


def test_from_a_file_and_the_command_line(tmp_path):
    """A long table of records goes in as CSV, predictions come out as CSV."""
    from typer.testing import CliRunner

    from ctlssl.cli import app

    (tmp_path / "run.toml").write_text(
        'task = "covid19/death"\nwidth = 16\n[options]\nstate_size = 8\n[training]\nepochs = 5\n'
    )
    run, call = tmp_path / "run", CliRunner().invoke
    done = call(
        app, ["train", "--config", str(tmp_path / "run.toml"), "--width", "8", "--epochs", "1", "--out", str(run)]
    )
    assert done.exit_code == 0 and "epoch 1: training loss" in done.output
    config = json.loads((run / "config.json").read_text())
    assert (config["width"], config["options"], config["training"]["epochs"]) == (8, {"state_size": 8}, 1)
    trained = open_run(run)
    covariates = dict.fromkeys(trained.static, 1.0)
    records = pd.DataFrame(
        {"id": ["a", "a", "b"], "time": [0.0, 2.0, 1.0], "variable": trained.variables[0], "value": [1.0, 2.0, 3.0]}
    ).assign(**covariates)
    records.to_csv(tmp_path / "records.csv", index=False)
    static = [word for name in trained.static for word in ("--static", name)]
    given = [str(run), str(tmp_path / "records.csv"), "--out", str(tmp_path / "p.csv"), *static]
    done = call(app, ["predict", *given])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["series"].tolist() == ["a", "b"] and np.allclose(table[["class_0", "class_1"]].sum(axis=1), 1)
    for wrong in (
        ["train", "covid20"],
        ["train", "covid19", "--option", "state_size"],
        ["predict", str(run), str(run)],
    ):
        refused = call(app, [*wrong, "--out", str(tmp_path / "other")])
        assert refused.exit_code == 2 and "Traceback" not in refused.output
