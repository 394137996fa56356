"""Gaps between observations: times are differenced in their own numbers, and only then become float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["EXACT_INTEGERS", "NANOSECONDS", "gaps"]

NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "D": 86400 * 10**9,
    "W": 7 * 86400 * 10**9,
}
"""The units of time, as numpy and pandas write them."""

EXACT_INTEGERS = 2**53
"""Integers up to here are float64 numbers."""


def gaps(
    times: Tensor | np.ndarray | Sequence[Any],
    first: float | Tensor = 1.0,
    lengths: Tensor | Sequence[int] | None = None,
    unit: str | None = None,
) -> Tensor:
    """The time since the previous observation, dt_k = t_k - t_{k-1}, with dt_1 as given.

    Integers and datetimes are differenced as the integers that they are, and only then become float64: epoch
    nanoseconds lose nothing.

    Args:
        times: (L,) or (B, L), a tensor or array of numbers, or of numpy ``datetime64`` / ``timedelta64``.
        first: the first gap, a number or one per series (B,), in the unit of the result.
        lengths: (B,) rows of each series; gaps in padding are 0. None: every row is real.
        unit: the unit of the result ("h", "s", "ms", ...), needed for datetimes and only for them.

    Returns:
        float64 tensor of the shape of ``times``.

    Raises:
        TypeError: times that are neither numbers nor datetimes.
        ValueError: times that are not finite or go back, or a missing or superfluous unit.

    Example:
        >>> gaps([10, 11, 15])
        tensor([1., 1., 4.], dtype=torch.float64)
        >>> gaps(np.array(["2020-01-01T00:00", "2020-01-01T06:00"], dtype="datetime64[ns]"), first=0.0, unit="h")
        tensor([0., 6.], dtype=torch.float64)
    """
    ticks, per_unit = _ticks(times, unit)
    if ticks.ndim not in (1, 2):
        raise ValueError(f"times must be (L,) or (B, L), found shape {tuple(ticks.shape)}.")
    rows = ticks.unsqueeze(0) if ticks.ndim == 1 else ticks  # (B, L)
    if lengths is None:
        inside = torch.ones(rows.shape, dtype=torch.bool, device=rows.device)
    else:
        counts = torch.as_tensor(lengths, device=rows.device)
        check_lengths(counts, *rows.shape)
        inside = in_length(counts, rows.shape[1])
    check_times(rows.detach(), inside)
    if not rows.is_floating_point() and (inside[:, 1:] & (torch.diff(rows, dim=1) < 0)).any():
        raise ValueError("times: neighbours are more than 2**63 - 1 ticks apart; use a coarser resolution.")
    return difference(rows, first, inside, per_unit).reshape(ticks.shape)


def difference(times: Tensor, first: float | Tensor, inside: Tensor, per_unit: float = 1.0) -> Tensor:
    """The gaps of sound times (B, L), `first` at position 0, and 0 outside `inside`."""
    steps = torch.diff(times, dim=1).to(torch.float64) / per_unit  # (B, L-1)
    start = torch.as_tensor(first, dtype=torch.float64, device=times.device)
    if start.ndim and start.shape != times.shape[:1]:
        raise ValueError(f"first must be one number or one per series ({times.shape[0]},), found {tuple(start.shape)}.")
    if not bool(((start >= 0) & torch.isfinite(start)).all()):
        raise ValueError(
            f"the first gap must be finite and not negative, found {start.detach().reshape(-1)[:3].tolist()}."
        )
    start = start.reshape(-1, 1).expand(times.shape[0], 1)[:, : times.shape[1]]  # (B, 1), or nothing where L = 0
    dt = torch.cat([start, steps], dim=1)  # (B, L)
    return torch.where(inside, dt, torch.zeros_like(dt))


def exact_times(name: str, times: Tensor) -> Tensor:
    """Times as float64, refusing integers that it has no numbers for."""
    if not times.is_floating_point() and times.numel() and not torch.compiler.is_compiling():
        whole = times.to(torch.int64)  # of uint64 what is beyond int64 turns negative
        if int(whole.max()) > EXACT_INTEGERS or int(whole.min()) < (-EXACT_INTEGERS if times.dtype.is_signed else 0):
            raise ValueError(f"{name}: integers beyond 2**53 are no float64 numbers; subtract each series' origin.")
    return times.to(torch.float64)


def in_length(lengths: Tensor, length: int) -> Tensor:
    """Which rows are real, (B, L) bool."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)  # (B, L)


