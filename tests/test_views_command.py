"""`ctlssl views`: a fresh layer, a trained one, every option explained, and how it refuses."""

import os

import pytest
import xarray
from typer.testing import CliRunner

from ctlssl import cli

SMALL = ["--methods", "rk4,dopri5", "--tolerances", "1e-3", "--steps", "1", "--repeats", "1", "--batch", "2"]


def invoke(*arguments, **environment):
    """Run the command in this process."""
    return CliRunner().invoke(cli.app, ["views", *map(str, arguments)], env=environment)


def test_a_fresh_layer(tmp_path):
    done = invoke(*SMALL, "--channels", 2, "--state-size", 4, "--length", 2, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "stiff: inputs (2, 2, 2)" in done.output and "dopri5 rtol=0.001 adjoint" in done.output
    assert sorted(os.listdir(tmp_path / "out")) == ["views.md", "views.nc", "views.png"]
    found = xarray.load_dataset(tmp_path / "out" / "views.nc")
    assert list(found.case.values) == ["uniform grid", "irregular", "stiff"]
    assert (found.error.sel(view="recurrence") < 1e-12).all() and (found.gradient_seconds > 0).any()


def test_a_model_trained_on_the_spot(tmp_path):
    options = ["--dataset", "covid19", "--epochs", 1, "--channels", 6, "--length", 4, "--no-gradients", "--float32"]
    done = invoke(*SMALL, *options, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = xarray.load_dataset(tmp_path / "views.nc")
    assert list(found.case.values) == ["blocks.0.layer"] and found.attrs["dtype"] == "float32"
    assert found.error.sel(view="recurrence").item() < 1e-5
    assert "gradient_error" not in found and not [view for view in found.view.values if "adjoint" in view]
    assert found.layer.item().startswith("LSSL(6, state_size=8, structure='diagonal'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "runge"], "Error: Invalid method"),
        (["--tolerances", "tight"], "Error: could not convert string to float: 'tight'"),
        (["--structure", "round"], "Error: "),
        (["--dataset", "nowhere"], "Error: data set 'nowhere' has no task"),
        (["--methods", ","], "Error: a sweep needs at least one solver"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message, tmp_path):
    done = invoke(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.stderr and "Traceback" not in done.output


def test_every_option_is_explained():
    done = invoke("--help", COLUMNS="200", TERM="dumb", NO_COLOR="1")
    for option in (
        *("--dataset", "--task", "--epochs", "--structure", "--measure", "--method", "--channels", "--state-size"),
        *("--batch", "--length", "--decades", "--methods", "--tolerances", "--steps", "--adjoint", "--gradients"),
        *("--float32", "--repeats", "--seed", "--threads", "--out"),
    ):
        (line,) = [line for line in done.output.splitlines() if option in line.split()[:4]]
        assert len(line.split()) > 5, line
