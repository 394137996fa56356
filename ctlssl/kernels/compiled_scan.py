r"""The recurrences x_k = a_k x_{k-1} + b_k, elementwise or with 2 x 2 blocks, over rows of numbers, and their adjoints.

A task is a series and a piece of its numbers, short enough that the state stays in the nearest memory.
"""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled

__all__ = ["PIECE", "block_back", "block_forward", "scan_back", "scan_forward"]

PIECE = 512
"""Numbers of a row that one task takes."""


@compiled
def scan_forward(first, last, pieces, a, b, x, out):
    """States to out (B, L, K), from a and b (B, L, K) and x (B, K)."""
    rows, numbers = b.shape[1], b.shape[2]
    for task in range(first, last):
        s, begin = task // pieces, task % pieces * PIECE
        end = min(begin + PIECE, numbers)
        for k in range(rows):
            for j in range(begin, end):
                before = x[s, j] if k == 0 else out[s, k - 1, j]
                out[s, k, j] = a[s, k, j] * before + b[s, k, j]


@compiled
def scan_back(first, last, pieces, a, x, out, grad, ga, gb, gx):
    """Adjoints ga, gb (B, L, K) and gx (B, K) from grad (B, L, K), out being the states; conjugates for complex."""
    rows, numbers = out.shape[1], out.shape[2]
    for task in range(first, last):
        s, begin = task // pieces, task % pieces * PIECE
        end = min(begin + PIECE, numbers)
        for k in range(rows - 1, -1, -1):
            for j in range(begin, end):
                g = grad[s, k, j]
                if k < rows - 1:
                    g = g + a[s, k + 1, j].conjugate() * gb[s, k + 1, j]
                before = x[s, j] if k == 0 else out[s, k - 1, j]
                gb[s, k, j] = g
                ga[s, k, j] = g * before.conjugate()
                if k == 0:
                    gx[s, j] = a[s, k, j].conjugate() * g


@compiled
def block_forward(first, last, pieces, M, b, x, out):
    """States to out (B, L, K, 2), from M (B, L, K, 2, 2), b (B, L, K, 2) and x (B, K, 2)."""
    rows, numbers = b.shape[1], b.shape[2]
    for task in range(first, last):
        s, begin = task // pieces, task % pieces * PIECE
        for k in range(rows):
            for j in range(begin, min(begin + PIECE, numbers)):
                if k == 0:
                    p, q = x[s, j, 0], x[s, j, 1]
                else:
                    p, q = out[s, k - 1, j, 0], out[s, k - 1, j, 1]
                out[s, k, j, 0] = M[s, k, j, 0, 0] * p + M[s, k, j, 0, 1] * q + b[s, k, j, 0]
                out[s, k, j, 1] = M[s, k, j, 1, 0] * p + M[s, k, j, 1, 1] * q + b[s, k, j, 1]


@compiled
def block_back(first, last, pieces, M, x, out, grad, gM, gb, gx):
    """Adjoints gM (B, L, K, 2, 2), gb (B, L, K, 2) and gx (B, K, 2)."""
    rows, numbers = out.shape[1], out.shape[2]
    for task in range(first, last):
        s, begin = task // pieces, task % pieces * PIECE
        for k in range(rows - 1, -1, -1):
            for j in range(begin, min(begin + PIECE, numbers)):
                g, h = grad[s, k, j, 0], grad[s, k, j, 1]
                if k < rows - 1:
                    u, v = gb[s, k + 1, j, 0], gb[s, k + 1, j, 1]
                    g = g + M[s, k + 1, j, 0, 0] * u + M[s, k + 1, j, 1, 0] * v
                    h = h + M[s, k + 1, j, 0, 1] * u + M[s, k + 1, j, 1, 1] * v
                if k == 0:
                    p, q = x[s, j, 0], x[s, j, 1]
                    gx[s, j, 0] = M[s, k, j, 0, 0] * g + M[s, k, j, 1, 0] * h
                    gx[s, j, 1] = M[s, k, j, 0, 1] * g + M[s, k, j, 1, 1] * h
                else:
                    p, q = out[s, k - 1, j, 0], out[s, k - 1, j, 1]
                gb[s, k, j, 0], gb[s, k, j, 1] = g, h
                gM[s, k, j, 0, 0], gM[s, k, j, 0, 1] = g * p, g * q
                gM[s, k, j, 1, 0], gM[s, k, j, 1, 1] = h * p, h * q
