"""A neural CDE of the same width on the same data."""

import torch
from torch import Tensor, nn

from benchmarks.contenders import Contender, Passes, Sizes, drawn, ours, torch_passes
from benchmarks.multi_input import LAYER
from benchmarks.race import race
from benchmarks.row import Row


class Field(nn.Module):
    """f(z) of dz = f(z) dX: one hidden layer of the width, tanh at the end."""

    def __init__(self, width: int, control: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width * control), nn.Tanh())

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.body(z).unflatten(-1, (z.shape[-1], -1))  # (B, W, C)


def _cde(sizes: Sizes) -> Passes:
    import torchcde

    torch.manual_seed(0)
    width = sizes.channels
    field, first = Field(width, width + 1), nn.Linear(width + 1, width)
    u, gaps = drawn(sizes)
    clock = gaps.cumsum(1)[..., None] / sizes.length

    def run(u: Tensor) -> Tensor:
        control = torch.cat([clock, u], dim=-1)  # (B, L, 1 + H)
        knots = torchcde.hermite_cubic_coefficients_with_backward_differences(control)
        path = torchcde.CubicSpline(knots)
        options = {"method": "rk4", "options": {"step_size": 1.0}}
        return torchcde.cdeint(path, field, first(control[:, 0]), path.grid_points, adjoint=False, **options)

    return torch_passes(nn.ModuleList([field, first]), run, u, clock.nbytes)


ROW = Row(
    name="neural_cde",
    title="Neural CDE of the same width",
    run=race,
    contenders=(ours("LSSL multi-input", **LAYER), Contender("neural CDE", _cde)),
    sizes=Sizes(length=200),
    repetitions=3,
    reason="a comparison for orientation: the two are different models",
    notes=(
        "torchcde: the control is the cubic Hermite spline (backward differences) through time and the 64 channels, "
        "run through by the number of the observation, one rk4 step between two of them, gradients through the steps. "
        "L=200 for both, so that it comes to an end.",
    ),
)
