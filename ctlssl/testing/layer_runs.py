"""Lines 5 and 6 for a layer: one answer however it is run, in chunks, in steps, in each view."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctlssl.testing.comparing import difference, gradients_of, tensors_of
from ctlssl.testing.layer_cases import LayerCase
from ctlssl.testing.layer_subject import ROUNDING, LayerSubject
from ctlssl.testing.report import Check, Findings, Skipped
from ctlssl.views import Integration

__all__ = ["chunks", "views"]


def chunks(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    """Line 5: one answer at once, in chunks and row by row, and the gradient through the state."""
    layer, (u, dt), limit = subject.twin(dtype), subject.inputs(case, dtype), subject.limit(5, ROUNDING[dtype])
    if "state" not in subject.keywords or subject.bidirectional:
        yield Skipped("it reads the whole series" if subject.bidirectional else "no state= is taken")
        return
    for said, clock in (("", dt), (", gaps over nine decades", subject.allowed(case.decades(-5, 4)))):
        whole, final = layer(u, clock)
        if final is None:
            yield Skipped("it returns no state")
            return
        y, state = _in_chunks(layer, u, clock)
        yield Check(f"outputs in chunks{said}", difference(y, whole), limit)
        for mine, theirs in zip(tensors_of(state), tensors_of(final), strict=True):
            yield Check(f"state after chunks{said}", difference(mine, theirs), limit)
        if not subject.steps:
            yield Skipped("no step")
            continue
        with torch.no_grad():
            y, state = _in_steps(layer, u, clock)
        yield Check(f"outputs in steps{said}", difference(y, whole), limit)
        for mine, theirs in zip(tensors_of(state), tensors_of(final), strict=True):
            yield Check(f"state after steps{said}", difference(mine, theirs), limit)
    if "rate" in subject.keywords:
        rate = 0.5 ** torch.arange(case.batch, dtype=torch.float64)  # (B,)
        given = (layer, u, subject.allowed(dt))
        error = difference(_in_chunks(*given, rate=rate)[0], given[0](*given[1:], rate=rate)[0])
        yield Check("outputs in chunks, a rate a series", error, limit)
    if dtype == torch.float64:
        yield from _gradients_through_the_state(subject, case)


def _in_chunks(layer: nn.Module, u: Tensor, dt: Tensor, **fixed: Tensor) -> tuple[Tensor, object]:
    L = u.shape[1]
    cuts = sorted({0, 1, L // 3, L // 2, L})
    edges = [*cuts[:2], *cuts[1:]]  # one chunk has no rows
    state, parts = None, []
    for start, stop in zip(edges, edges[1:], strict=False):
        keywords = fixed if state is None else fixed | {"state": state}
        y, state = layer(u[:, start:stop], dt[:, start:stop], **keywords)
        parts.append(y)
    return torch.cat(parts, dim=1), state


def _in_steps(layer: nn.Module, u: Tensor, dt: Tensor) -> tuple[Tensor, object]:
    parts, start = [], 0
    if callable(getattr(layer, "initial_state", None)):
        state = layer.initial_state(len(u))
    else:
        y, state = layer(u[:, :1], dt[:, :1])
        parts, start = [y[:, 0]], 1
    for k in range(start, u.shape[1]):
        y, state = layer.step(u[:, k], dt[:, k], state)
        parts.append(y)
    return torch.stack(parts, dim=1), state


def _gradients_through_the_state(subject: LayerSubject, case: LayerCase) -> Findings:
    layer, (u, dt), slopes = subject.twin(torch.float64), subject.inputs(case, torch.float64), []
    weights = torch.randn(layer(u, dt)[0].shape, generator=case.generator(), dtype=torch.float64)
    for run in (layer, lambda *given: _in_chunks(layer, *given)):
        leaf, clock = u.clone().requires_grad_(), dt.clone().requires_grad_()
        y, _ = run(leaf, clock)
        learned = [p for p in layer.parameters() if p.requires_grad]
        slopes.append(gradients_of((weights * y).sum(), [leaf, clock, *learned]))
    for mine, theirs in zip(*reversed(slopes), strict=True):
        yield Check("gradients in chunks", difference(mine, theirs), subject.limit(5, 1e-9))


def views(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    """Line 6: recurrence, convolution and integration against one another."""
    if "view" not in subject.keywords:
        yield Skipped("no view= is taken")
        return
    case, lengths = subject.ragged(case)
    layer, (u, _) = subject.twin(dtype), subject.inputs(case, dtype)
    unit = 0.25 / (subject.fastest_rate or 1.0)
    grid = torch.full_like(case.dt, unit)
    grid[:, 0] *= 3  # the first gap may be another
    grid = subject.allowed(grid)
    expected, before = layer(u, grid, view="recurrence", **lengths)
    try:
        found, after = layer(u, grid, view="convolution", **lengths)
    except ValueError as error:  # a layer may say that it has no such view
        yield Skipped(f"no convolution: {error}")
        return
    limit = subject.limit(6, {torch.float64: 1e-10, torch.float32: 1e-4}[dtype])
    yield Check("convolution against recurrence", difference(found, expected), limit)
    for mine, theirs in zip(tensors_of(after), tensors_of(before), strict=True):
        yield Check("state of the convolution", difference(mine, theirs), limit)
    if dtype == torch.float64:
        yield from _solver(subject, case, lengths)


def _solver(subject: LayerSubject, case: LayerCase, lengths: dict[str, Tensor]) -> Findings:
    method = getattr(subject.layer, "method", None)
    if subject.fastest_rate is None or method is None:
        yield Skipped("no system and method to integrate")
        return
    layer, solver = subject.twin(torch.float64), Integration(rtol=1e-8, atol=1e-10)
    if method.rule.name == "exact":
        few = case.first_rows(3)
        given = (few.u, few.dt.clamp(0.1, 3.0) / subject.fastest_rate)
        lengths = {name: few.lengths for name in lengths}
        error = difference(layer(*given, view=solver, **lengths)[0], layer(*given, **lengths)[0])
        yield Check("integration against recurrence", error, subject.limit(6, 1e-6))
        return
    few, errors = case.first_rows(2), []
    # By the norm of A, not its eigenvalues: far from normal, it moves a state much faster than they say.
    norm = torch.linalg.matrix_norm(layer.system().A.to_dense().detach(), 2).max().item()
    dt, solver = few.dt.clamp(0.3, 3.0) / (6 * norm), Integration(rtol=1e-10, atol=1e-12)
    for parts in (4, 8):  # the same input, held or joined by lines, on a grid cut finer and finer
        given = _refined(few.u, dt, parts, method.ramped)
        errors.append(difference(layer(*given)[0], layer(*given, view=solver)[0]))
    order = math.log2(errors[0] / errors[1]) if min(errors) > 1e-9 else math.inf
    lacking = max(0.0, _order(method) - order)
    yield Check(f"orders that {method.name} lacks against the integration", lacking, subject.limit(6, 0.5))


def _order(method: object) -> int:
    """The order in which a gbt rule integrates its own hold: 2 for the trapezoid, 1 for the others."""
    return 2 if method.rule.alpha == 0.5 else 1


def _refined(u: Tensor, dt: Tensor, parts: int, ramped: bool) -> tuple[Tensor, Tensor]:
    """Each gap cut into parts, over which the input is held at its end or runs on a line."""
    before = torch.cat([torch.zeros_like(u[:, :1]), u[:, :-1]], dim=1)  # (B, L, C)
    share = torch.arange(1, parts + 1, dtype=u.dtype)[:, None] / parts if ramped else u.new_ones(parts, 1)
    fine = before[:, :, None] + share * (u - before)[:, :, None]  # (B, L, parts, C)
    return fine.flatten(1, 2), (dt / parts).repeat_interleave(parts, dim=1)
