"""The way back through one diagonal system with many inputs and outputs: tiles run again, then backward."""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_diagonal import (
    DRIVE,
    GPOLE,
    GSECOND,
    GSTILL2,
    GTHIRD,
    MEAN,
    POLE,
    RAMP,
    RISE,
    SLOTS,
    STILL,
    STRIDE,
    TRACE,
    E,
    P,
    Q,
    slope,
    small,
)  # fmt: skip
from ctlssl.kernels.compiled_multi import drive, drive_tile, earlier_row, in_place, run
from ctlssl.kernels.compiled_pairs import added, conjugate_times, keep, pair, plus, real_part, scaled, times
from ctlssl.kernels.compiled_product import add_product, add_product_fetching, clear
from ctlssl.kernels.compiled_simd import as_number, lanes, load, pointer, store, total

__all__ = ["multi_backward"]


@compiled(inline=True)
def _pass_on(gdriven, place, half, k, earlier, of_held, of_now, g):
    """Add the adjoint of a weighted B u to those of the rows it was made of."""
    now = place + (k + 1) * 2 * half
    store(gdriven, now, load(gdriven, now) + g[0] * of_now)
    store(gdriven, now + half, load(gdriven, now + half) + g[1] * of_now)
    if of_held != 0:
        then = place + earlier * 2 * half
        store(gdriven, then, load(gdriven, then) + g[0] * of_held)
        store(gdriven, then + half, load(gdriven, then + half) + g[1] * of_held)


@compiled(inline=True)
def _drive_adjoints(fixed, base, trace, spot, g, t, b, s, h, found, mode):
    """Adjoints of B u and of its slope, and what they add to the sums for the eigenvalues."""
    W = lanes(fixed)
    alpha, ramp, kick, still = mode
    if kick:
        return g, g
    of_drive, of_slope = conjugate_times(pair(fixed, base + DRIVE * W), t), g
    if alpha < 0:
        added(found, GSECOND * W, conjugate_times(times(pair(trace, spot + P * W), b), g))
    if ramp:
        back = conjugate_times(pair(trace, spot + RISE * W), g)
        of_slope = conjugate_times(pair(fixed, base + RAMP * W), back)
        added(found, GTHIRD * W, conjugate_times(times(pair(trace, spot + Q * W), s), g))
    if still:
        zero = scaled(g, load(fixed, base + STILL * W))
        of_drive = plus(of_drive, scaled(zero, h))
        square = scaled(b, 0.5 * h * h)
        if ramp:
            of_slope = plus(of_slope, scaled(zero, 0.5 * h * h))
            square = plus(square, scaled(s, h * h * h / 3))
        if alpha < 0:
            added(found, GSTILL2 * W, conjugate_times(square, zero))
    return of_drive, of_slope


@compiled(inline=True)
def _clock(fixed, base, trace, spot, g, through, turned, b, s, gap, mode):
    """The adjoint of the gap; `turned` is that of the eigenvalue over h."""
    W = lanes(fixed)
    alpha, ramp, kick, still = mode
    found = real_part(pair(fixed, base + POLE * W), turned)
    if not kick:
        direct = real_part(plus(b, scaled(s, gap if gap > 1e-30 else 0.5)) if ramp else b, through)
        order = pair(trace, spot + E * W), pair(trace, spot + P * W)
        found = found + (direct if alpha >= 0 else small(*order, direct))
    if ramp and gap > 1e-30:
        back = times(pair(fixed, base + RAMP * W), times(pair(trace, spot + P * W), s))
        if still:
            back = plus(back, scaled(s, load(fixed, base + STILL * W) * (0.5 * gap * gap)))
        found = found - real_part(back, g) * (1 / gap)
    return total(found)


