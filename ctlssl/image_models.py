"""Images among the channels: a small convolutional network in front of any model or baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ctlssl.baselines import BASELINES
from ctlssl.contract import Model, Prediction, Problem, check_request
from ctlssl.model_state import ModelState
from ctlssl.models import MODELS
from ctlssl.series import TimeSeries

__all__ = ["IMAGE_MODELS", "ImageModel"]


class ImageModel(Model):
    """A model of series whose first channels are the pixels of an image, row by row from its top.

    Each image becomes `features` numbers, in place of its pixels:

        h = ReLU(norm(conv3(ReLU(norm(conv5(image))))))          features = linear(ReLU(norm(linear(h))))

    with a stride of 2 in both convolutions and four times as many hidden numbers as features. What a layer says of an
    image is normalised over all that it says of it, so that a faint picture counts as a bright one does. The model
    behind them reads these and the other channels. An image is
    there where any of its pixels is; a pixel that is not counts as 0. Images are read and never forecast: a forecast
    of a pixel is 0 with scale 1, or quantiles of 0, whatever is asked.

    Args:
        problem: what is asked, of pixels and other channels.
        width: W, of the model behind.
        of: its name, in `ctlssl.models.MODELS` or `ctlssl.baselines.BASELINES`.
        image: height and width in pixels.
        features: of an image.
        filters: of both convolutions.
        norm: False: nothing is normalised.
        pixel_dropout: share of the pixels that are taken as not there, while training; the others are scaled up for it.
        scales: False: a forecast has no scale, and training minimises its squared error alone.
        options: of the model behind, as its class names them.

    Raises:
        ValueError: a model that does not exist, or more pixels than channels.

    References:
        Becker et al. (2019), Recurrent Kalman networks, arXiv:1905.07357, whose networks in front of a filter these
        are, with strides in place of pooling.

    >>> seen = torch.ones(1, 3, 64, dtype=torch.bool)
    >>> series = TimeSeries(torch.rand(1, 3, 64), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model = ImageModel(Problem("classification", channels=64, outputs=2), width=8, of="gru", image=(8, 8))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        of: str,
        image: Sequence[int] = (24, 24),
        features: int = 32,
        filters: int = 12,
        norm: bool = True,
        pixel_dropout: float = 0.0,
        scales: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(problem)
        known: dict[str, Callable[..., Model]] = {**MODELS, **BASELINES}
        if of not in known:
            raise ValueError(f"no model {of!r}; there are {', '.join(known)}")
        self.image, self.pixels, self.features, self.scales = tuple(image), prod(image), features, scales
        others = problem.channels - self.pixels
        if len(self.image) != 2 or others < 0:
            raise ValueError(f"images of {self.image} pixels are not in the {problem.channels} channels of the problem")
        forecasts = problem.kind == "forecasting"
        outputs = features + others if forecasts else problem.outputs
        self.dropout = nn.Dropout(pixel_dropout)
        self.encoder = _convolutions(self.image, filters, features, norm)
        self.inner = known[of](replace(problem, channels=features + others, outputs=outputs), width=width, **options)

    def forward(
        self,
        series: TimeSeries,
        query_times: Tensor | None = None,
        state: ModelState | None = None,
        rate: float | Tensor = 1.0,
    ) -> Prediction:
        """See `Model.forward`."""
        check_request(self.problem, series, query_times, state, None if state is None else self.initial_state(0))
        prediction = self.inner(self._encoded(series), query_times, state, rate)
        self.evaluations = self.inner.evaluations
        if self.problem.kind != "forecasting":
            return prediction
        room = (self.pixels, 0)
        told: dict[str, Any] = {"mean": pad(prediction.mean[..., self.features :], room), "scale": None}  # (B, Q, D)
        if self.scales and prediction.scale is not None:
            told["scale"] = pad(prediction.scale[..., self.features :], room, value=1.0)  # (B, Q, D)
        if prediction.quantiles is not None:
            told["quantiles"] = pad(prediction.quantiles[..., self.features :, :], (0, 0, *room))  # (B, Q, D, K)
        return replace(prediction, **told)

    def initial_state(self, batch: int) -> ModelState:
        """See `Model.initial_state`."""
        return self.inner.initial_state(batch)

    def _encoded(self, series: TimeSeries) -> TimeSeries:
        """The series with the features of each image (B, L, F) in place of its pixels."""
        observed = series.observed & series.in_length.unsqueeze(-1)  # (B, L, D)
        pixels, others = observed[..., : self.pixels], observed[..., self.pixels :]
        seen = pixels.any(dim=-1)  # (B, L)
        shown = torch.where(pixels[seen], series.values[..., : self.pixels][seen], 0)  # (n, H W)
        values = series.values.new_zeros(*seen.shape, self.features)  # (B, L, F)
        if len(shown):
            values[seen] = self.encoder(self.dropout(shown).view(-1, 1, *self.image)).to(values.dtype)
        return TimeSeries(
            torch.cat([values, series.values[..., self.pixels :]], dim=-1),
            series.times,
            torch.cat([seen.unsqueeze(-1).expand(-1, -1, self.features), others], dim=-1),
            series.lengths,
            series.static,
        )


def _convolutions(image: tuple[int, int], filters: int, features: int, norm: bool) -> nn.Sequential:
    left = prod((side + 3) // 4 for side in image)  # pixels that two strides of 2 leave
    hidden = 4 * features

    def normalised(channels: int) -> nn.Module:
        return nn.GroupNorm(1, channels) if norm else nn.Identity()

    return nn.Sequential(
        nn.Conv2d(1, filters, kernel_size=5, stride=2, padding=2),
        normalised(filters),
        nn.ReLU(),
        nn.Conv2d(filters, filters, kernel_size=3, stride=2, padding=1),
        normalised(filters),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(filters * left, hidden),
        normalised(hidden),
        nn.ReLU(),
        nn.Linear(hidden, features),
    )


IMAGE_MODELS: dict[str, Callable[..., Model]] = {
    f"image_{name}": partial(ImageModel, of=name) for name in (*MODELS, *BASELINES)
}
"""Every model and baseline behind images, by name: "image_lssl", "image_gru" and so on."""
