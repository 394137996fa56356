"""The container of irregular series that every model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctlssl.elapsed import check_lengths, check_times, difference, exact_times, gaps, in_length

__all__ = ["TimeSeries", "gaps", "series_index"]


@dataclass(frozen=True, eq=False)
class TimeSeries:
    """A right-padded batch of irregularly sampled series, checked once when it is made.

    Row ``l`` of series ``b`` holds what was seen at ``times[b, l]``. Rows from ``lengths[b]`` on are padding: their
    content, flags included, is never read. Where ``observed`` is False the content of ``values`` is never read either.

    Args:
        values: (B, L, D) floating point, any content (also NaN) where nothing was observed. Integers and booleans are
            promoted to torch's default dtype.
        times: (B, L) float64, non-decreasing within each length, in one unit of the user's choice. Other real dtypes
            are promoted where that is exact.
        observed: (B, L, D) bool, True = seen.
        lengths: (B,) int64, the number of rows of each series, 0 allowed.
        static: (B, S) floating point covariates of the whole series, finite, or None.

    Raises:
        TypeError: a part that is not a tensor, or of a dtype that has no exact promotion.
        ValueError: shapes that do not belong together, a length out of range, times that are not finite or go back,
            or an observed value that is not finite; the message names the series and the position.

    Example:
        >>> series = TimeSeries(
        ...     values=torch.tensor([[[1.0], [2.0]], [[3.0], [float("nan")]]]),
        ...     times=torch.tensor([[0.0, 0.5], [2.0, 0.0]], dtype=torch.float64),
        ...     observed=torch.tensor([[[True], [True]], [[True], [False]]]),
        ...     lengths=torch.tensor([2, 1]),
        ... )
        >>> series.batch, series.length, series.channels
        (2, 2, 1)
        >>> series.gaps(first=1.0)
        tensor([[1.0000, 0.5000],
                [1.0000, 0.0000]], dtype=torch.float64)
    """

    values: Tensor
    times: Tensor
    observed: Tensor
    lengths: Tensor
    static: Tensor | None = None

    def __post_init__(self) -> None:
        for name, promote in _PROMOTIONS.items():
            part = getattr(self, name)
            if name != "static" or part is not None:
                object.__setattr__(self, name, promote(name, part))
        _check_shapes(self)
        if not torch.compiler.is_compiling():  # what follows reads the data
            _check_content(self)

    @property
    def batch(self) -> int:
        """The number of series B."""
        return self.values.shape[0]

    @property
    def length(self) -> int:
        """The padded length L."""
        return self.values.shape[1]

    @property
    def channels(self) -> int:
        """The number of channels D."""
        return self.values.shape[2]

    @property
    def in_length(self) -> Tensor:
        """Which rows are real, (B, L) bool: False in padding."""
        return in_length(self.lengths, self.length)

    def __len__(self) -> int:
        return self.batch

    def gaps(self, first: float | Tensor = 1.0) -> Tensor:
        """The time since the previous row, dt_k = t_k - t_{k-1}, with dt_1 as given and 0 in padding.

        Args:
            first: the gap given to the first row, a number or one per series (B,), in units of ``times``.

        Returns:
            (B, L) float64.
        """
        return difference(self.times, first, self.in_length)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TimeSeries:
        """The same series on another device, or with values and static covariates of another dtype.

        Args:
            device: where all tensors go; None leaves them.
            dtype: a floating dtype for ``values`` and ``static``; times stay float64.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"values can only become a floating point dtype, found {dtype}.")
        static = self.static
        return _unchecked(
            self.values.to(device=device, dtype=dtype),
            self.times.to(device=device),
            self.observed.to(device=device),
            self.lengths.to(device=device),
            None if static is None else static.to(device=device, dtype=dtype),
        )

    def select(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> TimeSeries:
        """A sub-batch, its padding trimmed to its own longest series.

        Args:
            index: positions, a boolean flag per series, or a slice.

        Example:
            >>> seen = torch.ones(2, 3, 1, dtype=torch.bool)
            >>> times = torch.arange(3.0).expand(2, 3)
            >>> series = TimeSeries(torch.zeros(2, 3, 1), times, seen, torch.tensor([3, 1]))
            >>> series.select([1]).length
            1
        """
        index = series_index(index, self.lengths.device)
        lengths = self.lengths[index]
        longest = int(lengths.max()) if lengths.numel() else 0
        return _unchecked(
            self.values[index][:, :longest],
            self.times[index][:, :longest],
            self.observed[index][:, :longest],
            lengths,
            None if self.static is None else self.static[index],
        )


def series_index(index: Tensor | np.ndarray | Sequence[int] | slice, device: torch.device) -> Tensor | slice:
    """Which series, as tensors are indexed by them: positions, a boolean flag per series, or a slice; none is legal."""
    if isinstance(index, slice):
        return index
    index = torch.as_tensor(index, device=device)
    return index if index.numel() else index.long()


def _unchecked(values: Tensor, times: Tensor, observed: Tensor, lengths: Tensor, static: Tensor | None) -> TimeSeries:
    """A TimeSeries from parts that are known to be sound, without another pass over the data."""
    series = object.__new__(TimeSeries)
    parts = {"values": values, "times": times, "observed": observed, "lengths": lengths, "static": static}
    for name, part in parts.items():
        object.__setattr__(series, name, part)
    return series


def _tensor(name: str, part: object) -> Tensor:
    if not isinstance(part, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, found {type(part).__name__}; ctlssl.from_arrays reads arrays.")
    if part.is_complex():
        raise TypeError(f"{name} must be real, found {part.dtype}; give the two parts as two channels.")
    return part


def _promote_float(name: str, part: object) -> Tensor:
    part = _tensor(name, part)
    return part if part.is_floating_point() else part.to(torch.get_default_dtype())


def _promote_times(name: str, part: object) -> Tensor:
    part = _tensor(name, part)
    if part.dtype == torch.bool:
        raise TypeError(f"{name} must be float64, found torch.bool.")
    return exact_times(name, part)


def _promote_flags(name: str, part: object) -> Tensor:
    part = _tensor(name, part)
    if part.dtype != torch.bool:
        raise TypeError(f"{name} must be bool with True = seen, found {part.dtype}; convert it, e.g. flags == 1.")
    return part


def _promote_lengths(name: str, part: object) -> Tensor:
    part = _tensor(name, part)
    if part.is_floating_point() or part.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, found {part.dtype}.")
    return part.to(torch.int64)


_PROMOTIONS = {
    "values": _promote_float,
    "times": _promote_times,
    "observed": _promote_flags,
    "lengths": _promote_lengths,
    "static": _promote_float,
}


def _check_shapes(series: TimeSeries) -> None:
    values = series.values
    if values.ndim != 3:
        raise ValueError(f"values must be (B, L, D), found shape {tuple(values.shape)}; one series is values[None].")
    expected = {"times": values.shape[:2], "observed": values.shape, "lengths": values.shape[:1]}
    for name, shape in expected.items():
        found = getattr(series, name).shape
        if found != shape:
            raise ValueError(f"{name} must be {tuple(shape)} for values {tuple(values.shape)}, found {tuple(found)}.")
    static = series.static
    if static is not None and (static.ndim != 2 or static.shape[0] != values.shape[0]):
        raise ValueError(f"static must be ({values.shape[0]}, S), one row per series, found {tuple(static.shape)}.")
    for name in ("times", "observed", "lengths", "static"):
        part = getattr(series, name)
        if part is not None and part.device != values.device:
            raise ValueError(f"{name} is on {part.device} but values on {values.device}; move the parts to one device.")


@torch.no_grad()
def _check_content(series: TimeSeries) -> None:
    check_lengths(series.lengths, series.batch, series.length)
    inside = series.in_length
    check_times(series.times, inside)
    bad = series.observed & inside.unsqueeze(-1) & ~torch.isfinite(series.values)  # (B, L, D)
    if bad.any():
        b, k, d = torch.nonzero(bad)[0].tolist()
        raise ValueError(
            f"series {b}, position {k}, channel {d}: value {series.values[b, k, d].item()} is marked as observed; "
            "correct it, or set observed to False there."
        )
    if series.static is not None and not torch.isfinite(series.static).all():
        b, s = torch.nonzero(~torch.isfinite(series.static))[0].tolist()
        raise ValueError(
            f"series {b}: static covariate {s} is {series.static[b, s].item()}; "
            "fill it in, or make it a channel, where a value may be missing."
        )
