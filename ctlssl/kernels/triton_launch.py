"""Launches of the Triton kernels of a diagonal A: tensors in, tensors out, arguments as `triton_diagonal` has them."""

# ruff: noqa: ANN001, ANN002, ANN201, ANN202

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from ctlssl.kernels.triton_layouts import fixed_slots, mode_of, orders_back, rows_before, tile_of, tile_of_pairs

__all__ = [
    "STRIDE", "fake_adjoint", "fake_bank", "fake_multi", "run_bank", "run_bank_adjoint", "run_multi",
    "run_multi_adjoint",
]  # fmt: skip

STRIDE = 64
"""Rows between two checkpoints of the state of a bank."""
_PARTS = 64
"""Parts of a batch that sum the gradients of shared parameters by themselves: a number, whatever the device."""


def _beside(run: Callable) -> Callable:
    """On the device of the tensors, in their own precision."""

    @wraps(run)
    def runs(*given):
        with torch.cuda.device_of(given[0]), torch.autocast(given[0].device.type, enabled=False):
            return run(*given)

    return runs


@_beside
def run_bank(u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, keep):
    """Y, the last state, and the checkpoints of the state if they are to be kept."""
    from ctlssl.kernels.triton_bank import bank_forward

    (series, L, H), (_, M, N) = u.shape, C.shape
    mode, tile = mode_of(hold, alpha), tile_of(C)
    y, last = u.new_zeros(series, L, H, M), x.new_empty(x.shape)
    kept = x.new_empty(_kept_bank(x, L, keep))
    if x.numel():
        given = [t.detach().contiguous() for t in (u, start, gaps, kinds, rows_before(kinds), *fixed_slots(poles, B))]
        maps = [t.detach().contiguous() for t in (C, D, x)]
        bank_forward[(series, -(-H // tile["HB"]))](
            *given, *maps, y, last, kept, L, H, M, N // 2, STRIDE=STRIDE, KEEP=keep, **mode, **tile
        )
    return y, last, kept


def _kept_bank(x: Tensor, rows: int, keep: bool) -> int:
    return -(-rows // STRIDE) * x.numel() if keep else 0


def fake_bank(u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, keep):
    """The shapes of `run_bank`."""
    kept = x.new_empty(_kept_bank(x, u.shape[1], keep))
    return u.new_empty(*u.shape, C.shape[1]), x.new_empty(x.shape), kept


@_beside
def run_bank_adjoint(gy, gend, kept, u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, clocked):
    """Adjoints of u, start, gaps (empty unless `clocked`), poles, B, C, D and x."""
    from ctlssl.kernels.triton_bank import bank_backward

    (series, L, H), (_, M, N) = u.shape, C.shape
    mode, tile, parts = mode_of(hold, alpha), tile_of(C), min(series, _PARTS)
    blocks = -(-H // tile["HB"])
    room = u.new_empty(parts, blocks, STRIDE if L else 0, 2, tile["HB"] * tile["NP"])
    gu, gstart, gx = (t.new_zeros(t.shape) for t in (u, start, x))
    ggaps = gaps.new_zeros(blocks, *gaps.shape) if clocked else gaps.new_zeros(1, 1, 0)
    sums, gmaps, gfeed = (gaps.new_zeros(max(parts, 1), *shape) for shape in ((4, H, N // 2), C.shape, D.shape))
    if x.numel():
        given = (u, start, gaps, kinds, rows_before(kinds), *fixed_slots(poles, B), C, D, kept, gy, gend)
        given = [t.detach().contiguous() for t in given]
        bank_backward[(parts, blocks)](
            *given, room, gu, gstart, ggaps, sums, gmaps, gfeed, gx, series, parts, L, H, M, N // 2,
            STRIDE=STRIDE, CLOCKED=clocked, ORDERS=orders_back(mode), **mode, **tile,
        )  # fmt: skip
    sums = sums.sum(0)  # (4, H, n)
    gpoles, gB = torch.cat(tuple(sums[:2]), dim=-1), torch.cat(tuple(sums[2:]), dim=-1)
    shared = [part.to(u.dtype) for part in (gB, gmaps.sum(0), gfeed.sum(0))]
    return [gu, gstart, ggaps.sum(0), gpoles, *shared, gx]


@_beside
def run_multi(u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, keep):
    """Y, the last state, and what each row shows if it is to be kept."""
    from ctlssl.kernels.triton_multi import states_forward

    (series, L, _), N = u.shape, poles.shape[-1]
    mode, tile = mode_of(hold, alpha), tile_of_pairs(N // 2)
    last, shown = x.new_empty(x.shape), u.new_zeros(series, L, N)
    given = (*_driven(u, start, kinds, B)[:2], gaps, kinds, rows_before(kinds), *_unit_slots(poles, B), x)
    if x.numel():
        states_forward[(series, -(-(N // 2) // tile["NP"]))](
            *(t.detach().contiguous() for t in given), shown, last, L, N // 2, **mode, **tile
        )
    inside = (kinds > 0)[..., None]
    y = torch.where(inside, shown @ C.mT + D * torch.where(inside, u, 0), 0)
    return y, last, shown.flatten() if keep else shown.new_empty(0)


def _driven(u: Tensor, start: Tensor, kinds: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """B u (B, L, 2 n), B times the input before the first row, and u without what padding holds."""
    u = torch.where((kinds > 0)[..., None], u, 0)
    return u @ B.mT, start @ B.mT, u


def _unit_slots(poles: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    return fixed_slots(poles, torch.ones_like(poles, dtype=B.dtype))


def fake_multi(u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, keep):
    """The shapes of `run_multi`."""
    kept = u.shape[0] * u.shape[1] * poles.shape[-1] if keep else 0
    return u.new_empty(u.shape), x.new_empty(x.shape), x.new_empty(kept)


@_beside
def run_multi_adjoint(gy, gend, kept, u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, clocked):
    """Adjoints as those of a bank."""
    from ctlssl.kernels.triton_multi import states_backward

    (series, L, _), N = u.shape, poles.shape[-1]
    mode, tile = mode_of(hold, alpha), tile_of_pairs(N // 2)
    blocks, shown = -(-(N // 2) // tile["NP"]), kept.view(series, L, N)
    driven, first, u = _driven(u, start, kinds, B)
    gy = torch.where((kinds > 0)[..., None], gy, 0)
    gdriven, gfirst, gx = (t.new_zeros(t.shape) for t in (driven, first, x))
    ggaps = gaps.new_zeros(blocks, *gaps.shape) if clocked else gaps.new_zeros(1, 1, 0)
    gpoles = gaps.new_zeros(series, N)
    given = (driven, first, gaps, kinds, rows_before(kinds), *_unit_slots(poles, B), x, shown, gy @ C, gend)
    if x.numel():
        states_backward[(series, blocks)](
            *(t.detach().contiguous() for t in given), gdriven, gfirst, ggaps, gpoles, gx, series, L, N // 2,
            CLOCKED=clocked, ORDERS=orders_back(mode), **mode, **tile,
        )  # fmt: skip
    flat = [t.flatten(0, 1) for t in (gdriven, u, gy, shown)]  # (B L, .)
    maps = flat[0].mT @ flat[1] + gfirst.mT @ start, flat[2].mT @ flat[3], (gy * u).sum((0, 1))
    return [gdriven @ B + D * gy, gfirst @ B, ggaps.sum(0), gpoles.sum(0, keepdim=True), *maps, gx]


def fake_adjoint(gy, gend, kept, u, start, gaps, kinds, poles, B, C, D, x, hold, alpha, clocked):
    """The shapes of both adjoints."""
    ggaps = gaps.new_empty(gaps.shape if clocked else (1, 0))
    return [t.new_empty(t.shape) for t in (u, start, ggaps, poles, B, C, D, x)]
