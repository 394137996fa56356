"""The command line, as a user meets it: what it prints, what it writes, and how it refuses."""

import inspect
import os
import subprocess
import sys
import time
from importlib.metadata import version

import matplotlib.image
import pytest
import xarray
from typer.testing import CliRunner

from ctlssl import cli

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
    assert str(out / "results.nc") in done.output
    assert sorted(os.listdir(out)) == ["cells", "learning.png", "quality.png", "report.html", "results.nc", "table.md"]
    results = xarray.load_dataset(out / "results.nc")
    rmse = results["rmse"].sel(task="covid19/forecast", model="gru", seed=0).item()
    assert 0.3 < rmse < 1.5 and f"{rmse:.3f}" in done.output
    assert "| **gru** |" in (out / "table.md").read_text(encoding="utf8")
    for picture in ("quality.png", "learning.png"):
        assert matplotlib.image.imread(out / picture).shape[0] > 100
    again = invoke(*TINY, "--out", out)
    assert "already are not run again" in again.stderr and done.stdout == again.stdout
    assert xarray.load_dataset(out / "results.nc").identical(results)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["compare", "nowhere"],
            "Error: data set 'nowhere' has no task; those with tasks are asas, covid19, drug_kinetics, ",
        ),
        (["compare", "mine.csv"], "Error: mine.csv: the tasks compared here are those of `ctlssl datasets`"),
        (["compare", "covid19", "--task", "birth"], "Error: task 'birth' is unknown; covid19 has death, forecast."),
        (["compare", "--models", "gru,lstm"], "Error: model 'lstm' is unknown; there are lssl, "),
        (["compare", "--models", "gru:depth=2"], "Error: 'depth=2' in model 'gru:depth=2' is no option=value; options"),
        (
            ["compare", "--models", "gru", "--reference", "lssl"],
            "Error: reference 'lssl' is not compared; there are gru,",
        ),
    ],
)
def test_unknown_names_are_refused_in_one_line(arguments, message, tmp_path):
    done = invoke(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


LONG = "id,time,variable,value\n"


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("a,0,x,1\na,0,x,2\n", [], "choose --duplicates last, first or mean."),
        ("a,0,x,1\na,1,x,<3\n", [], "correct it, or take --invalid missing."),
        ("a,0,x,1\na,1,x,3\n", ["--limit", "x=0:2"], "take --outside missing or clip."),
        ("a,0,x,1\n", ["--label", "died"], "give that one as --labels."),
        ("a,0,x,1\n", ["--kind", "regression"], "needs a --label, the column"),
    ],
)
def test_messages_name_the_options_of_the_command_line(content, arguments, message, tmp_path):
    (tmp_path / "records.csv").write_text(LONG + content)
    asked = ["--landmark", "0.5"] if "--label" not in arguments and "--kind" not in arguments else []
    done = invoke("train", tmp_path / "records.csv", *arguments, *asked, "--out", tmp_path / "run")
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_columns_that_are_not_found_are_asked_for_as_options(tmp_path):
    (tmp_path / "records.csv").write_text("who,time,variable,value\n")
    done = invoke("train", tmp_path / "records.csv", "--landmark", "1", "--out", tmp_path / "run")
    assert done.exit_code == 2 and "name it: --id ..." in done.stderr


def test_inspection_names_every_policy_that_is_wanted(tmp_path):
    path = tmp_path / "records.csv"
    twice, word = (
        "series 'a', time 0: x occurs 2 times",
        "series 'b', time 1: x is",
    )
    for content, wanted in (("a,0,x,1\na,0,x,2\n", [twice]), ("a,0,x,1\nb,1,x,<3\n", [word])):
        path.write_text(LONG + content)
        said = invoke("inspect", path).output
        assert [found in said for found in (twice, word)] == [found in wanted for found in (twice, word)]
    path.write_text(LONG + "a,0,x,1\na,0,x,2\nb,1,x,<3\nb,2,x,3\n")
    said = invoke("inspect", path).output
    assert twice in said and word in said and "Read here with --duplicates first --invalid missing." in said


@pytest.mark.parametrize("command", ["train", "inspect"])
def test_what_is_no_file_of_records(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "covid19").mkdir()  # a folder that is called as a data set is
    (tmp_path / "x.xlsx").touch()
    for given, message in {
        ".": ". is a folder; records are read from a file: .csv",
        "x.xlsx": "x.xlsx: records are read from .csv, .tsv, .parquet, .nc",
        "covid": "unknown data set 'covid'" if command == "inspect" else "task 'covid' is unknown",
    }.items():
        done = invoke(command, given, *([] if command == "inspect" else ["--out", tmp_path / "run"]))
        assert done.exit_code == 2 and message in done.stderr and "open_dataset" not in done.stderr
    if command == "inspect":
        assert "375 series" in invoke("inspect", "covid19").output


def test_options_that_a_model_does_not_have_are_told_with_those_that_it_has(tmp_path):
    done = invoke("train", "covid19/death", "--option", "state=8", "--out", tmp_path / "run")
    assert done.exit_code == 2 and "options of lssl: there is no state; there are bidirectional, " in done.stderr
    assert "state_size" in done.stderr and not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    done = invoke(*TINY, "--out", tmp_path / "file" / "below")
    assert done.exit_code == 2 and "file" in done.stderr


