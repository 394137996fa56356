"""What an inspection found, as text and as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctlssl.inspection import SHARES, Inspection
from ctlssl.page import Markup, bars, page, picture, section, table, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["inspection_page", "inspection_text"]


def inspection_text(found: Inspection, source: str, notes: tuple[str, ...] = ()) -> str:
    """The findings as plain text.

    Args:
        found: by `ctlssl.inspection.inspect_dataset`.
        source: what was inspected.
        notes: sentences that belong to it.
    """
    lines = [f"{source}: {_counts(found)}", *notes, ""]
    lines += [f"{'':24}" + "".join(f"{share:>10}" for share in _shares())]
    lines += [f"{name:24}" + "".join(f"{value:>10.4g}" for value in values) for name, values in _rows(found)]
    width = max([len(item.name) for item in found.variables] + [8]) + 2
    width = min(width, 42)
    lines += ["", f"{'variable':{width}}{'missing':>9}{'series':>9}{'low':>11}{'median':>11}{'high':>11}  unit"]
    for item in found.variables:
        name = item.name if len(item.name) < width else f"{item.name[: width - 5]}..."
        numbers = f"{item.low:>11.4g}{item.median:>11.4g}{item.high:>11.4g}"
        constant = " (constant)" if item.constant else ""
        lines += [f"{name:{width}}{item.missing:>9.1%}{item.series:>9.1%}{numbers}  {item.unit}{constant}".rstrip()]
    for label, told in found.labels.items():
        lines += ["", f"label {label}: {told}"]
        lines += [f"  {leak.source} alone: {_verdict(leak)}" for leak in found.leaks if leak.label == label]
    return "\n".join([*lines, *([""] + [_ADVICE] if any(leak.suspect for leak in found.leaks) else [])])


def inspection_page(found: Inspection, source: str, notes: tuple[str, ...] = ()) -> str:
    """The findings as a page that stands alone.

    Args:
        found: by `ctlssl.inspection.inspect_dataset`.
        source: what was inspected.
        notes: sentences that belong to it.
    """
    parts = [words(_counts(found)), *map(words, notes)]
    clock = [table(["", *_shares()], [[name, *values] for name, values in _rows(found)])]
    if len(found.all_gaps):
        clock.append(picture(_histograms(found), f"Gaps between rows{_in(found)}, and rows of a series"))
    parts.append(section("Times", *clock))
    order = sorted(found.variables, key=lambda item: item.missing)
    seen = [(item.name, 1 - item.missing, f"{1 - item.missing:.1%}") for item in order]
    parts.append(section("What was observed", bars("variable", "share of the rows", seen)))
    values = [
        [v.name, v.unit, v.values, f"{v.series:.1%}", v.low, v.median, v.high, "yes" if v.constant else ""]
        for v in found.variables
    ]
    header = ["variable", "unit", "values", "series with one", "low", "median", "high", "constant"]
    parts.append(section("Values", table(header, values)))
    for label, told in found.labels.items():
        parts.append(section(f"Label {label}", words(told), *_leak_parts(found, label)))
    return page(f"Inspection of {source}", *parts)


_ADVICE = (
    "What tells the label this well without any value may be honest (who is ill is measured more often), or a leak: a "
    "record that ends at the event tells of it by its length. Cut the records at a landmark, and look again."
)


def _leak_parts(found: Inspection, label: str) -> list[Markup]:
    leaks = [leak for leak in found.leaks if leak.label == label]
    if not leaks:
        return [words("It has one value, or too few series: nothing can be said of leaks.")]
    rows = [(leak.source, 2 * leak.auroc - 1, _verdict(leak)) for leak in leaks]
    told = [bars("what tells it, without any value", "AUROC", rows)]
    return told + ([words(_ADVICE)] if any(leak.suspect for leak in leaks) else [])


def _verdict(leak: object) -> str:
    likely = "; likely leak" if leak.suspect else ""
    return f"AUROC {leak.auroc:.3f} (chance .5 ± {leak.deviation:.3f}{likely})"


def _counts(found: Inspection) -> str:
    values = sum(item.values for item in found.variables)
    empty = f", {found.empty} of them without a row" if found.empty else ""
    ties = f" {found.ties} rows share their time with the row before." if found.ties else ""
    unit = f" Time is in {found.unit}." if found.unit else " The unit of time is not known."
    told = f"{found.series} series{empty}, {found.rows} rows, {len(found.variables)} variables, {values} values."
    return told + unit + ties


def _shares() -> list[str]:
    return ["least", *(f"{share:.0%}" for share in SHARES[1:-1]), "most"]


def _rows(found: Inspection) -> list[tuple[str, tuple[float, ...]]]:
    return [
        ("rows of a series", found.lengths),
        (f"span of a series{_in(found)}", found.spans),
        (f"gap between rows{_in(found)}", found.gaps),
    ]


def _in(found: Inspection) -> str:
    return f", {found.unit}" if found.unit else ""


def _histograms(found: Inspection) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    gaps = found.all_gaps[found.all_gaps > 0]
    if len(gaps):
        low, high = gaps.min(), gaps.max()
        left.hist(gaps, bins=np.geomspace(low, high, 40) if high > low else 10, color="#4c72b0")
        left.set_xscale("log")
    left.set_xlabel("gap between rows")
    right.hist(found.all_lengths, bins=min(40, max(int(found.all_lengths.max(initial=1)), 1)), color="#4c72b0")
    right.set_xlabel("rows of a series")
    return figure
