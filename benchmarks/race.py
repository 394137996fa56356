"""Contenders take turns within a repetition, so that a slow moment of the machine falls on all of them."""

import dataclasses
import gc
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from benchmarks.contenders import Contender, Passes, Sizes
from benchmarks.measures import Measure, fitted_exponent
from benchmarks.peak import peak_bytes
from benchmarks.row import Row

FORWARD, BOTH = "forward", "forward + backward"
INSTALL = "not installed: pip install -c constraints.txt -e '.[bench]'"


def missing(contender: Contender) -> bool:
    return any(find_spec(module) is None for module in contender.needs)


def seconds(passes: Passes, kind: str) -> float:
    """One run, warm caches and all threads at rest when it begins."""
    passes.reset()
    gc.collect()
    time.sleep(0.005)  # the workers of other contenders' thread pools spin for a moment after their last task
    run = passes.forward if kind == FORWARD else passes.both
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * passes.scale


def interleaved(built: Mapping[object, Passes], kind: str, repetitions: int, warmups: Mapping[object, int]) -> dict:
    """Seconds of each, a list over repetitions, after warm-up runs that do not count."""
    for name, passes in built.items():
        for _ in range(warmups.get(name, 1)):
            seconds(passes, kind)
    found = {name: [] for name in built}
    for _ in range(repetitions):
        for name, passes in built.items():
            found[name].append(seconds(passes, kind))
    return found


def race(row: Row, quick: bool = False) -> list[Measure]:
    """Times, peaks and growth of a row's contenders."""
    present = [contender for contender in row.contenders if not missing(contender)]
    measures = _times(row, present, quick)
    if row.peaks:
        measures += _peaks(row, present, quick)
    absent = [contender.name for contender in row.contenders if missing(contender)]
    measures += [Measure(name, note=INSTALL, target=_any_target(row, name)) for name in absent]
    return measures + growth(row, quick)


def _times(row: Row, present: Sequence[Contender], quick: bool) -> list[Measure]:
    repetitions = 2 if quick else row.repetitions
    warmups = {contender.name: contender.warmups for contender in present}
    built = {contender.name: contender.build(row.at(quick)) for contender in present}
    measures = []
    for kind in (FORWARD, BOTH) if row.both else (FORWARD,):
        found = interleaved(built, kind, repetitions, warmups)
        for name, times in found.items():
            values = tuple(1e3 * spent for spent in times)
            measures.append(_measure(row, f"{name}, {kind}", values, found[present[0].name], times, "ms"))
    return measures


def _peaks(row: Row, present: Sequence[Contender], quick: bool) -> list[Measure]:
    found = {contender.name: peak_bytes(row.name, contender.name, quick) for contender in present}
    if None in found.values():
        return [Measure("peak memory", note="measured on Linux alone")]
    first = [found[present[0].name]]
    return [
        _measure(row, f"{name}, peak memory", (value / 1e6,), first, [value], "MB") for name, value in found.items()
    ]


def _measure(row: Row, what: str, values: tuple, reference: list, own: list, unit: str) -> Measure:
    ratios = () if own is reference or own == reference else tuple(a / b for a, b in zip(own, reference, strict=True))
    return Measure(what, values, unit, ratios, row.targets.get(what))


def _any_target(row: Row, name: str):
    return next((target for what, target in row.targets.items() if what.startswith(name)), None)


def growth(row: Row, quick: bool = False) -> list[Measure]:
    """Fitted exponents of forward + backward (forward where the row has only that) in each size."""
    measures, kind = [], BOTH if row.both else FORWARD
    for contender in row.contenders:
        for axis, steps in row.growth.items() if contender.name in row.growing else ():
            base, steps = (row.quick, (4, 8)) if quick else (row.base, steps)
            built = {step: contender.build(_resized(base, axis, step)) for step in steps}
            found = interleaved(built, kind, 2 if quick else 3, {})
            fits = tuple(fitted_exponent(steps, costs) for costs in zip(*found.values(), strict=True))
            what = f"{contender.name}, exponent in {axis}"
            rest = ", ".join(f"{name} {size}" for name, size in dataclasses.asdict(base).items() if name != axis)
            note = f"{axis} {', '.join(map(str, steps))}; {rest}"
            measures.append(Measure(what, fits, "", target=row.targets.get(what), note=note))
    return measures


def _resized(base: Sizes, axis: str, size: int) -> Sizes:
    return dataclasses.replace(base, **{axis: size})
