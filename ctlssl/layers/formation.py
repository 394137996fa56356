"""From what a layer learns to the system it runs: step sizes folded into A and B, and what that says of time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.state_matrices import StateMatrix
from ctlssl.state_space import StateSpace

__all__ = ["form_system", "half_lives", "per_state"]


def per_state(step: Tensor, per: str, multi_input: bool) -> Tensor:
    """Step sizes shaped to multiply B, (H, N) or, with several inputs, (N, H).

    Args:
        step: step sizes, (), (H,), or one a conjugate pair, (n,) or (H, n).
        per: what has a step of its own, as in a resolved `StepSize`.
        multi_input: whether one system reads all channels.
    """
    if per != "state":
        return step[..., None]  # (H, 1) or (1,)
    both = torch.cat([step, step], -1)  # (N,) or (H, N)
    return both[:, None] if multi_input else both


def form_system(
    A: StateMatrix, step: Tensor, maps: tuple[Tensor, Tensor, Tensor], method: Discretization, per: str, multi: bool
) -> StateSpace:
    """A' = step A and B' = step B, which is B for impulses: a kick has no length.

    Args:
        A: state matrix per unit of the layer's own time.
        step: step sizes, as for `per_state`.
        maps: B, C and D.
        method: the discretization, whose hold has a say in B.
        per: what has a step of its own.
        multi: whether one system reads all channels.
    """
    B, C, D = maps
    if not method.hold.kick:
        B = B * per_state(step, per, multi)
    return StateSpace(A.scale_pairs(step) if per == "state" else A.scale(step), B, C, D, multi)


def half_lives(A: StateMatrix, groups: int) -> Tensor:
    """Half-lives ln 2 / |Re lambda| of the modes of each system, (G, N), ascending; infinite where nothing decays."""
    decay = A.eigenvalues().real.abs()  # (N,) or (H, N)
    return (math.log(2) / decay).expand(groups, -1).sort(-1).values
