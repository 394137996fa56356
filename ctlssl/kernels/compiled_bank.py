"""A bank of diagonal single-input systems: discretize, step and read in one loop over time, and the way back.

Every function runs the tasks first <= task < last; a task is one slot of the batch and a group of channels, so that
no two write to one place and sums are taken in one order, whoever runs them.
"""

from __future__ import annotations

from ctlssl.kernels import compiled_blocks as blocks
from ctlssl.kernels import compiled_lanes as lanes
from ctlssl.kernels.compiled_numbers import compiled
from ctlssl.kernels.compiled_vectors import LANES, borrowed, lane_sum

__all__ = ["STRIDE", "bank_backward", "bank_forward"]

STRIDE = 64
"""Rows between two checkpoints of the state."""

INPUT, X, GX, GPOLE, GGAP = lanes.INPUT, lanes.X, lanes.GX, lanes.GPOLE, lanes.GGAP


@compiled
def _load(poles, B, C, block, local, fixed, outputs):
    blocks.load(poles, block, local, fixed)
    blocks.gather(B, block, fixed, INPUT)
    outputs[:] = 0
    for m in range(C.shape[0]):
        blocks.gather(C[m], block, outputs[m], 0)


@compiled
def bank_forward(
    first, last, rows, fixed, local, outputs, u, held, gaps, kinds, poles, B, C, x, hold, alpha, y, end, checkpoints
):
    """Y (B, L, H, M) += C x, end (B, H, 2 n), checkpoints (B, S, H, 2 n); C as (M, H, 2 n)."""
    H, n = poles.shape[0], poles.shape[1] // 2
    groups = -(-H // max(1, LANES // n))
    ramp, kick = hold[1] != 0 or hold[3] != 0, hold[4] != 0
    rows, fixed, local, outputs = borrowed(rows), borrowed(fixed), borrowed(local), borrowed(outputs)
    u, held, gaps, kinds, y, hold = (
        borrowed(u),
        borrowed(held),
        borrowed(gaps),
        borrowed(kinds),
        borrowed(y),
        borrowed(hold),
    )
    for task in range(first, last):
        b = task // groups
        channel, count = blocks.block_of(task % groups, H, n)
        for state in range(0, n, LANES):
            block = (channel, count, state, min(LANES, n - state))
            _load(poles, B, C, block, local, fixed, outputs)
            now = 0
            blocks.gather(x[b], block, rows[now], X)
            for k in range(gaps.shape[1]):
                if k % STRIDE == 0 and checkpoints.shape[1]:
                    blocks.scatter(checkpoints[b, k // STRIDE], block, rows[now], X)
                if kinds[b, k] == 0:
                    continue
                row = rows[1 - now]
                lanes.discretize(row, local, fixed, gaps[b, k], alpha, ramp, kick)
                blocks.drive_bank(row, fixed, block, u[b, k], held[b, k], hold, ramp)
                lanes.step(row, rows[now], ramp)
                blocks.read_bank(row, outputs, block, y[b, k])
                now = 1 - now if kinds[b, k] == 1 else now
            blocks.scatter(end[b], block, rows[now], X)


@compiled
def _replay(rows, before, local, fixed, block, u, held, gaps, kinds, hold, alpha, start, stop):
    """States, coefficients and drives of rows start to stop, from the checkpoint in rows[0]."""
    ramp, kick = hold[1] != 0 or hold[3] != 0, hold[4] != 0
    now = 0
    for k in range(start, stop):
        before[k - start] = now
        if kinds[k] == 0:
            continue
        row = rows[k - start + 1]
        lanes.discretize(row, local, fixed, gaps[k], alpha, ramp, kick)
        blocks.drive_bank(row, fixed, block, u[k], held[k], hold, ramp)
        lanes.step(row, rows[now], ramp)
        now = k - start + 1 if kinds[k] == 1 else now


@compiled
def _return(
    rows, before, work, fixed, outputs, sums, block, gaps, kinds, hold, alpha, start, stop, gy, gu, gheld, ggaps
):
    """Rows start to stop backward; sums (1 + M, 2 LANES) for B and C."""
    ramp, kick = hold[1] != 0 or hold[3] != 0, hold[4] != 0
    for k in range(stop - 1, start - 1, -1):
        if kinds[k] == 0:
            continue
        row, earlier = rows[k - start + 1], rows[before[k - start]]
        committed = kinds[k] == 1
        blocks.read_back(work, row, outputs, sums[1:], block, gy[k], committed)
        lanes.adjoint_step(work, row, earlier, fixed, gaps[k], alpha, ramp, kick, committed)
        blocks.return_bank(work, row, fixed, sums[0], block, hold, ramp, gu[k], gheld[min(k, len(gheld) - 1)])
        if ggaps.size:
            ggaps[k] += lane_sum(work, GGAP)


@compiled
def bank_backward(
    first, last, slots, rows, fixed, local, outputs, work, before, sums, u, held, gaps, kinds, poles, B, C, hold,
    alpha, checkpoints, gy, gend, gu, gheld, ggaps, gpoles, gB, gC, gx,
):  # fmt: skip
    """Adjoints: gu, gheld (B, L, H), ggaps (groups, B, L), gx (B, H, 2 n); sums of a slot of the batch, float64.

    gpoles and gB are (slots, H, 2 n), gC is (slots, M, H, 2 n).
    """
    H, n = poles.shape[0], poles.shape[1] // 2
    groups = -(-H // max(1, LANES // n))
    L = gaps.shape[1]
    rows, fixed, local, outputs = borrowed(rows), borrowed(fixed), borrowed(local), borrowed(outputs)
    work, before, sums, hold = borrowed(work), borrowed(before), borrowed(sums), borrowed(hold)
    u, held, gaps, kinds, ggaps = borrowed(u), borrowed(held), borrowed(gaps), borrowed(kinds), borrowed(ggaps)
    gy, gu, gheld = borrowed(gy), borrowed(gu), borrowed(gheld)
    for task in range(first, last):
        slot, part = task // groups, task % groups
        channel, count = blocks.block_of(part, H, n)
        for state in range(0, n, LANES):
            block = (channel, count, state, min(LANES, n - state))
            _load(poles, B, C, block, local, fixed, outputs)
            for b in range(slot, gaps.shape[0], slots):
                blocks.gather(gend[b], block, work, GX)
                mine = ggaps[part, b] if ggaps.size else ggaps[0, 0]
                for start in range((L - 1) // STRIDE * STRIDE, -1, -STRIDE):
                    stop = min(start + STRIDE, L)
                    blocks.gather(checkpoints[b, start // STRIDE], block, rows[0], X)
                    sums[:] = 0
                    work[GPOLE : GPOLE + 2 * LANES] = 0
                    _replay(
                        rows, before, local, fixed, block, u[b], held[b], gaps[b], kinds[b], hold, alpha, start, stop
                    )
                    _return(
                        rows, before, work, fixed, outputs, sums, block, gaps[b], kinds[b], hold, alpha, start, stop,
                        gy[b], gu[b], gheld[min(b, len(gheld) - 1)], mine,
                    )  # fmt: skip
                    blocks.add_lanes(gpoles[slot], block, work, GPOLE)
                    blocks.add_lanes(gB[slot], block, sums[0], 0)
                    for m in range(C.shape[0]):
                        blocks.add_lanes(gC[slot, m], block, sums[1 + m], 0)
                blocks.scatter(gx[b], block, work, GX)