def test_a_budget_that_a_model_cannot_meet(tmp_path):
    done = invoke(*TINY, "--parameters", 20, "--out", tmp_path)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: gru comes within 10 % of 20 parameters at no width")


def test_datasets_lists_what_there_is():
    done = invoke("datasets")
    assert done.exit_code == 0
    assert "covid19: " in done.output and "375 series" in done.output
    assert "covid19/death (classification)" in done.output and "covid19/forecast (forecasting)" in done.output


def test_version():
    done = invoke("--version")
    assert (done.exit_code, done.output.strip()) == (0, f"ctlssl {version('ctlssl')}")


ARGUMENTS = {"dataset", "task", "data", "run"}  # that stand without a name before them


@pytest.mark.parametrize("command", ["compare", "costs", "inspect", "train", "predict", "evaluate", "stream"])
def test_every_option_is_explained(command):
    surroundings = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    done = CliRunner().invoke(cli.app, [command, "--help"], env=surroundings)
    named = ARGUMENTS - ({"task"} if command == "compare" else set())
    for option in inspect.signature(getattr(cli, command)).parameters.keys() - named:
        option = option.replace("_", "-")
        lines = [line for line in done.output.splitlines() if f"--{option}" in line.split()[:4] and line[0] == "│"]
        assert len(lines) == 1 and len(lines[0].split()) > 4, option


def test_costs_prints_seconds_and_ratios(tmp_path):
    names = "gru,ode_rnn:method=euler:steps=1"
    done = invoke("costs", "--models", names, "--lengths", "2,4", "--parameters", 2000, "--out", tmp_path / "costs.nc")
    assert done.exit_code == 0, done.output
    measured = xarray.load_dataset(tmp_path / "costs.nc")
    assert measured.model.values.tolist() == names.split(",") and measured.length.values.tolist() == [2, 4]
    assert (abs(measured.parameters - 2000) < 200).all()
    times = (measured.repetitions / measured.repetitions.sel(model="gru")).median("repetition")
    told = next(line for line in done.output.split("Times as long as gru")[1].splitlines() if "euler" in line)
    assert [f"{value:.1f}" for value in times.sel(model=names.split(",")[1]).values] == told.split("│")[3].split() + (
        told.split("│")[4].split()
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lengths", "2,many"], "Error: lengths is '2,many'; give whole numbers"),
        (["--models", "gru", "--parameters", "3"], "Error: gru comes within 10 % of 3 parameters at no width"),
        (["--models", "gru", "--lengths", "2", "--reference", "lssl"], "Error: 'lssl' was not timed; there are gru."),
    ],
)
def test_costs_refuses_in_one_line(arguments, message):
    done = invoke("costs", *arguments)
    assert done.exit_code == 2 and done.stderr.splitlines()[-1].startswith(message)


def test_the_installed_command_runs():
    command = os.path.join(os.path.dirname(sys.executable), "ctlssl")
    done = subprocess.run([command, "compare", "nowhere"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("Error: data set 'nowhere'")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_started_again_it_saves_what_it_would_have(tmp_path):
    command = [os.path.join(os.path.dirname(sys.executable), "python"), "-c", "from ctlssl.cli import main; main()"]
    asked = [*TINY[:4], "--models", "gru,lssl", "--seeds", "2", "--epochs", "3", "--parameters", "19000", "--out"]
    kills = 0
    for wanted in (1, 3, 6, 99):
        dying = subprocess.Popen([*command, *asked, tmp_path / "killed"], stderr=subprocess.PIPE)
        while dying.poll() is None and len(list(tmp_path.glob("killed/cells/*.json"))) < wanted:
            time.sleep(0.01)
        dying.kill()  # SIGKILL, the moment a cell is there
        dying.communicate()
        kills += dying.returncode != 0
    assert kills == 3
    assert invoke(*asked, tmp_path / "whole").exit_code == 0
    killed, whole = (xarray.load_dataset(tmp_path / name / "results.nc") for name in ("killed", "whole"))
    measured = ["train_seconds", "seconds_per_epoch", "pass_seconds", "peak_bytes"]
    assert killed.drop_vars(measured).identical(whole.drop_vars(measured))
    assert whole.rmse.notnull().all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_comparison_of_everything(tmp_path):
    done = invoke("compare", "covid19", "--quick", "--models", "all", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    results = xarray.load_dataset(tmp_path / "results.nc")
    assert results["auroc"].sel(task="covid19/death").notnull().all(["seed"]).sum() == (results.sizes["model"] - 1)
    neural = results.sel(model=results.family == "neural")
    assert (neural["auroc"].sel(task="covid19/death") > 0.85).all()
    naive = results["rmse"].sel(task="covid19/forecast", model="last_value")
    assert (neural["rmse"].sel(task="covid19/forecast") < naive).all()
    ours = neural["evaluations_per_epoch"].sel(model=["lssl", "gru"])
    assert (ours == 0).all() and (neural["evaluations_per_epoch"].sel(model=["ode_rnn", "neural_cde"]) > 0).all()
