"""The README is true: its code runs, and its test command is the one that the checks run."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf8")


def blocks(language):
    """The fenced blocks of a language, without their fences."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    """The lines of the shell blocks."""
    return [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_quickstart_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what it writes is not left here
    script = tmp_path / "quickstart.py"
    script.write_text(blocks("python")[number], encoding="utf8")
    runpy.run_path(str(script))


def test_there_is_a_quickstart_of_a_few_lines():
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert 8 <= len(lines) <= 15


def test_one_line_installs_and_runs_the_tests():
    (command,) = [line for line in commands() if "pytest -q" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf8").splitlines()


def test_one_line_installs_and_runs_the_main_job():
    assert any(line.startswith("python3 -m venv") and line.endswith("ctlssl compare covid19") for line in commands())


def test_every_path_of_the_map_exists():
    places = re.findall(r"^(?:    )?(\w[\w./]*(?:/|\.py))  ", "\n".join(blocks("text")), flags=re.MULTILINE)
    assert len(places) > 10
    for place in places:
        assert (ROOT / place).exists() or (ROOT / "ctlssl" / place).exists(), f"{place} is not in the tree"
