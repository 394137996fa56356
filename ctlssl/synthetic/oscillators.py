"""Damped oscillators whose frequency only a clock can tell."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ctlssl.synthetic.records import as_dataset, check_count, check_numbers, source

__all__ = ["generate"]


def generate(
    series: int = 1000,
    seed: int = 0,
    *,
    rows: int = 64,
    window: float = 6.0,
    periods: tuple[float, ...] = (3.0, 2.0),
    damping: float = 0.005,
    noise: float = 0.1,
) -> xr.Dataset:
    r"""Oscillations that are seen at random times, of one frequency a class.

        x(t) = a e^{-damping t} cos(2 pi t / period + phase),    y_k = x(t_k) + noise e_k

    Gaps, the first one from time 0 included, are uniform over (0, window), and the window is a whole number of every
    class's periods. So the phase advances from row to row by a uniform share of a turn, whatever the class: the values
    in their order, without the times, are those of independent phases. Damping alone breaks this, by nothing that
    could be learned: neighbours correlate by ``(damping period / 2 pi)^2``, 6e-6 at the defaults.

    Args:
        series: how many, of each class the same number or one more.
        seed: of all that is drawn.
        rows: of every series.
        window: longest gap, in seconds.
        periods: of each class, in seconds; each goes a whole number of times into the window.
        damping: rate of decay of the amplitude, in 1/s.
        noise: standard deviation of the noise; amplitudes are uniform over (0.5, 1.5).

    Returns:
        channel ``displacement``, label ``frequency`` (the class, a position in ``periods``), context ``period``,
        ``amplitude`` and ``phase``.

    Raises:
        ValueError: numbers that cannot be, or a window that is no whole number of a period.

    Example:
        >>> ds = generate(series=10, seed=1)
        >>> ds.sizes["obs"], ds["frequency"].values.sum()
        (640, np.int64(5))
    """
    draw = source(series, seed)
    check_count("rows", rows, 1)
    check_numbers(window=window, **{f"periods[{i}]": period for i, period in enumerate(periods)})
    check_numbers(zero=True, damping=damping, noise=noise)
    turns = window / np.asarray(periods, dtype=np.float64)
    if len(turns) < 2 or (np.abs(turns - np.round(turns)) > 1e-9 * turns).any() or (np.round(turns) < 1).any():
        raise ValueError(
            f"a window of {window} holds {turns.tolist()} periods; give two or more periods that go into it a whole "
            "number of times."
        )
    classes = draw.permutation(np.arange(series) % len(periods))
    period = np.asarray(periods, dtype=np.float64)[classes]
    times = np.cumsum(draw.uniform(0, window, (series, rows)), axis=1)  # (series, rows)
    amplitude, phase = draw.uniform(0.5, 1.5, series), draw.uniform(0, 2 * np.pi, series)
    turned = np.cos(2 * np.pi * times / period[:, None] + phase[:, None])  # (series, rows)
    values = amplitude[:, None] * np.exp(-damping * times) * turned + noise * draw.standard_normal(times.shape)
    return as_dataset(
        title=f"Damped oscillators of {len(periods)} frequencies at times that hide them",
        references="",
        truth={"window": window, "periods": list(periods), "damping": damping, "noise": noise},
        row_size=np.full(series, rows),
        time=times.ravel(),
        values={"displacement": values.ravel()},
        covariates={
            "frequency": ("label", classes),
            "period": ("context", period),
            "amplitude": ("context", amplitude),
            "phase": ("context", phase),
        },
        units={"period": "s", "phase": "rad"},
    )
