"""A bank of diagonal single-input systems: discretize, step and read in one loop over time.

A task is a series and the channels that share a vector, or one channel that fills several, so that no two write to
one place and sums are taken in one order, whoever runs them. Arrays are flat; `sizes` says how they are laid out.
"""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_diagonal import (
    DRIVE,
    INPUT,
    LEAN,
    RAMP,
    SLOTS,
    STILL,
    STRIDE,
    TRACE,
    advance,
    exact_growth,
    growth,
    lean_row,
    slope,
    trace_row,
)  # fmt: skip
from ctlssl.kernels.compiled_exponential import second_order
from ctlssl.kernels.compiled_pairs import keep, pair, plus, real_part, scaled, times
from ctlssl.kernels.compiled_simd import as_number, lanes, load, pointer, splat, store, total, totals

__all__ = ["bank_forward", "channel_sums", "deal", "deal_inputs", "dealt", "run"]


@compiled(inside=True)
def deal(target, place, values, rows, channels, width):
    """Numbers of rows (rows, channels) to the lanes of each channel, a vector a row; of one channel a number a row.

    `dealt` reads them.
    """
    W = lanes(target)
    if channels == 1:
        for k in range(rows):
            target[place + k] = values[k]
        return
    for k in range(rows):
        for c in range(channels):
            for j in range(width):
                target[place + k * W + c * width + j] = values[k * channels + c]
        for j in range(channels * width, W):  # an infinity left there would make NaN of what is 0
            target[place + k * W + j] = 0


@compiled(inline=True)
def dealt(source, place, row, alone):
    """The vector of a row that was dealt to `place`, of one channel `alone` or of several."""
    W = lanes(source)
    return splat(source[place + row], load(source, place)) if alone else load(source, place + row * W)


@compiled(inside=True)
def channel_sums(values, source, place, rows, channels, width):
    """The way back: sums over the lanes of each channel."""
    W = lanes(source)
    if channels == 1:
        whole = rows - rows % W
        for k in range(0, whole, W):
            store(values, k, totals(source, place + k * W))
        for k in range(whole, rows):
            values[k] = total(load(source, place + k * W))
        return
    for k in range(rows):
        for c in range(channels):
            start = place + k * W + c * width
            value = source[start]
            for j in range(1, width):
                value += source[start + j]
            values[k * channels + c] = value


@compiled(inside=True)
def mixed_inputs(values, of_held, of_now, H, channels, u, start, before, first_row, rows, row, b, channel):
    """Inputs of rows (rows, channels), weighted with those of the observation before."""
    for k in range(rows):
        for c in range(channels):
            values[k * channels + c] = of_now * u[(first_row + row + k) * H + channel + c]
    if of_held == 0:
        return
    for k in range(rows):
        earlier = before[first_row + row + k]
        for c in range(channels):
            held = u[(first_row + earlier) * H + channel + c] if earlier >= 0 else start[b * H + channel + c]
            values[k * channels + c] += of_held * held


@compiled(inside=True)
def deal_inputs(drives, values, sizes, hold, u, start, gaps, before, b, channel, channels, row, rows):
    """Inputs weighted for F, and for G per unit of time, of rows of series b from `row` on."""
    W, H, first_row = lanes(u), sizes.channels, b * sizes.rows
    p_F, p_G, n_F, n_G, _ = hold
    given = (H, channels, u, start, before, first_row, rows, row, b, channel)
    mixed_inputs(values, as_number(u, p_F), as_number(u, n_F), *given)
    deal(drives, 0, values, rows, channels, sizes.width)
    if p_G != 0 or n_G != 0:
        mixed_inputs(values, as_number(u, p_G), as_number(u, n_G), *given)
        for k in range(rows):
            inverse = slope(gaps[first_row + row + k])
            for c in range(channels):
                values[k * channels + c] *= inverse
        deal(drives, STRIDE * W, values, rows, channels, sizes.width)


@compiled(inline=True)
def _rows(
    fixed, base, turns64, top, mode, C, at, heads, fresh, drives, gaps, kinds, row, count, x, place, room, results
):  # fmt: skip
    W = lanes(fixed)
    alpha, ramp, kick, still, alone, lean = mode
    rule = alpha, ramp, kick, still
    state, driver = pair(x, place), pair(fixed, base + (INPUT if kick else DRIVE) * W)
    for k in range(count):
        if kinds[row + k] == 0:
            continue
        h = as_number(fixed, gaps[row + k])
        e, parts, phase = growth(fixed, base, turns64, top, gaps[row + k], alpha, room)
        v = dealt(drives, 0, k, alone)
        w = dealt(drives, STRIDE * W, k, alone) if ramp else v
        driven, ramped, risen, stilled = scaled(driver, v), e, e, e
        if ramp:
            rise = pair(fixed, base + RAMP * W)
            ramped, risen = scaled(rise, w), times(rise, scaled(second_order(parts, phase), w))
        if still:
            weight = v * h + w * (0.5 * h * h) if ramp else v * h
            stilled = scaled(pair(fixed, base + STILL * W), weight)
        new = advance(state, e, driven, risen, stilled, rule)
        for m in range(heads):
            shown = real_part(pair(C, at + 2 * m * W), new)
            if not fresh:
                shown = shown + load(results, (m * STRIDE + k) * W)
            store(results, (m * STRIDE + k) * W, shown)
        if heads == 0 and lean:
            lean_row(results, k * LEAN * W, state, new, e, parts, phase, driven, pair(fixed, base + RAMP * W), v, h)
        elif heads == 0:
            b = scaled(pair(fixed, base + INPUT * W), v)
            trace_row(results, k * TRACE * W, state, new, e, parts, phase, driven, ramped, b, h, rule)
        if kinds[row + k] == 1:
            state = new
    keep(x, place, state)


