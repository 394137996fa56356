r"""Causal convolution of many series with their channels' kernels, by real fast Fourier transforms.

On a CPU, series and channels go through in pieces that stay in the cache, since moving the spectra of a whole batch to
memory and back takes longer than the transforms. The way back transforms again what it needs: nothing but the
arguments is kept. Elsewhere, under torch.compile, and for second derivatives the plain form runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["causal_convolution", "causal_twin", "fast_length", "pieces"]

_PIECE = 2**20
"""Numbers of one piece: 4 MiB of float32."""

_MANTISSAS = (32, 36, 40, 45, 48, 50, 54, 60, 64)
"""Lengths of fast transforms are these times a power of two: 32805 = 3^8 5, a product of small primes too, takes 1.5
times as long as 36864."""


def causal_convolution(u: Tensor, kernel: Tensor) -> Tensor:
    r"""y_k = sum_{l <= k} K_l u_{k-l}, (B, L, G, O).

    Args:
        u: inputs, (B, L, G, I).
        kernel: matrices K_l, (G, O, I, L), in the dtype of u.

    Example:
        >>> import torch
        >>> u, kernel = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.25])
        >>> y = causal_convolution(u.reshape(1, 3, 1, 1), kernel.reshape(1, 1, 1, 3))
        >>> [round(value, 4) for value in y.flatten().tolist()]
        [1.0, 0.5, 2.25]
    """
    if u.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Causal.apply(u, kernel)
    return causal_twin(u, kernel)


def causal_twin(u: Tensor, kernel: Tensor) -> Tensor:
    """The same in three lines of torch, differentiable to any order."""
    n, L = fast_length(2 * u.shape[1] - 1), u.shape[1]
    spectrum = torch.einsum("bfgi,goif->bfgo", torch.fft.rfft(u, n=n, dim=1), torch.fft.rfft(kernel, n=n))
    return torch.fft.irfft(spectrum, n=n, dim=1)[:, :L]


def fast_length(least: int) -> int:
    """The next length that transforms fast.

    Example:
        >>> fast_length(32767), fast_length(32769)
        (32768, 36864)
    """
    scale = 1 << max(0, (least - 1).bit_length() - 6)
    return next((scale * m for m in _MANTISSAS if scale * m >= least and least > 32), least)


def pieces(series: int, groups: int, numbers: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the series and of the groups whose pieces hold about as many numbers as the cache takes.

    Args:
        series: how many there are.
        groups: how many there are.
        numbers: those of one series and one group.
    """
    wide = max(1, min(groups, _PIECE // max(numbers, 1)))
    deep = max(1, min(series, _PIECE // max(numbers * wide, 1)))
    for group in range(0, groups, wide):
        for first in range(0, series, deep):
            yield slice(first, first + deep), slice(group, group + wide)


def _parts(u: Tensor, kernel: Tensor, n: int) -> list[tuple[slice, slice]]:
    B, _, G, I = u.shape  # noqa: E741
    # With several inputs the product is a matrix product a frequency: all series share its rearranged kernel.
    return [(slice(None), slice(None))] if I > 1 else list(pieces(B, G, max(I, kernel.shape[1]) * n))


def _transformed(u: Tensor, n: int) -> Tensor:
    """Spectra (G, K, B, n // 2 + 1) of u (B, L, G, K)."""
    return torch.fft.rfft(torch.nn.functional.pad(u.permute(2, 3, 0, 1), (0, n - u.shape[1])))


def _rows(spectrum: Tensor, n: int, L: int) -> Tensor:
    """The first L rows (B, L, G, K) of spectra (G, K, B, F)."""
    return torch.fft.irfft(spectrum, n=n)[..., :L].permute(2, 3, 0, 1)


def _mixed(kernel: Tensor, spectrum: Tensor) -> Tensor:
    """Sum over i of kernel (G, O, I, F) times spectrum (G, I, B, F), which may be overwritten; (G, O, B, F)."""
    if kernel.shape[2] > 1:
        return torch.einsum("goif,gibf->gobf", kernel, spectrum)
    return spectrum.mul_(kernel) if kernel.shape[1] == 1 else spectrum * kernel


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(u, kernel)
        L, n = u.shape[1], fast_length(2 * u.shape[1] - 1)
        y = u.new_empty(*u.shape[:3], kernel.shape[1])
        response = torch.fft.rfft(kernel, n=n)  # (G, O, I, F)
        for series, groups in _parts(u, kernel, n):
            spectrum = _transformed(u[series, :, groups], n)
            y[series, :, groups] = _rows(_mixed(response[groups], spectrum), n, L)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return _adjoint(grad, *ctx.saved_tensors, *ctx.needs_input_grad)
        asked = [t for t, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True) if wanted]
        found = iter(torch.autograd.grad(causal_twin(*ctx.saved_tensors), asked, grad, create_graph=True))
        return tuple(next(found) if wanted else None for wanted in ctx.needs_input_grad)


def _adjoint(grad: Tensor, u: Tensor, kernel: Tensor, of_u: bool, of_kernel: bool) -> tuple[Tensor | None, ...]:
    """Correlations of grad (B, L, G, O) with the kernel and with u."""
    L, n = u.shape[1], fast_length(2 * u.shape[1] - 1)
    gu = torch.empty_like(u) if of_u else None
    back = torch.fft.rfft(kernel, n=n).transpose(1, 2).conj() if of_u else None  # (G, I, O, F)
    slope = torch.zeros(*kernel.shape[:3], n // 2 + 1, dtype=torch.promote_types(u.dtype, torch.complex64))
    for series, groups in _parts(u, kernel, n):
        spectrum = _transformed(grad[series, :, groups], n)  # (G, O, B, F)
        if of_kernel:
            seen = _transformed(u[series, :, groups], n)  # (G, I, B, F)
            slope[groups] += _correlated(spectrum, seen)
        if of_u:
            gu[series, :, groups] = _rows(_mixed(back[groups], spectrum), n, L)
    return gu, torch.fft.irfft(slope, n=n)[..., :L] if of_kernel else None


def _correlated(late: Tensor, early: Tensor) -> Tensor:
    """Sum over series of late (G, O, B, F) times early (G, I, B, F), conjugated; (G, O, I, F)."""
    if early.shape[1] > 1:
        return torch.einsum("gobf,gibf->goif", late, early.conj())
    return (late * early.conj_physical_()).sum(2, keepdim=True)
