"""The way back through a bank of diagonal systems: rows run again from checkpoints, then backward."""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_bank import channel_sums, deal, deal_inputs, dealt, run
from ctlssl.kernels.compiled_diagonal import (
    DRIVE,
    FOUND,
    GDRIVE,
    GINPUT,
    GPOLE,
    GRAMP,
    GSECOND,
    GSTILL,
    GSTILL2,
    GTHIRD,
    INPUT,
    LEAN,
    MEAN,
    POLE,
    RAMP,
    RISE,
    SLOPE,
    SLOTS,
    STATE,
    STILL,
    STRIDE,
    TRACE,
    E,
    P,
    Q,
    slope,
    small,
)  # fmt: skip
from ctlssl.kernels.compiled_pairs import added, conjugate_times, keep, pair, plus, real_part, scaled
from ctlssl.kernels.compiled_simd import as_number, lanes, load, pointer, splat, store, total

__all__ = ["bank_backward"]


@compiled(inside=True)
def _deal_adjoints(shown, values, sizes, gy, b, channel, channels, row, rows):
    W, M, H = lanes(gy), sizes.heads, sizes.channels
    for m in range(M):
        for k in range(rows):
            for c in range(channels):
                values[k * channels + c] = gy[((b * sizes.rows + row + k) * H + channel + c) * M + m]
        deal(shown, m * STRIDE * W, values, rows, channels, sizes.width)


@compiled(inline=True)
def _rare(found, trace_row, fixed, base, g, v, w, h, mode):
    """Adjoints that a ramp, a kick or an eigenvalue 0 adds: those of v and w, and sums."""
    W = lanes(fixed)
    trace, place = trace_row
    alpha, ramp, kick, still = mode
    gv = gw = splat(0.0, v)
    if kick:
        gv = real_part(pair(fixed, base + INPUT * W), g)
        added(found, GINPUT * W, scaled(g, v))
    if still:
        zero = real_part(pair(fixed, base + STILL * W), g)
        weight, square = v * h, v * (0.5 * h * h)
        gv = gv + zero * h
        if ramp:
            gw = zero * (0.5 * h * h)
            weight, square = weight + w * (0.5 * h * h), square + w * (h * h * h / 3)
        added(found, GSTILL * W, scaled(g, weight))
        if alpha < 0:
            added(found, GSTILL2 * W, scaled(g, square))
    if ramp:
        back = conjugate_times(pair(trace, place + RISE * W), g)
        gw = gw + real_part(pair(fixed, base + RAMP * W), back)
        added(found, GRAMP * W, scaled(back, w))
        added(found, GTHIRD * W, scaled(conjugate_times(pair(trace, place + Q * W), g), w))
    return gv, gw


@compiled(inline=True)
def _clock(fixed, base, g, through, turned, trace_row, v, w, gap, mode):
    """The adjoint of the gap; `turned` is that of the eigenvalue over h."""
    W = lanes(fixed)
    trace, place = trace_row
    alpha, ramp, kick, still = mode
    found = real_part(pair(fixed, base + POLE * W), turned)
    if not kick:
        driven = v + w * (gap if gap > 1e-30 else 0.5) if ramp else v
        direct = real_part(pair(fixed, base + INPUT * W), through) * driven
        order = pair(trace, place + E * W), pair(trace, place + P * W)
        found = found + (direct if alpha >= 0 else small(*order, direct))
    if ramp and gap > 1e-30:
        back = real_part(pair(fixed, base + RAMP * W), conjugate_times(pair(trace, place + P * W), g))
        if still:
            back = back + real_part(pair(fixed, base + STILL * W), g) * 0.5 * gap * gap
        found = found - back * w * 1 / gap
    return total(found)