@compiled(inside=True)
def _back(
    fixed, base, hold, mode, driven, lane, half, gaps, kinds, before, first_row, row, rows, trace, gx, place, found,
    gshown, gdriven, clocked, ggaps, ticks,
):  # fmt: skip
    """Rows of a tile backward for one vector of states; sums go to `found`."""
    W = lanes(fixed)
    p_F, p_G, n_F, n_G, _ = hold
    alpha, ramp, kick, still = mode
    g_later, gpole = pair(gx, place), pair(found, GPOLE * W)
    for k in range(rows - 1, -1, -1):
        kind, gap = kinds[first_row + row + k], gaps[first_row + row + k]
        if kind == 0:
            continue
        spot, h, rise = k * TRACE * W, as_number(fixed, gap), slope(gap)
        earlier, e = earlier_row(before, first_row, row, k), pair(trace, spot + E * W)
        b = drive(driven, lane, half, k, earlier, p_F, n_F)
        s = drive(driven, lane, half, k, earlier, p_G * rise, n_G * rise) if ramp else b
        at = lane + k * 2 * half
        g = load(gshown, at), load(gshown, at + half)
        if kind == 1:
            g = plus(g, g_later)
        t = conjugate_times(e, g)
        through = conjugate_times(pair(trace, spot + P * W), g) if alpha >= 0 else g
        turned = conjugate_times(pair(trace, spot + MEAN * W), through)
        gpole = plus(gpole, scaled(turned, h))
        of_drive, of_slope = _drive_adjoints(fixed, base, trace, spot, g, t, b, s, h, found, mode)
        _pass_on(gdriven, lane, half, k, earlier, p_F, n_F, of_drive)
        if ramp:
            _pass_on(gdriven, lane, half, k, earlier, p_G * rise, n_G * rise, of_slope)
        if clocked:
            clock = _clock(fixed, base, trace, spot, g, through, turned, b, s, gap, mode)
            ggaps[ticks + first_row + row + k] += clock
        g_later = plus(g, t) if kind == 1 else plus(g_later, plus(g, t))
    keep(gx, place, g_later)
    keep(found, GPOLE * W, gpole)


@compiled(inside=True)
def _read_adjoints(gshown, half, out_back, room, width, gy, kinds, H, first_row, row, rows):
    """Adjoints of what a tile shows; where those of its outputs are, as pointer, place and distance."""
    every = half // lanes(gy) * 2
    g, at, apart = in_place(room, width, gy, kinds, H, first_row + row, rows)
    clear(gshown, 0, rows * every)
    add_product_fetching(
        gshown, 0, 2 * half, rows, every, g, at, apart, 1, out_back, 0, 2 * half, H,
        gy, (first_row + row - STRIDE) * H, H,
    )  # fmt: skip
    return g, at, apart


@compiled(inside=True)
def _through_B(ginputs, gdriven, half, into_back, width, gu, before, last, H, first_row, row, rows):
    """Adjoints of the inputs of a tile, with what the tile after it left for the last observation in or before it."""
    vectors, carried = width // lanes(ginputs), (STRIDE + 1) * width
    clear(ginputs, 0, (rows + 1) * vectors)
    if not last:
        place = earlier_row(before, first_row, row, rows) * width
        for h in range(width):
            ginputs[place + h] = ginputs[carried + h]
    add_product_fetching(
        ginputs, 0, width, rows + 1, vectors, gdriven, 0, 2 * half, 1, into_back, 0, width, 2 * half,
        gu, (first_row + row) * H, H,
    )  # fmt: skip
    for h in range(width):
        ginputs[carried + h] = ginputs[h]


@compiled(inside=True)
def _collect(gu, gD, slot, ginputs, a, at, apart, g, gat, gapart, D, width, kinds, H, first_row, row, rows):
    """Adjoints of the inputs of a tile, zeros for padding, and sums for D."""
    for k in range(rows):
        place, of_u, of_y, next_at = (first_row + row + k) * H, at + k * apart, gat + k * gapart, (k + 1) * width
        if kinds[first_row + row + k] == 0:
            for h in range(H):
                gu[place + h] = 0
        else:
            for h in range(H):
                gu[place + h] = ginputs[next_at + h] + D[h] * g[of_y + h]
                gD[slot * width + h] += g[of_y + h] * a[of_u + h]


