"""The command line, as a user meets it: what it prints, what it writes, and how it refuses."""

import os
import subprocess
import sys
from importlib.metadata import version

import matplotlib.image
import pytest
import xarray
from typer.testing import CliRunner

from ctlssl import cli
from tests.toys import comparison

TINY = ["compare", "covid19", "--task", "forecast", "--models", "gru", "--seeds", "1", "--epochs", "2"]


def invoke(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_compare_prints_and_saves(tmp_path):
    out = tmp_path / "a folder" / "inside"
    done = invoke(*TINY, "--out", out)
    assert done.exit_code == 0, done.output
    assert "covid19/forecast" in done.output and "gru *" in done.output and "last_value" in done.output
    assert "gru has the best rmse of the neural models" in done.output
    assert str(out / "comparison.nc") in done.output
    assert sorted(os.listdir(out)) == ["comparison.md", "comparison.nc", "comparison.png"]
    results = xarray.load_dataset(out / "comparison.nc")
    rmse = results["rmse"].sel(task="covid19/forecast", model="gru", seed=0).item()
    assert 0.3 < rmse < 1.5 and f"{rmse:.3f}" in done.output
    assert "| **gru** |" in (out / "comparison.md").read_text(encoding="utf8")
    assert matplotlib.image.imread(out / "comparison.png").shape[0] > 100


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["compare", "nowhere"],
            "Error: data set 'nowhere' has no task; those with tasks are covid19, drug_kinetics, ",
        ),
        (["compare", "covid19", "--task", "birth"], "Error: task 'birth' is unknown; covid19 has death, forecast."),
        (["compare", "--models", "gru,lstm"], "Error: model 'lstm' is unknown; there are lssl, "),
    ],
)
def test_unknown_names_are_refused_in_one_line(arguments, message, tmp_path):
    done = invoke(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    done = invoke(*TINY, "--out", tmp_path / "file" / "below")
    assert done.exit_code == 2 and "file" in done.stderr


def test_interrupted_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    cli._save(comparison(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(results, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(cli._WRITERS, "comparison.png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli._save(comparison(seeds=2), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_datasets_lists_what_there_is():
    done = invoke("datasets")
    assert done.exit_code == 0
    assert "covid19: " in done.output and "375 series" in done.output
    assert "covid19/death (classification)" in done.output and "covid19/forecast (forecasting)" in done.output


def test_version():
    done = invoke("--version")
    assert (done.exit_code, done.output.strip()) == (0, f"ctlssl {version('ctlssl')}")


def test_every_option_is_explained():
    done = CliRunner().invoke(cli.app, ["compare", "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    for option in (
        "--task",
        "--models",
        "--seeds",
        "--epochs",
        "--width",
        "--quick",
        "--out",
        "--references",
        "--threads",
    ):
        (line,) = [line for line in done.output.splitlines() if option in line.split()[:4]]
        assert len(line.split()) > 6, line


def test_the_installed_command_runs():
    command = os.path.join(os.path.dirname(sys.executable), "ctlssl")
    done = subprocess.run([command, "compare", "nowhere"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("Error: data set 'nowhere'")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_comparison_of_everything(tmp_path):
    done = invoke("compare", "covid19", "--quick", "--models", "all", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    results = xarray.load_dataset(tmp_path / "comparison.nc")
    assert results["auroc"].sel(task="covid19/death").notnull().all(["seed"]).sum() == (results.sizes["model"] - 1)
    neural = results.sel(model=results.family == "neural")
    assert (neural["auroc"].sel(task="covid19/death") > 0.85).all()
    naive = results["rmse"].sel(task="covid19/forecast", model="last_value")
    assert (neural["rmse"].sel(task="covid19/forecast") < naive).all()
    ours = neural["evaluations_per_epoch"].sel(model=["lssl", "gru"])
    assert (ours == 0).all() and (neural["evaluations_per_epoch"].sel(model=["ode_rnn", "neural_cde"]) > 0).all()
