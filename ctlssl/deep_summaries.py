"""A deep network on summaries of the channels, for what several channels say together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctlssl.channel_summaries import ChannelSummaries, added
from ctlssl.contract import Prediction, Problem
from ctlssl.encoders import Encoded
from ctlssl.model_state import Summed

__all__ = ["DeepSummaryReadout", "GatedNetwork"]

_SCALE = 2.5  # of a feature: its places lie between -1/2 and 1/2, those of a static covariate about as far as 2
_GATE_RATE = 6.0  # learning rates of the gates in those of the other weights
_DROPPED = 0.2  # share of the dropout of the model that each of the two hidden layers has


class DeepSummaryReadout(nn.Module):
    """What the summaries of whole series say to a deep network, to be added to what a head says.

    It reads what `ChannelSummaries` tells of its first span, the whole series, and the static part. `SummaryReadout`
    reads more, and little but a sum of terms of one number each; this one finds what several channels say together.

    Args:
        problem: of one answer a series.
        width: half of that of the hidden layers.
        dropout: of the model.
        fading: of the summaries, see `ChannelSummaries`.

    Example:
        >>> readout = DeepSummaryReadout(Problem("classification", channels=37, outputs=2, static=10), width=32)
        >>> readout.network.gates.shape
        torch.Size([1379])
    """

    def __init__(self, problem: Problem, width: int, dropout: float = 0.5, fading: float = 0.0) -> None:
        super().__init__()
        self.summaries = ChannelSummaries(problem, fading, whole=True)
        reads = self.summaries.features + problem.static
        self.network = GatedNetwork(reads, 2 * width, problem.outputs, _DROPPED * dropout)

    def forward(self, prediction: Prediction, encoded: Encoded, summed: Summed) -> Prediction:
        """The prediction of the head with what the summaries add.

        Args:
            prediction: of the head.
            encoded: of the batch.
            summed: of this chunk and those before it.
        """
        return added(prediction, self.network(self.summaries.with_static(_SCALE, summed, encoded)))


class GatedNetwork(nn.Module):
    """Two hidden layers behind a gate for each feature, for tables of many features of which few matter.

    y = W x + V gelu(U_2 gelu(U_1 (g * x) + b_1) + b_2) + b

    A dense layer treats every rotation of its features alike; the gates g, which start at 1, learn six times as fast
    as the weights and are not decayed, so that the network chooses among the features themselves.

    Args:
        features: F, numbers of x.
        width: W, of the hidden layers.
        outputs: numbers of y.
        dropout: of the hidden layers.

    References:
        Grinsztajn, Oyallon, Varoquaux (2022), Why do tree-based models still outperform deep learning on typical
        tabular data?, arXiv:2207.08815; Holzmueller, Grinsztajn, Steinwart (2024), Better by default: strong pre-tuned
        MLPs and boosted trees on tabular data, arXiv:2407.04491, for the gates.

    Example:
        >>> GatedNetwork(features=5, width=8, outputs=2)(torch.zeros(3, 5)).shape
        torch.Size([3, 2])
    """

    def __init__(self, features: int, width: int, outputs: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.full((features,), 1.0 / _GATE_RATE))  # (F,): a sixth of them
        self.linear = nn.Linear(features, outputs, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)
        for layer, spread, offset in ((self.first, 1.0, 0.3), (self.second, 1.0, 0.1), (self.last, 0.3, 0.0)):
            nn.init.normal_(layer.weight, std=spread * layer.in_features**-0.5)
            nn.init.normal_(layer.bias, std=offset)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """y, (B, outputs).

        Args:
            x: (B, F).
        """
        hidden = self.dropout(functional.gelu(self.first(_GATE_RATE * self.gates * x)))  # (B, W)
        hidden = self.dropout(functional.gelu(self.second(hidden)))  # (B, W)
        return self.linear(x) + self.last(hidden)
