r"""Powers of one step, Abar^(2^k), and what they make of states and outputs, by doubling.

With b = 2^k near sqrt(L), the L terms C Abar^l x are one matrix product of `small steps` C Abar^a (a < b) and
`large steps` Abar^(b j) x: neither L states nor more than log2(L) squarings are ever needed.

References:
    Shanks (1971), class number, baby-step giant-step; Paterson, Stockmeyer (1973), polynomials of matrices.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

__all__ = ["DensePowers", "DiagonalPowers", "Powers"]


class Powers(ABC):
    """Abar^(2^k) of the groups of a system, each squared when it is first asked for.

    Args:
        first: Abar in the form that the structure works with.
    """

    def __init__(self, first: Tensor) -> None:
        self._known = {0: first}

    @abstractmethod
    def _squared(self, power: Tensor) -> Tensor:
        """The square of a power."""

    @abstractmethod
    def columns(self, x: Tensor, k: int) -> Tensor:
        """Abar^(2^k) x; x (G, N, K)."""

    @abstractmethod
    def rows(self, c: Tensor, k: int) -> Tensor:
        """C Abar^(2^k); c (G, K, N)."""

    def large_steps(self, x: Tensor, count: int, k: int = 0) -> Tensor:
        """Abar^(j 2^k) x for j < count; x (G, N, K) -> (G, N, count, K)."""
        trail = x[:, :, None]
        while (have := trail.shape[2]) < count:
            more = self.columns(trail[:, :, : count - have].flatten(2), k)
            trail, k = torch.cat([trail, more.unflatten(2, (-1, x.shape[2]))], dim=2), k + 1
        return trail

    def small_steps(self, c: Tensor, count: int) -> Tensor:
        """C Abar^a for a < count; c (G, O, N) -> (G, count, O, N)."""
        trail, k = c[:, None], 0
        while (have := trail.shape[1]) < count:
            more = self.rows(trail[:, : count - have].flatten(1, 2), k)
            trail, k = torch.cat([trail, more.unflatten(1, (-1, c.shape[1]))], dim=1), k + 1
        return trail

    def terms(self, c: Tensor, x: Tensor, count: int) -> Tensor:
        """C Abar^l x for l < count; c (G, O, N), x (G, N, K) -> (G, O, K, count)."""
        k = self.split(c.shape[1], x.shape[2], count)
        return self.joined(c, self.large_steps(x, -(-count // 2**k), k), k, count)

    def split(self, outputs: int, inputs: int, count: int) -> int:
        """The k whose 2^k small steps and large steps of 2^k are the least work for a number of terms."""
        most = max(count - 1, 0).bit_length()
        return min(max(round(math.log2(max(count, 1) * inputs / outputs) / 2), 0), most)

    def kept_split(self, inputs: int, count: int) -> int:
        """The same of one output where large steps are kept from call to call, so that small ones alone are work."""
        return self.split(1, inputs, count)

    def joined(self, c: Tensor, large: Tensor, k: int, count: int) -> Tensor:
        """C Abar^l x for l < count from the large steps of 2^k, (G, N, j, K), as `terms`."""
        O, K = c.shape[1], large.shape[3]  # noqa: E741
        small = self.small_steps(c, min(2**k, count)).flatten(1, 2)  # (G, a * O, N)
        product = large.flatten(2).mT @ small.mT  # (G, j * K, a * O), in the order of l where O = K = 1
        product = product.unflatten(2, (-1, O)).unflatten(1, (-1, K))  # (G, j, K, a, O)
        return product.permute(0, 4, 2, 1, 3).flatten(3)[..., :count]

    def summed(self, blocks: Tensor, k: int) -> Tensor:
        """Sum of Abar^((J - 1 - j) 2^k) v_j over j; blocks v_j (G, N, J, B) -> (G, N, B)."""
        width = blocks.shape[3]
        blocks = blocks.flatten(2)  # (G, N, J * B)
        while (left := blocks.shape[2]) > width:
            half = (left // width - 1).bit_length() - 1  # the last 2^half blocks stay
            older, newer = blocks.tensor_split([left - width * 2**half], dim=2)
            beside = newer.shape[2] - older.shape[2]
            moved = self.columns(older, k + half)
            blocks = torch.cat([newer[..., :beside], newer[..., beside:] + moved], dim=2)
        return blocks

    def advanced(self, x: Tensor, exponents: Tensor) -> Tensor:
        """Abar^e x for an exponent of each column; x (G, N, B), exponents (B,) non-negative integers."""
        top = int(exponents.max()) if exponents.numel() else 0
        for bit in range(top.bit_length()):
            x = torch.where(((exponents >> bit) & 1).bool(), self.columns(x, bit), x)
        return x

    def _power(self, k: int) -> Tensor:
        if k not in self._known:  # by its place, not in a list: another thread may be squaring too
            self._known[k] = self._squared(self._power(k - 1))
        return self._known[k]

    def forget(self, k: int) -> None:
        """Let go of the powers from 2^k on, which are made again when they are asked for."""
        self._known = {place: power for place, power in self._known.items() if place < k}

    @property
    def numbers(self) -> int:
        """How many numbers are held."""
        return sum(power.numel() * (1 + power.is_complex()) for power in self._known.values())


@final
class DensePowers(Powers):
    """Of matrices (G or 1, N, N)."""

    def _squared(self, power: Tensor) -> Tensor:
        return power @ power

    def kept_split(self, inputs: int, count: int) -> int:
        """See `Powers.kept_split`: a small step costs as much as N terms, so no more of them than terms / N."""
        most = round(math.log2(max(count * inputs / self._power(0).shape[-1], 1)))
        return min(self.split(1, inputs, count), most)

    def columns(self, x: Tensor, k: int) -> Tensor:
        """Abar^(2^k) x; x (G, N, K)."""
        return self._power(k) @ x

    def rows(self, c: Tensor, k: int) -> Tensor:
        """C Abar^(2^k); c (G, K, N)."""
        return c @ self._power(k)


@final
class DiagonalPowers(Powers):
    """Of eigenvalues of conjugate pairs, complex (G or 1, n), on real states in halves."""

    def _squared(self, power: Tensor) -> Tensor:
        return power * power

    def columns(self, x: Tensor, k: int) -> Tensor:
        """Abar^(2^k) x; x (G, N, K)."""
        a, b = (part[..., None] for part in _parts(self._power(k)))  # (G, n, 1)
        first, second = x.tensor_split(2, dim=1)
        return torch.cat([a * first - b * second, b * first + a * second], dim=1)

    def rows(self, c: Tensor, k: int) -> Tensor:
        """C Abar^(2^k); c (G, K, N)."""
        a, b = (part[:, None] for part in _parts(self._power(k)))  # (G, 1, n)
        first, second = c.tensor_split(2, dim=2)
        return torch.cat([a * first + b * second, a * second - b * first], dim=2)


def _parts(z: Tensor) -> tuple[Tensor, Tensor]:
    return z.real, z.imag
