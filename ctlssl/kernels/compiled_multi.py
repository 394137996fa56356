"""One diagonal system with many inputs and outputs: B u, discretize, step, C x + D u, a tile of rows at a time.

A task is a series. Its tiles of STRIDE rows stay in the nearest memory: B u, states and outputs of the whole series
are never stored. Row 0 of a tile of B u belongs to the observation before the tile, which a hold may need. Inputs are
read where they are, and are asked for a tile ahead; only tiles with padding are copied.
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
from ctlssl.kernels.compiled_product import add_product, add_product_fetching, clear
from ctlssl.kernels.compiled_simd import as_number, lanes, load, pointer, store

__all__ = ["drive", "drive_tile", "earlier_row", "in_place", "multi_forward", "run"]


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
def in_place(room, width, numbers, kinds, H, first, rows):
    """Pointer, place and distance of rows of H numbers: where they are or, if some are padding, cleared in `room`."""
    for k in range(rows):
        if kinds[first + k] == 0:
            break
    else:
        return numbers, first * H, H
    for k in range(rows):
        if kinds[first + k] == 0:
            clear(room, k * width, width // lanes(room))
        else:
            for h in range(H):
                room[k * width + h] = numbers[(first + k) * H + h]
    return room, 0, width


@compiled(inside=True)
def inputs_before(u, start, before, first_row, b, row, H):
    """Pointer and place of the inputs of the observation before a row."""
    earlier = before[first_row + row]
    if earlier < 0:
        return start, b * H
    return u, (first_row + earlier) * H


@compiled(inside=True)
def drive_tile(
    driven, half, into, room, width, u, start, held, before, b, following, kinds, H, first_row, row, rows
):  # fmt: skip
    """B u of a tile and, where a hold reads it, of the observation before; memory is asked for rows `following`.

    Returns:
        pointer, place and distance of the inputs of the tile, pointer and place of those of the observation before.
    """
    every = half // lanes(u) * 2
    a, at, apart = in_place(room, width, u, kinds, H, first_row + row, rows)
    earlier, place = inputs_before(u, start, before, first_row, b, row, H)
    clear(driven, 0, (rows + 1) * every)
    if held:
        add_product(driven, 0, 2 * half, 1, every, earlier, place, H, 1, into, 0, 2 * half, H)
    add_product_fetching(
        driven, 2 * half, 2 * half, rows, every, a, at, apart, 1, into, 0, 2 * half, H,
        u, (first_row + following) * H, H,
    )  # fmt: skip
    return a, at, apart, earlier, place


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
    ramp, kick, held = hold[1] != 0 or hold[3] != 0, hold[4] != 0, hold[0] != 0 or hold[1] != 0
    for b in range(first, last):
        for row in range(0, L, STRIDE):
            rows, first_row = min(STRIDE, L - row), b * L
            a, at, apart, _, _ = drive_tile(
                driven, half, into, inputs, width, u, start, held, before, b, row + STRIDE, kinds, H, first_row, row,
                rows,
            )  # fmt: skip
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
            add_product_fetching(
                results, 0, width, rows, width // W, shown, 0, 2 * half, 1, out, 0, width, 2 * half,
                y, (first_row + row) * H, H,
            )  # fmt: skip
            for k in range(rows):
                place = (first_row + row + k) * H
                if kinds[first_row + row + k] == 0:
                    for h in range(H):
                        y[place + h] = 0
                else:
                    for h in range(H):
                        y[place + h] = results[k * width + h] + D[h] * a[at + k * apart + h]