@compiled
def multi_backward(
    first, last, rooms, slots, sizes, fixed, turns64, tops, stills, into, into_back, out_back, D, u, start, gaps,
    kinds, before, hold, alpha, checkpoints, gy, gx, gu, gstart, clocked, ggaps, sums, gB, gC, gD,
):  # fmt: skip
    """Adjoints: gu, gstart, ggaps (vectors, B L), gx from that of the last state; sums of a slot of the batch.

    A task is a slot. `into_back` is B (lanes of states, width), `out_back` C (width, lanes); `sums` are float64
    (slots, vectors, FOUND, lanes), gB and gC (slots, width, lanes of states), gD (slots, width).
    """
    inputs, driven, shown, results = pointer(rooms[0]), pointer(rooms[1]), pointer(rooms[2]), pointer(rooms[3])
    room, trace, x, found = pointer(rooms[4]), pointer(rooms[5]), pointer(rooms[6]), pointer(rooms[7])
    gshown, gdriven, ginputs, size = pointer(rooms[8]), pointer(rooms[9]), pointer(rooms[10]), len(rooms[7])
    fixed, turns64, into, into_back = pointer(fixed), pointer(turns64), pointer(into), pointer(into_back)
    out_back, D, u, start, gaps = pointer(out_back), pointer(D), pointer(u), pointer(start), pointer(gaps)
    kinds, before, kept, gy, gx = pointer(kinds), pointer(before), pointer(checkpoints), pointer(gy), pointer(gx)
    gu, gstart, ggaps = pointer(gu), pointer(gstart), pointer(ggaps)
    sums, gB, gC, gD = pointer(sums), pointer(gB), pointer(gC), pointer(gD)
    W, H, L, every = lanes(u), sizes.channels, sizes.rows, sizes.vectors
    half, width = every * W, -(-H // W) * W
    ramp, kick, held = hold[1] != 0 or hold[3] != 0, hold[4] != 0, hold[0] != 0 or hold[1] != 0
    for slot in range(first, last):
        for b in range(slot, sizes.series, slots):
            for row in range((L - 1) // STRIDE * STRIDE, -1, -STRIDE):
                rows, first_row, at = min(STRIDE, L - row), b * L, slot * width * 2 * half
                given = (kinds, H, first_row, row, rows)
                a, place, apart, c, earlier = drive_tile(
                    driven, half, into, inputs, width, u, start, held, before, b, row - STRIDE, *given
                )
                g, gplace, gapart = _read_adjoints(gshown, half, out_back, results, width, gy, *given)
                clear(shown, 0, rows * 2 * every)
                clear(gdriven, 0, (rows + 1) * 2 * every)
                for vector in range(every):
                    base, mode = vector * SLOTS * W, (alpha, ramp, kick, stills[vector] and not kick)
                    keep(x, 0, pair(kept, ((b * sizes.checkpoints + row // STRIDE) * every + vector) * 2 * W))
                    clear(found, 0, size // W)
                    run(
                        fixed, base, turns64, tops[vector], hold, mode, driven, vector * W, half, gaps, kinds, before,
                        first_row, row, rows, x, 0, room, shown, trace, False,
                    )  # fmt: skip
                    _back(
                        fixed, base, hold, mode, driven, vector * W, half, gaps, kinds, before, first_row, row, rows,
                        trace, gx, (b * every + vector) * 2 * W, found, gshown, gdriven, clocked, ggaps,
                        vector * sizes.series * L,
                    )  # fmt: skip
                    for j in range(size):
                        sums[(slot * every + vector) * size + j] += found[j]
                _through_B(ginputs, gdriven, half, into_back, width, gu, before, row + rows == L, *given[1:])
                if held:
                    add_product(gB, at, 2 * half, H, 2 * every, c, earlier, 1, H, gdriven, 0, 2 * half, 1)
                add_product(gB, at, 2 * half, H, 2 * every, a, place, 1, apart, gdriven, 2 * half, 2 * half, rows)
                add_product(gC, at, 2 * half, H, 2 * every, g, gplace, 1, gapart, shown, 0, 2 * half, rows)
                _collect(gu, gD, slot, ginputs, a, place, apart, g, gplace, gapart, D, width, *given)
            for h in range(H):  # before the first row there is no observation of the series
                gstart[b * H + h] = ginputs[h]
