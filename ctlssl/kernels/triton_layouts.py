"""How diagonal systems lie in the tiles of the Triton kernels, and what these are told besides tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["fixed_slots", "mode_of", "orders_back", "rows_before", "tile_of", "tile_of_pairs"]

_LANES = 64
"""Numbers of a tile that a warp of 32 threads takes, two a thread."""
_PER_PI = (0.3183098861837907, -1.9678676675182486e-17)  # 1 / pi as a sum


def fixed_slots(poles: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """What kernels read of eigenvalues and input maps (G, 2 n): (10, G, n) in B's precision, (2, G, n) in float64.

    The first are log2 of the growth and half turns a unit of time, what rounding left of these, 1 where lambda counts
    as 0, then lambda, 1 / lambda and B, real and imaginary parts; the second half turns as a sum of two numbers.
    """
    real, imag = poles.detach().to(torch.float64).tensor_split(2, dim=-1)  # (G, n)
    turn, rest = _product(imag, *_PER_PI)
    shown = turn.to(B.dtype).to(torch.float64)
    zero = torch.hypot(real, imag) < (1e-15 if B.dtype == torch.float32 else 1e-25)
    inverse = torch.where(zero, 0, 1 / torch.where(zero, 1, torch.complex(real, imag)))
    parts = [real / math.log(2), shown, (turn - shown) + rest, zero, real, imag, inverse.real, inverse.imag]
    slots = torch.stack([part.to(B.dtype) for part in (*parts, *B.detach().tensor_split(2, dim=-1))])
    return slots, torch.stack([turn, rest])


def _product(a: Tensor, b: float, b_low: float) -> tuple[Tensor, Tensor]:
    """A (b + b_low) as a sum of two numbers (Dekker's product)."""
    product, scale = a * b, 134217729.0  # 2^27 + 1
    top, high = scale * a - (scale * a - a), scale * b - (scale * b - b)
    error = ((top * high - product) + top * (b - high) + (a - top) * high) + (a - top) * (b - high)
    return product, error + a * b_low


def mode_of(hold: Sequence[float], alpha: float) -> dict[str, Any]:
    """Weights as the kernels read them: the ramp of a gbt rule is alpha times its hold, a kick is the only drive."""
    p_F, p_G, n_F, n_G, kick = (float(weight) for weight in hold)
    if kick:
        weights = (0.0, 0.0, kick, 0.0)
    else:
        weights = (p_F + alpha * p_G, 0.0, n_F + alpha * n_G, 0.0) if alpha >= 0 else (p_F, p_G, n_F, n_G)
    ramp = weights[1] != 0 or weights[3] != 0
    return {"hold": weights, "alpha": float(alpha), "RAMP": ramp, "KICK": bool(kick), "enable_fp_fusion": True}


def orders_back(mode: dict[str, Any]) -> int:
    """How many of E, P and Q the way back of the exact rule reads."""
    return 3 if mode["RAMP"] else 1 if mode["KICK"] else 2


def rows_before(kinds: Tensor) -> Tensor:
    """The last committed row before each one, -1 where there is none, (B, L) int32."""
    rows = torch.arange(kinds.shape[1], device=kinds.device, dtype=torch.int32)
    upto = torch.where(kinds == 1, rows, -1).cummax(1).values if kinds.shape[1] else kinds.to(torch.int32)
    return torch.nn.functional.pad(upto[:, :-1], (1, 0), value=-1)[:, : kinds.shape[1]].contiguous()


def tile_of(C: Tensor) -> dict[str, int]:
    """Powers of two that hold the channels of a tile, their heads and pairs; the same for every batch and length."""
    H, M, N = C.shape
    heads, pairs = _power(M), _power(N // 2)
    together = min(max(1, _LANES // (heads * pairs)), _power(H))
    return {"HB": together, "MP": heads, "NP": pairs, "num_warps": _warps(together * heads * pairs)}


def tile_of_pairs(pairs: int) -> dict[str, int]:
    """The same for the pairs of one system."""
    together = min(_LANES, _power(pairs))
    return {"NP": together, "num_warps": _warps(together)}


def _power(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


def _warps(numbers: int) -> int:
    return min(max(1, numbers // _LANES), 8)
