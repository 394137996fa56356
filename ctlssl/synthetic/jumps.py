"""A linear system that is kicked at times of its own."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ctlssl.synthetic.linear_motion import kicked_states
from ctlssl.synthetic.records import as_dataset, check_numbers, random_rows, random_times, source

__all__ = ["generate"]


def generate(
    series: int = 500,
    seed: int = 0,
    *,
    kicks: tuple[int, int] = (2, 8),
    samples: tuple[int, int] = (20, 40),
    kicked_until: float = 10.0,
    span: float = 15.0,
    frequency: float = 1.5,
    damping: float = 0.1,
    noise: float = 0.05,
) -> xr.Dataset:
    r"""A damped mass on a spring, at rest until the first kick, each kick a jump of its velocity.

        x' = v,    v' = -(frequency^2 + damping^2) x - 2 damping v,    v jumps by each kick,    y_k = x(t_k) + noise e_k

    The eigenvalues are -damping +- i frequency. The motion is exact: a matrix exponential from event to event. A kick
    is a row of its own, in which the position is not seen.

    Args:
        series: how many.
        seed: of all that is drawn.
        kicks: fewest and most kicks, each standard normal.
        samples: fewest and most samples of the position, at times uniform over (0, span).
        kicked_until: no kick comes after it, in seconds.
        span: of the samples, in seconds.
        frequency: of the damped motion, in rad/s.
        damping: rate of decay, in 1/s.
        noise: standard deviation of the noise of a sample.

    Returns:
        channels ``position`` and ``kick``; A and the rest are in the attribute ``truth``.

    Raises:
        ValueError: numbers that cannot be.

    Example:
        >>> ds = generate(series=1, kicks=(1, 1), samples=(4, 4))
        >>> int(ds["position"].count()), int(ds["kick"].count())
        (4, 1)
    """
    draw = source(series, seed)
    check_numbers(span=span, kicked_until=kicked_until, frequency=frequency)
    check_numbers(zero=True, damping=damping, noise=noise)
    A = np.array([[0.0, 1.0], [-(frequency**2 + damping**2), -2 * damping]])
    given, seen = random_rows(draw, series, kicks), random_rows(draw, series, samples)  # (series,)
    times = np.concatenate([random_times(draw, given, kicked_until), random_times(draw, seen, span)])
    sizes = np.concatenate([draw.standard_normal(given.sum()), np.full(seen.sum(), np.nan)])
    owner = np.concatenate([np.repeat(np.arange(series), given), np.repeat(np.arange(series), seen)])
    order = np.lexsort((times, owner))
    time, kick, row_size = times[order], sizes[order], given + seen
    jumps = np.stack([np.zeros_like(kick), np.nan_to_num(kick)], axis=1)  # (obs, 2)
    states = kicked_states(A, row_size, np.diff(time, prepend=0.0), jumps)  # (obs, 2)
    position = np.where(np.isnan(kick), states[:, 0] + noise * draw.standard_normal(len(time)), np.nan)
    return as_dataset(
        title="A damped mass on a spring that is kicked",
        references="",
        truth={"A": A.tolist(), "frequency": frequency, "damping": damping, "noise": noise},
        row_size=row_size,
        time=time,
        values={"position": position, "kick": kick},
        covariates={},
        units={"position": "m", "kick": "m/s"},
    )
