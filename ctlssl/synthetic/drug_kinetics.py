"""Two-compartment kinetics of a drug given by injection."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ctlssl.synthetic.linear_motion import kicked_states
from ctlssl.synthetic.records import as_dataset, check_numbers, random_rows, random_times, source

__all__ = ["TYPICAL", "generate"]

TYPICAL = {"clearance": 5.0, "central_volume": 20.0, "exchange": 8.0, "peripheral_volume": 40.0}
"""Of the typical subject: L/h, L, L/h, L."""


def generate(
    series: int = 500,
    seed: int = 0,
    *,
    doses: tuple[int, int] = (2, 6),
    samples: tuple[int, int] = (12, 30),
    dosed_until: float = 48.0,
    span: float = 72.0,
    variability: float = 0.3,
    noise: float = 0.1,
) -> xr.Dataset:
    r"""Concentrations after injections, each subject with rates of its own.

        A1' = -(CL/V1 + Q/V1) A1 + (Q/V2) A2,    A2' = (Q/V1) A1 - (Q/V2) A2,    A1 jumps by each dose
        concentration = A1 / V1 e^{noise e}

    Amounts are exact: a matrix exponential from event to event. A dose is a row of its own, in which no concentration
    is measured; the first one is given at time 0.

    Args:
        series: subjects.
        seed: of all that is drawn.
        doses: fewest and most doses of a subject, of 100, 200, ... or 500 mg each.
        samples: fewest and most samples, at times uniform over (0, span).
        dosed_until: no dose is given after it, in hours.
        span: of the samples, in hours.
        variability: standard deviation of the logarithm of each subject's parameters around `TYPICAL`.
        noise: standard deviation of the logarithm of a measurement.

    Returns:
        channels ``concentration`` and ``dose``, label ``clearance``, context ``central_volume``, ``exchange`` and
        ``peripheral_volume``.

    Raises:
        ValueError: numbers that cannot be.

    References:
        Gibaldi, Perrier (1982), Pharmacokinetics, chapter 2.

    Example:
        >>> ds = generate(series=2, doses=(1, 1), samples=(3, 3))
        >>> ds["dose"].notnull().values.astype(int)
        array([1, 0, 0, 0, 1, 0, 0, 0])
    """
    draw = source(series, seed)
    check_numbers(span=span, dosed_until=dosed_until)
    check_numbers(zero=True, variability=variability, noise=noise)
    rates = {name: typical * np.exp(variability * draw.standard_normal(series)) for name, typical in TYPICAL.items()}
    row_size, time, dose = _events(draw, series, doses, samples, dosed_until, span)
    kicks = np.stack([np.nan_to_num(dose), np.zeros_like(dose)], axis=1)  # (obs, 2)
    amounts = kicked_states(_matrices(rates), row_size, np.diff(time, prepend=0.0), kicks)  # (obs, 2)
    exact = amounts[:, 0] / np.repeat(rates["central_volume"], row_size)
    measured = np.where(np.isnan(dose), exact * np.exp(noise * draw.standard_normal(len(time))), np.nan)
    roles = {name: ("label" if name == "clearance" else "context", values) for name, values in rates.items()}
    return as_dataset(
        title="Two-compartment kinetics of a drug given by injection",
        references="Gibaldi, Perrier (1982), Pharmacokinetics",
        truth={"typical": TYPICAL, "variability": variability, "noise": noise, "dosed_until": dosed_until},
        row_size=row_size,
        time=time,
        values={"concentration": measured, "dose": dose},
        covariates=roles,
        units={
            "concentration": "mg/L",
            "dose": "mg",
            "clearance": "L/h",
            "central_volume": "L",
            "exchange": "L/h",
            "peripheral_volume": "L",
        },
        unit="h",
    )


def _events(
    draw: np.random.Generator,
    series: int,
    doses: tuple[int, int],
    samples: tuple[int, int],
    dosed_until: float,
    span: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of each subject (series,), their times (obs,) and the dose given (obs,), NaN in a sample."""
    given, taken = random_rows(draw, series, doses), random_rows(draw, series, samples)  # (series,)
    dose_times = random_times(draw, given, dosed_until)
    dose_times[np.cumsum(given) - given] = 0.0
    times = np.concatenate([dose_times, random_times(draw, taken, span)])
    amounts = np.concatenate([100.0 * draw.integers(1, 6, given.sum()), np.full(taken.sum(), np.nan)])
    owner = np.concatenate([np.repeat(np.arange(series), given), np.repeat(np.arange(series), taken)])
    order = np.lexsort((times, owner))
    return given + taken, times[order], amounts[order]


def _matrices(rates: dict[str, np.ndarray]) -> np.ndarray:
    """A of every subject, (series, 2, 2)."""
    out = rates["clearance"] / rates["central_volume"]
    over, back = rates["exchange"] / rates["central_volume"], rates["exchange"] / rates["peripheral_volume"]
    return np.stack([np.stack([-(out + over), back], -1), np.stack([over, -back], -1)], axis=-2)
