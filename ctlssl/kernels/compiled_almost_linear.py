"""Compiled loops of the almost-linear recurrence: one series after another, and back."""

from __future__ import annotations

import numpy as np

from ctlssl.kernels.compilation import compiled

__all__ = ["backward", "forward"]


@compiled
def forward(a, f, b, columns, floor, states):
    """States (B, 1 + L, N), of which the first are given; `columns` is W transposed, `floor` what Phi* cuts off at."""
    B, L, N = b.shape
    mixed = np.empty(N, b.dtype)
    for s in range(B):
        for k in range(L):
            mixed[:] = 0
            for j in range(N):
                seen = max(states[s, k, j], floor[j])
                for i in range(N):
                    mixed[i] += columns[j, i] * seen
            for i in range(N):
                states[s, k + 1, i] = a[s, k, i] * states[s, k, i] + f[s, k, i] * mixed[i] + b[s, k, i]


@compiled
def backward(a, f, W, floor, states, grad, adjoint, carried):
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
                if states[s, k, j] > floor[j]:
                    carried[s, j] += pushed[j]
