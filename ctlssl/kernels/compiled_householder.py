"""Compiled loops of a matrix memory under Householder steps, one series and head after another."""

import numpy as np

from ctlssl.kernels.compilation import compiled

__all__ = ["backward", "forward"]


@compiled(inside=True)
def advance(S, decay, keys, values, betas, left):
    """S <- decay S, then S <- S + beta_j k_j r_j^T with what is left of the value, r_j = v_j - S^T k_j, kept for all j.

    The memory is (N, P), keys (n, N), values and what is left (n, P).
    """
    N, P = S.shape
    for i in range(N):
        for p in range(P):
            S[i, p] *= decay
    for j in range(len(keys)):
        for p in range(P):
            left[j, p] = values[j, p]
        for i in range(N):
            factor = keys[j, i]
            for p in range(P):
                left[j, p] -= factor * S[i, p]
        for i in range(N):
            factor = betas[j] * keys[j, i]
            for p in range(P):
                S[i, p] += factor * left[j, p]


@compiled
def forward(first, last, keys, values, decays, betas, queries, kinds, x, shown, end, kept, stride):
    """Reads S_k^T q_k of every row into `shown`, the last memories into `end`, every `stride`-th into `kept`.

    Tasks are pairs of series and head; shapes as `householder_memory` has them.
    """
    M, N, P = x.shape[1:]
    n = keys.shape[3]
    S, asked, left = np.empty((N, P), x.dtype), np.empty((N, P), x.dtype), np.empty((n, P), x.dtype)
    for task in range(first, last):
        b, m = task // M, task % M
        S[:] = x[b, m]
        for k in range(keys.shape[1]):
            if kept.shape[1] and k % stride == 0:
                kept[b, k // stride, m] = S
            if kinds[b, k] == 0:
                continue
            T = S
            if kinds[b, k] == 2:
                asked[:] = S
                T = asked
            advance(T, decays[b, k, m], keys[b, k, m], values[b, k, m], betas[b, k, m], left)
            for i in range(N):
                factor = queries[b, k, m, i]
                for p in range(P):
                    shown[b, k, m, p] += factor * T[i, p]
        end[b, m] = S


@compiled(inside=True)
def step_back(G, S, keys, values, betas, left, gleft, gkeys, gvalues, gbetas):
    """Turn G, the adjoint of the memory after the steps, into that before them, and S, the memory, with it."""
    N, P = S.shape
    for j in range(len(keys) - 1, -1, -1):
        gleft[:] = 0
        for i in range(N):
            factor = keys[j, i]
            for p in range(P):
                gleft[p] += factor * G[i, p]
        total = left[j, 0] * gleft[0]
        for p in range(1, P):
            total += left[j, p] * gleft[p]
        gbetas[j] = total
        for p in range(P):
            gleft[p] *= betas[j]
            gvalues[j, p] = gleft[p]
        for i in range(N):
            factor, written = keys[j, i], betas[j] * keys[j, i]
            total = 0 * factor
            for p in range(P):
                S[i, p] -= written * left[j, p]
                total += betas[j] * left[j, p] * G[i, p] - S[i, p] * gleft[p]
                G[i, p] -= factor * gleft[p]
            gkeys[j, i] = total


@compiled
def backward(
    first, last, keys, values, decays, betas, queries, kinds, kept, gshown, gend,
    gkeys, gvalues, gdecays, gbetas, gqueries, gx, stride,
):  # fmt: skip
    """Adjoints of all that `forward` reads; memories come again from those kept, a tile of rows at a time."""
    M, N, P = gx.shape[1:]
    L, n, dtype = keys.shape[1], keys.shape[3], gx.dtype
    S, A, G = np.empty((N, P), dtype), np.empty((N, P), dtype), np.empty((N, P), dtype)
    left, gleft, before = np.empty((n, P), dtype), np.empty(P, dtype), np.empty((min(stride, L), N, P), dtype)
    for task in range(first, last):
        b, m = task // M, task % M
        G[:] = gend[b, m]
        for tile in range(kept.shape[1] - 1, -1, -1):
            start, stop = tile * stride, min((tile + 1) * stride, L)
            S[:] = kept[b, tile, m]
            for k in range(start, stop):
                before[k - start] = S
                if kinds[b, k] == 1:
                    advance(S, decays[b, k, m], keys[b, k, m], values[b, k, m], betas[b, k, m], left)
            for k in range(stop - 1, start - 1, -1):
                if kinds[b, k] == 0:
                    continue
                decay, row = decays[b, k, m], before[k - start]
                S[:] = row
                advance(S, decay, keys[b, k, m], values[b, k, m], betas[b, k, m], left)
                for i in range(N):
                    total = 0 * decay
                    for p in range(P):
                        total += S[i, p] * gshown[b, k, m, p]
                        A[i, p] = queries[b, k, m, i] * gshown[b, k, m, p]
                        if kinds[b, k] == 1:
                            A[i, p] += G[i, p]
                            G[i, p] = 0
                    gqueries[b, k, m, i] = total
                given = (keys[b, k, m], values[b, k, m], betas[b, k, m], left, gleft)
                step_back(A, S, *given, gkeys[b, k, m], gvalues[b, k, m], gbetas[b, k, m])
                total = 0 * decay
                for i in range(N):
                    for p in range(P):
                        total += A[i, p] * row[i, p]
                        G[i, p] += decay * A[i, p]
                gdecays[b, k, m] = total
        gx[b, m] = G
