"""What a row found: repetitions, their ratio to the row's reference, and what it must hold."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Target:
    """A bound on the median of a measure; `aim` is what would be better still."""

    sign: str  # "at least" or "at most"
    bound: float
    aim: float | None = None

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sign == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}" + (f", aim {self.aim:g}" if self.aim else "")


def at_least(bound: float, aim: float | None = None) -> Target:
    return Target("at least", bound, aim)


def at_most(bound: float) -> Target:
    return Target("at most", bound)


@dataclasses.dataclass(frozen=True)
class Measure:
    """One line of a table.

    Args:
        what: contender and pass.
        values: repetitions, in `unit`; none where the contender could not run.
        unit: "ms", "s", "MB" or "".
        ratios: each repetition over the reference's own in the same repetition; none for the reference.
        target: on the ratio where there is one, else on the value.
        note: sizes, or why nothing was measured.
    """

    what: str
    values: tuple[float, ...] = ()
    unit: str = "ms"
    ratios: tuple[float, ...] = ()
    target: Target | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target holds; None where there is none, or nothing was measured."""
        judged = self.ratios or self.values
        return self.target.met(statistics.median(judged)) if self.target and judged else None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Measure":
        """The measure of what `dataclasses.asdict` made and JSON carried."""
        target = plain["target"]
        lists = {name: tuple(plain[name]) for name in ("values", "ratios")}
        return cls(**{**plain, **lists, "target": None if target is None else Target(**target)})


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the straight line through log(cost) over log(size), by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope
