"""Lines 3 and 4 for a layer: queries, padding, neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctlssl.testing.comparing import bits, difference, gradients_of, rows_of, tensors_of
from ctlssl.testing.layer_cases import LayerCase
from ctlssl.testing.layer_subject import ROUNDING, LayerSubject
from ctlssl.testing.report import Check, Findings, Skipped

__all__ = ["padding", "queries"]

_SHAPES = {torch.float64: 1e-14, torch.float32: 1e-6}  # another batch is another order of sums in a matrix product
_FILLERS = ((0.0, 1.0), (1e30, 0.0), (math.nan, math.nan), (-math.inf, -5.0))  # of inputs and of gaps


def queries(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    """Line 3: queries leave outputs and state alone, bit for bit, and are answered as observations would be."""
    if "is_query" not in subject.keywords:
        yield Skipped("no is_query= is taken")
        return
    full, dt, flags, rows = case.with_queries()
    full, dt = full.to(dtype), subject.allowed(dt)
    for b in range(case.batch):  # alone, so that no padding and no neighbour has a part in it
        yield from _queries_of_one(subject, full[b : b + 1, : rows[b]], dt[b : b + 1, : rows[b]], flags[b, : rows[b]])
    yield from _peeks(subject, case, dtype)


def _queries_of_one(subject: LayerSubject, u: Tensor, dt: Tensor, asked: Tensor) -> Findings:
    """Of one series, u (1, R, C), dt (1, R), asked (R,)."""
    layer, limit = subject.twin(u.dtype), subject.limit(3, ROUNDING[u.dtype])
    found, after = layer(u, dt, is_query=asked[None])
    plain, before = layer(u[:, ~asked], dt[:, ~asked])
    yield Check("outputs at the observations", bits(found[:, ~asked], plain), 0.0)
    for mine, theirs in zip(tensors_of(after), tensors_of(before), strict=True):
        yield Check("the state after them", bits(mine, theirs), 0.0)
    if subject.bidirectional:
        return
    for row in asked.nonzero().flatten().tolist():
        kept = [k for k in range(row) if not asked[k]] + [row]
        alone, _ = layer(u[:, kept], dt[:, kept])
        yield Check("a query against an observation at its time", difference(found[0, row], alone[0, -1]), limit)


def _peeks(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    if not subject.peeks:
        yield Skipped("no peek")
        return
    layer, (u, dt), limit = subject.twin(dtype), subject.inputs(case, dtype), subject.limit(3, ROUNDING[dtype])
    _, state = layer(u, dt)
    before = [part.clone() for part in tensors_of(state)]
    expected, _ = layer(torch.cat([u, u[:, :1]], 1), torch.cat([dt, dt[:, :1]], 1))
    found = layer.peek(state, dt[:, 0], u[:, 0])
    yield Check("peek against one observation more", difference(found, expected[:, -1]), limit)
    for mine, theirs in zip(tensors_of(state), before, strict=True):
        yield Check("the state after peek", bits(mine, theirs), 0.0)


def padding(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    """Line 4: what stands in padding and in the neighbours changes no bit; their number next to nothing."""
    if "lengths" not in subject.keywords:
        yield Skipped("no lengths= is taken")
    else:
        yield from _content_of_padding(subject, case, dtype)
    case, lengths = subject.ragged(case)
    layer, (u, dt) = subject.twin(dtype), subject.inputs(case, dtype)
    y, state = layer(u, dt, **lengths)
    for b, rows in enumerate(case.lengths.tolist()):
        changed, other_dt = u.flip(-1).neg(), 0.7 * dt
        changed[b], other_dt[b] = u[b], dt[b]
        found, after = layer(changed, other_dt, **lengths)
        yield Check("outputs, other neighbours", bits(found[b, :rows], y[b, :rows]), 0.0)
        for mine, theirs in zip(rows_of(after, case.batch, b), rows_of(state, case.batch, b), strict=True):
            yield Check("state, other neighbours", bits(mine, theirs), 0.0)
    if lengths and "state" in subject.keywords and not subject.bidirectional:
        _, after = layer(u, dt, lengths=torch.zeros_like(case.lengths), state=state)
        for mine, theirs in zip(tensors_of(after), tensors_of(state), strict=True):
            yield Check("state handed to series of length 0", bits(mine, theirs), 0.0)
    yield from _alone(subject, u, dt, lengths)
    if lengths and "is_query" in subject.keywords:
        full, full_dt, asked, rows = case.with_queries()
        full, full_dt = full.to(dtype), subject.allowed(full_dt)
        yield from _alone(subject, full, full_dt, {"lengths": rows}, {"is_query": asked})


def _alone(
    subject: LayerSubject,
    u: Tensor,
    dt: Tensor,
    lengths: dict[str, Tensor],
    flags: dict[str, Tensor] | None = None,
) -> Findings:
    """Each series of a batch against the same series without the others and without padding."""
    layer, limit, flags = subject.twin(u.dtype), subject.limit(4, _SHAPES[u.dtype]), flags or {}
    y, state = layer(u, dt, **lengths, **flags)
    ends = lengths.get("lengths", torch.full((len(u),), u.shape[1]))
    for b, rows in enumerate(ends.tolist()):
        own = {name: value[b : b + 1, :rows] for name, value in flags.items()}
        found, after = layer(u[b : b + 1, :rows], dt[b : b + 1, :rows], **own)
        yield Check("outputs of a series alone", difference(y[b, :rows], found[0]), limit)
        for mine, theirs in zip(rows_of(state, len(u), b), tensors_of(after), strict=True):
            yield Check("state of a series alone", difference(mine, theirs), limit)


def _content_of_padding(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    layer, (u, dt) = subject.twin(dtype), subject.inputs(case, dtype)
    inside = torch.arange(case.length) < case.lengths[:, None]  # (B, L)
    first: dict[str, Tensor] = {}
    for filler, gap in _FILLERS:
        leaf = torch.where(inside[..., None], u, filler).requires_grad_()
        clock = torch.where(inside, dt, gap).requires_grad_()
        y, state = layer(leaf, clock, lengths=case.lengths)
        y = y[inside]  # what stands in the padding is nobody's answer
        loss = y.square().sum() + sum(part.sum() for part in tensors_of(state))
        learned = dict(layer.named_parameters())
        slopes = gradients_of(loss, [leaf, clock, *(p for p in learned.values() if p.requires_grad)])
        found = {"outputs": y} | {f"state {i}": part for i, part in enumerate(tensors_of(state))}
        found |= {f"gradient {i}": slope for i, slope in enumerate(slopes)}
        first = first or found
        for name, value in found.items():
            yield Check(f"{name}, padding of {filler}", bits(value, first[name]), 0.0)
