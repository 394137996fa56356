"""The selective state space S6 (Mamba) written as h_i = L_i h_{i-1} + B_i u_i, y_i = C_i h_i + D_i u_i."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ctlssl.layers.inputs import check_inputs, found_shape, read_gaps
from ctlssl.layers.linear_form import LinearForm

__all__ = ["s6_form"]


def s6_form(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    step: Tensor,
    step_bias: Tensor,
    D: Tensor | None = None,
    dt: Tensor | float | None = None,
) -> LinearForm:
    r"""A diagonal system a channel whose step, input map and read-out depend on the row.

        Delta_i = softplus(W u_i + b) h_i
        x_i = e^{Delta_i A} x_{i-1} + Delta_i (B u_i) u_i                y_i = (C u_i)^T x_i + D u_i

    for each channel, with its own row of A and its own Delta; B u_i and C u_i are shared by the channels. The factor
    h_i, the gap since the previous row, is 1 in the original, which counts rows; with it the decay is that of the time
    that passed. Note that the input's share Delta_i grows with the gap too: it is a rate.

    Args:
        u: inputs, (B, L, H).
        A: rates of each channel's states, (H, N), not above 0.
        B: (N, H), from inputs to input maps.
        C: (N, H), from inputs to read-outs.
        step: W, (H, H); of low rank in the original.
        step_bias: b, (H,).
        D: feed-through of each channel, (H,); None is 0.
        dt: time since the previous row, None (= 1, the original), a number, (L,) or (B, L).

    Returns:
        the form, with a state of H N numbers and outputs (B, L, H).

    Raises:
        ValueError: shapes or gaps that cannot be, or a rate above 0.

    References:
        Gu, Dao (2023), Mamba: linear-time sequence modeling with selective state spaces, arXiv:2312.00752.

    Example:
        >>> u, one = torch.ones(1, 3, 1), torch.ones(1, 1)
        >>> form = s6_form(u, A=-one, B=one, C=one, step=0 * one, step_bias=torch.zeros(1))
        >>> form.transition.flatten()  # e^{-softplus(0)} is one half
        tensor([0.5000, 0.5000, 0.5000])
    """
    D = torch.zeros_like(step_bias) if D is None else D
    _check_weights(A, B, C, step, step_bias, D)
    u = check_inputs(u, len(A), A.dtype)
    gaps, (H, N), dtype = read_gaps(dt, 1.0, u, None), A.shape, u.dtype
    steps = softplus(u.double() @ step.double().mT + step_bias.double()) * gaps[..., None]  # (B, L, H)
    decay = torch.exp(steps[..., None] * A.double()).to(dtype).flatten(2)  # (B, L, H N)
    eye = torch.eye(H, dtype=dtype, device=u.device)
    written = torch.einsum("blh,bln->blhn", steps.to(dtype), u @ B.to(dtype).mT)  # (B, L, H, N)
    return LinearForm(
        transition=torch.diag_embed(decay),
        drive=torch.einsum("blhn,hg->blhng", written, eye).flatten(2, 3),  # (B, L, H N, H)
        read=torch.einsum("bln,hg->blghn", u @ C.to(dtype).mT, eye).flatten(3, 4),  # (B, L, H, H N)
        feed=D.to(dtype).diag().expand(*gaps.shape, H, H),
        start=u.new_zeros(len(u), H * N),
    )


def _check_weights(A: Tensor, B: Tensor, C: Tensor, step: Tensor, step_bias: Tensor, D: Tensor) -> None:
    given = {"A": A, "B": B, "C": C, "step": step, "step_bias": step_bias, "D": D}
    if not isinstance(A, Tensor) or A.ndim != 2:
        raise ValueError(f"A needs shape (H, N); found {found_shape(A)}")
    H, N = A.shape
    needed = {"B": (N, H), "C": (N, H), "step": (H, H), "step_bias": (H,), "D": (H,)}
    for name, shape in needed.items():
        if not isinstance(given[name], Tensor) or given[name].shape != shape:
            raise ValueError(f"{name} needs shape {shape} beside A {(H, N)}; found {found_shape(given[name])}")
    if not (A <= 0).all():
        raise ValueError(f"rates A must not be above 0, or states grow with the gap; found {A.max().item():.3g}")
