"""What a comparison of views says: as tables for the terminal and as markdown, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["plot_views", "views_cells", "views_markdown", "views_tables"]

_COLUMNS = {
    "error": ("error", 1.0, "{:.1e}"),
    "seconds": ("ms", 1e3, "{:.2f}"),
    "evaluations": ("evaluations", 1.0, "{:.0f}"),
    "memory": ("KiB", 1 / 1024, "{:.0f}"),
    "gradient_error": ("gradient error", 1.0, "{:.1e}"),
    "gradient_seconds": ("gradient ms", 1e3, "{:.2f}"),
    "gradient_evaluations": ("gradient evaluations", 1.0, "{:.0f}"),
    "gradient_memory": ("gradient KiB", 1 / 1024, "{:.0f}"),
}


def views_cells(results: xarray.Dataset, case: str) -> tuple[list[str], list[list[str]]]:
    """The cells of the table of one case: header and rows, a dash where there is no number.

    Args:
        results: from `ctlssl.solver_sweep.compare_views`.
        case: one of ``results.case``.
    """
    part = results.sel(case=case)
    columns = {name: how for name, how in _COLUMNS.items() if name in part}
    rows = []
    for view in part.view.values.tolist():
        cells = [view]
        for name, (_, factor, form) in columns.items():
            value = part[name].sel(view=view).item()
            cells.append("-" if np.isnan(value) else form.format(factor * value))
        rows.append(cells)
    return ["view", *(title for title, _, _ in columns.values())], rows


def views_tables(results: xarray.Dataset) -> list[Table]:
    """One table a case for the terminal.

    Args:
        results: from `ctlssl.solver_sweep.compare_views`.
    """
    from rich.markup import escape
    from rich.table import Table

    made = []
    for case in results.case.values.tolist():
        header, rows = views_cells(results, case)
        table = Table(title=escape(_title(results, case)), title_justify="left")
        for name in header:
            table.add_column(name, justify="left" if name == "view" else "right", no_wrap=name == "view")
        for row in rows:
            table.add_row(*map(escape, row))
        made.append(table)
    return made


def views_markdown(results: xarray.Dataset) -> str:
    """The tables as markdown, with a line on every view that has no number and why.

    Args:
        results: from `ctlssl.solver_sweep.compare_views`.
    """
    blocks = []
    for case in results.case.values.tolist():
        header, rows = views_cells(results, case)
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        notes = results.note.sel(case=case)
        told = [
            f"- {view}: {notes.sel(view=view).item()}" for view in results.view.values if notes.sel(view=view).item()
        ]
        blocks += [f"### {_title(results, case)}", table, *(["\n".join(told)] if told else [])]
    return "\n\n".join([*blocks, _CAPTION]) + "\n"


def plot_views(results: xarray.Dataset) -> Figure:
    """Error against seconds, a column a case; below it the same of gradients, where they were taken.

    A line joins one solver at all its accuracies; what is not finite is left out. No window is opened: save the figure
    with ``figure.savefig(path)``.

    Args:
        results: from `ctlssl.solver_sweep.compare_views`.

    Returns:
        a figure of its own, outside of pyplot.
    """
    from matplotlib.figure import Figure

    kinds = [kind for kind in ("", "gradient_") if f"{kind}error" in results]
    cases = results.case.values.tolist()
    figure = Figure(figsize=(1.5 + 4.2 * len(cases), 0.8 + 3.2 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(cases), squeeze=False)
    for row, kind in zip(panels, kinds, strict=True):
        for axes, case in zip(row, cases, strict=True):
            _panel(axes, results.sel(case=case), kind)
            axes.set_title(case, fontsize="medium")
        row[0].set_ylabel(f"{'error of gradients' if kind else 'error'} (lower is better)")
    handles = {
        label: line for axes in panels.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize="small")
    return figure


_CAPTION = (
    "error: max |y - reference| / max |reference|, the reference being the exact solution of the equation in float64; "
    "gradient error: the same of inputs and learned parameters, the worst of them. Gradient columns are of a forward "
    "and a backward pass."
)
_LEAST = 1e-17  # where an error of 0 is drawn


def _title(results: xarray.Dataset, case: str) -> str:
    part = results.sel(case=case)
    speeds = ""
    if np.isfinite(part.fastest):
        speeds = f", |lambda| times the median gap {part.slowest.item():.2g} to {part.fastest.item():.2g}"
    return f"{case}: inputs {part['shape'].item()}{speeds}"


def _family(view: str) -> str:
    """A solver whatever its accuracy."""
    return " ".join(part for part in view.split() if "=" not in part)


def _panel(axes: Axes, part: xarray.Dataset, kind: str) -> None:
    families = list(dict.fromkeys(_family(view) for view in part.view.values.tolist()))
    for number, family in enumerate(families):
        own = [view for view in part.view.values.tolist() if _family(view) == family]
        errors = part[f"{kind}error"].sel(view=own).values  # (views,)
        seconds = part[f"{kind}seconds"].sel(view=own).values  # (views,)
        drawn = np.isfinite(errors) & np.isfinite(seconds)
        if drawn.any():
            style = "*" if family in ("recurrence", "convolution") else "o-"
            points = (seconds[drawn], np.maximum(errors[drawn], _LEAST))
            axes.plot(*points, style, color=f"C{number % 10}", label=family, markersize=10 if style == "*" else 4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"seconds, forward{' and backward' if kind else ''}")
