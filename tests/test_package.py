"""What is installed: the wheel carries the data and nothing else, and asks for what the code imports, no more."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
DISTRIBUTION = {"sklearn": "scikit-learn"}  # where the name of a module is not the name of what is installed


USERS_EXTRAS = ("parquet", "tune")  # what the package imports where a user asks for it


def normal(requirement):
    """The name in a requirement, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group()).lower()


def imported():
    """The third-party distributions that the package imports anywhere in its text."""
    found = set()
    for path in (ROOT / "ctlssl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    third = found - set(sys.stdlib_module_names) - {"ctlssl"}
    return {normal(DISTRIBUTION.get(name, name)) for name in third}


def test_dependencies_are_the_imports():
    with_torch = {"triton"}  # comes with torch where there is a GPU, and is looked for, not required
    needed = {normal(requirement) for requirement in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    wanted = {normal(item) for name in USERS_EXTRAS for item in extras[name]}
    assert needed | wanted == imported() - with_torch and not needed & wanted


def test_every_requirement_has_a_tested_version():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines()
    pinned = {normal(line) for line in lines if "==" in line}
    extras = [item for extra in PROJECT["optional-dependencies"].values() for item in extra if "ctlssl" not in item]
    assert {normal(item) for item in PROJECT["dependencies"] + extras} <= pinned


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_carries_the_package_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ctlssl").rglob("*.py")} | {"ctlssl/py.typed"}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf8").splitlines()
    prepared = {path for line in ignored if line.startswith("/datasets/") for path in ROOT.glob(line[1:])}
    data = {
        f"ctlssl/_datasets/{path.parent.name}/{path.name}"
        for pattern in ("*/*.nc", "*/README.md")
        for path in set((ROOT / "datasets").glob(pattern)) - prepared
    }
    assert "ctlssl/_datasets/covid19/covid19.nc" in data
    assert inside == package | data


def test_the_wheel_loads_its_data_in_another_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import ctlssl; print(ctlssl.__file__); print(ctlssl.load_dataset('covid19').sizes['series'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    where, series = done.stdout.split()
    assert Path(where).parent == tmp_path / "site" / "ctlssl"
    assert series == "375"
