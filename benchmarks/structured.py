"""Banks of quasiseparable and DPLR systems: against one dense solve a series, channel and row."""

import torch
from torch import Tensor, nn

from benchmarks.contenders import Contender, Passes, Sizes, drawn, ours, torch_passes
from benchmarks.measures import at_least, at_most
from benchmarks.race import race
from benchmarks.row import Row
from ctlssl import hippo

ROWS_OF_SOLVES = 10


class DenseBank(nn.Module):
    """HiPPO-LegS in each channel, bilinear: a batch of B H dense solves a row."""

    def __init__(self, channels: int, state: int) -> None:
        super().__init__()
        A, B = hippo.legs(state)
        self.A, self.B = nn.Parameter(A.float()), nn.Parameter(B.float().expand(channels, state).clone())
        self.log_step = nn.Parameter(torch.empty(channels).uniform_(-6.9, -2.3))
        self.C = nn.Parameter(torch.randn(channels, state))
        self.D = nn.Parameter(torch.randn(channels))

    def forward(self, u: Tensor, gaps: Tensor) -> Tensor:
        half = 0.5 * gaps[..., None] * self.log_step.exp()  # (B, L, H)
        eye = torch.eye(len(self.A))
        x, outputs = u.new_zeros(len(u), *self.C.shape), []  # (B, H, N)
        for k in range(u.shape[1]):
            h = half[:, k, :, None]  # (B, H, 1)
            x = x + h * (x @ self.A.mT) + 2 * h * self.B * u[:, k, :, None]
            x = torch.linalg.solve(eye - h[..., None] * self.A, x[..., None])[..., 0]
            outputs.append((self.C * x).sum(-1))
        return torch.stack(outputs, 1) + self.D * u


def _dense(sizes: Sizes) -> Passes:
    torch.manual_seed(0)
    bank = DenseBank(sizes.channels, sizes.state)
    u, gaps = drawn(sizes)
    rows = min(sizes.length, ROWS_OF_SOLVES)
    u, gaps = u[:, :rows].contiguous(), gaps[:, :rows].contiguous()
    return torch_passes(bank, lambda u: bank(u, gaps), u, gaps.nbytes, scale=sizes.length / rows)


SOLVES = "dense solves"


def _row(structure: str) -> Row:
    name = f"LSSL {structure}"
    return Row(
        name=structure,
        title=f"Bank of {structure} systems, bilinear, irregular gaps",
        run=race,
        contenders=(ours(name, structure=structure, method="bilinear"), Contender(SOLVES, _dense)),
        repetitions=3,
        growing=(name,),
        growth={"length": (250, 500, 1000, 2000), "state": (16, 32, 64, 128), "channels": (16, 32, 64, 128)},
        targets={
            f"{SOLVES}, forward": at_least(30),
            f"{SOLVES}, forward + backward": at_least(30),
            f"{name}, exponent in length": at_most(1.1),
            f"{name}, exponent in state": at_most(1.1),
        },
        notes=(
            f"The dense solves run {ROWS_OF_SOLVES} rows of the same batch, channels and states; their seconds and "
            "bytes are scaled to the length of ours, since both are linear in the rows.",
            "The dense solves are float32 LU of (B H, N, N) with partial pivoting, the gradient by autograd.",
        ),
    )


ROWS = (_row("quasiseparable"), _row("dplr"))
