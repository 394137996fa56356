"""The recurrence of a structured A under a gbt rule as a torch operator over the fused loops, with its derivatives.

On CPU tensors in float32 and float64 the loops run; elsewhere, under torch.compile, and inside `plain_torch()` the
twin does. First derivatives come from the loops; where the graph of a backward pass is kept (create_graph=True) that
pass is the twin's, so that second derivatives exist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.kernels.operators import array, fused, operator, register_derivative
from ctlssl.kernels.packing import checkpoints
from ctlssl.kernels.structured_layouts import LAYOUTS
from ctlssl.kernels.structured_twin import structured_twin
from ctlssl.state_matrices import StateMatrix

__all__ = ["structured_bank", "structured_states"]


def structured_bank(
    w: Tensor, gaps: Tensor, kinds: Tensor, A: StateMatrix, B: Tensor, C: Tensor, x: Tensor, kick: bool, alpha: float
) -> tuple[Tensor, Tensor]:
    """C x of a bank of H systems, (B, L, H, M) in the dtype of w, and the last committed state, (B, H, N) float64.

    Args:
        w: what B multiplies at each row, (B, L, H): inputs weighted by the hold, a ramp alpha times; that of padding
            is not read.
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        A: state matrix of batch (H,) or ().
        B: input map, (H, N).
        C: output map, (H, M, N).
        x: state before the first row, (B, H, N).
        kick: whether B w is added to the state as it is, not held over the gap.
        alpha: of gbt.
    """
    return _run(w[..., None], gaps, kinds, A, B.double(), C.double(), x, kick, alpha)


def structured_states(
    drives: Tensor, gaps: Tensor, kinds: Tensor, A: StateMatrix, x: Tensor, kick: bool, alpha: float
) -> tuple[Tensor, Tensor]:
    """States (B, L, G, N) from drives (B, L, G, N), and the last committed state; arguments as `structured_bank`."""
    return _run(drives, gaps, kinds, A, None, None, x, kick, alpha)


def _run(inputs: Tensor, gaps: Tensor, kinds: Tensor, A: StateMatrix, *rest: Any) -> tuple[Tensor, Tensor]:
    B, C, x, kick, alpha = rest
    structure = next(name for name, layout in LAYOUTS.items() if layout.build is type(A))
    groups, rank = x.shape[1], LAYOUTS[structure].rank(A)
    fields = [f.double().expand(groups, *f.shape[f.ndim - own :]).flatten(1) for f, own in A._fields()]
    given = (inputs, x.double(), gaps.double(), kinds, torch.cat(fields, 1), B, C, structure, rank, kick, float(alpha))
    if not fused(inputs):
        return structured_twin(*given)
    keep = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in given)
    return _structured(*given, keep)[:2]


def _given(*given: Any) -> Any:
    from ctlssl.kernels.structured_loops import Given

    wide = (value.double() if isinstance(value, Tensor) and value.is_floating_point() else value for value in given)
    return Given(*(array(value) if isinstance(value, Tensor) else value for value in wide))


def _run_structured(*given: Any) -> tuple[Tensor, ...]:
    from ctlssl.kernels import structured_loops

    y, end, kept = _fake_structured(*given)
    # One machine code for both precisions: all arithmetic is in float64 anyway.
    wide = tuple(torch.zeros(part.shape, dtype=torch.float64) for part in (y, end, kept))
    structured_loops.recurrence(_given(*given[:-1]), *(part.numpy() for part in wide))
    return wide[0].to(y.dtype), wide[1].to(end.dtype), wide[2]


def _fake_structured(inputs, x, gaps, kinds, fields, B, C, structure, rank, kick, alpha, keep):  # noqa: ANN001, ANN202
    series, length, groups = inputs.shape[:3]
    y = inputs.new_empty(series, length, groups, x.shape[2] if C is None else C.shape[1])
    return (
        y,
        x.new_empty(x.shape),
        x.new_empty(series, checkpoints(length, keep), groups, x.shape[2], dtype=torch.float64),
    )


def _run_adjoint(gshown: Tensor, gend: Tensor, kept: Tensor, *rest: Any) -> list[Tensor]:
    from ctlssl.kernels import structured_loops

    *given, clocked = rest
    wide = (array(kept), array(gshown.double()), array(gend.double()))
    found = structured_loops.recurrence_adjoint(_given(*given), *wide, clocked)
    found = [torch.from_numpy(np.ascontiguousarray(part)) for part in found]
    return [found[0].to(given[0].dtype), found[1].to(given[1].dtype), *found[2:]]


def _fake_adjoint(  # noqa: ANN202
    gshown, gend, kept, inputs, x, gaps, kinds, fields, B, C, structure, rank, kick, alpha, clocked,  # noqa: ANN001
):  # fmt: skip
    shapes = [inputs.shape, x.shape, gaps.shape if clocked else (1, 0), fields.shape]
    shapes += [(0,) if part is None else part.shape for part in (B, C)]
    return [t.new_empty(shape) for t, shape in zip((inputs, x, gaps, fields, fields, fields), shapes, strict=True)]


_GIVEN = (
    "Tensor inputs, Tensor x, Tensor gaps, Tensor kinds, Tensor fields, Tensor? B, Tensor? C, str structure, int rank, "
    "bool kick, float alpha"
)
_structured = operator(
    f"structured({_GIVEN}, bool keep) -> (Tensor shown, Tensor end, Tensor kept)", _run_structured, _fake_structured
)
_structured_adjoint = operator(
    f"structured_adjoint(Tensor gshown, Tensor gend, Tensor kept, {_GIVEN}, bool clocked) -> Tensor[]",
    _run_adjoint,
    _fake_adjoint,
)
register_derivative(_structured, _structured_adjoint, structured_twin, (0, 1, 2, 4, 5, 6))
