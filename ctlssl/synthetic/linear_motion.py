"""The motion of linear systems, exact at every row, by scipy's matrix exponential."""

from __future__ import annotations

import numpy as np
import scipy.linalg

__all__ = ["driven_states", "kicked_states"]


def kicked_states(A: np.ndarray, row_size: np.ndarray, gaps: np.ndarray, kicks: np.ndarray) -> np.ndarray:
    r"""States of x' = A x that jump at their rows: x_k = e^{h_k A} x_{k-1} + kick_k, from x = 0 before the first row.

    Args:
        A: (N, N), or (series, N, N).
        row_size: (series,) rows of each series.
        gaps: (obs,) time since the row before; of the first row it does not matter.
        kicks: (obs, N).

    Returns:
        (obs, N), the states after the jump.
    """
    gaps = gaps.copy()
    gaps[np.cumsum(row_size) - row_size] = 0.0  # differences across series mean nothing
    own = np.repeat(np.broadcast_to(A, (len(row_size), *A.shape[-2:])), row_size, axis=0)  # (obs, N, N)
    steps = scipy.linalg.expm(gaps[:, None, None] * own)  # (obs, N, N)
    return _run(row_size, steps, kicks)


def driven_states(
    A: np.ndarray, B: np.ndarray, row_size: np.ndarray, gaps: np.ndarray, inputs: np.ndarray, hold: str
) -> np.ndarray:
    r"""States of x' = A x + B u from x = 0 and u = 0, exact for inputs that hold on or run straight between rows.

    With the constant (hold "next") or straight (hold "linear") course of u on (t_{k-1}, t_k], x_k is read off the
    exponential of one augmented matrix, in which u and its slope are states.

    Args:
        A: (N, N).
        B: (N, M).
        row_size: (series,) rows of each series.
        gaps: (obs,) time since the row before, of the first row time since the start.
        inputs: (obs, M) at the rows.
        hold: "next" (u_k holds on (t_{k-1}, t_k]) or "linear".

    Returns:
        (obs, N).

    Raises:
        ValueError: another hold.

    References:
        Van Loan (1978), Computing integrals involving the matrix exponential.
    """
    if hold not in ("next", "linear"):
        raise ValueError(f'hold is {hold!r}; it is "next" or "linear".')
    N, M = B.shape
    augmented = np.zeros((len(gaps), N + 2 * M, N + 2 * M))  # states x, u, and u' in units of 1 / gap
    augmented[:, :N, :N], augmented[:, :N, N : N + M] = gaps[:, None, None] * A, gaps[:, None, None] * B
    augmented[:, N : N + M, N + M :] = np.eye(M)
    steps = scipy.linalg.expm(augmented)  # (obs, N + 2 M, N + 2 M)
    before = np.concatenate([np.zeros((1, M)), inputs[:-1]])  # (obs, M)
    before[np.cumsum(row_size) - row_size] = 0.0
    if hold == "next":
        forced = steps[:, :N, N : N + M] @ inputs[..., None]  # (obs, N, 1)
    else:
        forced = steps[:, :N, N:] @ np.concatenate([before, inputs - before], axis=1)[..., None]
    return _run(row_size, steps[:, :N, :N], forced[..., 0])


def _run(row_size: np.ndarray, steps: np.ndarray, added: np.ndarray) -> np.ndarray:
    """x_k = steps_k x_{k-1} + added_k within each series, from 0, (obs, N)."""
    states = np.empty_like(added)
    row = 0
    for size in row_size:
        x = np.zeros(added.shape[1])
        for _ in range(size):
            x = states[row] = steps[row] @ x + added[row]
            row += 1
    return states
