"""The public door of a layer: what may come in, and what is said when something else does."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ctlssl.contract import check_precision
from ctlssl.views import State

__all__ = [
    "check_inputs",
    "check_lengths",
    "check_queries",
    "check_state",
    "found_shape",
    "full_precision",
    "one_column",
    "read_gaps",
]


def check_inputs(u: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Inputs (B, L, H) in the dtype the layer computes in: half precision and integers are promoted."""
    if not isinstance(u, Tensor) or u.ndim != 3 or u.shape[-1] != channels:
        raise ValueError(f"u needs shape (batch, length, {channels}); found {found_shape(u)}")
    if u.is_complex():
        raise TypeError("u must be real; pass real and imaginary parts as channels")
    check_precision(dtype)
    return u.to(torch.promote_types(torch.promote_types(u.dtype, dtype), torch.float32))


def check_lengths(lengths: Tensor | None, u: Tensor) -> Tensor | None:
    """Lengths (B,) between 0 and L."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths, device=u.device)
    if lengths.shape != u.shape[:1] or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths need {u.shape[0]} integers; found {lengths.dtype} of shape {tuple(lengths.shape)}")
    if torch.compiler.is_exporting():  # a program of tensors has no eyes for what is in them
        return lengths
    wrong = ((lengths < 0) | (lengths > u.shape[1])).nonzero()
    if len(wrong):
        series = wrong[0].item()
        raise ValueError(f"series {series}: length {lengths[series].item()} is not between 0 and {u.shape[1]}")
    return lengths


def check_queries(is_query: Tensor | None, u: Tensor) -> Tensor | None:
    """Query flags (B, L) or (L,), boolean; None if there is none."""
    if is_query is None:
        return None
    is_query = torch.as_tensor(is_query, device=u.device)
    if is_query.dtype != torch.bool or is_query.shape not in (u.shape[:2], u.shape[1:2]):
        found = f"{is_query.dtype} of shape {tuple(is_query.shape)}"
        raise ValueError(f"is_query needs booleans of shape {tuple(u.shape[:2])}; found {found}")
    return is_query.expand(u.shape[:2])


def check_state(state: State | None, batch: int, x_shape: tuple[int, ...], u_shape: tuple[int, ...]) -> State | None:
    """A state that belongs to this layer and batch."""
    if state is None:
        return None
    if not (isinstance(state, tuple) and len(state) == 2 and all(isinstance(part, Tensor) for part in state)):
        raise ValueError(f"state needs what forward, step or initial_state returned; found {type(state).__name__}")
    expected = ((batch, *x_shape), (batch, *u_shape))
    found = (tuple(state[0].shape), tuple(state[1].shape))
    if found != expected:
        raise ValueError(f"state needs x {expected[0]} and u {expected[1]}; found {found[0]} and {found[1]}")
    return State(*state)


def read_gaps(dt: Tensor | float | None, rate: Tensor | float, u: Tensor, lengths: Tensor | None) -> Tensor:
    """Gaps times rate, (B, L) float64, finite and not negative within the lengths."""
    B, L = u.shape[:2]
    dt, rated = _float64(1.0 if dt is None else dt, u), not (isinstance(rate, int | float) and rate == 1)
    if tuple(dt.shape) not in ((), (B, L), (L,)):
        raise ValueError(f"dt needs to be None, a number, ({L},) or ({B}, {L}); found shape {tuple(dt.shape)}")
    rate = _float64(rate, u) if rated else rate
    if rated and tuple(rate.shape) not in ((), (B,), (B, 1)):
        raise ValueError(f"rate needs to be a number or one a series, ({B},); found shape {tuple(rate.shape)}")
    alone, dt = dt.ndim == 0, dt.expand(B, L)
    if lengths is not None and not alone:
        dt = torch.where(torch.arange(L, device=u.device) < lengths[:, None], dt, 0)
    sound = _finite(dt, least=0)
    if not sound:
        _refuse_gaps(dt, lengths)
    if sound and not rated and not torch.is_grad_enabled():  # else kept for the way back, and must not be the caller's
        return dt
    rate = torch.as_tensor(rate, dtype=torch.float64, device=u.device)
    if not (_finite(rate, least=0) and (torch.compiler.is_exporting() or rate.all())):
        wrong = ~((rate > 0) & rate.isfinite())
        raise ValueError(f"rate must be positive and finite; found {rate[wrong].flatten()[0].item()}")
    # One number stays one number, expanded: the convolution may then learn it.
    one = alone and not rate.ndim and dt.numel() > 0
    gaps = (dt[0, 0] * rate).expand(B, L) if one else dt * (rate.reshape(-1, 1) if rate.ndim else rate)
    if not _finite(gaps):
        raise ValueError("dt times rate is not finite; scale the times to a sensible unit")
    return gaps


def _finite(numbers: Tensor, least: float = -math.inf) -> bool:
    """Whether all are finite and none is below the least, without a tensor of answers."""
    if torch.compiler.is_exporting():
        return True
    if numbers.numel() > 1:
        low, high = torch.stack(numbers.detach().aminmax()).tolist()  # NaN where one is NaN
    else:
        low = high = numbers.item() if numbers.numel() else 0.0
    return math.isfinite(low) and math.isfinite(high) and low >= least


def _refuse_gaps(dt: Tensor, lengths: Tensor | None) -> None:
    """Raise for the first gap (B, L) within the lengths that cannot be, if there is one."""
    bad = ~((dt >= 0) & dt.isfinite())
    if lengths is not None:
        bad = bad & (torch.arange(dt.shape[1], device=dt.device) < lengths[:, None])
    if bad.any():
        series, position = bad.nonzero()[0].tolist()
        raise ValueError(
            f"series {series}, position {position}: gap {dt[series, position].item()} is negative or not finite; "
            "sort the times, or drop the row"
        )


def _float64(value: Tensor | float, u: Tensor) -> Tensor:
    # A number must not pass through the default dtype: 0.1 in float32 is another gap.
    try:
        if isinstance(value, Tensor) and value.is_complex():
            raise TypeError("complex")
        return torch.as_tensor(value, dtype=torch.float64, device=u.device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"dt and rate need real numbers; found {value!r:.60}") from error


def one_column(dt: Tensor | float | None, batch: int) -> Tensor | float | None:
    """Gaps of one row each, (B,), as (B, 1); numbers, None and (B, Q) pass."""
    if dt is None or isinstance(dt, int | float):
        return dt
    dt = torch.as_tensor(dt)
    if dt.ndim == 1 and dt.shape[0] != batch:
        raise ValueError(f"dt needs to be a number or one a series, ({batch},); found shape {tuple(dt.shape)}")
    return dt[:, None] if dt.ndim == 1 else dt


def found_shape(u: object) -> str:
    """What something is, for a message that refuses it."""
    return f"shape {tuple(u.shape)}" if isinstance(u, Tensor) else type(u).__name__


def full_precision(device: str) -> AbstractContextManager:
    """Without autocast: half precision would lose the phases."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
