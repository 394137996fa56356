"""A search over settings: on the validation part alone, cut off anywhere, shared, and its best read by a training."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ctlssl.runs.train
import ctlssl.tuning
from ctlssl.cli import app
from ctlssl.runs import RunFolder, RunSettings, read_settings, train_run
from ctlssl.runs.toml import toml_text
from ctlssl.training import Training
from ctlssl.tuning import SearchSpace, tune
from tests.contracts import generator

ROOT = Path(__file__).resolve().parent.parent
TINY = RunSettings("covid19/death", width=4, options={"state_size": 4, "dropout": 0.5}, training=Training(epochs=1))
SPACE = SearchSpace(width=(2, 4), state_size=(4,), layers=(1,), dropout=(0.0, 0.5))
OPTIONS = ("--widths", "2,4", "--states", "4", "--layers", "1", "--dropout", "0:0.5")


def outcomes(found):
    """What was tried and what came of it; numbers of trials tell also of those that died before they began."""
    return [(dict(trial.values), trial.valid_loss) for trial in found.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("search")
    return tune(TINY, folder, SPACE, 3), folder


def test_the_best_is_trained_by_its_file(whole, tmp_path):
    found, folder = whole
    losses = [trial.valid_loss for trial in found.trials]
    assert found.best.valid_loss == min(losses) and len({tuple(trial.values.values()) for trial in found.trials}) == 3
    start = {"width": 4, "state_size": 4, "layers": 1, "dropout": 0.5, "learning_rate": 3e-3}
    assert dict(found.trials[0].values) == start
    assert RunSettings.from_dict(read_settings(folder / "best.toml")) == found.settings
    out = ("--out", str(tmp_path / "run"), "--no-report")
    done = CliRunner().invoke(app, ["train", "--config", str(folder / "best.toml"), *out])
    assert done.exit_code == 0 and "test: auroc" in done.output, done.output
    assert min(line["valid_loss"] for line in RunFolder(tmp_path / "run").read_lines("metrics.jsonl")) == min(losses)
    assert not list(folder.rglob("report.json"))


def test_a_trial_is_scored_later_without_training_again(whole, tmp_path):
    """The same scores as a run of the same settings from the start."""
    found, folder = whole
    scores = train_run(found.settings, folder / "trials" / f"{found.best.number:04d}", resume=True)
    assert scores == train_run(found.settings, tmp_path / "run")
    (folder / "trials" / f"{found.best.number:04d}" / "report.json").unlink()


def test_the_test_part_is_not_there(whole, tmp_path, monkeypatch):
    prepare = ctlssl.runs.train.prepare
    monkeypatch.setattr(ctlssl.runs.train, "prepare", lambda *given: replace(prepare(*given), test=None))
    found = tune(TINY, tmp_path, SPACE, 2)
    assert outcomes(found) == outcomes(whole[0])[:2]


def test_it_goes_on_with_the_same_draws(whole, tmp_path, monkeypatch):
    """After a trial that was cut off in its epoch, after all were done, and with more trials than at first."""
    found, calls = whole[0], []
    train = ctlssl.tuning.train_run

    def cut(*given, **named):
        calls.append(given[1].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*given, **named)

    monkeypatch.setattr(ctlssl.tuning, "train_run", cut)
    with pytest.raises(KeyboardInterrupt):
        tune(TINY, tmp_path, SPACE, 2)
    tune(TINY, tmp_path, SPACE, 2)
    assert calls == ["0000", "0001", "0001"]
    (tmp_path / "best.toml").unlink()
    said = []
    assert outcomes(tune(TINY, tmp_path, SPACE, 2, said.append)) == outcomes(found)[:2] and not said
    assert (tmp_path / "best.toml").exists()
    assert outcomes(tune(TINY, tmp_path, SPACE, 3, said.append)) == outcomes(found) and len(said) == 1


def test_a_trial_that_died_while_it_was_drawn_is_drawn_again(whole, tmp_path):
    search = ctlssl.tuning._Search(TINY, tmp_path, SPACE)
    search.study.enqueue_trial(SPACE.start(TINY))
    search.study.ask()  # nothing is drawn yet
    found = tune(TINY, tmp_path, SPACE, 3)
    assert outcomes(found) == outcomes(whole[0]) and [trial.number for trial in found.trials] == [1, 2, 3]


def test_a_trial_belongs_to_one_living_process(tmp_path):
    one, two = (ctlssl.tuning._Search(TINY, tmp_path, SPACE) for _ in range(2))
    assert [one.take(3), two.take(3), two.take(3), one.take(3)] == [0, 1, 2, None]
    one.trial_lock.close()  # as the system does for a process that ends
    assert two.take(3) == 0


def test_divergence_is_a_result(tmp_path, monkeypatch):
    def diverges(*_, **__):
        raise FloatingPointError("the loss is not finite")

    with monkeypatch.context() as patch:
        patch.setattr(ctlssl.tuning, "train_run", diverges)
        with pytest.raises(ValueError, match="no trial in .* has ended well so far; where they diverge, lower"):
            tune(TINY, tmp_path, SPACE, 2)
    found = tune(TINY, tmp_path, SPACE, 3)
    assert [trial.valid_loss is None for trial in found.trials] == [True, True, False] and found.best.number == 2


def test_another_search_is_refused(whole):
    with pytest.raises(ValueError, match=r"a search with training = .*'epochs': 2.* is asked for; choose another"):
        tune(replace(TINY, training=Training(epochs=2)), whole[1], SPACE, 3)
    with pytest.raises(ValueError, match=r"width = \[2, 4\], and \[2\] is asked for"):
        tune(TINY, whole[1], replace(SPACE, width=(2,)), 3)


@pytest.mark.parametrize("model", ["folded", "image_lssl", "image_gru", "mtan"])
def test_what_a_model_inside_another_takes_is_searched(model):
    names = SearchSpace().names(model)
    assert ("state_size" in names) == (model in ("folded", "image_lssl")) and ("layers" in names) == (model != "mtan")
    start = SearchSpace().start(RunSettings("covid19/death", model))
    assert start is not None and set(start) == set(names)


def test_what_cannot_be_searched(tmp_path, monkeypatch):
    for wrong in (
        {"width": ()},
        {"layers": (0,)},
        {"state_size": (2.5,)},
        {"dropout": (0.5, 0.1)},
        {"dropout": (0, 1)},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            SearchSpace(**wrong)
    with pytest.raises(ValueError, match=r"learning_rate is \(0.0, 1.0\)"):
        SearchSpace(learning_rate=(0.0, 1.0))
    with pytest.raises(ValueError, match="trials is 0"):
        tune(TINY, tmp_path, SPACE, 0)
    with pytest.raises(ValueError, match="question mark"):
        tune(TINY, tmp_path / "what?", SPACE, 1)
    assert SPACE.start(replace(TINY, width=32)) is None
    for words, message in (
        (["covid19", "--widths", "4,b"], "--widths is whole numbers with commas between, found 4, b"),
        (["covid19", "--rate", "1e-3:high"], "--rate is LOW:HIGH, found 1e-3, high"),
        (["covid20"], "task 'covid20' is unknown"),
    ):
        refused = CliRunner().invoke(app, ["tune", *words, "--out", str(tmp_path / "no")])
        assert refused.exit_code == 2 and message in refused.stderr and not (tmp_path / "no").exists()
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="start it several times"):
        patch.setenv("WORLD_SIZE", "2")
        tune(TINY, tmp_path, SPACE, 1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="pip install"):
        tune(TINY, tmp_path / "without", SPACE, 1)


def test_toml_is_read_as_it_was_written():
    values = {
        "task": {"records": 'C:\\a "b"\n\t\x7f\x01é.csv', "limits": {"heart rate": (0.0, 1e-07), "p.h": (-1e300, 7.5)}},
        "deep": {"deeper": {"yes": True, "no": False, "none": None, "many": [[1, 2], ["a", "b"]], "empty": []}},
        "big": 10**15,
        "nothing": {},
    }
    read = tomllib.loads(toml_text(values))
    values["task"]["limits"] = {name: list(pair) for name, pair in values["task"]["limits"].items()}
    del values["deep"]["deeper"]["none"]
    assert read == values
    with pytest.raises(ValueError, match="no form for"):
        toml_text({"what": object()})


def started(folder, trials=4):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "ctlssl", "tune", "covid19", "--trials", str(trials), "--epochs", "3", *OPTIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "--out", str(folder)], env=environment, cwd=ROOT, **pipes)


def finished(running):
    said, error = running.communicate(timeout=240)
    assert running.returncode == 0, error
    return said


def best(folder):
    """The settings that were found, without the comment."""
    return (folder / "best.toml").read_text().partition("\n")[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_moment(tmp_path):
    """Kill -9 soon after something was written, in a search of four trials; the end is that of a search in peace."""
    finished(started(tmp_path / "whole"))
    rng, killed = generator("kills"), tmp_path / "killed"
    for _ in range(8):
        running, before = started(killed), state(killed)
        while state(killed) == before and running.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        running.send_signal(signal.SIGKILL)
        running.communicate()
    finished(started(killed))
    assert best(killed) == best(tmp_path / "whole")


def state(folder):
    """What a search has written: its checkpoints and the size of the file of its trials."""
    database = folder / "search.db"
    size = database.stat().st_size if database.exists() else 0
    return size, sorted(str(path) for path in folder.glob("trials/*/checkpoints/*.safetensors"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_share_a_search(tmp_path):
    said = [finished(running) for running in [started(tmp_path, 6), started(tmp_path, 6)]]
    numbers = [[int(number) for number in re.findall(r"^trial (\d+)", text, re.MULTILINE)] for text in said]
    assert sorted(sum(numbers, [])) == list(range(6)) and all(numbers)
    assert "The best of 6 trials" in "".join(said) and (tmp_path / "best.toml").exists()


@pytest.mark.slow
def test_a_signal_is_obeyed_and_the_same_command_goes_on(tmp_path):
    running = started(tmp_path)
    while not list(tmp_path.glob("trials/0000/checkpoints/*.safetensors")) and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    if running.returncode != 0:
        assert running.returncode == 130 and "the same command goes on" in error
    assert "The best of 4 trials" in finished(started(tmp_path))
