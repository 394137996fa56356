"""A bank of diagonal single-input systems on a GPU: discretize, step and read in one loop over time.

A program is a series and a block of channels (forward), or a part of the batch and a block (backward), with all
their states in registers; no two programs write to one place, so that every sum is taken in one order. The backward
pass steps again from the state kept before every `STRIDE`-th row, into room for `STRIDE` rows a program, and then
walks back. Checked in Triton's interpreter and compiled for GPUs, but not yet timed on hardware.
"""

# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from ctlssl.kernels.triton_language import jit, tl
from ctlssl.kernels.triton_rows import (
    advance,
    advance_adjoint,
    chosen,
    conjugate_dot,
    effects,
    eigenvalues,
    load_pair,
    plus,
    scaled,
    store_pair,
)

__all__ = ["bank_backward", "bank_forward"]


@jit
def _tile(block, H, n, HB: tl.constexpr, NP: tl.constexpr):
    """Channels (HB,) of a block, the places of its tile (HB, NP) among (H, n) and (H, 2 n), and where it is filled."""
    channel, pair = block * HB + tl.arange(0, HB), tl.arange(0, NP)
    place, states = channel[:, None] * n + pair[None, :], channel[:, None] * (2 * n) + pair[None, :]
    return channel, place, states, (channel < H)[:, None] & (pair < n)[None, :]


@jit
def _heads(channel, channels, M, MP: tl.constexpr):
    """The places of a tile (MP, HB) of outputs among (H, M), and where it is filled by the first channels."""
    head = tl.arange(0, MP)[:, None]
    return channel[None, :] * M + head, (head < M) & (channel < channels)[None, :]


@jit
def _maps(C, tile, M, n, MP: tl.constexpr, NP: tl.constexpr):
    """The places of a complex tile (MP, HB, NP) among output maps (H, M, 2 n), and where it is filled."""
    channel, mask = tile[0], tile[3]
    head, pair = tl.arange(0, MP)[:, None, None], tl.arange(0, NP)[None, None, :]
    return (channel[None, :, None] * M + head) * (2 * n) + pair, (head < M) & mask[None, :, :]


@jit
def _mixed(given, series, row, L, H, channels, held_weight: tl.constexpr, weight: tl.constexpr, channel):
    """Inputs of the first channels of a row mixed with those of the observation before it, (HB,)."""
    u, start, _, _, before, _ = given
    value = weight * tl.load(u + (series * L + row) * H + channel, mask=channel < channels, other=0.0)
    if held_weight != 0:
        earlier = tl.load(before + series * L + row).to(tl.int64)
        here, first = channel < tl.where(earlier >= 0, channels, 0), channel < tl.where(earlier >= 0, 0, channels)
        value += held_weight * tl.load(u + (series * L + earlier) * H + channel, mask=here, other=0.0)
        value += held_weight * tl.load(start + series * H + channel, mask=first, other=0.0)
    return value


@jit
def _row(
    given, values, tile, series, row, L, H, n,
    hold: tl.constexpr, alpha: tl.constexpr, RAMP: tl.constexpr, ORDERS: tl.constexpr,
):  # fmt: skip
    """A row's kind, its channels (none in padding), its gap, what this makes of the eigenvalues, and the inputs."""
    _, _, gaps, kinds, _, turns64 = given
    channel, place, mask = tile[0], tile[1], tile[3]
    kind = tl.load(kinds + series * L + row)
    channels = tl.where(kind != 0, H, 0)
    gap = tl.load(gaps + series * L + row, mask=kind != 0, other=0.0)
    found = effects(values, turns64, place, H * n, mask, gap, alpha, ORDERS)
    v = _mixed(given, series, row, L, H, channels, hold[0], hold[2], channel)
    w = v
    if RAMP:
        w = _mixed(given, series, row, L, H, channels, hold[1], hold[3], channel)
    return kind, channels, gap, found, v, w


@jit
def _spread(B, value):
    """B times inputs (HB,)."""
    return scaled(B, value[:, None])


