"""Step sizes that depend on the input: a gate of each row, and banks whose channels each have a clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from ctlssl.discretization import Discretization
from ctlssl.state_space import StateSpace, project
from ctlssl.views import Response, State

__all__ = ["StepGate", "clocked_run"]


@final
class StepGate(nn.Module):
    r"""The factor softplus(W u_k + b) of the gap before row k, in float64; 1 whatever the input at the start.

    Args:
        channels: H, what is read.
        gates: 1 for a gate a row, H for one a row and channel.

    References:
        Gu, Dao (2023), Mamba, section 3.6, for a softplus of the input as the step size.
    """

    def __init__(self, channels: int, gates: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(gates, channels))
        self.bias = nn.Parameter(torch.full((gates,), math.log(math.e - 1)))  # softplus is 1 there

    def forward(self, u: Tensor, lengths: Tensor | None) -> Tensor:
        """The gates of all rows, (B, L, gates) float64; the content of padding is not read.

        Args:
            u: inputs, (B, L, H).
            lengths: rows of each series, (B,); L if None.
        """
        if lengths is not None:
            inside = torch.arange(u.shape[1], device=u.device) < lengths[:, None]  # (B, L)
            u = torch.where(inside[..., None], u, 0)
        # In float64: a gate multiplies the phases of all that it makes pass.
        read = project(u.double(), self.weight.double())  # (B, L, gates)
        return _softplus(read + self.bias.double())


def _softplus(z: Tensor) -> Tensor:
    """The function log(1 + e^z) in float64.

    torch's own rounds a number by its place in memory, and so would change its last bit when queries join the series.
    """
    return torch.where(z > _LINEAR, z, z.clamp(max=_LINEAR).exp().log1p())


_LINEAR = 40.0
"""From where softplus is the identity in float64."""


def clocked_run(
    run: Callable[..., Response],
    system: StateSpace,
    method: Discretization,
    u: Tensor,
    gaps: Tensor,
    state: State | None,
    lengths: Tensor | None,
    is_query: Tensor | None,
    gates: Tensor | None,
) -> Response:
    """A view run with each gap times its gate; a bank with a gate a channel as so many banks of one.

    Args:
        run: the view.
        system: as for the view.
        method: as for the view.
        u: as for the view.
        gaps: (B, L) float64.
        state: as for the view.
        lengths: as for the view.
        is_query: as for the view.
        gates: (B, L, 1), (B, L, H), or None where there are none.
    """
    if gates is None:
        return run(system, method, u, gaps, state, lengths, is_query)
    if gates.shape[-1] == 1:
        return run(system, method, u, gaps * gates[..., 0], state, lengths, is_query)
    systems = system.derived("each channel", system.split)
    clocks = (gaps[..., None] * gates).unbind(-1)  # H times (B, L)
    starts = [None] * len(systems) if state is None else map(State, state.x.split(1, 1), state.u.split(1, 1))
    each = zip(systems, u.split(1, -1), clocks, starts, strict=True)
    found = [run(one, method, inputs, clock, start, lengths, is_query) for one, inputs, clock, start in each]
    y = torch.cat([response.y for response in found], -1)  # (B, L, H * M)
    x, held = (torch.cat([part(response) for response in found], 1) for part in (_states, _inputs))
    return Response(y, State(x, held), sum(response.evaluations for response in found))


def _states(response: Response) -> Tensor:
    return response.state.x


def _inputs(response: Response) -> Tensor:
    return response.state.u
