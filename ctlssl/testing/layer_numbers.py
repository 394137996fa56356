"""Lines 8 and 9 for a layer: precision and gradients."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ctlssl.testing.comparing import difference, directional, gradients_of, seen_change, tensors_of
from ctlssl.testing.layer_cases import LayerCase
from ctlssl.testing.layer_subject import ROUNDING, LayerSubject
from ctlssl.testing.report import Check, Findings, Skipped

__all__ = ["gradients", "wide"]


def wide(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    """Line 8: gaps of eighteen decades are finite and precise, and no digit of a gap is lost."""
    if subject.grows:
        yield Skipped("its rule grows at large gaps: choose gbt(alpha >= 1/2) or an exact rule")
        return
    layer, exact, dt = subject.twin(dtype), subject.twin(torch.float64), case.decades(-9, 9)
    leaf, clock = case.u.to(dtype).requires_grad_(), dt.clone().requires_grad_()
    y, state = layer(leaf, clock)
    learned = [p for p in layer.parameters() if p.requires_grad]
    for slope in gradients_of(y.square().mean(), [leaf, clock, *learned]):
        yield Check("gradients that are not finite", 0.0 if bool(slope.isfinite().all()) else math.inf, 0.0)
    if dtype != torch.float64:
        expected, last = exact(case.u, dt)
        limit = subject.limit(8, ROUNDING[dtype])
        pairs = [(y, expected), *zip(tensors_of(state), tensors_of(last), strict=True)]
        for b in range(case.batch):
            yield Check("outputs against float64", difference(y[b], expected[b]), limit)
        for mine, theirs in pairs[1:]:
            yield Check("state against float64", difference(mine, theirs), limit)
        return
    yield Check("outputs that are not finite", 0.0 if bool(y.isfinite().all()) else math.inf, 0.0)
    u, dt = subject.inputs(case, dtype)
    error = seen_change(lambda clock: exact(u, clock)[0], dt, case.generator())
    if error is None:
        yield Skipped("the outputs do not depend on the gaps")
    else:
        yield Check("changes of gaps that float32 cannot hold", error, 0.1)


def _moved(layer: nn.Module, draw: torch.Generator) -> nn.Module:
    """A copy with parameters a little away from where they are: a start may lie on a fold, with a slope a side."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            size = 0.01 * ((parameter.abs().max().item() if parameter.numel() else 0.0) or 1.0)
            parameter += size * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    return other


def gradients(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    """Line 9: gradients of inputs, gaps, parameters and state against finite differences."""
    if dtype != torch.float64:
        return
    layer, small = _moved(subject.twin(dtype), case.generator()), case.first_rows(5)
    u, dt = subject.inputs(small, dtype)
    dt = dt.bfloat16().double()  # so short that float32 holds what the first finite differences make of them
    dt[:, -2] = dt[:, -1] / 2  # of a query, between two observations
    given = {"u": u, "dt": dt}
    learned = {f"parameter {name}": p.detach() for name, p in layer.named_parameters() if p.requires_grad}
    _, state = layer(u, dt)
    handed = {}
    if "state" in subject.keywords and not subject.bidirectional and isinstance(state, tuple):
        handed = {f"state {i}": part.detach() for i, part in enumerate(state)}
    keywords = {}
    if "is_query" in subject.keywords:
        keywords["is_query"] = torch.arange(u.shape[1]).expand(small.batch, -1) == u.shape[1] - 2

    def answer(inputs: dict[str, Tensor]) -> Tensor:
        own = dict(keywords)
        if handed:
            parts = [inputs[name] for name in handed]
            own["state"] = state._make(parts) if hasattr(state, "_make") else tuple(parts)
        swapped = {name.removeprefix("parameter "): inputs[name] for name in learned}
        y, after = functional_call(layer, swapped, (inputs["u"], inputs["dt"]), own)
        return torch.cat([part.flatten() for part in (y, *tensors_of(after))])

    for name, error in directional(answer, given | handed | learned, case.generator(), {"dt": dt}).items():
        yield Check(f"gradient of {name}", error, subject.limit(9, 1e-5))
