"""The shape of the code: who imports whom, how long things are, and what must not appear anywhere."""

import ast
import os
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ctlssl"
NOT_OURS = {"build", "dist", "node_modules", "__pycache__"}

# An import goes to a lower floor, or beside on its own floor, and never in a circle.
FLOORS = {
    **dict.fromkeys(
        [
            "durable",
            "series",
            "packed_series",
            "event_parts",
            "events",
            "treatments",
            "elapsed",
            "periods",
            "state_matrices",
        ],
        0,
    ),
    **dict.fromkeys(["hippo", "hippo_measures", "state_space", "holds"], 1),
    **dict.fromkeys(["discretization", "kernels"], 2),
    **dict.fromkeys(["views", "step_size"], 3),
    **dict.fromkeys(
        ["layers", "hippo_memory", "packed_calls", "contract", "model_state", "interleaving", "encoders", "heads"], 4
    ),
    **dict.fromkeys(["sealed", "streaming", "channel_summaries", "deep_summaries", "piecewise_linear"], 4),
    **dict.fromkeys(["models", "baselines", "half_lives", "agreement", "dynamics", "reconstruction"], 5),
    **dict.fromkeys(
        [
            "schema",
            "tables",
            "files",
            "preparation",
            "catalogue",
            "normalization",
            "target_scale",
            "tasks",
            "splitting",
        ],
        5,
    ),
    **dict.fromkeys(["examples", "questions", "synthetic", "clocks", "sampling"], 5),
    **dict.fromkeys(["training", "pretraining", "image_models", "model_names", "parameter_budget"], 6),
    **dict.fromkeys(
        ["comparison", "costs", "estimators", "runs", "testing", "clock_ablation", "solver_sweep", "recipes"], 7
    ),
    **dict.fromkeys(
        ["influence", "inspection", "timescale_fitting", "adaptation", "exporting", "onnx_step", "tuning"], 7
    ),
    **dict.fromkeys(["report", "report_notes", "plots", "saving", "clock_report", "views_report"], 8),
    **dict.fromkeys(["page", "run_page", "run_pictures", "inspection_page", "adaptation_report"], 8),
    **dict.fromkeys(["cli", "commands"], 9),
    **dict.fromkeys(["__init__", "__main__"], 10),
}


def files(*suffixes):
    """Paths of the repository's own files, whether or not git is there to ask."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and (name == ".ci" or not name.startswith("."))]
        found += [Path(folder, name) for name in names if name.endswith(suffixes)]
    return sorted(found)


def short(path):
    """How a file is named in a report."""
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path):
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf8"), filename=str(path))


def module_name(path):
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PYTHON = files(".py")
MODULES = {module_name(path): path for path in PYTHON if PACKAGE in path.parents}


def imports(name):
    """The modules of the package that a module imports, anywhere in its text."""
    targets = []
    for node in ast.walk(parsed(MODULES[name])):
        if isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: imports are absolute here"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            targets += [target if target in MODULES else node.module for target in inside]
    return sorted({target for target in targets if target in MODULES})


def floor(name):
    """The floor that a module lives on."""
    parts = name.split(".")
    return FLOORS[parts[1] if len(parts) > 1 else "__init__"]


def length(node):
    """Lines of a function, its docstring not counted."""
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


def test_every_module_has_a_floor():
    new = [name for name in MODULES if "." in name and name.split(".")[1] not in FLOORS]
    assert not new, "give these modules a floor in the table of this file"


def test_imports_go_down():
    up = [f"{name} imports {target}" for name in MODULES for target in imports(name) if floor(target) > floor(name)]
    assert not up


def test_no_circle():
    tuple(TopologicalSorter({name: imports(name) for name in MODULES}).static_order())


def test_no_long_file():
    lengths = {short(path): len(path.read_text(encoding="utf8").splitlines()) for path in PYTHON}
    assert not {name: lines for name, lines in lengths.items() if lines > 400}


def test_no_long_function():
    functions = [
        (short(path), node.name, length(node))
        for path in PYTHON
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [function for function in functions if function[2] > 50]


def test_no_drawers():
    drawers = {"utils", "util", "misc", "helpers", "common"}
    assert not [short(path) for path in PYTHON if drawers & set(path.relative_to(ROOT).with_suffix("").parts)]


UNSAFE_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "yaml.load", "torch.load", "os.system", "pandas.read_pickle", "pd.read_pickle"}


def unsafe(node):
    """What is wrong with a line that could run what a file says, or nothing."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        sources = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        return UNSAFE_IMPORTS & {source.split(".")[0] for source in sources}
    if isinstance(node, ast.Call):
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        pickles = {"allow_pickle"} if given.get("allow_pickle", "False") != "False" else set()
        return UNSAFE_CALLS & {ast.unparse(node.func)} | pickles
    return set()


def test_nothing_runs_what_a_file_says():
    assert not [
        f"{short(path)}, line {node.lineno}: {', '.join(wrong)}"
        for path in PYTHON
        for node in ast.walk(parsed(path))
        if (wrong := unsafe(node))
    ]


def test_errors_are_raised_never_asserted():
    assert not [
        f"{name}, line {node.lineno}"
        for name, path in MODULES.items()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Assert)
    ]


MACHINE = re.compile(r"(?<![\w.])/(work|tmp|root|home|opt|Users)/\w")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b|for now\b|NotImplemented" + "Error")


def test_text_is_finished_and_of_no_machine():
    assert not [
        f"{short(path)}, line {number}: {line.strip()}"
        for path in files(".py", ".md", ".toml", ".txt", ".cff", "run")
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), start=1)
        if MACHINE.search(line) or UNFINISHED.search(line)
    ]


def test_no_test_is_set_aside():
    set_aside = {f"pytest.{mark}" for mark in ("mark.skip", "mark.skipif", "mark.xfail", "skip", "xfail")}
    assert not [
        f"{short(path)}, line {node.lineno}"
        for path in PYTHON
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in set_aside
    ]
