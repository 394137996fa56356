"""The clock contract as a check that anyone can hold a layer or a model of their own to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ctlssl.contract import Problem
from ctlssl.testing.layer_cases import LayerCase, draw_layer_case
from ctlssl.testing.layer_lines import LAYER_LINES
from ctlssl.testing.layer_subject import DTYPES, LayerSubject
from ctlssl.testing.model_cases import ModelCase, draw_model_case
from ctlssl.testing.model_lines import MODEL_LINES
from ctlssl.testing.model_subject import ModelSubject
from ctlssl.testing.report import LINES, Check, ClockError, ClockReport, Findings, LineResult, Skipped

__all__ = ["check_clock"]


def check_clock(
    subject: nn.Module,
    *,
    lines: Collection[int] | None = None,
    cases: int | Sequence[LayerCase] | Sequence[ModelCase] = 2,
    length: int = 9,
    seed: int = 0,
    channels: int | None = None,
    limits: Mapping[int, float] | None = None,
    rescale: Callable[[Any, float], Any] | None = None,
    raise_on_failure: bool = True,
) -> ClockReport:
    """Hold a layer or a model to the clock contract, line by line, in float64 and float32.

    1 shift, 2 units and rate, 3 queries never disturb, 4 padding and batch, 5 step == forward == chunks, 6 views
    agree, 7 causal, 8 gaps of all sizes, 9 gradients, 10 missing values are never read. What the subject cannot be
    asked (no `step`, no `state=`, no `view=`) is reported as not applicable, not as held. The subject is left as it
    was: copies of it are checked, in evaluation mode.

    Args:
        subject: a layer, called as `layer(u, dt, lengths=, state=, is_query=, rate=, view=)` -> (y, state) with as many
            of these keywords as it has, and `step`, `peek`, `initial_state` where it has them; or a model with a
            `problem`, called as `ctlssl.Model` is.
        lines: the numbers of the lines to check; all if None.
        cases: how many series to draw, or the cases themselves.
        length: rows of the cases that are drawn.
        seed: they are drawn from.
        channels: that the layer reads; `layer.channels` if None.
        limits: limits in place of the contract's, by line: for solvers that choose their steps for a whole batch. What
            is compared bit for bit stays so.
        rescale: of a layer, what makes of a copy and of c the layer whose step sizes are divided by c (None divides a
            `log_step`); of a model, what makes of a copy and of another problem the same weights for it (None puts the
            problem in the place of the old one).
        raise_on_failure: raise where a line fails; False only reports it.

    Returns:
        A row a line: its worst error and limit, whether it held, and what could not be compared.

    Raises:
        ClockError: naming line, case and remedy.
        ValueError: lines that do not exist, a length below 2, a layer that does not tell its channels.

    Example:
        >>> import ctlssl
        >>> layer = ctlssl.LSSL(channels=2, state_size=4, structure="diagonal", method="zoh")
        >>> report = check_clock(layer, lines=(3, 5))
        >>> report.held, report.failed
        (True, ())
        >>> print(report[3].status, report[3].error, report[3].limit)
        held 0.0 0.0
    """
    chosen = sorted(LINES if lines is None else set(lines))
    if unknown := set(chosen) - set(LINES):
        raise ValueError(f"the contract has lines 1 to {len(LINES)}; found {sorted(unknown)}")
    if length < 2:
        raise ValueError(f"a case needs at least 2 rows; found length {length}")
    if isinstance(getattr(subject, "problem", None), Problem):
        asked, table = ModelSubject(subject, limits, rescale), MODEL_LINES
        drawn = [draw_model_case(subject.problem, seed, i, length) for i in _indices(cases)] or cases
    else:
        asked, table = LayerSubject(subject, channels, limits, rescale), LAYER_LINES
        drawn = [draw_layer_case(asked.channels, seed, i, length) for i in _indices(cases)] or cases
    rows = tuple(_result(number, table[number], asked, drawn) for number in chosen)
    report = ClockReport(type(subject).__name__, seed, rows)
    if raise_on_failure and not report.held:
        causes = [row.worst.cause for row in report.rows if row.status == "failed"]
        raise ClockError(report) from next((cause for cause in causes if cause is not None), None)
    return report


def _indices(cases: int | Sequence[Any]) -> range:
    return range(cases) if isinstance(cases, int) else range(0)


def _result(number: int, line: Callable[..., Findings], asked: Any, cases: Sequence[Any]) -> LineResult:
    """All that a line finds, over cases and dtypes."""
    checks, skipped = [], {}
    for case in cases:
        for dtype in DTYPES:
            try:
                for finding in line(asked, case, dtype):
                    if isinstance(finding, Skipped):
                        skipped[finding.reason] = None
                    else:
                        checks.append(finding.on(f"{case}, {str(dtype).removeprefix('torch.')}"))
            except (ValueError, RuntimeError, TypeError, IndexError, ArithmeticError) as error:
                said = f"{case}, {str(dtype).removeprefix('torch.')}"
                checks.append(Check(f"a call raised {type(error).__name__}", torch.inf, 0.0, said, error))
    return LineResult(number, tuple(checks), tuple(skipped))
