"""The recurrence of a diagonal zoh layer against an ODE solver on the same system."""

from benchmarks.contenders import Sizes, ours
from benchmarks.measures import at_least
from benchmarks.race import race
from benchmarks.row import Row
from ctlssl.views import Integration

LAYER = {"structure": "diagonal", "method": "zoh"}
DOPRI5 = Integration("dopri5", rtol=1e-6, atol=1e-6)

ROW = Row(
    name="solver",
    title="Bank of diagonal systems, zoh: recurrence against torchdiffeq dopri5 at rtol 1e-6",
    run=race,
    contenders=(ours("LSSL bank", **LAYER), ours("torchdiffeq dopri5", view=DOPRI5, **LAYER)),
    sizes=Sizes(batch=8, length=2),
    quick=Sizes(2, 2, 2, 4),
    repetitions=3,
    peaks=False,
    targets={"torchdiffeq dopri5, forward": at_least(500), "torchdiffeq dopri5, forward + backward": at_least(500)},
    notes=(
        "Both run the same layer and the same rows, B=8 and L=2 only, so that the solver comes to an end: it takes "
        "hundreds of evaluations a gap, ours one step. At this size ours is all overhead, which is to its "
        "disadvantage. rtol = atol = 1e-6, gradients through the solver's steps.",
    ),
)
