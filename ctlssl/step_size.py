r"""Step sizes: how many units of a layer's own time pass in one unit of its clock.

From one row to the next a layer's own time moves by a product of factors, each of which can be switched off:

    h_k = step * gate(u_k) * gap_k * rate
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ctlssl.series import TimeSeries

__all__ = ["SLOWEST_POLE", "STEP_SIZES", "StepSize", "initial_log_steps", "named_step_size", "step_range_from_gaps"]

_PER = (None, "layer", "channel", "state")
_GATES = (None, "row", "channel")

SLOWEST_POLE = 0.5
"""The poles of the measures start at a real part of -1/2 or beyond."""


@dataclasses.dataclass(frozen=True)
class StepSize:
    r"""Which factors h_k = step * gate(u_k) * gap_k * rate has; every field is a plain JSON value.

    The learned step is there always: `learn` without "step" fixes it, and `step_range=(1, 1)` then leaves it out.

    Args:
        per: what has a step of its own: "layer" (one in all), "channel" (each system of a bank) or "state" (each
            conjugate pair of a diagonal A). None is what the layer does by itself: "channel" in a bank, with several
            inputs "state" for a diagonal A and "layer" for the others.
        gate: a factor that depends on the input, softplus(w u_k + b), 1 at the start: "row", one a row, or "channel",
            one a row and channel of a bank, each read from all channels of the row; None is 1.
        gap: whether the gap counts; False: every row is one unit after the last observation.
        rate: whether the rate counts.

    Raises:
        ValueError: an unknown `per` or `gate`.

    References:
        Gu et al. (2021), LSSL, appendix B.3 (a step size a channel); Smith, Warrington, Linderman (2023), S5 (a step
        size a state); Gu, Dao (2023), Mamba, section 3.6 (softplus of the input).

    Example:
        >>> StepSize(per="state", gap=False)
        StepSize(per='state', gate=None, gap=False, rate=True)
    """

    per: str | None = None
    gate: str | None = None
    gap: bool = True
    rate: bool = True

    def __post_init__(self) -> None:
        for name, known in (("per", _PER), ("gate", _GATES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} of a step size is one of {known}; found {getattr(self, name)!r}")

    @property
    def plain(self) -> bool:
        """Whether gap and rate both count."""
        return self.gap and self.rate

    def resolved(self, multi_input: bool, paired: bool) -> StepSize:
        """The same with `per` named, once it fits the layer.

        Args:
            multi_input: whether one system reads all channels.
            paired: whether A is diagonal.

        Raises:
            ValueError: steps or gates of parts that this layer does not have.
        """
        per = self.per or (("state" if paired else "layer") if multi_input else "channel")
        if per == "state" and not paired:
            raise ValueError("a step size a state needs a diagonal A, whose states can go apart; use per='channel'")
        if multi_input and "channel" in (per, self.gate):
            raise ValueError("a multi-input layer has one system for all channels: no step size or gate a channel")
        return dataclasses.replace(self, per=per)

    def shape(self, channels: int, state_size: int, multi_input: bool) -> tuple[int, ...]:
        """Of the step sizes: (), (H,), (n,) or (H, n) with n conjugate pairs; of a resolved one."""
        each = (state_size // 2,) if multi_input else (channels, state_size // 2)
        return {"layer": (), "channel": (channels,), "state": each}[self.per]

    def heard(self, dt: Any, rate: Any) -> tuple[Any, Any]:
        """Of the gaps and the rate those that count, else what stands for one unit."""
        return dt if self.gap else None, rate if self.rate else 1.0


STEP_SIZES = {
    "plain": StepSize(),
    "per_layer": StepSize(per="layer"),
    "per_state": StepSize(per="state"),
    "gated": StepSize(gate="row"),
    "gated_per_channel": StepSize(gate="channel"),
    "without_gap": StepSize(gap=False),
    "without_rate": StepSize(rate=False),
}


def named_step_size(step_size: str | Mapping[str, Any] | StepSize) -> StepSize:
    """A step size from its name, from its fields as a dictionary, or itself.

    Raises:
        ValueError: a name or field that does not exist.

    Example:
        >>> named_step_size("gated") == named_step_size({"gate": "row"}) == StepSize(gate="row")
        True
    """
    if isinstance(step_size, StepSize):
        return step_size
    if isinstance(step_size, Mapping):
        known = [field.name for field in dataclasses.fields(StepSize)]
        if unknown := [name for name in step_size if name not in known]:
            raise ValueError(f"a step size has no field {unknown[0]!r}; it has {', '.join(known)}")
        return StepSize(**step_size)
    if not isinstance(step_size, str) or step_size not in STEP_SIZES:
        raise ValueError(f"unknown step size {step_size!r}; choose {', '.join(STEP_SIZES)} or a StepSize(...)")
    return STEP_SIZES[step_size]


def initial_log_steps(shape: tuple[int, ...], step_range: tuple[float, float]) -> Tensor:
    """Logarithms of step sizes spread evenly over a range, in random order.

    The evenly spread values cover the range also with few channels; the order is random so that a step size is not
    tied to the frequency of its place.

    Args:
        shape: of the result; () gives the geometric middle of the range.
        step_range: smallest and largest step size; a pole at Re = -1/2 remembers about 2 / step units of the clock.

    Raises:
        ValueError: a range that is not 0 < low <= high < inf.

    References:
        Gu et al. (2021), LSSL, appendix B.3 (log-uniform steps, one a channel).
    """
    low, high = step_range
    if not 0 < low <= high < math.inf:
        raise ValueError(f"step_range needs 0 < low <= high; found {tuple(step_range)}")
    count = math.prod(shape)
    if not shape or count == 1:
        return torch.full(shape, (math.log(low) + math.log(high)) / 2)
    return torch.linspace(math.log(low), math.log(high), count)[torch.randperm(count)].reshape(shape)


def step_range_from_gaps(
    gaps: Tensor | TimeSeries,
    lengths: Tensor | None = None,
    quantiles: tuple[float, float] = (0.05, 0.95),
    time_scale: float = 1.0,
) -> tuple[float, float]:
    """Where step sizes start so that time constants run from the shortest usual gap to the length of a record.

    With q the quantiles of the gaps between two rows of one series that are not 0, and T the median span of a series,
    time constants 1 / (step * 1/2) run from q_low to the larger of q_high and T. Give the training part alone.

    Args:
        gaps: time since the previous row, (B, L) or (L,), or the series themselves. The first gap of a series is a
            convention, and not counted.
        lengths: rows of each series, (B,); all if None, and those of the series where series are given.
        quantiles: of the gaps, between 0 and 1.
        time_scale: time of one unit of the layer's clock, in the unit of the gaps; a model has `problem.time_scale`.

    Returns:
        smallest and largest step size, for `step_range`.

    Raises:
        TypeError: series that are not padded.
        ValueError: no gap above 0, or quantiles or a time scale that cannot be.

    Example:
        >>> step_range_from_gaps(torch.tensor([1.0, 2.0, 2.0, 2.0, 94.0]), quantiles=(0.0, 1.0))
        (0.02, 1.0)
    """
    low, high = quantiles
    if not (0 <= low <= high <= 1 and 0 < time_scale < math.inf):
        raise ValueError(f"need 0 <= low <= high <= 1 and time_scale > 0; found {tuple(quantiles)} and {time_scale}")
    if isinstance(gaps, TimeSeries):
        gaps, lengths = gaps.gaps(), gaps.lengths
    elif hasattr(gaps, "to_series"):
        raise TypeError(f"gaps are numbers or a TimeSeries; found {type(gaps).__name__}, pass its to_series()")
    gaps = torch.as_tensor(gaps).detach().to(torch.float64)
    rows = gaps.reshape(1, -1) if gaps.ndim < 2 else gaps  # (B, L)
    counted = torch.arange(rows.shape[1], device=rows.device) > 0
    if lengths is not None:
        counted = counted & (torch.arange(rows.shape[1], device=rows.device) < lengths.reshape(-1, 1))
    rows = torch.where(counted, rows, 0)
    spans, positive = rows.sum(1), rows[rows > 0]  # (B,), (K,)
    if not positive.numel() or not positive.isfinite().all():
        raise ValueError("no two rows of a series are apart by a finite time: there are no gaps to start from")
    shortest, longest = _quantile(positive, low), _quantile(positive, high)
    longest = max(longest, _quantile(spans[spans > 0], 0.5))
    return time_scale / (SLOWEST_POLE * longest), time_scale / (SLOWEST_POLE * shortest)


def _quantile(values: Tensor, level: float) -> float:
    """The smallest value that a share `level` of all does not exceed; torch.quantile refuses more than 2^24 values."""
    place = max(math.ceil(level * values.numel()), 1)
    return values.kthvalue(place).values.item()
