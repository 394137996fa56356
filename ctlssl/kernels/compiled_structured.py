"""The recurrence of structured matrices, eight systems side by side, forward and back.

A task is a range of vectors of eight items; an item is one system of one series. Rows of parameters of an item: those
of the structure, then B and the heads of C, N each, where the inputs are scalars; elsewhere inputs are drives.
The forward pass keeps x every `stride` rows; the backward pass runs forward again from there, keeping a record a row.
"""

from __future__ import annotations

from ctlssl.kernels import compiled_structured_lanes as lanes
from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import splat, where_zero
from ctlssl.kernels.compiled_structured_lanes import LANES, add, put, take
from ctlssl.kernels.compiled_structured_rows import DRIVE, GX, SHOWN, block, shown_state, step, step_adjoint

__all__ = ["CLOCK", "backward", "forward"]

CLOCK = 4
"""Rows before the working blocks: gap, commits, input, and one to read into."""
GAP, COMMITS, INPUT, READ = range(CLOCK)


@compiled(inside=True)
def _drive(room, N, here, base, fixed, banked, inputs, kinds, items, order, k):
    """What drives row k at DRIVE: B times the scalar input, or the drive itself."""
    if not banked:
        lanes.gather_inputs(room, block(base, N, DRIVE), inputs, kinds, items, order, k)
        return
    lanes.gather_inputs(room, here + INPUT, inputs, kinds, items, order, k)
    w = take(room, here + INPUT)
    for i in range(N):
        put(room, block(base, N, DRIVE) + i, w * take(room, fixed + i))


@compiled(inside=True)
def _commit(room, N, base, at, to, commits):
    for i in range(N):
        put(room, to + i, where_zero(commits, take(room, at + i), take(room, block(base, N, SHOWN) + i)))


@compiled(inside=True)
def _read(room, N, here, base, fixed, banked, heads, y, kinds, items, count, order, k):
    """The outputs of row k: C x of every head, or the states themselves."""
    if not banked:
        lanes.give_inputs(room, block(base, N, SHOWN), y, kinds, items, count, order, k)
        return
    for m in range(heads):
        C = fixed + (1 + m) * N
        value = take(room, C) * take(room, block(base, N, SHOWN))
        for i in range(1, N):
            value = value + take(room, C + i) * take(room, block(base, N, SHOWN) + i)
        put(room, here + READ, value)
        for lane in range(count):
            b, g = items[lane, 0], items[lane, 1]
            if kinds[b, k] != 0:
                y[b, k, g, m] = room[(here + READ) * LANES + lane]