@compiled(inline=True)
def _rows(
    fixed, base, mode, C, at, heads, drives, shown, gaps, kinds, row, count, trace, gx, place, found, clocked, ggaps,
    ticks, gdrives, fresh,
):  # fmt: skip
    W = lanes(fixed)
    alpha, ramp, kick, still, alone = mode
    rule = alpha, ramp, kick, still
    driver, g_later = pair(fixed, base + DRIVE * W), pair(gx, place)
    gpole, gdrive, gsecond = pair(found, GPOLE * W), pair(found, GDRIVE * W), pair(found, GSECOND * W)
    for k in range(count - 1, -1, -1):
        if kinds[row + k] == 0:
            continue
        spot = k * TRACE * W
        h, e, v = as_number(fixed, gaps[row + k]), pair(trace, spot + E * W), dealt(drives, 0, k, alone)
        w = dealt(drives, STRIDE * W, k, alone) if ramp else v
        committed = kinds[row + k] == 1
        nothing = splat(0.0, v)
        g = g_later if committed else (nothing, nothing)
        state = pair(trace, spot + STATE * W)
        for m in range(heads):
            gy = dealt(shown, m * STRIDE * W, k, alone)
            g = plus(g, scaled(pair(C, at + 2 * m * W), gy))
            added(found, (FOUND + 2 * m) * W, scaled(state, gy))
        through = g
        if alpha >= 0:
            through = conjugate_times(pair(trace, spot + P * W), g)
        turned = conjugate_times(pair(trace, spot + MEAN * W), through)
        gpole = plus(gpole, scaled(turned, h))
        t = conjugate_times(e, g)
        gv, gw = _rare(found, (trace, spot), fixed, base, g, v, w, h, rule)
        if not kick:
            gv = gv + real_part(driver, t)
            gdrive = plus(gdrive, scaled(t, v))
            if alpha < 0:
                gsecond = plus(gsecond, scaled(conjugate_times(pair(trace, spot + P * W), g), v))
        if clocked:
            ggaps[ticks + row + k] += _clock(fixed, base, g, through, turned, (trace, spot), v, w, gaps[row + k], rule)
        g_later = plus(g, t) if committed else plus(g_later, plus(g, t))
        if not fresh:
            gv = gv + load(gdrives, k * W)
            gw = gw + load(gdrives, (STRIDE + k) * W) if ramp else gw
        store(gdrives, k * W, gv)
        if ramp:
            store(gdrives, (STRIDE + k) * W, gw)
    keep(gx, place, g_later)
    keep(found, GPOLE * W, gpole)
    keep(found, GDRIVE * W, gdrive)
    keep(found, GSECOND * W, gsecond)


@compiled(inside=True)
def _lean_rows(
    fixed, base, C, at, drives, alone, shown, kinds, row, count, trace, gx, place, found, gdrives, fresh
):  # fmt: skip
    """`_rows` of the exact rule from what `lean_row` kept, for one head and without the adjoint of the gaps."""
    W = lanes(fixed)
    driver, out, g_later = pair(fixed, base + DRIVE * W), pair(C, at), pair(gx, place)
    gpole, gdrive, gC = pair(found, GPOLE * W), pair(found, GDRIVE * W), pair(found, FOUND * W)
    for k in range(count - 1, -1, -1):
        if kinds[row + k] == 0:
            continue
        spot, v, gy = k * LEAN * W, dealt(drives, 0, k, alone), dealt(shown, 0, k, alone)
        committed = kinds[row + k] == 1
        g = scaled(out, gy)
        if committed:
            g = plus(g, g_later)
        gC = plus(gC, scaled(pair(trace, spot + STATE * W), gy))
        gpole = plus(gpole, conjugate_times(pair(trace, spot + SLOPE * W), g))
        t = conjugate_times(pair(trace, spot + E * W), g)
        gdrive = plus(gdrive, scaled(t, v))
        gv = real_part(driver, t)
        if not fresh:
            gv = gv + load(gdrives, k * W)
        store(gdrives, k * W, gv)
        g_later = plus(g, t) if committed else plus(g_later, plus(g, t))
    keep(gx, place, g_later)
    keep(found, GPOLE * W, gpole)
    keep(found, GDRIVE * W, gdrive)
    keep(found, FOUND * W, gC)


@compiled(inside=True)
def _back(
    fixed, base, mode, C, at, heads, drives, shown, gaps, kinds, row, count, trace, gx, place, found, clocked, ggaps,
    ticks, gdrives, fresh,
):  # fmt: skip
    """`count` rows backward for one vector; sums go to `found`, adjoints of v and w to `gdrives`."""
    alpha, ramp, kick, still, alone, lean = mode
    if lean:
        given = (drives, alone, shown, kinds, row, count, trace, gx, place, found, gdrives, fresh)
        _lean_rows(fixed, base, C, at, *given)
        return
    given = (drives, shown, gaps, kinds, row, count, trace, gx, place, found)
    after = (clocked, ggaps, ticks, gdrives, fresh)
    _rows(fixed, base, (alpha, ramp, kick, still, alone), C, at, heads, *given, *after)


@compiled(inside=True)
def _pass_on(sizes, values, of_held, of_now, gu, gstart, kinds, before, b, channel, channels, row, rows):
    """Add adjoints of mixed inputs (rows, channels) to those of the inputs that were mixed."""
    H, first_row = sizes.channels, b * sizes.rows
    for k in range(rows):
        if kinds[first_row + row + k] == 0:
            continue
        for c in range(channels):
            gu[(first_row + row + k) * H + channel + c] += of_now * values[k * channels + c]
    if of_held == 0:
        return
    for k in range(rows):
        if kinds[first_row + row + k] == 0:
            continue
        earlier = before[first_row + row + k]
        for c in range(channels):
            through = of_held * values[k * channels + c]
            if earlier >= 0:
                gu[(first_row + earlier) * H + channel + c] += through
            else:
                gstart[b * H + channel + c] += through


