"""Declared policies for the values of a Dataset: ranges, variables that nobody expects, variables that never vary."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from ctlssl.schema import channels, check_dataset, position

__all__ = ["CONSTANT", "OUTSIDE", "UNKNOWN", "screen"]

OUTSIDE: dict[str, Callable[[np.ndarray, float, float], np.ndarray] | None] = {
    "error": None,
    "missing": lambda values, low, high: np.where((values >= low) & (values <= high), values, np.nan),
    "clip": np.clip,
}
"""What becomes of a value outside the plausible range of its variable."""

UNKNOWN = ("error", "drop")
"""What becomes of a variable that is not expected."""

CONSTANT = ("keep", "drop", "error")
"""What becomes of a variable that takes one value at most."""


def screen(
    ds: xr.Dataset,
    variables: Sequence[str] | None = None,
    unknown: str = "error",
    limits: Mapping[str, tuple[float, float]] | None = None,
    outside: str = "error",
    constant: str = "keep",
) -> xr.Dataset:
    """A Dataset after its variables and values have been held to what was declared of them.

    Args:
        ds: of the schema; it is not changed.
        variables: the channels that are expected; None: all that there are. One that is absent is left to
            `to_series`.
        unknown: what a channel beside them is: "error", or "drop".
        limits: the plausible range (low, high) of channels, both ends included; infinite where there is none.
        outside: what a value outside is: "error", "missing" (not observed), or "clip" to the nearer end.
        constant: what a channel is that takes one value at most in these data: "keep", "drop", or "error". To learn
            what to drop from the training part, screen that alone, and give ``variables`` for the rest.

    Returns:
        The Dataset with the channels and values that are left; no row is taken away.

    Raises:
        ValueError: what a policy "error" met, with series, position, variable, time and value; a policy that does not
            exist; limits of a channel that is not there, or that no value can meet.

    Example:
        >>> from ctlssl.tables import from_arrays
        >>> ds = from_arrays([[0.0, 1.0]], [[36.6, 366.0]], variables=["temperature"])
        >>> screen(ds, limits={"temperature": (25, 45)}, outside="missing")["temperature"].values
        array([36.6,  nan])
    """
    for name, policy, known in (
        ("unknown", unknown, UNKNOWN),
        ("outside", outside, OUTSIDE),
        ("constant", constant, CONSTANT),
    ):
        if policy not in known:
            raise ValueError(f"unknown {name}={policy!r}; choose from {', '.join(known)}.")
    check_dataset(ds)
    ds = _expected(ds, variables, unknown)
    ds = _in_range(ds, limits or {}, outside)
    return _varying(ds, constant)


def _expected(ds: xr.Dataset, variables: Sequence[str] | None, unknown: str) -> xr.Dataset:
    others = [] if variables is None else [name for name in channels(ds) if name not in set(variables)]
    if others and unknown == "error":
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise ValueError(
            f"variables that nobody expects: {', '.join(map(repr, others[:5]))}{more}; rename them to what is "
            'expected, or take unknown="drop".'
        )
    return ds.drop_vars(others)


def _in_range(ds: xr.Dataset, limits: Mapping[str, tuple[float, float]], outside: str) -> xr.Dataset:
    changed = {}
    for name, (low, high) in limits.items():
        if name not in channels(ds):
            raise ValueError(f"limits are given for {name!r}, which is no channel of the data.")
        if not low <= high or math.isnan(low):
            raise ValueError(f"limits of {name!r} are {low} and {high}; give the lower one first.")
        values = ds[name].values
        bad = np.flatnonzero((values < low) | (values > high))
        if len(bad) and OUTSIDE[outside] is None:
            row = int(bad[0])
            where = position(ds["series"].values, ds["row_size"].values, row)
            raise ValueError(
                f"{where}, time {ds['time'].values[row]}: {name} is {values[row]}, outside {low} to {high} "
                f'({len(bad)} such values); correct it, or take outside="missing" or "clip".'
            )
        if len(bad):
            changed[name] = ds[name].copy(data=OUTSIDE[outside](values, low, high))
    return ds.assign(changed)


def _varying(ds: xr.Dataset, constant: str) -> xr.Dataset:
    if constant == "keep":
        return ds
    still = [name for name in channels(ds) if len(np.unique(ds[name].values[~np.isnan(ds[name].values)])) < 2]
    if still and constant == "error":
        raise ValueError(f'variables with one value at most: {", ".join(map(repr, still))}; take constant="drop".')
    return ds.drop_vars(still)