@compiled
def forward(
    first, last, kind, rank, heads, fixed, alpha, kick, stride, room, at, items, counts, bounds, table, order, inputs,
    gaps, kinds, x, y, end, kept,
):  # fmt: skip
    """Vectors of tasks first to last: y (B, L, G, M) or states (B, L, G, N), end (B, G, N), kept (B, tiles, G, N).

    `fixed` is where B begins among the parameters, `at` where the room has place for a record.
    """
    N, L, banked = order.shape[1], gaps.shape[1], heads > 0
    here = table.shape[1]
    base = here + CLOCK
    for v in range(bounds[first], bounds[last]):
        mine, count = items[v], counts[v]
        lanes.gather_fields(room, table, mine)
        lanes.gather_states(room, at, x, mine, order)
        for k in range(L):
            if k % stride == 0 and kept.shape[1]:
                lanes.deal_states(room, at, kept[:, k // stride], mine, count, order)
            if lanes.clock(room, here + GAP, here + COMMITS, gaps, kinds, mine, k):
                _drive(room, N, here, base, fixed, banked, inputs, kinds, mine, order, k)
                step(kind, room, N, rank, base, at, alpha, kick, take(room, here + GAP))
                _read(room, N, here, base, fixed, banked, heads, y, kinds, mine, count, order, k)
                _commit(room, N, base, at, at, take(room, here + COMMITS))
        lanes.deal_states(room, at, end, mine, count, order)


@compiled(inside=True)
def _read_back(room, N, here, base, at, fixed, banked, heads, alpha, kick, gy, kinds, items, order, k, sums):
    """The adjoint of what row k showed, at SHOWN, from that of its outputs; adds the gradient of C."""
    if not banked:
        lanes.gather_inputs(room, block(base, N, SHOWN), gy, kinds, items, order, k)
        return
    for m in range(heads):
        for lane in range(LANES):
            b, g = items[lane, 0], items[lane, 1]
            room[(here + READ) * LANES + lane] = gy[b, k, g, m] if kinds[b, k] != 0 else 0.0
        value, C, shown = take(room, here + READ), fixed + (1 + m) * N, block(base, N, SHOWN)
        for i in range(N):
            add(room, sums + C + i, value * shown_state(room, N, i, base, at, alpha, kick))
            pulled = value * take(room, C + i)
            put(room, shown + i, pulled + take(room, shown + i) if m else pulled)


@compiled(inside=True)
def _drive_back(room, N, here, base, fixed, banked, ginputs, kinds, items, count, order, k, sums):
    """The adjoint of the inputs from that of the drive; adds the gradient of B."""
    if not banked:
        lanes.give_inputs(room, block(base, N, DRIVE), ginputs, kinds, items, count, order, k)
        return
    w = take(room, here + INPUT)
    gw = splat(0.0, w)
    for i in range(N):
        g = take(room, block(base, N, DRIVE) + i)
        gw = gw + g * take(room, fixed + i)
        add(room, sums + fixed + i, w * g)
    put(room, here + INPUT, gw)
    lanes.give_inputs(room, here + INPUT, ginputs, kinds, items, count, order, k)


@compiled(inside=True)
def _replay(kind, rank, fixed, banked, alpha, kick, room, here, records, length, items, order, inputs, gaps, kinds,
            start, stop):  # fmt: skip
    """Records of rows start to stop from the state in the first; returns how many rows had something to do."""
    N, at = order.shape[1], records
    base = here + CLOCK
    for k in range(start, stop):
        if lanes.clock(room, here + GAP, here + COMMITS, gaps, kinds, items, k):
            _drive(room, N, here, base, fixed, banked, inputs, kinds, items, order, k)
            step(kind, room, N, rank, base, at, alpha, kick, take(room, here + GAP))
            _commit(room, N, base, at, at + length, take(room, here + COMMITS))
            at += length
    return at


@compiled
def backward(
    first, last, kind, rank, heads, fixed, alpha, kick, stride, room, records, items, counts, bounds, parts, table,
    order, inputs, gaps, kinds, kept, gy, gend, ginputs, ggaps, gtable, gx,
):  # fmt: skip
    """Adjoints: ginputs (B, L, G, I), ggaps (B, L, G) or empty, gx (B, G, N); sums of a part, gtable (parts, G, R)."""
    N, L, R, banked = order.shape[1], gaps.shape[1], table.shape[1], heads > 0
    here, sums = 2 * R, R
    base = here + CLOCK
    length = 3 * N + rank
    for task in range(first, last):
        for v in range(bounds[task], bounds[task + 1]):
            mine, count = items[v], counts[v]
            lanes.gather_fields(room, table, mine)
            room[sums * LANES : (sums + R) * LANES] = 0
            lanes.gather_states(room, block(base, N, GX), gend, mine, order)
            for start in range((L - 1) // stride * stride, -1, -stride):
                stop = min(start + stride, L)
                lanes.gather_states(room, records, kept[:, start // stride], mine, order)
                at = _replay(kind, rank, fixed, banked, alpha, kick, room, here, records, length, mine, order, inputs,
                             gaps, kinds, start, stop)  # fmt: skip
                for k in range(stop - 1, start - 1, -1):
                    if not lanes.clock(room, here + GAP, here + COMMITS, gaps, kinds, mine, k):
                        continue
                    at -= length
                    _drive(room, N, here, base, fixed, banked, inputs, kinds, mine, order, k)
                    _read_back(room, N, here, base, at, fixed, banked, heads, alpha, kick, gy, kinds, mine, order, k,
                               sums)  # fmt: skip
                    h, commits = take(room, here + GAP), take(room, here + COMMITS)
                    gh = step_adjoint(kind, room, N, rank, base, at, alpha, kick, h, commits, sums)
                    _drive_back(room, N, here, base, fixed, banked, ginputs, kinds, mine, count, order, k, sums)
                    if ggaps.size:
                        put(room, here + READ, gh)
                        for lane in range(count):
                            ggaps[mine[lane, 0], k, mine[lane, 1]] = room[(here + READ) * LANES + lane]
            lanes.deal_states(room, block(base, N, GX), gx, mine, count, order)
            lanes.add_fields(room, sums, mine, count, gtable[parts[task]])
