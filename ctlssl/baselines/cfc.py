"""CfC: closed-form continuous-time cells, whose gates are a function of the gap."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctlssl.baselines.recurrence import EncodedRecurrence
from ctlssl.contract import Problem

__all__ = ["CfC"]


class CfC(EncodedRecurrence):
    r"""A cell that moves between two learned states as time passes, in closed form.

    With z_k = backbone([x_k, h_{k-1}]) and t_k the gap in units of the clock,

        h_k = (1 - s) tanh(G z_k) + s tanh(F z_k)        s = sigmoid((A z_k) t_k + B z_k)

    (maps with biases, products with s elementwise). The backbone is a layer of 1.7159 tanh(2/3 .), and further ones
    where `depth` is more. The state flows to query times as it does to observations, and the cell reads the query's
    row; nothing of that is kept.

    Args:
        problem: what is asked.
        width: W, of the encoder and of the hidden state.
        backbone: hidden features of the cell.
        depth: layers of the backbone.
        dropout: in the head.

    Raises:
        ValueError: a backbone without a layer.

    References:
        Hasani, Lechner, Amini, Liebenwein, Ray, Tschaikowski, Teschl, Rus (2022), Closed-form Continuous-time Neural
        Networks, arXiv:2106.13898.

    >>> from ctlssl.series import TimeSeries
    >>> model = CfC(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    def __init__(
        self, problem: Problem, width: int = 32, *, backbone: int = 64, depth: int = 1, dropout: float = 0.5
    ) -> None:
        super().__init__(problem, width, dropout)
        if depth < 1:
            raise ValueError(f"depth is {depth}; a backbone has at least 1 layer")
        self.reads = nn.Linear(width, backbone)
        self.recurs = nn.Linear(width, backbone, bias=False)
        self.deeper = nn.ModuleList(nn.Linear(backbone, backbone) for _ in range(depth - 1))
        self.out = nn.Linear(backbone, 4 * width)  # G, F, A, B

    def _prepare(self, inputs: Tensor) -> Tensor:
        features, gaps = inputs.split([self.width, 1], dim=-1)  # (B, K, W), (B, K, 1)
        return torch.cat([self.reads(features), gaps], dim=-1)  # (B, K, backbone + 1)

    def _step(self, hidden: Tensor, row: Tensor) -> Tensor:
        read, gap = row.tensor_split([-1], dim=-1)  # (n, backbone), (n, 1)
        z = _squash(torch.addmm(read, hidden, self.recurs.weight.T))  # (n, backbone)
        for layer in self.deeper:
            z = _squash(layer(z))
        states, times = self.out(z).chunk(2, dim=-1)  # (n, 2 W)
        first, second = torch.tanh(states).chunk(2, dim=-1)  # (n, W)
        speed, shift = times.chunk(2, dim=-1)  # (n, W)
        return torch.lerp(first, second, torch.sigmoid(speed * gap + shift))


def _squash(x: Tensor) -> Tensor:
    """LeCun's tanh, of slope and variance near 1."""
    return 1.7159 * torch.tanh(2 / 3 * x)
