"""A row of the benchmark: who runs, at which sizes, and what must hold."""

import dataclasses
from collections.abc import Callable, Mapping

from benchmarks.contenders import Contender, Sizes
from benchmarks.measures import Measure, Target


@dataclasses.dataclass(frozen=True)
class Row:
    """One table of the report.

    Args:
        name: what `--only` takes.
        title: its heading.
        run: (row, quick) -> measures, in a process of its own.
        contenders: who runs; the first is the reference of the ratios.
        sizes: of the race.
        quick: sizes of a smoke test.
        repetitions: timed ones.
        both: whether forward + backward is timed beside forward.
        peaks: whether peak memory is measured.
        growing: contenders whose growth is fitted.
        growth: axis of Sizes -> the sizes taken on it.
        base: the other sizes of the growth.
        targets: what a measure must hold, by `Measure.what`.
        reason: why there is no target, where there is none.
        notes: what a reader must know.
    """

    name: str
    title: str
    run: Callable[["Row", bool], list[Measure]]
    contenders: tuple[Contender, ...] = ()
    sizes: Sizes = Sizes()
    quick: Sizes = Sizes(2, 12, 4, 4)
    repetitions: int = 5
    both: bool = True
    peaks: bool = True
    growing: tuple[str, ...] = ()
    growth: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    base: Sizes = Sizes(batch=4)
    targets: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    reason: str = ""
    notes: tuple[str, ...] = ()

    def at(self, quick: bool) -> Sizes:
        return self.quick if quick else self.sizes
