"""What event lists are made of: the kinds of their parts, and lists put side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from ctlssl.elapsed import exact_times

__all__ = ["padded", "promoted", "repeats"]

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_KINDS = {
    "times": ((*_WHOLE, *_REAL), torch.float64),
    "channel": (_WHOLE, torch.int64),
    "value": (_REAL, None),
    "lengths": (_WHOLE, torch.int64),
    "known": ((torch.bool,), torch.bool),
}
"""For each part: the dtypes that it may come in, and the one it gets (None: stays)."""


def promoted(name: str, part: object, kind: str | None = None) -> Tensor:
    """A part of events as the tensor that it must be.

    Args:
        name: what it is called, for the message.
        part: as given.
        kind: of which part it has the dtypes; None: the one of its name.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: times in integers that are no float64 numbers.
    """
    if not isinstance(part, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, found {type(part).__name__}; torch.as_tensor converts arrays.")
    allowed, wanted = _KINDS[kind or name]
    if part.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} must be one of {names}, found {part.dtype}.")
    return exact_times(name, part) if (kind or name) == "times" else part.to(wanted or part.dtype)


def repeats(keys: Tensor) -> Tensor:
    """How many equal keys stand before each one, (T,)."""
    order = torch.argsort(keys, stable=True)
    sorted_keys, place = keys[order], torch.arange(len(keys), device=keys.device)
    new = torch.ones_like(keys, dtype=torch.bool)
    new[1:] = sorted_keys[1:] != sorted_keys[:-1]
    first = torch.where(new, place, 0).cummax(0).values if len(keys) else place
    return torch.empty_like(keys).scatter_(0, order, place - first)


def padded(parts: dict[str, Tensor], series: Tensor, batch: int) -> tuple[dict[str, Tensor], Tensor]:
    """Lists (T,) in the order of their series as (B, E) with zeros behind, and how many each series has."""
    lengths = torch.bincount(series, minlength=batch)  # (B,)
    starts = lengths.cumsum(0) - lengths
    cell = series, torch.arange(len(series), device=series.device) - starts[series]
    shape = (batch, int(lengths.max()) if lengths.numel() else 0)
    return {name: part.new_zeros(shape).index_put(cell, part) for name, part in parts.items()}, lengths