def check_lengths(lengths: Tensor, batch: int, length: int) -> None:
    """Refuse lengths that are not one integer in 0..length per series."""
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be integers, found {lengths.dtype}.")
    if lengths.shape != (batch,):
        raise ValueError(f"lengths must be ({batch},), one per series, found {tuple(lengths.shape)}.")
    bad = (lengths < 0) | (lengths > length)
    if bad.any():
        b = int(torch.nonzero(bad)[0])
        raise ValueError(f"series {b}: length {int(lengths[b])} is not in 0..{length}, the number of rows given.")


def check_times(times: Tensor, inside: Tensor) -> None:
    """Refuse times that are not finite or go back, naming the series and the position."""
    bad = inside & ~torch.isfinite(times)
    if bad.any():
        b, k = torch.nonzero(bad)[0].tolist()
        raise ValueError(f"series {b}, position {k}: time {times[b, k].item()} is not finite; drop the row.")
    back = inside[:, 1:] & (times[:, 1:] < times[:, :-1])  # (B, L-1)
    if back.any():
        b, k = torch.nonzero(back)[0].tolist()
        raise ValueError(
            f"series {b}, position {k + 1}: time {times[b, k + 1].item()} < previous {times[b, k].item()}; "
            "sort each series by time (the table readers do)."
        )


def _ticks(times: object, unit: str | None) -> tuple[Tensor, float]:
    """Numbers that can be differenced exactly, and how many of them make one unit of the result."""
    array = times if isinstance(times, Tensor) else np.asarray(times)
    kind = _tensor_kind(array) if isinstance(array, Tensor) else array.dtype.kind
    if kind not in "fiumM":
        raise TypeError(
            "times must be real numbers, datetime64 or timedelta64: convert text by pandas.to_datetime, "
            'and stamps with a time zone by .tz_convert("UTC").tz_localize(None).'
        )
    if (kind in "mM") != (unit is not None):
        raise ValueError(
            "unit is needed with datetime64 and timedelta64 times, and only with them: "
            f'found unit={unit!r}; give e.g. unit="h", or scale numbers yourself.'
        )
    if kind in "mM":
        return _datetime_ticks(array, unit)
    if isinstance(array, Tensor):
        return array.to(torch.float64 if kind == "f" else torch.int64), 1.0
    if kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError("times: integers beyond 2**63 - 1; subtract an origin first.")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64 if kind == "f" else np.int64)), 1.0


def _datetime_ticks(array: np.ndarray, unit: str) -> tuple[Tensor, float]:
    if unit not in NANOSECONDS:
        raise ValueError(f"unknown unit {unit!r}; choose from {', '.join(NANOSECONDS)}.")
    if np.isnat(array).any():
        raise ValueError(f"times: NaT at position {tuple(np.argwhere(np.isnat(array))[0].tolist())}; drop the row.")
    resolution, count = np.datetime_data(array.dtype)
    if resolution not in NANOSECONDS:  # years and months have no fixed length
        array, resolution, count = array.astype(f"{array.dtype.kind}8[s]"), "s", 1
    ticks = torch.from_numpy(np.ascontiguousarray(array).view(np.int64))
    return ticks, NANOSECONDS[unit] / (NANOSECONDS[resolution] * count)


def _tensor_kind(times: Tensor) -> str:
    """The letter that numpy has for the kind of a tensor's dtype."""
    if times.is_complex():
        return "c"
    if times.dtype == torch.bool:
        return "b"
    return "f" if times.is_floating_point() else "i"
