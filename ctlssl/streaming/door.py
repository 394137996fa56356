"""What users hand to a stream, read and checked: which streams, when, what."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.elapsed import EXACT_INTEGERS

__all__ = [
    "LATE",
    "read_batch",
    "read_index",
    "read_queries",
    "read_rates",
    "read_static",
    "read_times",
    "read_values",
    "read_window",
    "which",
]

LATE = ("refuse", "replay")
"""What may be done with an observation that comes late."""


def read_batch(batch: Any) -> int:
    """The number of streams.

    Raises:
        ValueError: what is no number of streams.
    """
    try:
        count = operator.index(batch)
    except TypeError:
        raise ValueError(f"batch is {batch!r}; it is the number of streams") from None
    if count < 1:
        raise ValueError(f"batch is {count}; there must be a stream at least")
    return count


def read_window(late: Any, window: Any) -> float | None:
    """The window of "replay", None with "refuse".

    Raises:
        ValueError: another policy, a window that is no time span, or one that does not belong.
    """
    if late not in LATE:
        raise ValueError(f"late is {late!r}; it is one of {', '.join(LATE)}")
    if (window is None) != (late == "refuse"):
        raise ValueError(f"late={late!r} and window={window!r}: a window belongs to late='replay', and only to it")
    if window is None:
        return None
    if isinstance(window, bool) or not isinstance(window, int | float) or not 0 < window < math.inf:
        raise ValueError(f"window is {window!r}; it is a span of data time, positive and finite")
    return float(window)


def which(index: Tensor | None, row: int) -> int:
    """The number of the stream that a row speaks of."""
    return row if index is None else int(index[row])


def read_index(series: Any, batch: int, device: torch.device) -> Tensor | None:
    """The streams that a call speaks of, (M,) int64; None for all of them.

    Args:
        series: a number, several, or a flag a stream (B,).
        batch: B.
        device: of the result.

    Raises:
        TypeError: neither integers nor flags.
        ValueError: a stream that does not exist, or one named twice.
    """
    if series is None:
        return None
    try:
        index = torch.as_tensor(series, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"series numbers the streams, 0 to {batch - 1}; keep names beside it ({error})") from None
    if index.dtype == torch.bool:
        if index.shape != (batch,):
            raise ValueError(f"series has flags of shape {tuple(index.shape)}; give one a stream, ({batch},)")
        return index.nonzero()[:, 0]  # (M,)
    if index.is_floating_point() and index.numel() or index.is_complex():
        raise TypeError(f"series numbers the streams, by integers or flags; found {index.dtype}")
    index = index.to(torch.int64).reshape(-1) if index.ndim < 2 else index
    if index.ndim != 1:
        raise ValueError(f"series has shape {tuple(index.shape)}; give one number, or a list of them")
    outside = (index < 0) | (index >= batch)
    if bool(outside.any()):
        raise ValueError(f"there is no stream {int(index[outside][0])}; they are numbered 0 to {batch - 1}")
    if len(index) > 1 and bool((index.sort().values.diff() == 0).any()):
        twice = int(index.sort().values[1:][index.sort().values.diff() == 0][0])
        raise ValueError(f"stream {twice} is named twice in one call; call once a row, or give extend a TimeSeries")
    return index


def read_times(time: Any, count: int, index: Tensor | None, device: torch.device) -> Tensor:
    """The time of each of M streams, (M,) float64, NaN where none; memory of its own.

    Args:
        time: a number for all, or (M,).
        count: M.
        index: which streams they are, for messages.
        device: of the result.

    Raises:
        TypeError: dates, or what is no real number.
        ValueError: a shape that does not fit, or an infinite time.
    """
    times = _real("time", time)
    if times.shape not in {torch.Size([]), torch.Size([count])}:
        raise ValueError(f"time has shape {tuple(times.shape)}; give a number, or one a stream, ({count},)")
    times = times.to(device=device, dtype=torch.float64).expand(count).clone()  # (M,)
    _refuse_infinite("time", times, index)
    return times


def read_values(
    values: Any, observed: Any, size: tuple[int, int], index: Tensor | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Values (M, D), 0 where nothing was observed, and flags (M, D).

    Args:
        values: (M, D), or (D,) where there is one stream; NaN is not observed unless flags are given.
        observed: flags of the shape of values, or None.
        size: (M, D).
        index: which streams they are, for messages.
        like: a tensor of the device and dtype that the model computes in.

    Raises:
        TypeError: values that are no real numbers, or flags that are not boolean.
        ValueError: a shape that does not fit, or an observed value that is not finite in the dtype of the model.
    """
    given = _rows("values", _real("values", values), size).to(like)  # (M, D)
    if observed is None:
        flags = ~torch.isnan(given)  # (M, D)
    else:
        flags = torch.as_tensor(observed, device=like.device)
        if flags.dtype != torch.bool:
            raise TypeError(f"observed must be bool with True = seen, found {flags.dtype}; convert it, e.g. flags == 1")
        flags = _rows("observed", flags, size).clone()
    clean = torch.where(flags, given, torch.zeros_like(given))  # (M, D)
    if not bool(torch.isfinite(clean).all()):
        row, channel = (~torch.isfinite(clean)).nonzero()[0].tolist()
        raise ValueError(
            f"stream {which(index, row)}, channel {channel}: value {clean[row, channel].item()} is marked as observed "
            f"(in {like.dtype}); correct it, or give NaN and no flags where nothing was seen"
        )
    return clean, flags


