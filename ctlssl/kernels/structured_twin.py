"""The recurrence of a structured A in plain torch: the reference of the fused loops, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctlssl.discretization import gbt
from ctlssl.kernels.structured_layouts import LAYOUTS

__all__ = ["structured_twin"]


def structured_twin(
    inputs: Tensor,
    x: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    fields: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    structure: str,
    rank: int,
    kick: bool,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """What each row shows, and the last committed state (B, G, N) in float64, by the structure's own products.

    With B and C the inputs are scalars (B, L, G, 1) and outputs C x (B, L, G, M); without, inputs are drives
    (B, L, G, N) and states are shown.

    Args:
        inputs: scalars or drives.
        x: state before the first row, (B, G, N) float64.
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        fields: those of A, flattened and joined, (G, F) float64.
        B: input map, (G, N), or None.
        C: output map, (G, M, N), or None.
        structure: name in `LAYOUTS`.
        rank: of the low-rank part of A, 0 where there is none.
        kick: whether the drive is added to the state as it is.
        alpha: of gbt.
    """
    layout, rule = LAYOUTS[structure], gbt(alpha)
    shapes = layout.shapes(x.shape[2], rank)
    parts = fields.split([math.prod(shape) for shape in shapes], dim=1)
    A = layout.build(*(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)))
    inside = (kinds > 0)[..., None, None]
    drives = torch.where(inside, inputs, 0).double()
    drives = drives if B is None else B * drives  # (B, L, G, N)
    h = torch.where(kinds > 0, gaps, 0)
    commits = (kinds == 1)[..., None, None]
    shown = []
    for k in range(h.shape[1]):
        seen = rule.advance(A, h[:, k, None], x, 0.0 if kick else drives[:, k])  # (B, G, N)
        seen = seen + drives[:, k] if kick else seen
        x = torch.where(commits[:, k], seen, x)
        shown.append(seen)
    states = torch.stack(shown, dim=1) if shown else x.new_zeros(x.shape[0], 0, *x.shape[1:])  # (B, L, G, N)
    y = states if C is None else (C * states[..., None, :]).sum(-1)
    return torch.where(inside, y, 0).to(inputs.dtype), x.clone()
