"""How long the layers of a model remember, in the unit of the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ctlssl.contract import Model
from ctlssl.layers import LSSL, EventLSSL

if TYPE_CHECKING:
    import xarray

__all__ = ["timescales"]


def timescales(module: nn.Module, time_scale: float | None = None) -> xarray.Dataset:
    """Half-lives of every mode of every linear state-space layer in a module, ln 2 / |Re lambda|.

    They are those of the continuous systems, learned step sizes included, at rate 1 and at a gate of 1 where step sizes
    depend on the input. Infinite is what never decays. A layer whose step size does not have the gap moves by one unit
    a row whatever the time between rows: its half-lives are numbers of rows, and no time scale multiplies them.

    Args:
        module: a layer, a model, or anything that holds layers.
        time_scale: data time of one unit of the layers' clock; that of a model's problem, and else 1, if None.

    Returns:
        `half_life` over `layer` (by name), `system` (one a channel of a bank, one in all with several inputs) and
        `mode`, ascending; NaN where a layer has fewer than another. Along `layer` also `unit`: "the unit of the data's
        times", or "rows".

    Raises:
        ValueError: a module without such a layer, or a time scale that is not a positive number.

    Example:
        >>> from ctlssl import LSSLModel, Problem
        >>> problem = Problem("classification", channels=2, outputs=2, time_scale=0.5, horizon=48.0)
        >>> found = timescales(LSSLModel(problem, layers=2, state_size=8))
        >>> dict(found.half_life.sizes), found.layer.values.tolist()
        ({'layer': 2, 'system': 1, 'mode': 8}, ['blocks.0.layer', 'blocks.1.layer'])
    """
    import xarray

    if time_scale is None:
        time_scale = module.problem.time_scale if isinstance(module, Model) else 1.0
    if not 0 < time_scale < math.inf:
        raise ValueError(f"time_scale is data time of one unit of the clock, a positive number; found {time_scale!r}")
    layers = {name or "layer": part for name, part in module.named_modules() if isinstance(part, _LAYERS)}
    by_rows = {name: isinstance(part, LSSL) and not part.step_size.gap for name, part in layers.items()}
    found = {
        name: part.timescales().cpu().numpy() * (1.0 if by_rows[name] else time_scale) for name, part in layers.items()
    }
    if not found:
        raise ValueError(f"{type(module).__name__} has no linear state-space layer, whose time scales could be told")
    sizes = tuple(max(values.shape[axis] for values in found.values()) for axis in (0, 1))
    table = np.full((len(found), *sizes), np.nan)
    for row, values in zip(table, found.values(), strict=True):
        row[: values.shape[0], : values.shape[1]] = values
    units = ["rows" if rows else "the unit of the data's times" for rows in by_rows.values()]
    attributes = {"long_name": "half-life ln 2 / |Re lambda|", "units": " or ".join(sorted(set(units)))}
    columns = {"half_life": (("layer", "system", "mode"), table, attributes)}
    coords = {"layer": list(found), "unit": ("layer", units)}
    return xarray.Dataset(columns, coords=coords, attrs={"time_scale": float(time_scale)})


_LAYERS = (LSSL, EventLSSL)
