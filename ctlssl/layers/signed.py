"""A diagonal layer whose events may turn the sign of the state."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.state_space import project
from ctlssl.step_size import initial_log_steps
from ctlssl.views.passes import elementwise_pass
from ctlssl.views.response import Rows

__all__ = ["SignedLSSL", "sign_gate"]


@final
class SignedLSSL(RecurrentLayer):
    r"""Between events the state decays with the clock; at an event each state is multiplied by a sign and driven.

        x_k = s_k e^{-h_k} x_{k-1} + B u_k,   s_k = sign_gate(W u_k + b),   y_k = C x_k + D u_k

    A real flow cannot change the sign of a state, so the sign is a jump at the event. Without it (`signed=False`, s_k
    between 0 and 1) no parity can be counted in finite precision. The gate reaches -1 and 1 exactly, where a sigmoid
    only comes near: a count that fades is lost at length. The gap h_k is the observed one times the step size.

    Args:
        channels: inputs and outputs H.
        state_size: states N.
        signed: whether s_k may be negative; else it is (1 + sign_gate) / 2.
        step_range: smallest and largest initial step size; the decay is e^{-step * gap}.
        decays: whether the state decays with the clock at all; without, only events change it.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, N).

    Raises:
        ValueError: counts below 1, or a step range that cannot be.

    References:
        Grazzi, Siems, Franke, Zela, Hutter, Pontil (2025), Unlocking state-tracking in linear RNNs through negative
        eigenvalues, arXiv:2411.12537.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = SignedLSSL(channels=2, state_size=4)
        >>> y, state = layer(torch.randn(3, 5, 2), torch.rand(3, 5))
        >>> y.shape, state.x.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 64,
        *,
        signed: bool = True,
        step_range: tuple[float, float] = (1e-3, 1e-1),
        decays: bool = True,
    ) -> None:
        super().__init__()
        if channels < 1 or state_size < 1:
            raise ValueError(f"channels and state_size need to be at least 1; found {channels} and {state_size}")
        self.channels, self.state_size, self.signed, self.decays = channels, state_size, signed, decays
        self.log_step = nn.Parameter(initial_log_steps((state_size,), step_range), requires_grad=decays)
        self.gate = nn.Parameter(torch.randn(state_size, channels) * channels**-0.5)
        self.gate_bias = nn.Parameter(torch.full((state_size,), 2.0))  # mostly kept at the start
        self.B = nn.Parameter(torch.randn(state_size, channels) * channels**-0.5)
        self.C = nn.Parameter(torch.randn(channels, state_size) * state_size**-0.5)
        self.D = nn.Parameter(torch.randn(channels))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(N,)."""
        return (self.state_size,)

    def linear_form(self, rows: Rows) -> LinearForm:
        """The diagonal of each row's factors, and B, C, D in every row."""
        (B, L), dtype = rows.u.shape[:2], rows.u.dtype
        drive, read, feed = (part.to(dtype).expand(B, L, *part.shape) for part in (self.B, self.C, self.D.diag()))
        return LinearForm(torch.diag_embed(self._factors(rows)), drive, read, feed, rows.start.x)

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return f"{self.channels}, {self.state_size}, signed={self.signed}, decays={self.decays}"

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        dtype = rows.u.dtype
        x, last = elementwise_pass(self._factors(rows), project(rows.u, self.B.to(dtype)), rows, rows.start.x)
        return project(x, self.C.to(dtype)) + self.D * rows.u, last  # (B, L, H)

    def _factors(self, rows: Rows) -> Tensor:
        """s_k e^{-h_k}, (B, L, N)."""
        read = project(rows.u.double(), self.gate.double()) + self.gate_bias.double()  # (B, L, N)
        factor = sign_gate(read) if self.signed else (1 + sign_gate(read)) / 2
        return (factor * torch.exp(-self._steps(rows)) if self.decays else factor).to(rows.u.dtype)


def sign_gate(z: Tensor) -> Tensor:
    """A gate from -1 to 1 that reaches both: 2 sigmoid(z) - 1, stretched by a fiftieth and cut off.

    Example:
        >>> sign_gate(torch.tensor([-9.0, 0.0, 9.0]))
        tensor([-1.,  0.,  1.])
    """
    return (1.02 * torch.tanh(z / 2)).clamp(-1, 1)