def read_queries(time: Any, count: int, index: Tensor | None, device: torch.device) -> tuple[Tensor, bool]:
    """Query times (M, Q) float64, NaN where none is asked, and whether each stream has a list of them.

    Args:
        time: a number for all, (M,), or (M, Q).
        count: M.
        index: which streams they are, for messages.
        device: of the result.

    Raises:
        TypeError: dates, or what is no real number.
        ValueError: a shape that does not fit, or an infinite time.
    """
    times = _real("time", time)
    if times.ndim == 2:
        if len(times) != count:
            raise ValueError(f"time has shape {tuple(times.shape)}; give ({count}, queries), padded with NaN")
        queries = times.to(device=device, dtype=torch.float64)  # (M, Q)
        _refuse_infinite("time", queries, index)
        return queries, True
    return read_times(times, count, index, device)[:, None], False  # (M, 1)


def read_rates(rate: Any, batch: int, device: torch.device) -> Tensor:
    """The rate of each stream, (B,) float64.

    Raises:
        ValueError: unless it is one positive number, or one a stream.
    """
    rates = _real("rate", rate).to(device=device, dtype=torch.float64)
    if rates.shape not in {torch.Size([]), torch.Size([batch])}:
        raise ValueError(f"rate has shape {tuple(rates.shape)}; give a number or one a stream, ({batch},)")
    if not bool((torch.isfinite(rates) & (rates > 0)).all()):
        raise ValueError("rate multiplies elapsed times: it must be positive and finite")
    return rates.expand(batch).clone()  # (B,)


def read_static(static: Any, size: tuple[int, int], index: Tensor | None, like: Tensor) -> Tensor | None:
    """The static covariates (M, S) of M streams, None where the model reads none.

    Raises:
        ValueError: covariates that the model does not read, that are missing, of another shape, or not finite.
    """
    if not size[1]:
        if static is not None:
            raise ValueError("the model was built for series without static covariates; leave static out")
        return None
    if static is None:
        raise ValueError(f"the model reads {size[1]} static covariates; give static of shape {size}")
    given = _rows("static", _real("static", static), size).to(like, copy=True)  # (M, S)
    if not bool(torch.isfinite(given).all()):
        row, covariate = (~torch.isfinite(given)).nonzero()[0].tolist()
        raise ValueError(f"stream {which(index, row)}: static covariate {covariate} is {given[row, covariate].item()}")
    return given


def _rows(name: str, part: Tensor, size: tuple[int, int]) -> Tensor:
    """(M, width), or (width,) of the only stream: one reading is never given to several."""
    if part.shape == size:
        return part
    if part.ndim == 1 and (1, *part.shape) == size:
        return part[None]
    one = f", or ({size[1]},)" if size[0] == 1 else ""
    raise ValueError(f"{name} has shape {tuple(part.shape)}; give {size}, one row a stream{one}")


def _real(name: str, part: Any) -> Tensor:
    """A tensor of real numbers that float64 holds."""
    if not isinstance(part, Tensor):
        array = np.asarray(part)
        if array.dtype.kind not in "fiu":
            raise TypeError(
                f"{name} must be numbers, NaN where there is none; found {array.dtype}. "
                'A date becomes a number by (date - admission) / numpy.timedelta64(1, "h").'
            )
        exact = array.dtype.kind == "f" or not array.size or abs(array).max() <= EXACT_INTEGERS
        part = torch.from_numpy(np.ascontiguousarray(array, np.float64).reshape(array.shape))
    else:
        if part.is_complex() or part.dtype == torch.bool:
            raise TypeError(f"{name} must be real numbers; found {part.dtype}")
        exact = part.is_floating_point() or not part.numel() or int(part.abs().max()) <= EXACT_INTEGERS
    if not exact:
        raise ValueError(f"{name}: integers beyond 2**53 are no float64 numbers; subtract the origin of each stream")
    return part.detach()


def _refuse_infinite(name: str, times: Tensor, index: Tensor | None) -> None:
    infinite = torch.isinf(times)
    if bool(infinite.any()):
        row = int(infinite.nonzero()[0, 0])
        raise ValueError(f"stream {which(index, row)}: {name} is infinite; give NaN where there is none")
