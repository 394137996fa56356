"""The lines of the clock contract that a model is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ctlssl.testing.comparing import difference
from ctlssl.testing.model_batches import missing, padding, queries
from ctlssl.testing.model_cases import ModelCase, changed, tick
from ctlssl.testing.model_runs import chunks, gradients, wide
from ctlssl.testing.model_subject import ROUNDING, ModelSubject, answer, ask
from ctlssl.testing.report import Check, Findings, Skipped

__all__ = ["MODEL_LINES"]


def _shift(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    model, case, unit = subject.twin(dtype), case.cast(dtype), tick(subject.problem)
    expected = answer(ask(model, case))
    for shift in (-1024 * unit, 2.0**32 * unit):
        moved = replace(
            case, series=changed(case.series, times=case.series.times + shift), queries=case.queries + shift
        )
        error = difference(answer(ask(model, moved)), expected)
        yield Check(f"answers, all times {shift:+.3g}", error, subject.limit(1, ROUNDING[dtype]))


def _units(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    model, case, limit = subject.twin(dtype), case.cast(dtype), subject.limit(2, ROUNDING[dtype])
    expected = answer(ask(model, case))
    for factor in (0.25, 60.0):
        other = subject.on_clock(dtype, time_scale=factor, first_gap=factor, horizon=factor)
        found = answer(ask(other, _scaled(case, factor)))
        yield Check(f"times and clock x {factor}", difference(found, expected), limit)
    batch = case.series.batch
    rates = torch.linspace(0.5, 2.0, batch, dtype=torch.float64)
    found = answer(ask(model, case, rate=rates))
    for b, rate in enumerate(rates.tolist()):
        expected = answer(ask(model, _scaled(case, rate)))[b]
        yield Check("a rate a series against times x it", difference(found[b], expected), limit)
    alike = answer(ask(model, case, rate=0.73))
    expected = answer(ask(model, case, rate=torch.full((batch,), 0.73, dtype=torch.float64)))
    yield Check("one rate against the same for each", difference(alike, expected), limit)


def _scaled(case: ModelCase, factor: float) -> ModelCase:
    return replace(case, series=changed(case.series, times=case.series.times * factor), queries=case.queries * factor)


def _views(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    yield Skipped("a model has one way to run; its layers have views")


def _causal(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    if subject.bidirectional or not subject.forecasts:
        yield Skipped("it reads the whole series")
        return
    model, case, series = subject.twin(dtype), case.cast(dtype), case.series
    now = series.times[:, series.length // 2].unsqueeze(1) + 0.5 * tick(subject.problem)  # (B, 1)
    case = replace(case, series=series.to(dtype=dtype), queries=torch.where(case.queries <= now, case.queries, now))
    later = series.times > now  # (B, L)
    series = case.series
    other = changed(
        series,
        values=torch.where(later.unsqueeze(-1), 5.0, series.values),
        times=torch.where(later, series.times + 3 * subject.problem.time_scale, series.times),
        observed=series.observed ^ later.unsqueeze(-1),
    )
    limit, expected = subject.limit(7, ROUNDING[dtype]), answer(ask(model, case))
    found = answer(ask(model, replace(case, series=other)))
    yield Check("answers, other rows after them", difference(found, expected), limit)
    shorter = changed(series, lengths=torch.minimum((~later).sum(1), series.lengths))
    found = answer(ask(model, replace(case, series=shorter)))
    yield Check("answers, no rows after them", difference(found, expected), limit)


MODEL_LINES: dict[int, Callable[[ModelSubject, ModelCase, torch.dtype], Findings]] = {
    1: _shift,
    2: _units,
    3: queries,
    4: padding,
    5: chunks,
    6: _views,
    7: _causal,
    8: wide,
    9: gradients,
    10: missing,
}
