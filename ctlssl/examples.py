"""Series together with the answers that belong to them: what models are trained on and scored by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctlssl.packed_series import PackedSeries
from ctlssl.series import TimeSeries, series_index

__all__ = ["Examples"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Series together with the answers that belong to them.

    Args:
        series: B series, padded or packed.
        ids: (B,) their names in the data set.
        labels: (B,) int64 classes, (B, T) float targets, or of survival (B, 2) integers, the interval and whether the
            event happened in it (1) or observation ended with it (0); or None.
        query_times: (B, Q) float64, NaN-padded times at which values or classes are asked, or None.
        targets: (B, Q, D) values at the query times, of any content where not observed; or (B, Q) int64 classes, -1
            where there is no label; or None.
        target_observed: (B, Q, D) bool, True = there is a target, or None.
        variables: the names of the D channels, or nothing.
        part: (B,) of "train", "valid" and "test", the published part of each series, or None.
        weights: (B,) what the targets of each series count in the loss, not negative, or None, where all count 1.

    Raises:
        ValueError: parts of other than B series.

    Example:
        >>> seen = torch.ones(2, 3, 1, dtype=torch.bool)
        >>> times = torch.arange(3.0).expand(2, 3)
        >>> series = TimeSeries(torch.zeros(2, 3, 1), times, seen, torch.tensor([3, 1]))
        >>> examples = Examples(series, ids=np.array(["a", "b"]), labels=torch.tensor([0, 1]))
        >>> len(examples), examples.select([1]).ids
        (2, array(['b'], dtype='<U1'))
    """

    series: TimeSeries | PackedSeries
    ids: np.ndarray
    labels: Tensor | None = None
    query_times: Tensor | None = None
    targets: Tensor | None = None
    target_observed: Tensor | None = None
    variables: tuple[str, ...] = ()
    part: np.ndarray | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("ids", "labels", "query_times", "targets", "target_observed", "part", "weights"):
            part = getattr(self, name)
            if part is not None and len(part) != self.series.batch:
                raise ValueError(f"{name} has {len(part)} entries for {self.series.batch} series; give one per series.")

    def __len__(self) -> int:
        return self.series.batch

    def select(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> Examples:
        """A part of the examples, padding of series and of queries trimmed to its own longest.

        Args:
            index: positions, a boolean flag per series, or a slice.
        """
        index = series_index(index, torch.device("cpu"))
        queries = slice(0, None)
        if self.query_times is not None:
            asked = ~torch.isnan(_take(self.query_times, index)).all(dim=0)  # (Q,)
            queries = slice(0, int(asked.nonzero().max()) + 1 if asked.any() else 0)
        places = index if isinstance(index, slice) else index.numpy()
        return Examples(
            series=self.series.select(index),
            ids=np.asarray(self.ids)[places],
            labels=_take(self.labels, index),
            query_times=_take(self.query_times, index, queries),
            targets=_take(self.targets, index, queries),
            target_observed=_take(self.target_observed, index, queries),
            variables=self.variables,
            part=None if self.part is None else np.asarray(self.part)[places],
            weights=_take(self.weights, index),
        )


def _take(part: Tensor | None, index: Tensor | slice, queries: slice | None = None) -> Tensor | None:
    if part is None:
        return None
    part = part[index if isinstance(index, slice) else index.to(part.device)]
    return part if queries is None else part[:, queries]