@compiled(inside=True)
def _collect(
    sizes, values, hold, gdrives, gy, D, u, gaps, kinds, before, gu, gstart, gD, at, b, channel, channels, row, rows
):
    """Adjoints of u and of the input before the first row, and sums for D, from the adjoints of the drives."""
    W, H, M = lanes(u), sizes.channels, sizes.heads
    p_F, p_G, n_F, n_G, _ = hold
    channel_sums(values, gdrives, 0, rows, channels, sizes.width)
    _pass_on(
        sizes, values, as_number(u, p_F), as_number(u, n_F), gu, gstart, kinds, before, b, channel, channels, row, rows
    )
    if p_G != 0 or n_G != 0:
        channel_sums(values, gdrives, STRIDE * W, rows, channels, sizes.width)
        for k in range(rows):
            inverse = slope(gaps[b * sizes.rows + row + k])
            for c in range(channels):
                values[k * channels + c] *= inverse
        _pass_on(
            sizes,
            values,
            as_number(u, p_G),
            as_number(u, n_G),
            gu,
            gstart,
            kinds,
            before,
            b,
            channel,
            channels,
            row,
            rows,
        )
    for c in range(channels):
        for m in range(M):
            feed, found = D[(channel + c) * M + m], as_number(u, 0)
            for k in range(rows):
                if kinds[b * sizes.rows + row + k] != 0:
                    place = (b * sizes.rows + row + k) * H + channel + c
                    gu[place] += feed * gy[place * M + m]
                    found += gy[place * M + m] * u[place]
            gD[at + (channel + c) * M + m] += found


@compiled
def bank_backward(
    first, last, rooms, slots, sizes, fixed, turns64, tops, stills, C, D, u, start, gaps, kinds, before, hold, alpha,
    checkpoints, gy, gx, gu, gstart, clocked, ggaps, sums, gD,
):  # fmt: skip
    """Adjoints: gu, gstart, ggaps (blocks, B L), gx from that of the last state; float64 sums of a slot of the batch.

    A task is a slot and a block; `sums` are (slots, vectors, FOUND + 2 M, lanes) and gD (slots, H, M).
    """
    drives, values, shown, gdrives = pointer(rooms[0]), pointer(rooms[1]), pointer(rooms[2]), pointer(rooms[3])
    trace, x, found = pointer(rooms[4]), pointer(rooms[5]), pointer(rooms[6])
    fixed, turns64, C, D = pointer(fixed), pointer(turns64), pointer(C), pointer(D)
    u, start, gaps, kinds, before = pointer(u), pointer(start), pointer(gaps), pointer(kinds), pointer(before)
    kept, gy, gx, gu, gstart = pointer(checkpoints), pointer(gy), pointer(gx), pointer(gu), pointer(gstart)
    ggaps, sums, gD = pointer(ggaps), pointer(sums), pointer(gD)
    W, M, L, every = lanes(u), sizes.heads, sizes.rows, sizes.blocks * sizes.vectors
    ramp, kick = hold[1] != 0 or hold[3] != 0, hold[4] != 0
    for task in range(first, last):
        slot, block = task // sizes.blocks, task % sizes.blocks
        channel = block * sizes.together
        channels = min(sizes.together, sizes.channels - channel)
        for b in range(slot, sizes.series, slots):
            for row in range((L - 1) // STRIDE * STRIDE, -1, -STRIDE):
                rows = min(STRIDE, L - row)
                deal_inputs(drives, values, sizes, hold, u, start, gaps, before, b, channel, channels, row, rows)
                _deal_adjoints(shown, values, sizes, gy, b, channel, channels, row, rows)
                for part in range(sizes.vectors):
                    vector = block * sizes.vectors + part
                    base, at, size = vector * SLOTS * W, vector * M * 2 * W, (FOUND + 2 * M) * W
                    keep(x, 0, pair(kept, ((b * sizes.checkpoints + row // STRIDE) * every + vector) * 2 * W))
                    for j in range(size):
                        found[j] = 0
                    still = stills[vector] and not kick
                    lean = not (alpha >= 0 or ramp or kick or still or clocked) and M == 1
                    mode = (alpha, ramp, kick, still, channels == 1, lean)
                    run(
                        fixed, base, turns64, tops[vector], mode, C, at, 0, True, drives, gaps, kinds, b * L + row,
                        rows, x, 0, values, trace,
                    )  # fmt: skip
                    _back(
                        fixed, base, mode, C, at, M, drives, shown, gaps, kinds, b * L + row, rows, trace, gx,
                        (b * every + vector) * 2 * W, found, clocked, ggaps, block * sizes.series * L, gdrives,
                        part == 0,
                    )  # fmt: skip
                    for j in range(size):
                        sums[(slot * every + vector) * size + j] += found[j]
                _collect(
                    sizes, values, hold, gdrives, gy, D, u, gaps, kinds, before, gu, gstart, gD,
                    slot * sizes.channels * M, b, channel, channels, row, rows,
                )  # fmt: skip
