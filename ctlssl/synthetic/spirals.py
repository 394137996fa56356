"""Spirals in the plane, run through either way round."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ctlssl.synthetic.records import as_dataset, check_numbers, random_rows, random_times, source

__all__ = ["generate"]


def generate(
    series: int = 500,
    seed: int = 0,
    *,
    rows: tuple[int, int] = (30, 60),
    span: float = 12.0,
    noise: float = 0.1,
) -> xr.Dataset:
    r"""Archimedean spirals: half run outwards counter-clockwise, half inwards clockwise.

        outwards: angle = start + t,           inwards: angle = start - t,
        radius  = 1 + growth t,                radius  = 1 + growth (span - t)
        (x, y)  = radius (cos angle, sin angle) + noise e

    Args:
        series: how many, the same number or one more of those that run outwards.
        seed: of all that is drawn.
        rows: least and most rows of a series.
        span: times are uniform over (0, span), in seconds; an angle turns by one radian a second.
        noise: standard deviation of the noise on either coordinate.

    Returns:
        channels ``x`` and ``y``, label ``direction`` (0 outwards, 1 inwards), context ``start`` (angle at time 0) and
        ``growth`` (of the radius, uniform over 0.1 to 0.4 per second).

    Raises:
        ValueError: numbers that cannot be.

    References:
        The task is that of Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural Ordinary Differential Equations,
        arXiv:1806.07366, section 5.1, with each spiral's own growth.

    Example:
        >>> generate(series=4)["direction"].values.sum()
        np.int64(2)
    """
    draw = source(series, seed)
    check_numbers(span=span)
    check_numbers(zero=True, noise=noise)
    row_size = random_rows(draw, series, rows)
    time = random_times(draw, row_size, span)
    direction = draw.permutation(np.arange(series) % 2)
    start, growth = draw.uniform(0, 2 * np.pi, series), draw.uniform(0.1, 0.4, series)
    inwards, start_of, growth_of = (np.repeat(part, row_size) for part in (direction == 1, start, growth))  # (obs,)
    angle = start_of + np.where(inwards, -time, time)
    radius = 1 + growth_of * np.where(inwards, span - time, time)
    spread = noise * draw.standard_normal((2, len(time)))
    return as_dataset(
        title="Archimedean spirals at irregular times",
        references="Chen, Rubanova, Bettencourt, Duvenaud (2018), arXiv:1806.07366",
        truth={"span": span, "noise": noise},
        row_size=row_size,
        time=time,
        values={"x": radius * np.cos(angle) + spread[0], "y": radius * np.sin(angle) + spread[1]},
        covariates={
            "direction": ("label", direction),
            "start": ("context", start),
            "growth": ("context", growth),
        },
        units={"start": "rad", "growth": "1/s"},
    )
