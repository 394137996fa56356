"""Lines 5, 8 and 9 for a model: chunks, precision, gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ctlssl.series import TimeSeries
from ctlssl.testing.comparing import difference, directional, gradients_of, tensors_of
from ctlssl.testing.model_cases import ModelCase, changed, tick
from ctlssl.testing.model_subject import ROUNDING, ModelSubject, answer, ask
from ctlssl.testing.report import Check, Findings, Skipped

__all__ = ["chunks", "gradients", "wide"]


def chunks(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    """Line 5: one answer at once, in chunks and row by row, and the gradient through the state."""
    model, case, limit = subject.twin(dtype), case.cast(dtype), subject.limit(5, ROUNDING[dtype])
    whole = ask(model, case)
    if whole.state is None:
        yield Skipped("it reads the whole series" if subject.bidirectional else "it returns no state")
        return
    L = case.series.length
    cuts = {"chunks": sorted({0, 1, L // 3, L // 2, L}), "steps": list(range(L + 1))}
    cuts["chunks"].insert(1, cuts["chunks"][1])  # one of no rows
    for said, edges in cuts.items():
        found, state = _in_chunks(model, case, edges)
        yield Check(f"answers in {said}", difference(found, answer(whole)), limit)
        for mine, theirs in zip(tensors_of(state), tensors_of(whole.state), strict=True):
            yield Check(f"state after {said}", difference(mine, theirs), limit)
    if dtype == torch.float64:
        learned, slopes = [p for p in model.parameters() if p.requires_grad], []
        weights = torch.randn(answer(whole).shape, generator=case.generator(), dtype=dtype)
        for edges in ([0, L], cuts["chunks"]):
            found, _ = _in_chunks(model, case, edges)
            slopes.append(gradients_of((weights * found).sum(), learned))
        for mine, theirs in zip(*slopes, strict=True):
            yield Check("gradients in chunks", difference(theirs, mine), subject.limit(5, 1e-8))


def _in_chunks(model: Any, case: ModelCase, edges: list[int]) -> tuple[Tensor, Any]:
    """Answers of the chunks put together, and the last state."""
    state, found = None, None
    for start, stop in zip(edges, edges[1:], strict=False):
        chunk = case.chunk(start, stop)
        prediction = ask(model, chunk, state=state)
        state, latest = prediction.state, answer(prediction)
        if model.problem.asks_queries and found is not None:
            latest = torch.where(chunk.queries.isnan().unsqueeze(-1), found, latest)
        found = latest
    return found, state


def wide(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    """Line 8: gaps of eighteen decades give finite answers and gradients."""
    problem, model = subject.problem, subject.twin(dtype)
    times = torch.tensor([[0.0, 1e-9, 1e-9, 1e-3, 1.0, 1e3, 1e3, 1e9]], dtype=torch.float64) * problem.time_scale
    values = torch.randn(1, 8, problem.channels, generator=case.generator()).double()
    static = None if case.series.static is None else case.series.static[:1]
    series = TimeSeries(values, times, torch.ones_like(values, dtype=torch.bool), torch.tensor([8]), static)
    wide = ModelCase(case.name, series, torch.tensor([[5e-10, 2.0, 2e9]], dtype=torch.float64) * problem.time_scale)
    found = answer(ask(model, wide.cast(dtype)))
    yield Check("answers that are not finite", 0.0 if bool(found.isfinite().all()) else math.inf, 0.0)
    for slope in gradients_of(found.square().sum(), [p for p in model.parameters() if p.requires_grad]):
        yield Check("gradients that are not finite", 0.0 if bool(slope.isfinite().all()) else math.inf, 0.0)
    if dtype != torch.float64:
        expected = answer(ask(subject.twin(torch.float64), wide))
        yield Check("answers against float64", difference(found, expected), subject.limit(8, 1e-4))


def gradients(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    """Line 9: gradients of values, query times, parameters and state against finite differences."""
    if dtype != torch.float64:
        return
    model, start = subject.twin(dtype), case.chunk(0, 2)
    learned = {f"parameter {name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    state = ask(model, start).state
    case = case if state is None else case.chunk(2, case.series.length)
    given, sizes = {"values": case.series.values}, {}
    if subject.forecasts:
        given["query_times"], sizes["query_times"] = case.queries, 0.01 * tick(subject.problem)
    handed = {}
    if hasattr(state, "from_tensors"):
        moving = {name: part for name, part in state.tensors().items() if _moves(name, part)}
        handed = {f"state {name}": part.detach() for name, part in moving.items()}

    def predict(inputs: dict[str, Tensor]) -> Tensor:
        asked = replace(case, queries=inputs.get("query_times", case.queries))
        asked = replace(asked, series=changed(case.series, values=inputs["values"]))
        own = {}
        if handed:
            parts = {name.removeprefix("state "): inputs[name] for name in handed}
            own = {"state": type(state).from_tensors({**state.tensors(), **parts})}
        elif state is not None:
            own = {"state": state}
        swapped = {name.removeprefix("parameter "): inputs[name] for name in learned}
        queries = asked.queries if subject.forecasts else None
        return answer(functional_call(model, swapped, (asked.series, queries), own))

    for name, error in directional(predict, given | handed | learned, case.generator(), sizes).items():
        yield Check(f"gradient of {name}", error, subject.limit(9, 1e-5))


def _moves(name: str, part: Tensor) -> bool:
    """Whether a part of a state is a number that answers depend on smoothly, and not a time."""
    return part.is_floating_point() and not name.endswith(("time", "times", "start"))
