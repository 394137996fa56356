"""One diagonal system whose drives B u come as states: the states in one loop over time, and the way back."""

from __future__ import annotations

from ctlssl.kernels import compiled_blocks as blocks
from ctlssl.kernels import compiled_lanes as lanes
from ctlssl.kernels.compiled_bank import STRIDE
from ctlssl.kernels.compiled_numbers import compiled
from ctlssl.kernels.compiled_vectors import LANES, borrowed, lane_sum

__all__ = ["states_backward", "states_forward"]

X, GX, GS, GDRIVE, GRAMP, GPOLE, GGAP = lanes.X, lanes.GX, lanes.GS, lanes.GDRIVE, lanes.GRAMP, lanes.GPOLE, lanes.GGAP


@compiled
def states_forward(
    first, last, rows, fixed, local, drive, second, gaps, kinds, poles, x, ramp, kick, alpha, shown, end, checkpoints
):
    """Shown states (B, L, 1, 2 n), end (B, 1, 2 n), checkpoints (B, S, 1, 2 n); a task is a series and LANES states."""
    n = poles.shape[1] // 2
    parts = -(-n // LANES)
    rows, fixed, local, gaps, kinds = borrowed(rows), borrowed(fixed), borrowed(local), borrowed(gaps), borrowed(kinds)
    drive, second, shown = borrowed(drive), borrowed(second), borrowed(shown)
    for task in range(first, last):
        b, state = task // parts, task % parts * LANES
        block = (0, 1, state, min(LANES, n - state))
        blocks.load(poles, block, local, fixed)
        now = 0
        blocks.gather(x[b], block, rows[now], X)
        for k in range(gaps.shape[1]):
            if k % STRIDE == 0 and checkpoints.shape[1]:
                blocks.scatter(checkpoints[b, k // STRIDE], block, rows[now], X)
            if kinds[b, k] == 0:
                continue
            row = rows[1 - now]
            lanes.discretize(row, local, fixed, gaps[b, k], alpha, ramp, kick)
            blocks.drive_states(row, block, drive[b, k], second[b, min(k, second.shape[1] - 1)], ramp)
            lanes.step(row, rows[now], ramp)
            blocks.scatter(shown[b, k], block, row, X)
            now = 1 - now if kinds[b, k] == 1 else now
        blocks.scatter(end[b], block, rows[now], X)


@compiled
def _replay(rows, before, local, fixed, block, drive, second, gaps, kinds, ramp, kick, alpha, start, stop):
    now = 0
    for k in range(start, stop):
        before[k - start] = now
        if kinds[k] == 0:
            continue
        row = rows[k - start + 1]
        lanes.discretize(row, local, fixed, gaps[k], alpha, ramp, kick)
        blocks.drive_states(row, block, drive[k], second[min(k, len(second) - 1)], ramp)
        lanes.step(row, rows[now], ramp)
        now = k - start + 1 if kinds[k] == 1 else now


@compiled
def _return(
    rows, before, work, fixed, block, gaps, kinds, ramp, kick, alpha, start, stop, gshown, gdrive, gsecond, ggaps
):
    for k in range(stop - 1, start - 1, -1):
        if kinds[k] == 0:
            continue
        committed = kinds[k] == 1
        blocks.gather(gshown[k], block, work, GS)
        if committed:
            for j in range(2 * LANES):
                work[GS + j] += work[GX + j]
        row = rows[k - start + 1]
        lanes.adjoint_step(work, row, rows[before[k - start]], fixed, gaps[k], alpha, ramp, kick, committed)
        blocks.scatter(gdrive[k], block, work, GDRIVE)
        if ramp:
            blocks.scatter(gsecond[k], block, work, GRAMP)
        if ggaps.size:
            ggaps[k] += lane_sum(work, GGAP)


@compiled
def states_backward(
    first, last, slots, rows, fixed, local, work, before, drive, second, gaps, kinds, poles, ramp, kick, alpha,
    checkpoints, gshown, gend, gdrive, gsecond, ggaps, gpoles, gx,
):  # fmt: skip
    """Adjoints of both drives (B, L, 1, 2 n), gaps (parts, B, L), poles (slots, 1, 2 n) and the start (B, 1, 2 n)."""
    n, L = poles.shape[1] // 2, gaps.shape[1]
    parts = -(-n // LANES)
    rows, fixed, local, work, before = (
        borrowed(rows), borrowed(fixed), borrowed(local), borrowed(work), borrowed(before),
    )  # fmt: skip
    drive, second, gaps, kinds = borrowed(drive), borrowed(second), borrowed(gaps), borrowed(kinds)
    gshown, gdrive, gsecond, ggaps = borrowed(gshown), borrowed(gdrive), borrowed(gsecond), borrowed(ggaps)
    for task in range(first, last):
        slot, part = task // parts, task % parts
        state = part * LANES
        block = (0, 1, state, min(LANES, n - state))
        blocks.load(poles, block, local, fixed)
        for b in range(slot, gaps.shape[0], slots):
            work[:] = 0
            blocks.gather(gend[b], block, work, GX)
            other = min(b, len(second) - 1)
            mine = ggaps[part, b] if ggaps.size else ggaps[0, 0]
            for start in range((L - 1) // STRIDE * STRIDE, -1, -STRIDE):
                stop = min(start + STRIDE, L)
                blocks.gather(checkpoints[b, start // STRIDE], block, rows[0], X)
                work[GPOLE : GPOLE + 2 * LANES] = 0
                _replay(
                    rows, before, local, fixed, block, drive[b], second[other], gaps[b], kinds[b], ramp, kick, alpha,
                    start, stop,
                )  # fmt: skip
                _return(
                    rows, before, work, fixed, block, gaps[b], kinds[b], ramp, kick, alpha, start, stop, gshown[b],
                    gdrive[b], gsecond[other], mine,
                )  # fmt: skip
                blocks.add_lanes(gpoles[slot], block, work, GPOLE)
            blocks.scatter(gx[b], block, work, GX)