@compiled(inline=True)
def _commonest_rows(
    fixed, base, turns64, top, alone, C, at, fresh, drives, gaps, kinds, row, count, x, place, room, results
):  # fmt: skip
    """The same of the exact rule, without ramp, kick and eigenvalue 0, for one head."""
    W = lanes(fixed)
    state, driver, read = pair(x, place), pair(fixed, base + DRIVE * W), pair(C, at)
    for k in range(count):
        if kinds[row + k] == 0:
            continue
        e = exact_growth(fixed, base, turns64, top, gaps[row + k], room)
        new = plus(state, times(e, plus(state, scaled(driver, dealt(drives, 0, k, alone)))))
        shown = real_part(read, new)
        if not fresh:
            shown = shown + load(results, k * W)
        store(results, k * W, shown)
        if kinds[row + k] == 1:
            state = new
    keep(x, place, state)


@compiled(inside=True)
def run(
    fixed, base, turns64, top, mode, C, at, heads, fresh, drives, gaps, kinds, row, count, x, place, room, results
):  # fmt: skip
    """`count` rows from `row` on for one vector of states at x[place:].

    C x of each head goes to `results`, added unless this is the first vector (`fresh`); without heads the rows are
    kept there for the way back. The commonest modes are compiled by themselves, since every test in the loop counts.
    `mode` is the rule, whether the drives are of one channel `alone`, and whether `lean_row` is to keep the rows.
    """
    alpha, ramp, kick, still, alone, lean = mode
    given = (drives, gaps, kinds, row, count, x, place, room, results)
    if lean:
        _rows(fixed, base, turns64, top, (-1.0, False, False, False, alone, True), C, at, 0, fresh, *given)
    elif alpha >= 0 or ramp or kick or still or heads != 1:
        _rows(fixed, base, turns64, top, (alpha, ramp, kick, still, alone, False), C, at, heads, fresh, *given)
    else:
        _commonest_rows(fixed, base, turns64, top, alone, C, at, fresh, *given)


@compiled(inside=True)
def _show(sizes, values, sums, D, u, kinds, y, b, channel, channels, row, rows):
    """Y (B, L, H, M) = the sums over the lanes + D u."""
    W, H, M = lanes(u), sizes.channels, sizes.heads
    for m in range(M):
        channel_sums(values, sums, m * STRIDE * W, rows, channels, sizes.width)
        for k in range(rows):
            if kinds[b * sizes.rows + row + k] == 0:
                continue
            for c in range(channels):
                place = (b * sizes.rows + row + k) * H + channel + c
                y[place * M + m] = values[k * channels + c] + D[(channel + c) * M + m] * u[place]


@compiled
def bank_forward(
    first, last, rooms, sizes, fixed, turns64, tops, stills, C, D, u, start, gaps, kinds, before, x, hold, alpha, y,
    checkpoints,
):  # fmt: skip
    """Y, the last states in x, and the states before every STRIDE-th row where there is room for them."""
    drives, values, sums = pointer(rooms[0]), pointer(rooms[1]), pointer(rooms[2])
    fixed, turns64, C, D = pointer(fixed), pointer(turns64), pointer(C), pointer(D)
    u, start, gaps, kinds, before = pointer(u), pointer(start), pointer(gaps), pointer(kinds), pointer(before)
    x, y, kept = pointer(x), pointer(y), pointer(checkpoints)
    W, M, every = lanes(u), sizes.heads, sizes.blocks * sizes.vectors
    ramp, kick = hold[1] != 0 or hold[3] != 0, hold[4] != 0
    for task in range(first, last):
        b, block = task // sizes.blocks, task % sizes.blocks
        channel = block * sizes.together
        channels = min(sizes.together, sizes.channels - channel)
        for row in range(0, sizes.rows, STRIDE):
            rows = min(STRIDE, sizes.rows - row)
            deal_inputs(drives, values, sizes, hold, u, start, gaps, before, b, channel, channels, row, rows)
            for part in range(sizes.vectors):
                vector = block * sizes.vectors + part
                place = (b * every + vector) * 2 * W
                if sizes.checkpoints:
                    spot = (b * sizes.checkpoints + row // STRIDE) * every + vector
                    keep(kept, spot * 2 * W, pair(x, place))
                mode = (alpha, ramp, kick, stills[vector] and not kick, channels == 1, False)
                run(
                    fixed, vector * SLOTS * W, turns64, tops[vector], mode, C, vector * M * 2 * W, M, part == 0,
                    drives, gaps, kinds, b * sizes.rows + row, rows, x, place, values, sums,
                )  # fmt: skip
            _show(sizes, values, sums, D, u, kinds, y, b, channel, channels, row, rows)
