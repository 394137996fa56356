"""One diagonal system with many inputs and outputs: B u, discretize, step, C x + D u, a tile of rows at a time.

A task is a series. Its tiles of STRIDE rows stay in the nearest memory: B u, states and outputs of the whole series
are never stored. Row 0 of a tile of inputs is the observation before the tile, which a hold may need.
"""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_diagonal import (
    DRIVE,
    RAMP,
    SLOTS,
    STILL,
    STRIDE,
    TRACE,
    advance,
    growth,
    slope,
    trace_row,
)  # fmt: skip
from ctlssl.kernels.compiled_exponential import second_order
from ctlssl.kernels.compiled_pairs import keep, pair, plus, scaled, times
from ctlssl.kernels.compiled_product import add_product, clear
from ctlssl.kernels.compiled_simd import as_number, lanes, load, pointer, store

__all__ = ["drive", "earlier_row", "multi_forward", "read_inputs", "run"]


@compiled(inline=True)
def earlier_row(before, first_row, row, k):
    """Where the observation before row `row` + k stands in its tile."""
    return max(before[first_row + row + k] - row + 1, 0)


@compiled(inline=True)
def drive(driven, place, half, k, earlier, of_held, of_now):
    """B u of row k of a tile, weighted with that of the observation before it; half of a row are real parts."""
    now = place + (k + 1) * 2 * half
    found = scaled((load(driven, now), load(driven, now + half)), of_now)
    if of_held != 0:
        then = place + earlier * 2 * half
        found = plus(found, scaled((load(driven, then), load(driven, then + half)), of_held))
    return found


@compiled(inside=True)
def run(
    fixed, base, turns64, top, hold, mode, driven, lane, half, gaps, kinds, before, first_row, row, rows, x, place,
    room, shown, trace, reading,
):  # fmt: skip
    """Rows of a tile for one vector of states at x[place:], to `shown` and, for the way back, to `trace`."""
    W = lanes(fixed)
    p_F, p_G, n_F, n_G, _ = hold
    alpha, ramp, kick, still = mode
    state, inverse = pair(x, place), pair(fixed, base + DRIVE * W)
    for k in range(rows):
        kind, gap = kinds[first_row + row + k], gaps[first_row + row + k]
        if kind == 0:
            continue
        h, earlier = as_number(fixed, gap), earlier_row(before, first_row, row, k)
        e, parts, phase = growth(fixed, base, turns64, top, gap, alpha, room)
        b = drive(driven, lane, half, k, earlier, p_F, n_F)
        through, ramped, risen, stilled = b if kick else times(inverse, b), b, b, b
        if still:
            stilled = scaled(b, load(fixed, base + STILL * W) * h)
        if ramp:
            s = drive(driven, lane, half, k, earlier, p_G * slope(gap), n_G * slope(gap))
            rise = pair(fixed, base + RAMP * W)
            ramped, risen = times(rise, s), times(rise, times(second_order(parts, phase), s))
            if still:
                stilled = plus(stilled, scaled(s, load(fixed, base + STILL * W) * (0.5 * h * h)))
        new = advance(state, e, through, risen, stilled, mode)
        store(shown, lane + k * 2 * half, new[0])
        store(shown, lane + k * 2 * half + half, new[1])
        if not reading:
            trace_row(trace, k * TRACE * W, state, new, e, parts, phase, through, ramped, b, h, mode)
        if kind == 1:
            state = new
    keep(x, place, state)


@compiled(inside=True)
def read_inputs(target, width, u, start, H, kinds, before, first_row, b, row, rows):
    """The inputs of a tile, zeros for padding, after those of the observation before it."""
    earlier = before[first_row + row]
    for h in range(H):
        target[h] = u[(first_row + earlier) * H + h] if earlier >= 0 else start[b * H + h]
    for k in range(rows):
        if kinds[first_row + row + k] == 0:
            clear(target, (k + 1) * width, width // lanes(target))
        else:
            for h in range(H):
                target[(k + 1) * width + h] = u[(first_row + row + k) * H + h]


@compiled
def multi_forward(
    first, last, rooms, sizes, fixed, turns64, tops, stills, into, out, D, u, start, gaps, kinds, before, x, hold,
    alpha, y, checkpoints,
):  # fmt: skip
    """Y, the last states in x, and checkpoints; `into` is B (width, lanes of states) and `out` C (lanes, width)."""
    inputs, driven, shown, results = pointer(rooms[0]), pointer(rooms[1]), pointer(rooms[2]), pointer(rooms[3])
    room, fixed, turns64, into, out = pointer(rooms[4]), pointer(fixed), pointer(turns64), pointer(into), pointer(out)
    D, u, start, gaps, kinds = pointer(D), pointer(u), pointer(start), pointer(gaps), pointer(kinds)
    before, x, y, kept = pointer(before), pointer(x), pointer(y), pointer(checkpoints)
    W, H, L, every = lanes(u), sizes.channels, sizes.rows, sizes.vectors
    half, width = every * W, -(-H // W) * W
    ramp, kick = hold[1] != 0 or hold[3] != 0, hold[4] != 0
    for b in range(first, last):
        for row in range(0, L, STRIDE):
            rows, first_row = min(STRIDE, L - row), b * L
            read_inputs(inputs, width, u, start, H, kinds, before, first_row, b, row, rows)
            clear(driven, 0, (rows + 1) * 2 * every)
            add_product(driven, 0, 2 * half, rows + 1, 2 * every, inputs, 0, width, 1, into, 0, 2 * half, H)
            for vector in range(every):
                place = (b * every + vector) * 2 * W
                if sizes.checkpoints:
                    keep(kept, ((b * sizes.checkpoints + row // STRIDE) * every + vector) * 2 * W, pair(x, place))
                run(
                    fixed, vector * SLOTS * W, turns64, tops[vector], hold,
                    (alpha, ramp, kick, stills[vector] and not kick), driven, vector * W, half, gaps, kinds, before,
                    first_row, row, rows, x, place, room, shown, room, True,
                )  # fmt: skip
            clear(results, 0, rows * (width // W))
            add_product(results, 0, width, rows, width // W, shown, 0, 2 * half, 1, out, 0, width, 2 * half)
            for k in range(rows):
                place = (first_row + row + k) * H
                if kinds[first_row + row + k] == 0:
                    for h in range(H):
                        y[place + h] = 0
                else:
                    for h in range(H):
                        y[place + h] = results[k * width + h] + D[h] * inputs[(k + 1) * width + h]
