"""The Ornstein-Uhlenbeck process, by its exact transition."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ctlssl.synthetic.records import as_dataset, check_numbers, random_rows, random_times, source

__all__ = ["generate"]


def generate(
    series: int = 500,
    seed: int = 0,
    *,
    rows: tuple[int, int] = (20, 60),
    span: float = 15.0,
    rate: float = 0.5,
    mean: float = 1.0,
    volatility: float = 1.0,
    noise: float = 0.0,
) -> xr.Dataset:
    r"""Noise that reverts to its mean: dx = rate (mean - x) dt + volatility dW, started in its stationary law.

        x_k = mean + e^{-rate h} (x_{k-1} - mean) + s(h) e_k,    s(h)^2 = volatility^2 (1 - e^{-2 rate h}) / (2 rate)

    The transition is exact for any gap h. Without noise the best forecast from the past is that of the last value, and
    its standard deviation is s(h).

    Args:
        series: how many.
        seed: of all that is drawn.
        rows: least and most rows of a series.
        span: times are uniform over (0, span), in seconds.
        rate: of reversion, in 1/s.
        mean: of the stationary law.
        volatility: of the noise that drives.
        noise: standard deviation of the noise of observation.

    Returns:
        channel ``value``; the rest is in the attribute ``truth``.

    Raises:
        ValueError: numbers that cannot be.

    References:
        Uhlenbeck, Ornstein (1930), On the theory of the Brownian motion. Gillespie (1996), Exact numerical simulation
        of the Ornstein-Uhlenbeck process and its integral.

    Example:
        >>> ds = generate(series=3, rows=(5, 5))
        >>> ds["row_size"].values
        array([5, 5, 5])
    """
    draw = source(series, seed)
    check_numbers(span=span, rate=rate, volatility=volatility)
    check_numbers(zero=True, noise=noise)
    row_size = random_rows(draw, series, rows)
    time = random_times(draw, row_size, span)
    gaps = np.diff(time, prepend=0.0)  # (obs,)
    gaps[np.cumsum(row_size) - row_size] = np.inf  # the first row of a series is drawn from the stationary law
    decay = np.exp(-rate * gaps)
    driven = volatility * np.sqrt(-np.expm1(-2 * rate * gaps) / (2 * rate)) * draw.standard_normal(len(gaps))
    deviation = np.empty(len(gaps))
    before = 0.0
    for k in range(len(gaps)):
        before = deviation[k] = decay[k] * before + driven[k]
    return as_dataset(
        title="Ornstein-Uhlenbeck process at irregular times",
        references="Uhlenbeck, Ornstein (1930), On the theory of the Brownian motion",
        truth={"rate": rate, "mean": mean, "volatility": volatility, "noise": noise},
        row_size=row_size,
        time=time,
        values={"value": mean + deviation + noise * draw.standard_normal(len(gaps))},
        covariates={},
        units={},
    )
