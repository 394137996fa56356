"""S5: one diagonal state-space system for all channels in each layer, with a gate after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctlssl.contract import Problem
from ctlssl.encoders import Encoded
from ctlssl.layers import LSSL
from ctlssl.models.stack import Stack, step_range_of
from ctlssl.views import State

__all__ = ["S5"]


class S5(Stack):
    r"""A stack of layers x' = A x + B u, y = C x + D u, with A diagonal and a step size of each conjugate pair.

    Each gap is stepped exactly with the input held (zoh), and A starts as `blocks` HiPPO-N matrices side by side. With
    y the layer's output a block is

        h = LN(h + drop(g * sigmoid(linear(g))))        g = drop(GELU(y))

    or the same with the LayerNorm before the layer. Step sizes start so that time constants are spread between one
    unit of the clock and the horizon; the paper's 0.001 to 0.1 count samples of a regular grid. Queries pass through
    all layers without being committed.

    Args:
        problem: what is asked.
        width: W, channels of the layers.
        layers: blocks of the stack.
        state_size: real state dimensions N of each layer.
        blocks: of which A is made at the start; their size N / blocks is even. In blocks of size 2 (the paper's
            pendulum: 16 states in 8 blocks) every mode turns by 1.7 radians while it falls to 1 / e: none rings.
        prenorm: LayerNorm before each layer instead of after each block.
        step_range: smallest and largest step size at the start, in units of the clock; None reads them from `problem`.
        block_dropout: within each block.
        dropout: in the head.

    Raises:
        ValueError: blocks that do not fit the state.

    References:
        Smith, Warrington, Linderman (2023), Simplified State Space Layers for Sequence Modeling, arXiv:2208.04933.

    >>> from ctlssl.series import TimeSeries
    >>> model = S5(Problem("classification", channels=2, outputs=2), width=8)
    >>> seen = torch.ones(1, 3, 2, dtype=torch.bool)
    >>> series = TimeSeries(torch.zeros(1, 3, 2), torch.arange(3).view(1, 3), seen, torch.tensor([3]))
    >>> model(series).logits.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        problem: Problem,
        width: int = 32,
        *,
        layers: int = 4,
        state_size: int = 32,
        blocks: int = 2,
        prenorm: bool = False,
        step_range: tuple[float, float] | None = None,
        block_dropout: float = 0.1,
        dropout: float = 0.5,
    ) -> None:
        steps = step_range_of(problem) if step_range is None else tuple(step_range)

        def make() -> LSSL:
            return LSSL(
                width,
                state_size,
                structure="diagonal",
                measure="legs",
                method="zoh",
                step_range=steps,
                multi_input=True,
                step_size="per_state",
                blocks=blocks,
            )

        super().__init__(problem, width, make, layers=0, bidirectional=False, dropout=dropout)
        self.blocks = nn.ModuleList(_Block(make(), width, prenorm, block_dropout) for _ in range(layers))


class _Block(nn.Module):
    """A layer, GELU and a sigmoid gate (S5's half-GLU) beside a residual, normalised before or after."""

    def __init__(self, layer: LSSL, width: int, prenorm: bool, dropout: float) -> None:
        super().__init__()
        self.layer, self.prenorm = layer, prenorm
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, encoded: Encoded, state: State | None, behind: None) -> tuple[Tensor, State]:
        rows = encoded.rows
        u = self.norm(hidden) if self.prenorm else hidden  # (B, R, W)
        clock = {"lengths": rows.lengths, "rate": encoded.rate, "is_query": rows.is_query}
        y, state = self.layer(u, encoded.gaps, state=state, **clock)  # (B, R, W)
        gated = self._gated(y) if self.training else rows.apart(self._gated, y)
        hidden = hidden + gated
        return (hidden if self.prenorm else self.norm(hidden)), state

    def _gated(self, y: Tensor) -> Tensor:
        y = self.dropout(nn.functional.gelu(y))
        return self.dropout(y * torch.sigmoid(self.gate(y)))

    def extra_repr(self) -> str:
        """Where it is normalised."""
        return f"prenorm={self.prenorm}"
