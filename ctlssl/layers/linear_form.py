"""Any layer as the linear recurrence that it runs on a batch: h_i = L_i h_{i-1} + B_i u_i, y_i = C_i h_i + D_i u_i."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

__all__ = ["LinearForm"]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearForm:
    r"""The matrices of every row of h_i = L_i h_{i-1} + B_i u_i, y_i = C_i h_i + D_i u_i.

    All depend on gaps and inputs as the layer makes them. States that a layer holds beside its own (the last input, a
    constant 1) are part of h.

    Args:
        transition: L_i, (B, L, S, S).
        drive: B_i, (B, L, S, H).
        read: C_i, (B, L, O, S).
        feed: D_i, (B, L, O, H).
        start: h_0, (B, S).

    References:
        Sieber, Amo Alonso, Didier, Zeilinger, Orvieto (2024), Understanding the differences in foundation models:
        attention, state space models, and recurrent neural networks, arXiv:2405.15731.

    Example:
        >>> one = torch.ones(1, 3, 1, 1)
        >>> form = LinearForm(0.5 * one, one, one, 0 * one, torch.zeros(1, 1))
        >>> form.run(torch.ones(1, 3, 1)).flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """

    transition: Tensor
    drive: Tensor
    read: Tensor
    feed: Tensor
    start: Tensor

    @property
    def size(self) -> int:
        """Numbers S of the state."""
        return self.transition.shape[-1]

    def run(self, u: Tensor) -> Tensor:
        """Outputs (B, L, O) of inputs u (B, L, H), one row after another."""
        h, outputs = self.start, []
        for k in range(u.shape[1]):
            now = u[:, k, :, None]  # (B, H, 1)
            h = (self.transition[:, k] @ h[..., None] + self.drive[:, k] @ now)[..., 0]  # (B, S)
            outputs.append((self.read[:, k] @ h[..., None] + self.feed[:, k] @ now)[..., 0])
        return torch.stack(outputs, dim=1) if outputs else u.new_zeros(len(u), 0, self.read.shape[2])

    def spectral_radius(self) -> Tensor:
        """The largest |eigenvalue| of each row's L_i, (B, L)."""
        return torch.linalg.eigvals(self.transition).abs().amax(-1)

    def influence(self, lag: int) -> Tensor:
        """How far the input of a row reaches: the largest singular value of C_i L_i ... L_{j+1} B_j at j = i - lag.

        At lag 0 this is C_i B_i + D_i. The matrices are those of this batch: what an input changes in the matrices of
        later rows, where they depend on it or on the state, is not in it.

        Args:
            lag: rows between the input and the output.

        Returns:
            (B, L - lag), for every row i that has one `lag` rows before it.

        Raises:
            ValueError: a lag that no two rows have.
        """
        rows = self.drive.shape[1]
        if not 0 <= lag < rows:
            raise ValueError(f"lag needs to lie between 0 and {rows - 1}; found {lag}")
        reached = self.drive[:, : rows - lag]  # (B, L - lag, S, H)
        for k in range(1, lag + 1):
            reached = self.transition[:, k : rows - lag + k] @ reached
        outputs = self.read[:, lag:] @ reached  # (B, L - lag, O, H)
        return torch.linalg.matrix_norm(outputs if lag else outputs + self.feed, ord=2)
