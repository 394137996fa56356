"""How the systems of a batch are dealt to vectors of eight and to tasks: numbers that no count of threads changes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ctlssl.kernels.compiled_structured_lanes import LANES

__all__ = ["shares"]


@lru_cache(maxsize=64)
def shares(series: int, groups: int) -> tuple[np.ndarray, ...]:
    """Items of each vector (V, 8, 2), how many are real (V,), bounds of tasks (T + 1,), part of each task (T,).

    A task has some series of some groups. Tasks of one part share no group, so each part sums gradients by itself:
    results depend on these numbers, which follow from the shape, and never on threads.
    """
    blocks = max(1, groups // LANES)
    width = groups // blocks
    least = LANES if width % LANES == 0 or series * width < 16 * LANES else 4 * LANES
    parts = max(1, min(series, 32 // blocks, series * width // least))
    items, counts, bounds, homes = [], [], [0], []
    for part in range(parts):
        mine = range(series * part // parts, series * (part + 1) // parts)
        for block in range(blocks):
            channels = range(groups * block // blocks, groups * (block + 1) // blocks)
            pairs = [(b, g) for b in mine for g in channels]
            for start in range(0, len(pairs), LANES):
                here = pairs[start : start + LANES]
                counts.append(len(here))
                items.append(here + here[-1:] * (LANES - len(here)))
            bounds.append(len(items))
            homes.append(part)
    shape = (len(items), LANES, 2)
    return np.array(items, np.int64).reshape(shape), *(np.array(part, np.int64) for part in (counts, bounds, homes))
