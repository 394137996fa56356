"""Lines 3 and 4 for a model, and missing values: queries, padding, neighbours, what was not observed."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ctlssl.series import TimeSeries
from ctlssl.testing.comparing import bits, difference, gradients_of, tensors_of
from ctlssl.testing.model_cases import ModelCase, changed, longer
from ctlssl.testing.model_subject import ROUNDING, ModelSubject, answer, ask
from ctlssl.testing.report import Check, Findings

__all__ = ["missing", "padding", "queries"]

_FILLERS = (0.0, 1e30, math.nan, math.inf)


def queries(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    """Line 3: queries and rows with nothing in them leave answers and state alone."""
    model, case, limit = subject.twin(dtype), case.cast(dtype), subject.limit(3, ROUNDING[dtype])
    given = ask(model, case)
    expected = answer(given)
    if subject.forecasts:
        for said, order in (("turned", slice(None, None, -1)), ("one alone", slice(0, 1))):
            place = torch.arange(case.queries.shape[1])
            place = place.flip(0) if order.step else place[order]
            found = ask(model, replace(case, queries=case.queries[:, place]))
            yield Check(f"answers, queries {said}", difference(answer(found), expected[:, place]), limit)
        none = ask(model, replace(case, queries=torch.full_like(case.queries, torch.nan)))
    else:
        none = model(case.series, case.queries)
        yield Check("answers a series, with queries", bits(answer(none), expected), 0.0)
    for mine, theirs in zip(tensors_of(given.state), tensors_of(none.state), strict=True):
        yield Check("the state after queries", bits(mine, theirs), 0.0)
    found = answer(ask(model, replace(case, series=_with_an_empty_row(case.series))))
    yield Check("answers, a row more with nothing in it", difference(found, expected), limit)


def _with_an_empty_row(series: TimeSeries) -> TimeSeries:
    """A row with nothing observed in the middle of every series."""
    place = (series.lengths // 2).unsqueeze(1)  # (B, 1): the row before which it goes
    rows = torch.arange(series.length + 1)
    source = (rows - (rows > place).long()).clamp(max=series.length - 1)  # (B, L + 1)
    wide = source.unsqueeze(-1).expand(-1, -1, series.channels)
    empty = (rows == place).unsqueeze(-1)
    last = series.times.gather(1, (series.lengths - 1).clamp(min=0).unsqueeze(1))
    times = torch.where(rows < series.lengths.unsqueeze(1) + 1, series.times.gather(1, source), last)
    times = torch.where((rows == place) & (place >= series.lengths.unsqueeze(1)), last, times)
    observed = series.observed.gather(1, wide) & ~empty
    values = torch.where(empty, torch.nan, series.values.gather(1, wide))
    return TimeSeries(values, times, observed, series.lengths + 1, series.static)


def padding(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    """Line 4: what stands in padding and in the neighbours changes no bit; their number next to nothing."""
    model, case, limit = subject.twin(dtype), case.cast(dtype), subject.limit(4, ROUNDING[dtype])
    series, outside = case.series, ~case.series.in_length
    expected = answer(ask(model, case))
    for filler in _FILLERS:
        other = changed(
            series,
            values=torch.where(outside.unsqueeze(-1), filler, series.values),
            times=torch.where(outside, -filler, series.times),
            observed=series.observed | outside.unsqueeze(-1),
        )
        found = answer(ask(model, replace(case, series=other)))
        yield Check(f"answers, padding of {filler}", bits(found, expected), 0.0)
    found = answer(ask(model, replace(case, series=longer(series, 3))))
    yield Check("answers, more padding", difference(found, expected), limit)
    for b in range(series.batch):
        alone = replace(case, series=series.select([b]), queries=case.queries[[b]])
        yield Check("a series alone", difference(answer(ask(model, alone))[0], expected[b]), limit)
        others = torch.arange(series.batch) != b
        values = torch.where(others.view(-1, 1, 1), -series.values, series.values)
        found = answer(ask(model, replace(case, series=changed(series, values=values))))
        neighbour = 0.0 if 4 not in subject.limits else limit
        yield Check("answers, other neighbours", bits(found[b], expected[b]), neighbour)


def missing(subject: ModelSubject, case: ModelCase, dtype: torch.dtype) -> Findings:
    """Missing values: what was not observed changes no bit of answers and gradients."""
    model, case, first = subject.twin(dtype), case.cast(dtype), None
    learned = [p for p in model.parameters() if p.requires_grad]
    for filler in _FILLERS:
        values = torch.where(case.hidden, filler, case.series.values).requires_grad_()
        found = answer(ask(model, replace(case, series=changed(case.series, values=values))))
        slopes = gradients_of(found.square().sum(), [values, *learned])
        now = [found, *slopes]
        first = first or now
        for part, expected in zip(now, first, strict=True):
            yield Check(f"answers and gradients, missing values of {filler}", bits(part, expected), 0.0)
        unseen = slopes[0][case.hidden]
        yield Check("gradient of what was not observed", difference(unseen, torch.zeros_like(unseen)), 0.0)
