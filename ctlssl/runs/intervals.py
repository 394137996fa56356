"""How sure a score is: bootstrap intervals over series."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from ctlssl.contract import Prediction
from ctlssl.examples import Examples
from ctlssl.series import TimeSeries
from ctlssl.training import score

__all__ = ["bootstrap_intervals"]


def bootstrap_intervals(
    kind: str, prediction: Prediction, examples: Examples, draws: int = 200, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of every metric, from test parts drawn anew series by series with replacement.

    They tell how much other series of the same kind would change the score of this one trained model, and nothing of
    what other splits or seeds of the training would. Draws in which a metric is undefined are left out of it.

    Args:
        kind: of the problem.
        prediction: B rows, for the examples in their order.
        examples: with labels, or with targets and their times.
        draws: number of test parts.
        seed: of the draws.
        level: share of the draws inside.

    Returns:
        (low, high) by metric; NaN where it is never defined.

    References:
        Efron, Tibshirani (1993), An Introduction to the Bootstrap.

    Example:
        >>> from ctlssl import Prediction
        >>> none = torch.zeros(4, 0, 1)
        >>> series = TimeSeries(none, none[..., 0].double(), none.bool(), torch.zeros(4, dtype=torch.int64))
        >>> examples = Examples(series, ids=np.arange(4), labels=torch.tensor([0, 1, 0, 1]))
        >>> sure = Prediction(logits=torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]]))
        >>> bootstrap_intervals("classification", sure, examples)["auroc"]
        (1.0, 1.0)
    """
    B, draw = len(examples), np.random.default_rng(seed)
    none = torch.zeros(B, 0, 1)  # a score reads no series: resampling them would take all the time
    lengths = torch.zeros(B, dtype=torch.int64)
    bare = replace(
        examples, series=TimeSeries(none, none[..., 0].double(), none.bool(), lengths), query_times=None, part=None
    )
    found: dict[str, list[float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class that a draw does not have
        for _ in range(draws):
            index = torch.from_numpy(draw.integers(B, size=B))
            part = bare.select(index)
            asked = part.target_observed if part.target_observed is not None else _labelled(part)
            if asked is not None and not asked.any():
                continue
            for name, value in score(kind, _rows(prediction, index), part).items():
                found.setdefault(name, []).append(value)
    shares = [50 * (1 - level), 50 * (1 + level)]
    return {
        name: tuple(np.nanpercentile(values, shares).tolist()) if np.isfinite(values).any() else (np.nan, np.nan)
        for name, values in found.items()
    }


def _labelled(part: Examples) -> Tensor | None:
    """Which queries have a class, where that is asked."""
    return None if part.targets is None or part.targets.is_floating_point() else part.targets >= 0


def _rows(prediction: Prediction, index: Tensor) -> Prediction:
    parts = {field.name: getattr(prediction, field.name) for field in fields(prediction) if field.name != "state"}
    return Prediction(**{name: None if part is None else part[index] for name, part in parts.items()})
