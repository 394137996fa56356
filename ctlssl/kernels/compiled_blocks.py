"""How states are dealt to lanes, and what a bank and a multi-input system do at both ends of a row.

States are pair arrays (H, 2 n), real parts first; a block is LANES of them, `count` channels of `width` states from
channel `channel` and state `state` on. Rows are of a kind: 0 padding, 1 committed, 2 a query.
"""

from __future__ import annotations

from ctlssl.kernels import compiled_lanes as lanes
from ctlssl.kernels.compiled_numbers import compiled
from ctlssl.kernels.compiled_vectors import LANES, add_weighted, inner, lane_sum, spread, weighted

__all__ = [
    "add_lanes",
    "block_of",
    "drive_bank",
    "drive_states",
    "gather",
    "load",
    "read_back",
    "read_bank",
    "return_bank",
    "scatter",
]

DRIVE, RAMP, X, GS, GDRIVE, GRAMP = lanes.DRIVE, lanes.RAMP, lanes.X, lanes.GS, lanes.GDRIVE, lanes.GRAMP
INPUT, INVERSE, POLE, FIXED = lanes.INPUT, lanes.INVERSE, lanes.POLE, lanes.FIXED


@compiled
def gather(source, block, target, start):
    """A block of source (H, 2 n) into two slots of a row."""
    channel, count, state, width = block
    n = source.shape[1] // 2
    for c in range(count):
        for j in range(width):
            target[start + c * width + j] = source[channel + c, state + j]
            target[start + LANES + c * width + j] = source[channel + c, n + state + j]


@compiled
def scatter(target, block, source, start):
    """Two slots of a row into a block of target (H, 2 n)."""
    channel, count, state, width = block
    n = target.shape[1] // 2
    for c in range(count):
        for j in range(width):
            target[channel + c, state + j] = source[start + c * width + j]
            target[channel + c, n + state + j] = source[start + LANES + c * width + j]


@compiled
def add_lanes(target, block, source, start):
    """The same, added."""
    channel, count, state, width = block
    n = target.shape[1] // 2
    for c in range(count):
        for j in range(width):
            target[channel + c, state + j] += source[start + c * width + j]
            target[channel + c, n + state + j] += source[start + LANES + c * width + j]


@compiled
def load(poles, block, local, fixed):
    """Poles of a block in float64, and 1 / lambda and lambda in the precision of the states."""
    local[:] = 0
    fixed[:] = 0
    gather(poles, block, local, 0)
    for j in range(LANES):
        x, y = local[j], local[LANES + j]
        size = x * x + y * y
        fixed[POLE + j], fixed[POLE + LANES + j] = x, y
        if size > 1e-60:
            fixed[INVERSE + j], fixed[INVERSE + LANES + j] = x / size, -y / size


@compiled(inline=True)
def _deal(row, start, block, weights):
    """One number a channel (count,) to its lanes."""
    _, count, _, width = block
    if count == 1:
        spread(row, start, weights[0])
    else:
        for c in range(count):
            for j in range(width):
                row[start + c * width + j] = weights[c]


@compiled(inline=True)
def _collect(row, start, block, sums):
    """Sums over the lanes of each channel (count,)."""
    _, count, _, width = block
    if count == 1:
        sums[0] = lane_sum(row, start)
    else:
        for c in range(count):
            value = row[start + c * width]
            for j in range(c * width + 1, (c + 1) * width):
                value += row[start + j]
            sums[c] = value


@compiled(inline=True)
def _mix(target, block, u, held, first, second):
    """First held + second u of the channels of a block."""
    T = target.dtype.type
    for c in range(block[1]):
        target[c] = T(first) * held[block[0] + c] + T(second) * u[block[0] + c]


@compiled
def drive_bank(row, fixed, block, u, held, hold, ramp):
    """B times the inputs u, held (H,) weighted for F and for G."""
    inputs = row[lanes.INPUTS :]
    _mix(inputs, block, u, held, hold[0], hold[2])
    _deal(row, lanes.WEIGHT, block, inputs)
    weighted(row, DRIVE, row, lanes.WEIGHT, fixed, INPUT)
    if ramp:
        _mix(inputs, block, u, held, hold[1], hold[3])
        _deal(row, lanes.RAMP_WEIGHT, block, inputs)
        weighted(row, RAMP, row, lanes.RAMP_WEIGHT, fixed, INPUT)


@compiled
def drive_states(row, block, first, second, ramp):
    """Drives (1, 2 n) that are given as states."""
    gather(first, block, row, DRIVE)
    if ramp:
        gather(second, block, row, RAMP)


@compiled
def read_bank(row, outputs, block, y):
    """C x added to y (H, M); outputs (M, 2 LANES)."""
    sums = row[lanes.INPUTS :]
    for m in range(y.shape[1]):
        inner(row, lanes.WORKING, row, X, outputs[m], 0)
        _collect(row, lanes.WORKING, block, sums)
        for c in range(block[1]):
            y[block[0] + c, m] += sums[c]


@compiled
def read_back(work, row, outputs, sums, block, gy, committed):
    """The adjoint of what a row shows, C* gy (+ that of the committed state), and gy x added to the sums for C."""
    if committed:
        work[GS : GS + 2 * LANES] = work[lanes.GX : lanes.GX + 2 * LANES]
    else:
        work[GS : GS + 2 * LANES] = 0
    for m in range(gy.shape[1]):
        _deal(work, lanes.DEALT, block, gy[block[0] :, m])
        add_weighted(work, GS, work, lanes.DEALT, outputs[m], 0)
        add_weighted(sums[m], 0, work, lanes.DEALT, row, X)


@compiled
def return_bank(work, row, fixed, sums, block, hold, ramp, gu, gheld):
    """Adjoints of u, held (H,), and of B added to sums (2 LANES,), from those of the drives."""
    T, dots = work.dtype.type, work[lanes.DOTS :]
    for part in range(2 if ramp else 1):
        start, weight = (GRAMP, lanes.RAMP_WEIGHT) if part else (GDRIVE, lanes.WEIGHT)
        add_weighted(sums, 0, row, weight, work, start)
        inner(work, lanes.DEALT, work, start, fixed, INPUT)
        _collect(work, lanes.DEALT, block, dots)
        for c in range(block[1]):
            gu[block[0] + c] += T(hold[2 + part]) * dots[c]
            if gheld.size:
                gheld[block[0] + c] += T(hold[part]) * dots[c]


@compiled
def block_of(part, H, n):
    """Channels of the part-th group: as many whole channels as fit, at least one."""
    group = max(1, LANES // n)
    channel = part * group
    return channel, min(group, H - channel)
