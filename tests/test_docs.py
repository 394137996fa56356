"""The documentation is true: its code runs, it is built without a warning, and every public name is in it."""

import posixpath
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

import ctlssl

DOCS = Path(__file__).resolve().parent.parent / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_code_of_a_guide_runs(guide, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", guide.read_text(encoding="utf8"), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guide.py").write_text("\n".join(blocks), encoding="utf8")
    runpy.run_path("guide.py")


@pytest.mark.timeout(900)
def test_it_is_built_without_a_warning_and_names_everything(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    inventory = InventoryFile.load((tmp_path / "objects.inv").open("rb"), "", posixpath.join)
    named = {entry.rpartition(".")[2] for kind, entries in inventory.items() if kind[:3] == "py:" for entry in entries}
    modules = {entry.rpartition(".")[2] for entry in inventory["py:module"]}
    assert set(ctlssl.__all__) <= named | modules
