"""How the documentation is built: `sphinx-build -W -b html docs docs/_build`."""

import ast
import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

project, author, copyright = "ctlssl", "the ctlssl developers", "the ctlssl developers"
release = importlib.metadata.version("ctlssl")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # a docstring that says `N` means the number, not one of the attributes of that name
html_theme = "furo"
html_title = f"ctlssl {release}"

# Docstrings write `name` for code, and their equations are indented: read as they stand.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}


def title_of(script):
    """The first line of a script's docstring."""
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf8"))).splitlines()[0].rstrip(".")


def write_examples(app):
    """A page for every script of examples/: it is its own explanation."""
    folder = Path(app.srcdir) / "examples"
    folder.mkdir(exist_ok=True)
    scripts = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "__init__")
    for script in scripts:
        text = f"# {title_of(script)}\n\n```{{literalinclude}} ../../examples/{script.name}\n:language: python\n```\n"
        (folder / f"{script.stem}.md").write_text(text, encoding="utf8")


def write_commands(app):
    """What every command takes, from the commands themselves."""
    from typer.main import get_command

    from ctlssl.cli import app as commands

    text = "# Commands\n"
    for name, command in sorted(get_command(commands).commands.items()):
        about = (command.help or "").strip().replace("\n\n", "\n").splitlines()
        text += f"\n## `ctlssl {name}`\n\n" + " ".join(line.strip() for line in about) + "\n\n"
        for option in command.params:
            names = ", ".join(f"`{part}`" for part in option.opts if part != "--help")
            if names:
                text += f"* {names}: {(getattr(option, 'help', None) or '').strip()}\n"
    (Path(app.srcdir) / "api" / "commands.md").write_text(text, encoding="utf8")


def as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings are written to be read as text: equations are indented, tables have bars, and |x| is a modulus."""
    written, table, literal = [], False, False
    for line in lines:
        bars = line.lstrip().startswith("| ")
        if bars and not table:
            written += [".. list-table::", ""]
        if bars:
            if not re.fullmatch(r"[\s|:-]+", line):
                cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
                written += [f"   {'* -' if not k else '  -'} {cell}" for k, cell in enumerate(cells)]
            table = True
            continue
        if table:
            written.append("")
        table = False
        if re.match(r"[A-Z]\w+:$", line):
            rest = lines[lines.index(line) :]
            shown = next((k for k, later in enumerate(rest) if later.strip().startswith(("Example", ">>>"))), len(rest))
            written += [later.replace("|", "\\|") for later in rest[:shown]] + rest[shown:]
            break
        indented = line.startswith("    ")
        if indented and not literal and written and not written[-1].strip():
            written += ["::", ""]
            literal = True
        literal = literal and (indented or not line.strip())
        written.append(line if literal else line.replace("|", "\\|"))
    lines[:] = written


def is_skipped(app, what, name, obj, skip, options):
    """Fields of named tuples are described by the class, and scikit-learn's metadata requests by scikit-learn."""
    if re.fullmatch(r"set_\w+_request", name):
        return True
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    """Connect what is done before the pages are read."""
    app.connect("builder-inited", write_examples)
    app.connect("builder-inited", write_commands)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", is_skipped)
