"""Tables for the screen and for the file."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.measures import Measure
from benchmarks.row import Row

HEADER = ("measure", "median", "min .. max", "times the reference", "min .. max", "target", "met")
VERDICT = {True: "yes", False: "**no**", None: ""}


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    digits = 2
    while abs(value) < 10 ** (2 - digits) and digits < 8:
        digits += 1
    return f"{value:.{digits if abs(value) < 10 else 1}f}"


def _pair(values: Sequence[float], unit: str = "") -> tuple[str, str]:
    if not values:
        return "", ""
    spread = f"{number(min(values))} .. {number(max(values))}" if len(values) > 1 else ""
    return f"{number(statistics.median(values))} {unit}".strip(), spread


def line(measure: Measure, judged: bool = True) -> tuple[str, ...]:
    """The cells of one measure; not judged: targets belong to the full sizes alone."""
    what = f"{measure.what} ({measure.note})" if measure.note else measure.what
    verdict = VERDICT[measure.met] if judged else ""
    target = "" if measure.target is None else str(measure.target)
    if judged and target and measure.met is None:
        verdict = "not measured"
    return what, *_pair(measure.values, measure.unit), *_pair(measure.ratios), target, verdict


def table(measures: Sequence[Measure], judged: bool = True) -> str:
    """A Markdown table with aligned columns."""
    rows = [HEADER, *(line(measure, judged) for measure in measures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]

    def joined(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return " | ".join(["| " + first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]) + " |"

    rule = "|" + "|".join("-" * (width + 2 - bool(column)) + ":" * bool(column) for column, width in enumerate(widths))
    return "\n".join([joined(rows[0]), rule + "|", *map(joined, rows[1:])])


def section(row: Row, measures: Sequence[Measure], judged: bool = True) -> str:
    """Heading, command, sizes, table, notes."""
    sizes = f" {row.at(not judged)}." if row.contenders else ""
    reference = (
        f" Ratios: over the same repetition of {row.contenders[0].name}."
        if any(measure.ratios for measure in measures)
        else ""
    )
    flag = "" if judged else " --quick"
    parts = [
        f"## {row.title}",
        f"`python -m benchmarks --only {row.name}{flag}`.{sizes}{reference}",
        table(measures, judged),
    ]
    reason = [f"No target: {row.reason}."] if row.reason else []
    notes = "\n".join(f"* {note}" for note in [*reason, *row.notes])
    return "\n\n".join([*parts, notes] if notes else parts)


def summary(found: Mapping[str, Sequence[Measure]]) -> str:
    """Every target with what was found."""
    cells = [("target of", "measure", "found", "wanted", "met"), ("---", "---", "---:", "---:", "---:")]
    for name, measures in found.items():
        for measure in measures:
            if measure.target is not None:
                values = measure.ratios or measure.values
                shown = _pair(values, "" if measure.ratios else measure.unit)[0]
                verdict = VERDICT[measure.met] or "not measured"
                cells.append((f"`{name}`", measure.what, shown, str(measure.target), verdict))
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def document(
    rows: Mapping[str, Row], found: Mapping[str, Sequence[Measure]], machine: Sequence[str], command: str, judged: bool
) -> str:
    """The whole report."""
    head = [
        "# Benchmarks",
        f"Written by `{command}` (`pip install -c constraints.txt -e '.[bench]'` brings the peers).",
        "\n".join(f"* {fact}" for fact in machine),
        HOW,
    ]
    targets = ["## Targets", summary(found)] if judged else []
    return "\n\n".join([*head, *targets, *(section(rows[name], found[name], judged) for name in found)]) + "\n"


HOW = """\
Each table is a process of its own. Its contenders take turns within a repetition, after warm-up runs that do not count;
a ratio is formed within a repetition, and the tables show the median over repetitions and the range. A ratio says how
many times the seconds or bytes of the reference a contender takes. Everything is float32; B series, L rows each, N real
state dimensions of each system. Forward runs without recording gradients; forward + backward starts from a gradient of
the outputs that is handed in and ends with those of all parameters and of the input. Exponents are slopes of
log(seconds) over log(size) by least squares, over the sizes printed. Peak memory is
the high-water mark of resident memory (VmHWM) of a fresh process over one forward + backward,
less what was resident before it, plus the bytes of the inputs; the mark is reset after a warm-up at small sizes, so
that imports and compiled code do not count."""
