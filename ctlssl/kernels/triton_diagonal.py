"""The recurrence of a diagonal A on GPUs: Triton kernels as torch operators with their derivatives.

The kernels do what the loops on the CPU do, with the same formulas. They are checked in Triton's interpreter on a
CPU and compiled for GPUs, but **not yet timed on hardware**: tile sizes are estimates. Where the graph of a backward
pass is kept (create_graph=True) that pass is the plain torch twin's, so that second derivatives exist. Triton is
imported when the first kernel runs.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ctlssl.kernels.diagonal_twin import bank_twin, multi_twin
from ctlssl.kernels.operators import is_plain, operator, register_derivative
from ctlssl.kernels.triton_launch import (
    fake_adjoint,
    fake_bank,
    fake_multi,
    run_bank,
    run_bank_adjoint,
    run_multi,
    run_multi_adjoint,
)  # fmt: skip

__all__ = ["triton_bank", "triton_multi", "usable"]


def usable(u: Tensor) -> bool:
    """Whether the Triton kernels run for inputs like these: on CUDA, where the environment says CTLSSL_TRITON=1.

    Until they have been timed and tested on hardware the plain torch twin is what runs there otherwise.

    Example:
        >>> import torch
        >>> usable(torch.zeros(1, 2, 3))  # on a CPU the compiled loops run
        False
    """
    if u.device.type != "cuda" or u.dtype not in (torch.float32, torch.float64):
        return False
    if os.environ.get("CTLSSL_TRITON") != "1":
        return False
    if torch.compiler.is_compiling() or is_plain() or not _installed():
        return False
    return torch.cuda.get_device_capability(u.device) >= (8, 0)  # the oldest that Triton supports


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def triton_bank(
    u: Tensor,
    start: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """C x + D u of a bank of H systems, (B, L, H, M), and the last committed state, (B, H, 2 n).

    Args:
        u: inputs, (B, L, H); those of padding are not read.
        start: the last committed input before the first row, (B, H).
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        poles: eigenvalues of the pairs, (H, 2 n) float64.
        B: input map, (H, 2 n).
        C: output map, (H, M, 2 n).
        D: feed-through, (H, M).
        x: state before the first row, (B, H, 2 n).
        hold: weights (p_F, p_G, n_F, n_G, kick).
        alpha: of gbt; negative for the exact rule.
    """
    tensors = (u, start, gaps, kinds, poles, B, C, D, x)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return _bank(*tensors, list(hold), alpha, keep)[:2]


def triton_multi(
    u: Tensor,
    start: Tensor,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """C x + D u of one system with H inputs, (B, L, H), and the last committed state, (B, 1, 2 n).

    Args:
        u: inputs, (B, L, H); those of padding are not read.
        start: the last committed input before the first row, (B, H).
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        poles: eigenvalues of the pairs, (1, 2 n) float64.
        B: input map, (2 n, H).
        C: output map, (H, 2 n).
        D: feed-through, (H,).
        x: state before the first row, (B, 1, 2 n).
        hold: weights (p_F, p_G, n_F, n_G, kick).
        alpha: of gbt; negative for the exact rule.
    """
    tensors = (u, start, gaps, kinds, poles, B, C, D, x)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return _multi(*tensors, list(hold), alpha, keep)[:2]


_ARGUMENTS = (
    "Tensor u, Tensor start, Tensor gaps, Tensor kinds, Tensor poles, Tensor B, Tensor C, Tensor D, Tensor x, "
    "float[] hold, float alpha"
)
_FORWARD = "{}({}, bool keep) -> (Tensor shown, Tensor end, Tensor kept)"
_BACKWARD = "{}(Tensor gshown, Tensor gend, Tensor kept, {}, bool clocked) -> Tensor[]"


def _operator(schema: str, name: str, function: Callable, fake: Callable) -> Any:
    """On CPU tensors the kernels run in Triton's interpreter alone, for tests."""
    made = operator(schema.format(name, _ARGUMENTS), function, fake)
    torch.library.impl(f"ctlssl::{name}", "CUDA", function)
    return made


_bank = _operator(_FORWARD, "triton_bank", run_bank, fake_bank)
_bank_adjoint = _operator(_BACKWARD, "triton_bank_adjoint", run_bank_adjoint, fake_adjoint)
_multi = _operator(_FORWARD, "triton_multi", run_multi, fake_multi)
_multi_adjoint = _operator(_BACKWARD, "triton_multi_adjoint", run_multi_adjoint, fake_adjoint)
register_derivative(_bank, _bank_adjoint, bank_twin, (0, 1, 2, 4, 5, 6, 7, 8))
register_derivative(_multi, _multi_adjoint, multi_twin, (0, 1, 2, 4, 5, 6, 7, 8))
