r"""HiPPO as a memory: a few coefficients from which the past of a signal is drawn again, from irregular samples.

Over all history (LegS, from the origin to now) and over a window that slides along (LegT). Both keep, in float64 on the
CPU, coefficients x of the normalised Legendre polynomials p_n = sqrt(2n+1) P_n on what they remember, so that

    u(s) ~ sum_n x_n p_n(2 (s - begin) / (now - begin) - 1),    begin <= s <= now.

The measure of LegS grows with time, x' = (A x + B u) / t: on the clock ln t that is x' = A x + B u, with the gaps
ln(t_k / t_{k-1}). It has an origin but no unit of time. The first sample is taken to have held since ever: the memory
of a constant is (u_1, 0, ..., 0) = -A^-1 B u_1.

How much is forgotten: exp(-3t) cos(3 pi t) on [0, 1], drawn again from its history after 2,000 samples; root mean
square error over that of the signal. The irregular gaps spread log-uniformly over two decades.

| N | zoh, uniform | zoh, irregular | foh, uniform | foh, irregular |
|---|---|---|---|---|
| 4 | .35 | .35 | .35 | .35 |
| 8 | .017 | .018 | .017 | .017 |
| 16 | .0025 | .0062 | .000027 | .00014 |

What is left at N = 16 is the hold: "zoh" lags by half a gap, "foh" is off by the curvature, and both hold the first
sample since the origin.

References:
    Gu, Dao, Ermon, Rudra, Re (2020), HiPPO: recurrent memory with optimal polynomial projections.
    Voelker, Kajic, Eliasmith (2019), Legendre memory units, for the window.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ctlssl import hippo
from ctlssl.discretization import Discretization, Rule, named_method
from ctlssl.elapsed import exact_times
from ctlssl.hippo_measures import check_size
from ctlssl.state_space import StateSpace
from ctlssl.views import State, recurrence

__all__ = ["Memory", "remember_history", "remember_window"]

_SLACK = 1e-9  # of what is remembered: times at its ends that rounding has moved out


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """What is remembered after each sample.

    Attributes:
        coefficients: of the normalised Legendre polynomials, (..., L, N) float64.
        times: of the samples, (..., L) float64.
        values: the samples, (..., L) float64.
        origin: when the history began; None for a window.
        window: length of the window; None for a history.
    """

    coefficients: Tensor
    times: Tensor
    values: Tensor
    origin: float | None = None
    window: float | None = None

    def span(self, row: int | Tensor = -1) -> tuple[Tensor, Tensor]:
        """Begin and end of what is remembered after a sample, (...) each."""
        now = self._of(self.times, row)
        return (now - self.window if self.origin is None else torch.full_like(now, self.origin)), now

    def reconstruct(self, times: Tensor, row: int | Tensor = -1) -> Tensor:
        """The signal at times that are remembered, drawn again from the coefficients after one sample.

        Args:
            times: (Q,) or (..., Q), within `span(row)`.
            row: the sample; one a series (...) in a batch whose series end at different rows.

        Returns:
            (..., Q) float64.

        Raises:
            ValueError: a time that is not remembered.
        """
        begin, now = (end[..., None] for end in self.span(row))
        place = (torch.as_tensor(times).to("cpu", torch.float64) - begin) / (now - begin)  # (..., Q), 0 to 1
        beyond = ~((place >= -_SLACK) & (place <= 1 + _SLACK))
        if beyond.any():
            *series, query = beyond.nonzero()[0].tolist()
            first, last = begin.expand(place.shape)[beyond][0].item(), now.expand(place.shape)[beyond][0].item()
            raise ValueError(
                f"series {tuple(series)}, query {query}: only {first:g} to {last:g} is remembered after that row; "
                "ask within it, or choose a later row"
            )
        basis = _legendre(place.clamp(0, 1), self.coefficients.shape[-1])  # (..., Q, N)
        return (basis @ self._of(self.coefficients.movedim(-2, -1), row)[..., None])[..., 0]

    def _of(self, rows: Tensor, row: int | Tensor) -> Tensor:
        """One row of each series, from (..., L) or (..., N, L)."""
        if not isinstance(row, Tensor):
            return rows[..., row]
        row = row.reshape(*row.shape, *(1,) * (rows.ndim - row.ndim))
        return rows.gather(-1, (row % rows.shape[-1]).expand(*rows.shape[:-1], 1))[..., 0]


def remember_history(
    values: Tensor,
    times: Tensor,
    state_size: int,
    method: str | Rule | Discretization = "foh",
    origin: float = 0.0,
    after: Memory | None = None,
) -> Memory:
    r"""LegS: all of the past since the origin, in N coefficients, every part of it with the same weight.

    dx / d ln t = A x + B u, stepped with the gaps ln(t_k / t_{k-1}), t counted from the origin. With an exact rule x is
    the orthogonal projection of the held signal itself: the error is what N polynomials leave, and what the hold does
    (first order in the gaps for "zoh", second for "foh", which draws straight lines over ln t).

    Args:
        values: samples u, (..., L), finite.
        times: (L,) or (..., L), not decreasing, after the origin.
        state_size: coefficients N.
        method: a discretization with a hold.
        origin: when the history began, in the unit of the times.
        after: what was remembered before; the first sample must not be earlier than its last.

    Raises:
        ValueError: samples, times or a method that cannot be.

    References:
        Gu, Dao, Ermon, Rudra, Re (2020), HiPPO: recurrent memory with optimal polynomial projections.

    Example:
        >>> times = torch.linspace(0.01, 1, 200, dtype=torch.float64) ** 1.5  # irregular
        >>> memory = remember_history(torch.cos(6 * times), times, state_size=12)
        >>> past = torch.linspace(0.1, 1, 50, dtype=torch.float64)
        >>> bool((memory.reconstruct(past) - torch.cos(6 * past)).abs().max() < 1e-3)
        True
    """
    values, times = _samples(values, times, after)
    if not math.isfinite(origin) or (after is not None and after.origin != origin):
        raise ValueError(f"the origin must be finite and that of the memory handed in; found {origin!r}")
    if not (times > origin).all():
        series = tuple((times <= origin).nonzero()[0].tolist())
        raise ValueError(f"time at {series} is not after the origin {origin:g}; give the time at which history began")
    last = times[..., :1] if after is None else after.times[..., -1:]
    before = torch.cat([last, times[..., :-1]], dim=-1)  # (..., L)
    gaps = torch.log1p((times - before) / (before - origin))  # so that small gaps keep their digits
    coefficients = _walk("legs", values, gaps, state_size, method, after)
    return Memory(coefficients, times, values, origin=origin)


def remember_window(
    values: Tensor,
    times: Tensor,
    window: float,
    state_size: int,
    method: str | Rule | Discretization = "foh",
    after: Memory | None = None,
) -> Memory:
    r"""LegT: the last `window` units of time, in N coefficients.

    x' = A x + B u, stepped with the gaps t_k - t_{k-1}. What leaves the window is told from the coefficients
    themselves, so that even an exact rule gives the projection of the held signal up to their own error there.

    Args:
        values: samples u, (..., L), finite.
        times: (L,) or (..., L), not decreasing.
        window: its length, in the unit of the times.
        state_size: coefficients N.
        method: a discretization with a hold.
        after: what was remembered before; the first sample must not be earlier than its last.

    Raises:
        ValueError: samples, times, a window or a method that cannot be.

    References:
        Gu, Dao, Ermon, Rudra, Re (2020), HiPPO: recurrent memory with optimal polynomial projections.

    Example:
        >>> times = torch.linspace(0, 1, 300, dtype=torch.float64) ** 1.5 * 5  # irregular
        >>> memory = remember_window(torch.cos(3 * times), times, window=2.0, state_size=12)
        >>> past = torch.linspace(3, 5, 50, dtype=torch.float64)
        >>> bool((memory.reconstruct(past) - torch.cos(3 * past)).abs().max() < 1e-2)
        True
    """
    values, times = _samples(values, times, after)
    if not (math.isfinite(window) and window > 0):
        raise ValueError(f"window must be a positive finite length of time, found {window!r}")
    if after is not None and after.window != window:
        raise ValueError(f"the memory handed in has window {after.window}; go on with the same, found {window:g}")
    last = times[..., :1] if after is None else after.times[..., -1:]
    gaps = torch.diff(times, dim=-1, prepend=last) / window  # (..., L)
    return Memory(_walk("legt", values, gaps, state_size, method, after), times, values, window=window)


def _walk(
    measure: str,
    values: Tensor,
    gaps: Tensor,
    N: int,
    method: str | Rule | Discretization,
    after: Memory | None,
) -> Tensor:
    """Coefficients after each sample, (..., L, N)."""
    method = named_method(method)
    if method.hold.kick:
        raise ValueError(
            f"method {method.name} has no hold, and a signal of impulses is not remembered; use foh or zoh"
        )
    check_size(N)
    if after is not None and after.coefficients.shape[-1] != N:
        raise ValueError(f"the memory handed in has {after.coefficients.shape[-1]} coefficients, not {N}")
    # A gbt rule steps the structured form at a cost of N a row; exact rules need the matrix.
    A, B = hippo.start("dense" if method.rule.tabulated else "quasiseparable", measure, N)
    eye = torch.eye(N, dtype=torch.float64)
    system = StateSpace(A, B[None], eye[None], 0 * B[None]).to(torch.float64)  # (1, N), (1, N, N), (1, N)
    rows = values.reshape(-1, values.shape[-1], 1)  # (R, L, 1)
    if after is None:
        first = rows[:, 0]  # (R, 1), held since ever
        x = torch.where(torch.arange(N) == 0, first, 0.0)[:, None]  # (R, 1, N), which is -A^-1 B u_1
    else:
        first, x = after.values[..., -1].reshape(-1, 1), after.coefficients[..., -1, :].reshape(-1, 1, N)
    steps = gaps.expand(values.shape).reshape(rows.shape[:2])  # (R, L)
    return recurrence(system, method, rows, steps, State(x, first)).y.reshape(*values.shape, N)


def _samples(values: Tensor, times: Tensor, after: Memory | None) -> tuple[Tensor, Tensor]:
    """Values (..., L) and times (..., L) in float64, found sound."""
    values = torch.as_tensor(values).to("cpu", torch.float64)
    times = exact_times("times", torch.as_tensor(times)).cpu()
    if not values.ndim or times.shape not in (values.shape, values.shape[-1:]) or not values.shape[-1]:
        found = f"{tuple(values.shape)} and {tuple(times.shape)}"
        raise ValueError(f"values need shape (..., L), times (L,) or the same, L at least 1; found {found}")
    for name, part in (("value", values), ("time", times)):
        if not part.isfinite().all():
            place = tuple((~part.isfinite()).nonzero()[0].tolist())
            raise ValueError(f"{name} at {place} is not finite; leave that sample out")
    times = times.expand(values.shape)
    if after is not None and after.times.shape[:-1] != times.shape[:-1]:
        raise ValueError(f"the memory handed in is of series {tuple(after.times.shape[:-1])}, not {times.shape[:-1]}")
    last = times[..., :1] if after is None else after.times[..., -1:]
    back = torch.diff(times, dim=-1, prepend=last) < 0
    if back.any():
        raise ValueError(f"time at {tuple(back.nonzero()[0].tolist())} is before the last one; sort the samples")
    return values, times


def _legendre(place: Tensor, N: int) -> Tensor:
    """The normalised Legendre polynomials sqrt(2n+1) P_n(2 place - 1), (..., N)."""
    z = 2 * place - 1
    found = [torch.ones_like(z), z]
    for n in range(1, N - 1):
        found.append(((2 * n + 1) * z * found[n] - n * found[n - 1]) / (n + 1))
    roots = torch.sqrt(2 * torch.arange(N, dtype=z.dtype) + 1)  # (N,)
    return torch.stack(found[:N], dim=-1) * roots
