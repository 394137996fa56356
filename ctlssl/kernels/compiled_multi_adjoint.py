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
from ctlssl.kernels.compiled_multi import drive, earlier_row, read_inputs, run
from ctlssl.kernels.compiled_pairs import added, conjugate_times, keep, pair, plus, real_part, scaled, times
from ctlssl.kernels.compiled_product import add_product, clear
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
def _read_adjoints(target, width, gy, H, kinds, first_row, row, rows):
    """The adjoints of the outputs of a tile, zeros for padding."""
    for k in range(rows):
        if kinds[first_row + row + k] == 0:
            clear(target, k * width, width // lanes(target))
        else:
            for h in range(H):
                target[k * width + h] = gy[(first_row + row + k) * H + h]


@compiled(inside=True)
def _clear_series(first, last, slots, series, gu, numbers):
    """The adjoints of the inputs of a task's series cleared: here, in the cache, and by every thread its own."""
    for slot in range(first, last):
        for b in range(slot, series, slots):
            for place in range(b * numbers, (b + 1) * numbers):
                gu[place] = 0


@compiled(inside=True)
def _collect(gu, gstart, gD, slot, ginputs, inputs, results, D, width, H, kinds, before, first_row, b, row, rows):
    """Adjoints of the inputs of a tile and of the one before it, and sums for D."""
    for k in range(rows):
        if kinds[first_row + row + k] != 0:
            for h in range(H):
                through = D[h] * results[k * width + h]
                gu[(first_row + row + k) * H + h] += ginputs[(k + 1) * width + h] + through
                gD[slot * width + h] += results[k * width + h] * inputs[(k + 1) * width + h]
    earlier = before[first_row + row]
    for h in range(H):
        if earlier >= 0:
            gu[(first_row + earlier) * H + h] += ginputs[h]
        else:
            gstart[b * H + h] += ginputs[h]


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
    half, width, ramp, kick = every * W, -(-H // W) * W, hold[1] != 0 or hold[3] != 0, hold[4] != 0
    _clear_series(first, last, slots, sizes.series, gu, L * H)
    for slot in range(first, last):
        for b in range(slot, sizes.series, slots):
            for row in range((L - 1) // STRIDE * STRIDE, -1, -STRIDE):
                rows, first_row, at = min(STRIDE, L - row), b * L, slot * width * 2 * half
                read_inputs(inputs, width, u, start, H, kinds, before, first_row, b, row, rows)
                _read_adjoints(results, width, gy, H, kinds, first_row, row, rows)
                clear(driven, 0, (rows + 1) * 2 * every)
                add_product(driven, 0, 2 * half, rows + 1, 2 * every, inputs, 0, width, 1, into, 0, 2 * half, H)
                clear(shown, 0, rows * 2 * every)
                clear(gshown, 0, rows * 2 * every)
                add_product(gshown, 0, 2 * half, rows, 2 * every, results, 0, width, 1, out_back, 0, 2 * half, H)
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
                clear(ginputs, 0, (rows + 1) * (width // W))
                add_product(
                    ginputs, 0, width, rows + 1, width // W, gdriven, 0, 2 * half, 1, into_back, 0, width, 2 * half
                )
                add_product(gB, at, 2 * half, H, 2 * every, inputs, 0, 1, width, gdriven, 0, 2 * half, rows + 1)
                add_product(gC, at, 2 * half, H, 2 * every, results, 0, 1, width, shown, 0, 2 * half, rows)
                given = (D, width, H, kinds, before, first_row, b, row, rows)
                _collect(gu, gstart, gD, slot, ginputs, inputs, results, *given)
