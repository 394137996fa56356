"""Memory of one long record."""

from benchmarks.bank import LAYER
from benchmarks.contenders import GRU, LSTM, Sizes, ours
from benchmarks.measures import Measure, at_most
from benchmarks.peak import peak_bytes
from benchmarks.row import Row

NAME = "LSSL bank, peak memory over input + output + their gradients"


def run(row: Row, quick: bool = False) -> list[Measure]:
    """Peaks as multiples of the float32 bytes of u, y and their gradients."""
    sizes = row.at(quick)
    least = 4 * sizes.batch * sizes.length * sizes.channels * 4
    measures = []
    for contender in row.contenders:
        found = peak_bytes(row.name, contender.name, quick)
        what = f"{contender.name}, peak memory over input + output + their gradients"
        if found is None:
            measures.append(Measure(what, target=row.targets.get(what), note="measured on Linux alone"))
            continue
        note = f"{found / 1e6:.0f} MB over {least / 1e6:.0f} MB"
        measures.append(Measure(what, (found / least,), "", target=row.targets.get(what), note=note))
    return measures


ROW = Row(
    name="memory",
    title="Peak memory, forward + backward, of one long record",
    run=run,
    contenders=(ours("LSSL bank", **LAYER), LSTM, GRU),
    sizes=Sizes(batch=1, length=100_000),
    quick=Sizes(1, 200, 4, 4),
    targets={NAME: at_most(6)},
)
