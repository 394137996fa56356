"""The scale of regression targets, learned from the training part: models learn and answer in standard scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctlssl.contract import Prediction
from ctlssl.examples import Examples

__all__ = ["TargetScale"]


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of every target; plain JSON values.

    Args:
        mean: (T,).
        scale: (T,), 1 where a target does not vary.

    Example:
        >>> scale = TargetScale.fit(torch.tensor([[1.0], [3.0], [float("nan")]]))
        >>> scale
        TargetScale(mean=(2.0,), scale=(1.0,))
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(cls, labels: Tensor) -> TargetScale:
        """Learn it from targets (B, T), NaN where there is none."""
        seen = ~labels.isnan()  # (B, T)
        count = seen.sum(0).clamp(min=1)  # (T,)
        mean = labels.double().nan_to_num().sum(0) / count
        squares = torch.where(seen, labels.double() - mean, 0).square()
        spread = (squares.sum(0) / count).sqrt()
        return cls(tuple(mean.tolist()), tuple(spread.where(spread > 0, 1.0).tolist()))

    @classmethod
    def from_dict(cls, values: dict[str, Sequence[float]]) -> TargetScale:
        """The scale of a dictionary of its fields.

        Raises:
            ValueError: other fields, or numbers that do not belong together.
        """
        try:
            mean, scale = (tuple(map(float, values[name])) for name in ("mean", "scale"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the scale of the targets is damaged ({error})") from error
        if len(mean) != len(scale):
            raise ValueError(f"the scale of the targets has {len(mean)} means and {len(scale)} deviations")
        return cls(mean, scale)

    def apply(self, examples: Examples) -> Examples:
        """Examples whose labels (B, T) are standard scores."""
        mean, scale = self._like(examples.labels)
        return replace(examples, labels=((examples.labels.double() - mean) / scale).to(examples.labels.dtype))

    def inverse(self, prediction: Prediction) -> Prediction:
        """A prediction (B, T) of standard scores in raw units."""
        mean, scale = self._like(prediction.mean)
        raw: dict[str, Any] = {"mean": prediction.mean.double() * scale + mean}
        if prediction.scale is not None:
            raw["scale"] = prediction.scale.double() * scale
        if prediction.quantiles is not None:
            raw["quantiles"] = prediction.quantiles.double() * scale.unsqueeze(-1) + mean.unsqueeze(-1)
        return replace(prediction, **raw)

    def _like(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(part, dtype=torch.float64, device=tensor.device) for part in (self.mean, self.scale))
