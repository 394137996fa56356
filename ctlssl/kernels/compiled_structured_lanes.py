"""Eight systems side by side: their numbers gathered into rows of eight lanes, and results dealt out again.

All numbers of a task lie in one flat float64 array, the room, as rows of eight; a place is the number of a row.
`items` holds the series and the group of each lane, (8, 2); lanes beyond `count` repeat the last item.
"""

from __future__ import annotations

from ctlssl.kernels.compilation import compiled
from ctlssl.kernels.compiled_simd import load, store

__all__ = [
    "LANES", "add", "add_fields", "clock", "deal_states", "gather_fields", "gather_inputs", "gather_states",
    "give_inputs", "put", "take",
]  # fmt: skip

LANES = 8


@compiled(inline=True)
def take(room, place):
    """The row at a place."""
    return load(room, place * LANES)


@compiled(inline=True)
def put(room, place, value):
    """Write the row at a place."""
    store(room, place * LANES, value)


@compiled(inline=True)
def add(room, place, value):
    """Add to the row at a place."""
    store(room, place * LANES, load(room, place * LANES) + value)


@compiled(inside=True)
def gather_fields(room, table, items):
    """Parameters of each item, table (G, R), into rows 0 to R."""
    for lane in range(LANES):
        fields = table[items[lane, 1]]
        for row in range(len(fields)):
            room[row * LANES + lane] = fields[row]


@compiled(inside=True)
def add_fields(room, sums, items, count, gtable):
    """Add R rows to the gradients of parameters, (G, R)."""
    for lane in range(count):
        fields = gtable[items[lane, 1]]
        for row in range(len(fields)):
            fields[row] += room[(sums + row) * LANES + lane]


@compiled(inside=True)
def gather_states(room, place, x, items, order):
    """States (B, G, N) of each item, in the order of its group (G, N), into N rows."""
    for lane in range(LANES):
        mine, places = x[items[lane, 0], items[lane, 1]], order[items[lane, 1]]
        for i in range(len(places)):
            room[(place + i) * LANES + lane] = mine[places[i]]


@compiled(inside=True)
def deal_states(room, place, x, items, count, order):
    """The way back."""
    for lane in range(count):
        mine, places = x[items[lane, 0], items[lane, 1]], order[items[lane, 1]]
        for i in range(len(places)):
            mine[places[i]] = room[(place + i) * LANES + lane]


@compiled(inside=True)
def clock(room, gap, commits, gaps, kinds, items, k):
    """Gaps, and 1 where row k is committed, into one row each; whether any lane has something to do.

    Padding gets gap 0, so that whatever stands there reaches no number.
    """
    active = False
    for lane in range(LANES):
        b = items[lane, 0]
        kind = kinds[b, k]
        room[gap * LANES + lane] = gaps[b, k] if kind else 0.0
        room[commits * LANES + lane] = 1.0 if kind == 1 else 0.0
        active = active or kind != 0
    return active


@compiled(inside=True)
def gather_inputs(room, place, inputs, kinds, items, order, k):
    """Row k of inputs (B, L, G, I), zero in the padding: one row where I is 1, else N in the order of the group."""
    for lane in range(LANES):
        b, g = items[lane, 0], items[lane, 1]
        inside = kinds[b, k] != 0
        mine = inputs[b, k, g]
        if len(mine) == 1:
            room[place * LANES + lane] = mine[0] if inside else 0.0
        else:
            for i in range(len(mine)):
                room[(place + i) * LANES + lane] = mine[order[g, i]] if inside else 0.0


@compiled(inside=True)
def give_inputs(room, place, inputs, kinds, items, count, order, k):
    """The way back; padding stays as it is."""
    for lane in range(count):
        b, g = items[lane, 0], items[lane, 1]
        if kinds[b, k] == 0:
            continue
        mine = inputs[b, k, g]
        if len(mine) == 1:
            mine[0] = room[place * LANES + lane]
        else:
            for i in range(len(mine)):
                mine[order[g, i]] = room[(place + i) * LANES + lane]
