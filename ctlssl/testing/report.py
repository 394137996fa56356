"""The lines of the clock contract, and what is said of each when something is held to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["LINES", "Check", "ClockError", "ClockReport", "Findings", "Line", "LineResult", "Skipped"]


@dataclass(frozen=True)
class Line:
    """One line of the contract.

    Args:
        name: in a few words.
        remedy: what to do where it does not hold.
    """

    name: str
    remedy: str


LINES = {
    1: Line(
        "shift: a constant added to all times changes nothing",
        "read times as differences only, formed in float64 (ctlssl.gaps) before anything is cast to another dtype",
    ),
    2: Line(
        "units and rate: every elapsed time is scaled, in the decay and in the input alike",
        "let gap, step size and rate enter as one product everywhere: in Abar, in Bbar and in every time feature",
    ),
    3: Line(
        "queries never disturb: outputs at observations stay bit for bit",
        "answer a query from the state of the last observation before it, and keep nothing of it",
    ),
    4: Line(
        "padding and batch: no series reads padding or its neighbours",
        "silence padding by `lengths` before it is read, and give every series gaps and step sizes of its own",
    ),
    5: Line(
        "step == forward == forward in chunks",
        "hand over all that the next row needs (state, last input, last time), and read every gap alone, not as a sum",
    ),
    6: Line(
        "views agree: recurrence, convolution and integration give one answer",
        "form all views from one continuous system and one hold of the input",
    ),
    7: Line(
        "causal: nothing after a time enters the answer at it",
        "read no row, gap or statistic of later rows; normalise by what is known at the time",
    ),
    8: Line(
        "gaps of all sizes: finite and precise",
        "keep gaps in float64 until they have been multiplied by rates and step sizes, and form the phase there",
    ),
    9: Line(
        "gradients: of inputs, gaps, parameters and state, as finite differences have them",
        "look for a detached tensor, an in-place change, or a backward pass that lacks a term",
    ),
    10: Line(
        "missing values are never read",
        "replace what was not observed before it is read (torch.where, not a product with the flags)",
    ),
}


@dataclass(frozen=True)
class Check:
    """One comparison.

    Args:
        what: was compared.
        error: that was found; inf where a call raised or gave numbers that are not finite.
        limit: up to which the line holds.
        case: on which series, in which dtype.
        cause: what was raised, or nothing.
    """

    what: str
    error: float
    limit: float
    case: str = ""
    cause: Exception | None = None

    def on(self, case: str) -> Check:
        """The same, made on a case."""
        return replace(self, case=case)

    @property
    def held(self) -> bool:
        """Whether the error is within the limit."""
        return self.error <= self.limit

    @property
    def severity(self) -> float:
        """The error in limits."""
        if self.error == 0:
            return 0.0
        return self.error / self.limit if self.limit > 0 and math.isfinite(self.error) else math.inf


@dataclass(frozen=True)
class Skipped:
    """A comparison that was not made.

    Args:
        reason: why not.
    """

    reason: str


Findings = Iterator[Check | Skipped]
"""What a line yields for a case in a dtype."""


@dataclass(frozen=True)
class LineResult:
    """What was found of one line.

    Args:
        number: of the line.
        checks: the comparisons made.
        skipped: why others were not.
    """

    number: int
    checks: tuple[Check, ...]
    skipped: tuple[str, ...]

    @property
    def name(self) -> str:
        """The line in a few words."""
        return LINES[self.number].name

    @property
    def worst(self) -> Check | None:
        """The comparison with the largest error for its limit; None where none was made."""
        return max(self.checks, key=lambda check: check.severity, default=None)

    @property
    def error(self) -> float | None:
        """The error of the worst comparison."""
        return None if self.worst is None else self.worst.error

    @property
    def limit(self) -> float | None:
        """The limit of the worst comparison."""
        return None if self.worst is None else self.worst.limit

    @property
    def status(self) -> str:
        """Held, failed, or not applicable where nothing could be compared."""
        if not self.checks:
            return "not applicable"
        return "held" if all(check.held for check in self.checks) else "failed"

    def __str__(self) -> str:
        worst, said = self.worst, f"{self.number:>2}  {self.status:<14}"
        if worst is None:
            return f"{said}  {self.name} ({'; '.join(self.skipped)})"
        left = f" (not compared: {'; '.join(self.skipped)})" if self.skipped else ""
        return f"{said}  {self.name}: {worst.what}, error {worst.error:.2g}, limit {worst.limit:.2g}{left}"


@dataclass(frozen=True)
class ClockReport:
    """What was found of every line of the contract.

    Args:
        subject: what was held to it.
        seed: from which the cases were drawn.
        rows: one a line.
    """

    subject: str
    seed: int
    rows: tuple[LineResult, ...]

    @property
    def held(self) -> bool:
        """Whether no line failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[int, ...]:
        """The numbers of the lines that failed."""
        return tuple(row.number for row in self.rows if row.status == "failed")

    @property
    def not_applicable(self) -> tuple[int, ...]:
        """The numbers of the lines of which nothing could be compared."""
        return tuple(row.number for row in self.rows if row.status == "not applicable")

    def __getitem__(self, number: int) -> LineResult:
        """The row of a line."""
        return {row.number: row for row in self.rows}[number]

    def __str__(self) -> str:
        return "\n".join([f"clock contract of {self.subject}, seed {self.seed}", *map(str, self.rows)])


class ClockError(AssertionError):
    """A line of the clock contract does not hold; the message names it, the case and the remedy.

    Args:
        report: all that was found.
    """

    def __init__(self, report: ClockReport) -> None:
        self.report = report
        said = [_complaint(row) for row in report.rows if row.status == "failed"]
        super().__init__("\n".join([*said, str(report)]))


def _complaint(row: LineResult) -> str:
    worst = row.worst
    raised = "" if worst.cause is None else f" ({type(worst.cause).__name__}: {worst.cause})"
    return (
        f"line {row.number} of the clock contract does not hold ({row.name}): {worst.what}: error {worst.error:.3g}, "
        f"limit {worst.limit:.3g}{raised}, in {worst.case}. To repair it: {LINES[row.number].remedy}."
    )
