"""A question that a data set can answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from torch import Tensor

from ctlssl.examples import Examples
from ctlssl.normalization import Normalizer
from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """A question that a data set can answer, and the protocol by which it is asked.

    Args:
        name: what `prepare` calls it, "dataset/question".
        dataset: the data set that it is asked of.
        kind: of problem, as in `Problem`.
        description: one line.
        window: how much time a model may see, in the data set's unit; None is the longest span of the training part.
        build: the examples of a Dataset, in raw units.
        shares: of training, validation and test part. Where the examples name their published parts, these decide which
            series are tested, and the first two shares how the others are divided.
        folds: cross-validation: the number of parts each of which is the test part once. Seeds 0 to folds - 1 are the
            folds of one dealing, the next seeds those of another; the first two shares divide the rest.
        covariates: makes the static covariates that models see of those of a Dataset, (series, S); None takes them as
            they are.
        scale: learns from the training part the map from raw units to those of models and scores.
        metric: what a clock ablation tells its models apart by; None is the metric of the kind.
        landmark: rows of a record after it are not shown; None shows all.
        as_recorded: whether that, and `rows`, is all that is done to a record. False: `build` makes other rows of it,
            hides some, or takes only a choice of channels: a trained run cannot read records as they come.
        rows: makes the rows that a model sees of those that were recorded until the landmark; None takes them as they
            are.
        subgroups: name -> which of the examples belong to it, (B,) bool: what recipes also score of the test part.

    Raises:
        ValueError: shares that do not sum to 1, or fewer than two folds.
    """

    name: str
    dataset: str
    kind: str
    description: str
    window: float | None
    build: Callable[[xr.Dataset], Examples]
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    folds: int | None = None
    covariates: Callable[[xr.Dataset], Tensor] | None = None
    scale: Callable[[TimeSeries | PackedSeries], Normalizer] = Normalizer.fit
    metric: str | None = None
    landmark: float | None = None
    as_recorded: bool = True
    rows: Callable[[xr.Dataset], xr.Dataset] | None = None
    subgroups: Mapping[str, Callable[[Examples], np.ndarray]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or min(self.shares) <= 0 or not math.isclose(sum(self.shares), 1.0):
            raise ValueError(f"shares are {self.shares!r}; give three positive numbers that sum to 1.")
        if self.folds is not None and (not isinstance(self.folds, int) or self.folds < 2):
            raise ValueError(f"folds is {self.folds!r}; give None, or a whole number from 2 on.")
