"""The lines of the clock contract that a layer is held to."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch

from ctlssl.elapsed import gaps
from ctlssl.testing.comparing import bits, difference, gradients_of
from ctlssl.testing.layer_batches import padding, queries
from ctlssl.testing.layer_cases import LayerCase
from ctlssl.testing.layer_numbers import gradients, wide
from ctlssl.testing.layer_runs import chunks, views
from ctlssl.testing.layer_subject import ROUNDING, LayerSubject
from ctlssl.testing.report import Check, Findings, Skipped

__all__ = ["LAYER_LINES"]


def _shift(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    layer, (u, dt) = subject.twin(dtype), subject.inputs(case, dtype)
    tick = 2.0 ** (math.floor(math.log2(dt.max().item() or 1.0)) - 20)
    times = (dt.cumsum(1) / tick).round() * tick  # (B, L): exact after a shift by a power of two
    expected, _ = layer(u, gaps(times, first=tick))
    for shift in (-1024 * tick, 2.0**31 * tick):
        found, _ = layer(u, gaps(times + shift, first=tick))
        yield Check(f"outputs, all times {shift:+.3g}", bits(found, expected), subject.limit(1, 0.0))


def _units(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    layer, (u, dt), limit = subject.twin(dtype), subject.inputs(case, dtype), subject.limit(2, ROUNDING[dtype])
    if "rate" in subject.keywords:
        for factor in (0.25, 0.5):  # powers of two: float32 gaps are another line
            found, expected = layer(u, dt, rate=factor)[0], layer(u, factor * dt)[0]
            yield Check(f"rate {factor} against gaps x {factor}", difference(found, expected), limit)
        rates = 0.5 ** torch.arange(case.batch, dtype=torch.float64)  # (B,)
        found, expected = layer(u, dt, rate=rates)[0], layer(u, rates[:, None] * dt)[0]
        yield Check("a rate a series against gaps times it", difference(found, expected), limit)
    else:
        yield Skipped("no rate= is taken")
    if subject.rescale is None:
        yield Skipped("step sizes cannot be changed: no log_step, no rescale= given")
    elif dtype == torch.float64:
        expected, _ = layer(u, dt)
        for factor in (0.25, 4.0, 2.0**-30, 2.0**30):  # far out no bound on a gap can hide
            other = subject.rescale(copy.deepcopy(layer), factor)
            found, _ = other(u, factor * dt)
            said = f"gaps x {factor} with step sizes / {factor}"
            yield Check(said, difference(found, expected), subject.limit(2, 1e-11))


def _causal(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    if subject.bidirectional:
        yield Skipped("it reads the whole series")
        return
    layer, (u, dt), now = subject.twin(dtype), subject.inputs(case, dtype), max(1, case.length // 2)
    expected, _ = layer(u, dt)
    later, clock = u.clone(), dt.clone()
    later[:, now:], clock[:, now:] = 9.0, 0.3 * dt[:, now:]
    found, _ = layer(later, clock)
    yield Check("outputs before what changed", bits(found[:, :now], expected[:, :now]), subject.limit(7, 0.0))
    leaf, clock = u.clone().requires_grad_(), dt.clone().requires_grad_()
    y, _ = layer(leaf, clock)
    for slope in gradients_of(y[:, :now].square().sum(), [leaf, clock]):
        error = difference(slope[:, now:], torch.zeros_like(slope[:, now:]))
        yield Check("gradient of an answer by later rows", error, subject.limit(7, 0.0))


def _missing(subject: LayerSubject, case: LayerCase, dtype: torch.dtype) -> Findings:
    yield Skipped("a layer is told nothing of what was observed; padding is line 4")


LAYER_LINES: dict[int, Callable[[LayerSubject, LayerCase, torch.dtype], Findings]] = {
    1: _shift,
    2: _units,
    3: queries,
    4: padding,
    5: chunks,
    6: views,
    7: _causal,
    8: wide,
    9: gradients,
    10: _missing,
}
