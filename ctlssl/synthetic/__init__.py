"""Made-up data whose truth is known exactly: one generator a file, each in the one schema.

`GENERATORS[name](series=..., seed=...)` draws a Dataset, the same for the same seed; what generated it stands in its
attribute ``truth``, as JSON, and what differs from series to series in variables of role "context".
`ctlssl.load_dataset(name)` draws it with the generator's defaults.
"""

from collections.abc import Callable

import xarray as xr

from ctlssl.synthetic import (
    drug_kinetics,
    jumps,
    linear_system,
    ornstein_uhlenbeck,
    oscillators,
    pendulum,
    spirals,
)

__all__ = [
    "GENERATORS",
    "drug_kinetics",
    "jumps",
    "linear_system",
    "ornstein_uhlenbeck",
    "oscillators",
    "pendulum",
    "spirals",
]

GENERATORS: dict[str, Callable[..., xr.Dataset]] = {
    module.__name__.rpartition(".")[2]: module.generate
    for module in (drug_kinetics, jumps, linear_system, ornstein_uhlenbeck, oscillators, pendulum, spirals)
}
"""The generators by the name of their data set."""
