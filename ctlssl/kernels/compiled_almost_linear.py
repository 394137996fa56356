"""Compiled loops of the almost-linear recurrence: one series after another, and back."""

from __future__ import annotations

import numpy as np

from ctlssl.kernels.compilation import compiled

__all__ = ["backward", "forward"]


@compiled
def forward(a, f, b, columns, relus, given, interval, before, states):
    """States (B, L, N), and those that each row begins with, of which the first row's are given.

    Args:
        a: factors, (B, L, N).
        f: factors of what comes from the other states, (B, L, N).
        b: additions, (B, L, N).
        columns: W transposed.
        relus: how many states, the last ones, Phi* cuts off below 0.
        given: what the first D states are set to before every `interval`-th row, (B, L, D).
        interval: see there.
        before: states that a row begins with, (B, L, N).
        states: states after it.
    """
    B, L, N = b.shape
    mixed = np.empty(N, b.dtype)
    for s in range(B):
        for k in range(L):
            if k:
                before[s, k] = states[s, k - 1]
                if k % interval == 0:
                    before[s, k, : given.shape[2]] = given[s, k]
            mixed[:] = 0
            for j in range(N):
                seen = before[s, k, j]
                if j >= N - relus and seen < 0:
                    continue
                for i in range(N):
                    mixed[i] += columns[j, i] * seen
            for i in range(N):
                states[s, k, i] = a[s, k, i] * before[s, k, i] + f[s, k, i] * mixed[i] + b[s, k, i]


@compiled
def backward(a, f, W, relus, given, interval, before, grad, adjoint, carried):
    """Adjoints (B, L, N) of each row's state, and of the state before the first, (B, N), which begins as zeros."""
    B, L, N = grad.shape
    pushed = np.empty(N, grad.dtype)
    for s in range(B):
        for k in range(L - 1, -1, -1):
            pushed[:] = 0
            for i in range(N):
                adjoint[s, k, i] = grad[s, k, i] + carried[s, i]
                through = adjoint[s, k, i] * f[s, k, i]
                for j in range(N):
                    pushed[j] += through * W[i, j]
            for j in range(N):
                carried[s, j] = adjoint[s, k, j] * a[s, k, j]
                if j < N - relus or before[s, k, j] > 0:
                    carried[s, j] += pushed[j]
            if k and k % interval == 0:
                carried[s, : given.shape[2]] = 0
