r"""Convolution kernels K_l = C Abar^l Bbar and final states, from the powers of one step.

| structure | Abar^(2^k) | kernel of L terms, in products a channel |
|---|---|---|
| diagonal | powers of the eigenvalues | N L + O(N sqrt L): a Vandermonde product in two steps |
| DPLR, quasiseparable, dense | repeated squaring | N L + O(N^2 sqrt L + N^3 log L) |

Nothing of size N x L is ever held. A generating function read at L frequencies (Cauchy sums, tridiagonal
resolvents) needs C Abar^L as well, to cut the sum off: that is the same repeated squaring, and from there on the
matrix product is the cheaper and, without a radius r^-l to multiply back, the more accurate way to the kernel.

References:
    Gu et al. (2021), LSSL, for squaring; Gu, Goel, Re (2022), S4, for the generating function;
    Gu, Gupta, Goel, Re (2022), S4D, for Vandermonde.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ctlssl.discretization import Discretization
from ctlssl.kernels.block_sums import block_sums
from ctlssl.state_matrices import Diagonal, StateMatrix
from ctlssl.state_matrices.diagonal import join_pairs, split_pairs
from ctlssl.state_space import StateSpace
from ctlssl.views.powers import DensePowers, DiagonalPowers, Powers

__all__ = ["ImpulseResponse", "impulse_response"]

_MOST_KEPT = 8


@dataclasses.dataclass(frozen=True, eq=False)
class ImpulseResponse:
    """The states that an impulse of each input leaves on a grid of one gap, float64.

    They are geometric from the first row on, Abar^l late, or, where the hold looks back, from the second on:
    late, then Abar^l (Abar late + early).

    Attributes:
        powers: Abar^(2^k).
        late: what the input of a row adds to its state, (G, N, I).
        early: what the input of the row before adds, (G, N, I); None where the hold does not look back.
        kept: large steps Abar^(j b) late by log2(b) and their number; None where nothing is kept.
        fixed: whether they stay while C changes, so that the work that C does not enter counts for nothing.
    """

    powers: Powers
    late: Tensor
    early: Tensor | None
    kept: dict[tuple[int, int], Tensor] | None = None
    fixed: bool = False

    def kernel(self, outputs: Tensor, L: int) -> Tensor:
        """K_l for l < L, L > 0, (G, O, I, L); outputs (G, O, N)."""
        if self.early is None:
            return self._terms(outputs, self.late, L)
        head = (outputs @ self.late)[..., None]  # (G, O, I, 1)
        start = self.powers.columns(self.late, 0) + self.early
        return torch.cat([head, self._terms(outputs, start, L - 1)], dim=-1) if L > 1 else head

    def final_state(self, u: Tensor) -> Tensor:
        """The state after rows u (B, L, G, I), L > 0, from zero, (B, G, N) in the dtype of u."""
        if self.early is None:
            return self._summed(self.late, u)
        last = torch.einsum("gni,bgi->bgn", self.late.to(u.dtype), u[:, -1])
        if u.shape[1] == 1:
            return last
        return last + self._summed(self.powers.columns(self.late, 0) + self.early, u[:, :-1])

    def _summed(self, start: Tensor, u: Tensor) -> Tensor:
        """Sum of Abar^(L - 1 - l) start u_l over the rows of u (B, L, G, I), (B, G, N)."""
        if self.fixed:
            return self._summed_apart(start, u)
        k = u.shape[1].bit_length() // 2 + 1
        table = self.powers.large_steps(start, 2**k).to(u.dtype)  # (G, N, b, I)
        blocks = block_sums(u, table.flip(2))  # (G, N, J, B)
        return self.powers.summed(blocks.to(start.dtype), k).permute(2, 0, 1).to(u.dtype)

    def _summed_apart(self, start: Tensor, u: Tensor) -> Tensor:
        """The same from what the kernel keeps: rows that are b apart are summed first, with the large steps of b."""
        k, large = self._large(start, u.shape[1])
        padded = torch.nn.functional.pad(u, (0, 0, 0, 0, -u.shape[1] % 2**k, 0))
        apart = padded.unflatten(1, (-1, 2**k)).transpose(1, 2).flatten(1, 2)  # (B, b * J, G, I)
        sums = block_sums(apart, large.to(u.dtype).flip(2))  # (G, N, b, B)
        return self.powers.summed(sums.to(start.dtype), 0).permute(2, 0, 1).to(u.dtype)

    def _terms(self, outputs: Tensor, start: Tensor, L: int) -> Tensor:
        """C Abar^l start for l < L, (G, O, I, L)."""
        if not self.fixed:
            return self.powers.terms(outputs, start, L)
        k, large = self._large(start, L)
        return self.powers.joined(outputs, large, k, L)

    def _large(self, start: Tensor, L: int) -> tuple[int, Tensor]:
        """The k and the large steps of 2^k, (G, N, J, I), of which L terms are made; kept where they stay."""
        k = self.powers.kept_split(start.shape[2], L)
        if self.kept is None:
            return k, self.powers.large_steps(start, -(-L // 2**k), k)
        name = k, -(-L // 2**k)
        large = self.kept.get(name)
        if large is None:
            if len(self.kept) >= _MOST_KEPT:  # records of many lengths
                self.kept.clear()
            with torch.inference_mode(False), torch.no_grad():  # what inference mode makes can never be trained with
                large = self.kept[name] = self.powers.large_steps(start, name[1], k)
            self.powers.forget(max(k, 1))
        return k, large

    @property
    def numbers(self) -> int:
        """How many numbers are held."""
        parts = [self.late, *([] if self.early is None else [self.early]), *(self.kept or {}).values()]
        return self.powers.numbers + sum(part.numel() for part in parts)


def impulse_response(
    system: StateSpace, method: Discretization, gap: Tensor, fixed: bool = False, keep: bool = False
) -> ImpulseResponse:
    """The impulse response of a system on a grid of one gap.

    Args:
        system: the continuous system.
        method: the discretization.
        gap: the one gap, a scalar.
        fixed: whether only C changes from call to call.
        keep: whether to keep what C does not enter.
    """
    B, hold = system.inputs.to(torch.float64), method.hold  # (G, N, I)
    if isinstance(system.A, Diagonal):
        powers, held, ramp = _diagonal_step(system.A, method, gap, B)
    elif method.needs_table(system.A):
        A = system.A.to_dense().to(torch.float64)
        matrix, *shares = method.rule.matrices(A if A.ndim == 3 else A[None], gap.expand(1))
        powers, held, ramp = DensePowers(matrix), shares[0] @ B, shares[1] @ B
    else:
        powers, held, ramp = _structured_step(system.A.to(torch.float64), method, gap, B)
    late = hold.kick * B if hold.kick else hold.next[0] * held + hold.next[1] * ramp
    early = hold.previous[0] * held + hold.previous[1] * ramp if any(hold.previous) else None
    return ImpulseResponse(powers, late, early, {} if keep else None, fixed)


def _diagonal_step(A: Diagonal, method: Discretization, gap: Tensor, B: Tensor) -> tuple[Powers, Tensor, Tensor]:
    """Powers of Abar, F B and G B, (G, N, I)."""
    poles = A.poles.to(torch.complex128)
    power, *shares = method.rule.scalars(gap * (poles if poles.ndim == 2 else poles[None]))  # (G or 1, n)
    pairs = split_pairs(B.mT)  # (G, I, n)
    held, ramp = (join_pairs(pairs * (gap * share)[:, None]).mT for share in shares)  # (G, N, I)
    return DiagonalPowers(power), held, ramp


def _structured_step(A: StateMatrix, method: Discretization, gap: Tensor, B: Tensor) -> tuple[Powers, Tensor, Tensor]:
    """The same by the structure's own solves, one a state and one an input: O(N^2), and right at any gap."""
    rule, eye = method.rule, torch.eye(A.N, dtype=B.dtype, device=B.device)
    columns = eye.reshape(A.N, *(1 for _ in A.batch_shape), A.N)  # (N, 1..., N)
    matrix = rule.advance(A, gap, columns, 0.0).movedim(0, -1)  # (..., N, N)
    inputs = B.movedim(-1, 0)  # (I, G, N)
    held = rule.advance(A, gap, torch.zeros_like(inputs), inputs).movedim(0, -1)  # (G, N, I)
    return DensePowers(matrix if matrix.ndim == 3 else matrix[None]), held, rule.alpha * held