@jit
def bank_forward(
    u, start, gaps, kinds, before, fixed, turns64, C, D, x, y, last, kept, L, H, M, n,
    hold: tl.constexpr, alpha: tl.constexpr,
    RAMP: tl.constexpr, KICK: tl.constexpr, STRIDE: tl.constexpr, KEEP: tl.constexpr,
    HB: tl.constexpr, MP: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """Y (B, L, H, M), the last states (B, H, 2 n), and states before every STRIDE-th row, (B, chunks, H, 2 n)."""
    series, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    given = (u, start, gaps, kinds, before, turns64)
    tile = _tile(block, H, n, HB, NP)
    channel, place, states, mask = tile
    values, B = eigenvalues(fixed, turns64, place, H * n, mask), load_pair(fixed + 8 * H * n, place, H * n, mask)
    output, shown = _heads(channel, H, M, MP)
    feed = tl.load(D + output, mask=shown, other=0.0)
    map_place, map_mask = _maps(C, tile, M, n, MP, NP)
    maps = load_pair(C, map_place, n, map_mask)
    state = load_pair(x + series * H * 2 * n, states, n, mask)
    chunks = (L + STRIDE - 1) // STRIDE
    for chunk in range(0, chunks):
        if KEEP:
            store_pair(kept + (series * chunks + chunk) * H * 2 * n, states, n, state, mask)
        for row in range(chunk * STRIDE, tl.minimum(chunk * STRIDE + STRIDE, L)):
            kind, channels, gap, found, v, w = _row(
                given, values, tile, series, row, L, H, n, hold, alpha, RAMP, 2 if RAMP else 1
            )
            h = gap.to(v.dtype)
            new, plain = advance(state, found[0], found[1], found[2], _spread(B, v), _spread(B, w), h, RAMP, KICK)
            now = tl.load(u + (series * L + row) * H + channel, mask=channel < channels, other=0.0)
            out = tl.sum(conjugate_dot(maps, (new[0][None, :, :], new[1][None, :, :])), axis=2) + feed * now[None, :]
            tl.store(y + (series * L + row) * H * M + output, out, mask=_heads(channel, channels, M, MP)[1])
            state = chosen(kind == 1, new, state)
    store_pair(last + series * H * 2 * n, states, n, state, mask)


@jit
def _replay(
    room, room_place, area, state, given, values, B, tile, series, first_row, rows, L, H, n,
    hold: tl.constexpr, alpha: tl.constexpr,
    RAMP: tl.constexpr, KICK: tl.constexpr,
):  # fmt: skip
    """The states before `rows` rows into `room`, complex tiles one after the other."""
    for k in range(0, rows):
        store_pair(room + 2 * k * area, room_place, area, state, tile[3])
        kind, channels, gap, found, v, w = _row(
            given, values, tile, series, first_row + k, L, H, n, hold, alpha, RAMP, 2 if RAMP else 1
        )
        h = gap.to(v.dtype)
        new, plain = advance(state, found[0], found[1], found[2], _spread(B, v), _spread(B, w), h, RAMP, KICK)
        state = chosen(kind == 1, new, state)


@jit
def _added(sums, place, value, mask):
    """Add to a place that is this program's own."""
    tl.store(sums + place, tl.load(sums + place, mask=mask, other=0.0) + value.to(tl.float64), mask=mask)


@jit
def bank_backward(
    u, start, gaps, kinds, before, fixed, turns64, C, D, kept, gy, gend, room, gu, gstart, ggaps, sums, gmaps, gfeed,
    gx, series_count, parts, L, H, M, n,
    hold: tl.constexpr, alpha: tl.constexpr,
    RAMP: tl.constexpr, KICK: tl.constexpr, CLOCKED: tl.constexpr, ORDERS: tl.constexpr, STRIDE: tl.constexpr,
    HB: tl.constexpr, MP: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """Adjoints gu, gstart, gx, and ggaps of each block (blocks, B, L); sums of each part of the batch in float64.

    Sums: lambda and B, (parts, 4, H, n); C, (parts, H, M, 2 n); D, (parts, H, M).
    """
    part, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    given = (u, start, gaps, kinds, before, turns64)
    tile = _tile(block, H, n, HB, NP)
    channel, place, states, mask = tile
    values, B = eigenvalues(fixed, turns64, place, H * n, mask), load_pair(fixed + 8 * H * n, place, H * n, mask)
    output, shown = _heads(channel, H, M, MP)
    feed = tl.load(D + output, mask=shown, other=0.0)
    map_place, map_mask = _maps(C, tile, M, n, MP, NP)
    maps = load_pair(C, map_place, n, map_mask)
    area: tl.constexpr = HB * NP
    room += (part * tl.num_programs(1) + block) * 2 * STRIDE * area
    ggaps += block.to(tl.int64) * series_count * L
    room_place = tl.arange(0, HB)[:, None] * NP + tl.arange(0, NP)[None, :]
    sums, gmaps, gfeed = sums + part * 4 * H * n, gmaps + part * H * M * 2 * n, gfeed + part * H * M
    chunks = (L + STRIDE - 1) // STRIDE
    for series in range(part, series_count, parts):
        carry = load_pair(gend + series * H * 2 * n, states, n, mask)
        held = tl.zeros((HB,), B[0].dtype)
        for turn in range(0, chunks):
            first_row = (chunks - 1 - turn) * STRIDE
            rows = tl.minimum(STRIDE, L - first_row)
            state = load_pair(kept + (series * chunks + chunks - 1 - turn) * H * 2 * n, states, n, mask)
            _replay(
                room, room_place, area, state, given, values, B, tile, series, first_row, rows, L, H, n,
                hold, alpha, RAMP, KICK,
            )  # fmt: skip
            tl.debug_barrier()
            carry, held = _walk_back(
                room, room_place, area, carry, held, given, values, B, tile, maps, map_place, map_mask, feed, output,
                gy, gu, ggaps, sums, gmaps, gfeed, series, first_row, rows, L, H, M, n,
                hold, alpha, RAMP, KICK, CLOCKED, ORDERS,
            )  # fmt: skip
            tl.debug_barrier()
        store_pair(gx + series * H * 2 * n, states, n, carry, mask)
        tl.store(gstart + series * H + channel, held, mask=channel < H)


@jit
def _walk_back(
    room, room_place, area: tl.constexpr, carry, held, given, values, B, tile, maps, map_place, map_mask, feed, output,
    gy, gu, ggaps, sums, gmaps, gfeed, series, first_row, rows, L, H, M, n,
    hold: tl.constexpr, alpha: tl.constexpr,
    RAMP: tl.constexpr, KICK: tl.constexpr, CLOCKED: tl.constexpr, ORDERS: tl.constexpr,
):  # fmt: skip
    """Rows backward: the adjoints of the state and of the input of the observation before the first of them."""
    channel, place, mask = tile[0], tile[1], tile[3]
    nothing = tl.zeros_like(B[0])
    gpole, gB, gmap, gD = (nothing, nothing), (nothing, nothing), scaled(maps, 0.0), tl.zeros_like(feed)
    for back in range(0, rows):
        k = rows - 1 - back
        row = first_row + k
        kind, channels, gap, found, v, w = _row(given, values, tile, series, row, L, H, n, hold, alpha, RAMP, ORDERS)
        h, b, d = gap.to(v.dtype), _spread(B, v), _spread(B, w)
        state = load_pair(room + 2 * k * area, room_place, area, mask)
        new, before = advance(state, found[0], found[1], found[2], b, d, h, RAMP, KICK)
        inside = _heads(channel, channels, M, feed.shape[0])[1]
        gout = tl.load(gy + (series * L + row) * H * M + output, mask=inside, other=0.0)
        gmap = plus(gmap, scaled((new[0][None, :, :], new[1][None, :, :]), gout[:, :, None]))
        g = tl.sum(maps[0] * gout[:, :, None], axis=0), tl.sum(maps[1] * gout[:, :, None], axis=0)
        g = chosen(kind == 1, plus(g, carry), g)
        gstate, gb, gd, gp, gh = advance_adjoint(
            state, before, found[0], found[1], found[2], found[3], b, d, g, values[4], h, alpha, RAMP, KICK, CLOCKED
        )
        carry = chosen(kind == 1, gstate, chosen(kind == 2, plus(carry, gstate), carry))
        gpole = plus(gpole, gp)
        gB = plus(gB, scaled(gb, v[:, None]))
        gv = tl.sum(conjugate_dot(B, gb), axis=1)
        gnow, passed = hold[2] * gv, hold[0] * gv
        if RAMP:
            gB = plus(gB, scaled(gd, w[:, None]))
            gw = tl.sum(conjugate_dot(B, gd), axis=1)
            gnow, passed = gnow + hold[3] * gw, passed + hold[1] * gw
        if CLOCKED:
            tl.store(ggaps + series * L + row, tl.sum(tl.sum(gh.to(tl.float64), axis=1), axis=0), mask=kind != 0)
        now = tl.load(given[0] + (series * L + row) * H + channel, mask=channel < channels, other=0.0)
        gD += gout * now[None, :]
        gnow += tl.sum(feed * gout, axis=0) + tl.where(kind == 1, held, 0.0)
        tl.store(gu + (series * L + row) * H + channel, gnow, mask=channel < channels)
        held = tl.where(kind == 0, held, tl.where(kind == 1, 0.0, held) + passed)
    _added(sums, place, gpole[0], mask)
    _added(sums + H * n, place, gpole[1], mask)
    _added(sums + 2 * H * n, place, gB[0], mask)
    _added(sums + 3 * H * n, place, gB[1], mask)
    _added(gmaps, map_place, gmap[0], map_mask)
    _added(gmaps + n, map_place, gmap[1], map_mask)
    _added(gfeed, output, gD, _heads(channel, H, M, feed.shape[0])[1])
    return carry, held
