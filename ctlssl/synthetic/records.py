"""What the generators share: a seeded source, irregular times, and the Dataset that carries its truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ctlssl.schema import make_dataset

__all__ = ["as_dataset", "check_count", "check_numbers", "random_rows", "random_times", "source"]


def source(series: int, seed: int) -> np.random.Generator:
    """The source of all that a generator draws.

    Raises:
        ValueError: fewer than one series, or a negative seed.
    """
    check_count("series", series, 1)
    check_count("seed", seed, 0)
    return np.random.default_rng(seed)


def check_count(name: str, value: object, least: int) -> None:
    """Refuse what is not a whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number from {least} on.")


def check_numbers(zero: bool = False, **numbers: float) -> None:
    """Refuse numbers that are not finite and positive, or not negative where ``zero``."""
    for name, value in numbers.items():
        if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
            raise ValueError(f"{name} is {value!r}; give a finite number {'>=' if zero else '>'} 0.")


def random_rows(draw: np.random.Generator, series: int, rows: tuple[int, int]) -> np.ndarray:
    """A number of rows for each series, uniform from the least to the most, (series,).

    Raises:
        ValueError: a least number below 1, or above the most.
    """
    check_count("the least number of rows", rows[0], 1)
    check_count("the most rows", rows[1], rows[0])
    return draw.integers(rows[0], rows[1] + 1, size=series)


def random_times(draw: np.random.Generator, row_size: np.ndarray, span: float) -> np.ndarray:
    """Times uniform over (0, span), sorted within each series, (obs,)."""
    owner = np.repeat(np.arange(len(row_size)), row_size)  # (obs,)
    times = span * (1.0 - draw.random(len(owner)))  # never 0
    return times[np.lexsort((times, owner))]


def as_dataset(
    title: str,
    references: str,
    truth: Mapping[str, Any],
    row_size: np.ndarray,
    time: np.ndarray,
    values: Mapping[str, np.ndarray],
    covariates: Mapping[str, tuple[str, np.ndarray]],
    units: Mapping[str, str],
    unit: str = "s",
) -> xr.Dataset:
    """The Dataset of a generator.

    Args:
        title: one line.
        references: whom to cite.
        truth: what generated the data, JSON values.
        row_size: (series,) rows of each.
        time: (obs,).
        values: (obs,) numbers per channel.
        covariates: per variable over series its role and (series,) values.
        units: of channels and covariates.
        unit: of time.
    """
    ids = np.arange(len(row_size))
    ds = make_dataset(ids, row_size, time, unit, values, covariates, units)
    described = {"title": title, "references": references, "license": "none needed: generated", "truth": truth}
    return ds.assign_attrs({**described, "truth": json.dumps(truth)})
