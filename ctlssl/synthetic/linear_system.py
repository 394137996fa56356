"""A linear system with an input, known to the last digit: for those who would recover it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ctlssl.synthetic.linear_motion import driven_states
from ctlssl.synthetic.records import as_dataset, check_count, check_numbers, source

__all__ = ["generate"]


def generate(
    series: int = 200,
    seed: int = 0,
    *,
    rows: int = 60,
    mean_gap: float = 0.25,
    poles: Sequence[tuple[float, float]] = ((-0.3, 2.0), (-0.8, 5.0)),
    hold: str = "next",
    driven_until: float | None = None,
    noise: float = 0.0,
) -> xr.Dataset:
    r"""Random inputs and the exact outputs of one system, at irregular times.

        x' = A x + B u,    y = C x,    A block-diagonal with a block [[re, -im], [im, re]] a pole,
        B = (1, 0, 1, 0, ...),    C = (1, 0, 1, 0, ...)

    The system rests at time 0, with u = 0; the first gap is the time of the first row. Gaps are exponential, inputs
    standard normal and independent. Between rows the input holds or runs straight, so that outputs are exact.

    Args:
        series: how many.
        seed: of all that is drawn.
        rows: of every series.
        mean_gap: mean time between rows, in seconds.
        poles: real and imaginary part of one pole of each pair, in 1/s.
        hold: "next" (u_k holds on (t_{k-1}, t_k], as method "zoh" reads it) or "linear" (as "foh" does).
        driven_until: inputs are 0 after it, so that what follows is the system's own motion; None never.
        noise: standard deviation of the noise on the outputs.

    Returns:
        channels ``input`` and ``output``; A, B, C and the eigenvalues are in the attribute ``truth``.

    Raises:
        ValueError: numbers that cannot be, or a pole that is not stable.

    Example:
        >>> import json
        >>> json.loads(generate(series=2).attrs["truth"])["eigenvalues"]
        [[-0.3, 2.0], [-0.3, -2.0], [-0.8, 5.0], [-0.8, -5.0]]
    """
    draw = source(series, seed)
    check_count("rows", rows, 1)
    check_numbers(mean_gap=mean_gap)
    check_numbers(zero=True, noise=noise)
    A = _blocks(poles)
    one = np.tile([1.0, 0.0], len(poles))  # (N,)
    row_size = np.full(series, rows)
    gaps = draw.exponential(mean_gap, (series, rows))
    time = np.cumsum(gaps, axis=1)
    inputs = draw.standard_normal((series, rows))
    if driven_until is not None:
        inputs[time > driven_until] = 0.0
    states = driven_states(A, one[:, None], row_size, gaps.ravel(), inputs.reshape(-1, 1), hold)  # (obs, N)
    pairs = [[re, sign * im] for re, im in poles for sign in (1, -1)]
    return as_dataset(
        title="Inputs and exact outputs of a linear system",
        references="",
        truth={"A": A.tolist(), "B": one.tolist(), "C": one.tolist(), "eigenvalues": pairs, "hold": hold},
        row_size=row_size,
        time=time.ravel(),
        values={"input": inputs.ravel(), "output": states @ one + noise * draw.standard_normal(series * rows)},
        covariates={},
        units={},
    )


def _blocks(poles: Sequence[tuple[float, float]]) -> np.ndarray:
    """The real block-diagonal matrix of pairs of poles, (N, N)."""
    if not len(poles) or not all(re < 0 for re, _ in poles):
        raise ValueError(f"poles are {list(poles)}; give one or more with a negative real part.")
    A = np.zeros((2 * len(poles), 2 * len(poles)))
    for i, (re, im) in enumerate(poles):
        A[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[re, -im], [im, re]]
    return A
