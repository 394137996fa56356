"""The states of a diagonal system with many inputs on a GPU: discretize and step in one loop over time.

A program is a series and a block of eigenvalues. The products with the input and output maps are left to torch, and
what each row shows is kept, since the derivative of the output map asks for it anyway: nothing is stepped twice.
Checked in Triton's interpreter and compiled for GPUs, but not yet timed on hardware.
"""

# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from ctlssl.kernels.triton_language import jit, tl
from ctlssl.kernels.triton_rows import (
    advance,
    advance_adjoint,
    chosen,
    effects,
    eigenvalues,
    load_pair,
    plus,
    scaled,
    store_pair,
)

__all__ = ["states_backward", "states_forward"]


@jit
def _mixed(driven, first, series, row, earlier, L, n, pair, pairs, held_weight: tl.constexpr, weight: tl.constexpr):
    """B u of the first pairs of a row mixed with that of the observation before it, (NP,)."""
    value = scaled(load_pair(driven + (series * L + row) * 2 * n, pair, n, pair < pairs), weight)
    if held_weight != 0:
        value = plus(value, scaled(_earlier(driven, first, series, earlier, L, n, pair, pairs), held_weight))
    return value


@jit
def _earlier(rows, first, series, earlier, L, n, pair, pairs):
    """What stands at an earlier row, (B, L, 2 n), or before the first one, (B, 2 n), of the first pairs."""
    here = load_pair(rows + (series * L + earlier) * 2 * n, pair, n, pair < tl.where(earlier >= 0, pairs, 0))
    return plus(here, load_pair(first + series * 2 * n, pair, n, pair < tl.where(earlier >= 0, 0, pairs)))


@jit
def _row(
    given, values, series, row, L, n, pair, mask,
    hold: tl.constexpr, alpha: tl.constexpr, RAMP: tl.constexpr, ORDERS: tl.constexpr,
):  # fmt: skip
    """A row's kind, its pairs (none in padding), its gap, the row before, and what steps and drives it."""
    driven, first, gaps, kinds, before, turns64 = given
    kind = tl.load(kinds + series * L + row)
    pairs = tl.where(kind != 0, n, 0)
    gap = tl.load(gaps + series * L + row, mask=kind != 0, other=0.0)
    earlier = tl.load(before + series * L + row).to(tl.int64)
    found = effects(values, turns64, pair, n, mask, gap, alpha, ORDERS)
    b = _mixed(driven, first, series, row, earlier, L, n, pair, pairs, hold[0], hold[2])
    d = b
    if RAMP:
        d = _mixed(driven, first, series, row, earlier, L, n, pair, pairs, hold[1], hold[3])
    return kind, pairs, gap, earlier, found, b, d


@jit
def _passed_on(gb, gd, held, kind, hold: tl.constexpr, RAMP: tl.constexpr):
    """The adjoints of B u of a row and of the observation before it, from those of the drives and of later rows."""
    gnow, passed = scaled(gb, hold[2]), scaled(gb, hold[0])
    if RAMP:
        gnow, passed = plus(gnow, scaled(gd, hold[3])), plus(passed, scaled(gd, hold[1]))
    held_on = chosen(kind == 1, passed, chosen(kind == 2, plus(held, passed), held))
    return chosen(kind == 1, plus(gnow, held), gnow), held_on


@jit
def states_forward(
    driven, first, gaps, kinds, before, fixed, turns64, x, shown, last, L, n,
    hold: tl.constexpr, alpha: tl.constexpr,
    RAMP: tl.constexpr, KICK: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """What each row shows, (B, L, 2 n), and the last states (B, 2 n)."""
    series = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1) * NP + tl.arange(0, NP)
    mask = pair < n
    given = (driven, first, gaps, kinds, before, turns64)
    values = eigenvalues(fixed, turns64, pair, n, mask)
    state = load_pair(x + series * 2 * n, pair, n, mask)
    for row in range(0, L):
        kind, pairs, gap, earlier, found, b, d = _row(
            given, values, series, row, L, n, pair, mask, hold, alpha, RAMP, 2 if RAMP else 1
        )
        new, plain = advance(state, found[0], found[1], found[2], b, d, gap.to(b[0].dtype), RAMP, KICK)
        store_pair(shown + (series * L + row) * 2 * n, pair, n, new, pair < pairs)
        state = chosen(kind == 1, new, state)
    store_pair(last + series * 2 * n, pair, n, state, mask)


@jit
def states_backward(
    driven, first, gaps, kinds, before, fixed, turns64, x, shown, gshown, gend, gdriven, gfirst, ggaps, gpoles, gx,
    series_count, L, n,
    hold: tl.constexpr, alpha: tl.constexpr,
    RAMP: tl.constexpr, KICK: tl.constexpr, CLOCKED: tl.constexpr, ORDERS: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """Adjoints gdriven, gfirst, gx, ggaps of each block (blocks, B, L), gpoles of each series (B, 2, n) in float64."""
    series = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1) * NP + tl.arange(0, NP)
    mask = pair < n
    given = (driven, first, gaps, kinds, before, turns64)
    values = eigenvalues(fixed, turns64, pair, n, mask)
    carry = load_pair(gend + series * 2 * n, pair, n, mask)
    ggaps += (tl.program_id(1).to(tl.int64) * series_count + series) * L
    nothing = tl.zeros_like(carry[0])
    held, gpole = (nothing, nothing), (nothing.to(tl.float64), nothing.to(tl.float64))
    for back in range(0, L):
        row = L - 1 - back
        kind, pairs, gap, earlier, found, b, d = _row(
            given, values, series, row, L, n, pair, mask, hold, alpha, RAMP, ORDERS
        )
        state = _earlier(shown, x, series, earlier, L, n, pair, n)
        h, commit = gap.to(b[0].dtype), kind == 1
        new, before_kick = advance(state, found[0], found[1], found[2], b, d, h, RAMP, KICK)
        g = load_pair(gshown + (series * L + row) * 2 * n, pair, n, pair < pairs)
        g = chosen(commit, plus(g, carry), g)
        gstate, gb, gd, gp, gh = advance_adjoint(
            state, before_kick, found[0], found[1], found[2], found[3], b, d, g, values[4], h,
            alpha, RAMP, KICK, CLOCKED,
        )  # fmt: skip
        carry = chosen(commit, gstate, chosen(kind == 2, plus(carry, gstate), carry))
        gpole = plus(gpole, (gp[0].to(tl.float64), gp[1].to(tl.float64)))
        if CLOCKED:
            tl.store(ggaps + row, tl.sum(gh.to(tl.float64), axis=0), mask=kind != 0)
        gnow, held = _passed_on(gb, gd, held, kind, hold, RAMP)
        store_pair(gdriven + (series * L + row) * 2 * n, pair, n, gnow, pair < pairs)
    store_pair(gpoles + series * 2 * n, pair, n, gpole, mask)
    store_pair(gx + series * 2 * n, pair, n, carry, mask)
    store_pair(gfirst + series * 2 * n, pair, n, held, mask)
