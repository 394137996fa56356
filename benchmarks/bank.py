"""A diagonal system for each channel, the form of the paper: against LSTM and GRU, and against a loop over time."""

import torch
from torch import Tensor, nn

from benchmarks.contenders import GRU, LSTM, Contender, Passes, Sizes, drawn, ours, torch_passes
from benchmarks.measures import at_least
from benchmarks.race import race
from benchmarks.row import Row

NAME = "LSSL bank"
LAYER = {"structure": "diagonal", "method": "zoh"}


class EagerBank(nn.Module):
    """The same bank as torch operators in a loop over the rows: discretize, update the complex state, read."""

    def __init__(self, channels: int, pairs: int) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.empty(channels, 1).uniform_(-6.9, -2.3))
        self.log_decay = nn.Parameter(torch.full((pairs,), 0.5).log())
        self.frequency = nn.Parameter(torch.pi * torch.arange(pairs))
        self.B = nn.Parameter(torch.ones(channels, pairs, 2))
        self.C = nn.Parameter(torch.randn(channels, pairs, 2))
        self.D = nn.Parameter(torch.randn(channels))

    def forward(self, u: Tensor, gaps: Tensor) -> Tensor:
        poles = torch.complex(-self.log_decay.exp(), self.frequency) * self.log_step.exp()  # (H, n)
        B, C = torch.view_as_complex(self.B) * self.log_step.exp(), torch.view_as_complex(self.C)
        x, outputs = 0, []
        for k in range(u.shape[1]):
            moved = torch.exp(gaps[:, k, None, None] * poles)  # (B, H, n)
            x = moved * x + (moved - 1) / poles * B * u[:, k, :, None]
            outputs.append(2 * (C * x).real.sum(-1))  # (B, H)
        return torch.stack(outputs, 1) + self.D * u


def _eager(sizes: Sizes) -> Passes:
    torch.manual_seed(0)
    loop = EagerBank(sizes.channels, sizes.state // 2)
    u, gaps = drawn(sizes)
    return torch_passes(loop, lambda u: loop(u, gaps), u, gaps.nbytes)


ROW = Row(
    name="bank",
    title="Bank of diagonal systems, zoh, irregular gaps",
    run=race,
    contenders=(ours(NAME, **LAYER), LSTM, GRU),
    growing=(NAME,),
    growth={"length": (250, 500, 1000, 2000), "state": (16, 32, 64, 128), "channels": (16, 32, 64, 128)},
    targets={
        "torch LSTM, forward + backward": at_least(0.8, aim=1),
        "torch GRU, forward": at_least(1),
    },
    notes=("64 channels of 64 states: 4096 states a series, against 64 (GRU) and 128 (LSTM).",),
)

EAGER = Row(
    name="eager",
    title="The same bank against a loop over time",
    run=race,
    contenders=(ours(NAME, **LAYER), Contender("eager loop", _eager)),
    repetitions=3,
    targets={
        "eager loop, forward": at_least(20, aim=40),
        "eager loop, forward + backward": at_least(10, aim=40),
    },
    notes=("The loop is plain autograd: discretize, update the complex state (B, H, n), read, row by row.",),
)
