"""Batches of which some rows are left out: series as they might have been sampled, which a clock can read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ctlssl.packed_series import PackedSeries
from ctlssl.sampling import keep_rows
from ctlssl.tasks import Examples

__all__ = ["thinned"]


def thinned(examples: Examples, share: float, draw: np.random.Generator) -> Examples:
    """Examples without some rows of their series; the answers stay, and what was asked of a row that is left out.

    Of each series a share s, uniform between 0 and `share`, is left out: each row by itself with probability s. The
    times of the others stay true, so the gaps tell. A question at a row that is left out thereby becomes a forecast; a
    question after the first row and before the first that is kept is not asked.

    Args:
        examples: B series, padded or packed.
        share: largest share of the rows of a series that is left out, 0 <= share < 1; 0 changes nothing.
        draw: what draws.

    Example:
        >>> from ctlssl.series import TimeSeries
        >>> seen = torch.ones(1, 6, 1, dtype=torch.bool)
        >>> series = TimeSeries(torch.zeros(1, 6, 1), torch.arange(6.0)[None], seen, torch.tensor([6]))
        >>> examples = Examples(series, ids=np.array(["a"]), labels=torch.tensor([0]))
        >>> thinned(examples, 0.9, np.random.default_rng(0)).series.times
        tensor([[0., 4., 5.]], dtype=torch.float64)
    """
    if not share:
        return examples
    if isinstance(examples.series, PackedSeries):
        padded = thinned(replace(examples, series=examples.series.to_series()), share, draw)
        return replace(padded, series=PackedSeries.from_series(padded.series))
    series = examples.series
    kept = draw.random((series.batch, series.length)) >= share * draw.random((series.batch, 1))  # (B, L)
    fewer = keep_rows(series, torch.from_numpy(kept).to(series.lengths.device))
    return _asked(replace(examples, series=fewer), series.times)


def _asked(examples: Examples, times: Tensor) -> Examples:
    """Without the questions between the first row as it was, at `times` (B, L), and as it is now."""
    asked, series = examples.query_times, examples.series
    if asked is None or not series.length:
        return examples
    late = (asked >= times[:, :1]) & (asked < series.times[:, :1])  # (B, Q)
    late &= (series.lengths > 0).unsqueeze(1)
    answers = {"query_times": torch.where(late, torch.nan, asked)}
    if examples.target_observed is not None:
        answers["target_observed"] = examples.target_observed & ~late.unsqueeze(-1)  # (B, Q, D)
    elif examples.targets is not None:
        answers["targets"] = torch.where(late, -1, examples.targets)  # (B, Q)
    return replace(examples, **answers)
