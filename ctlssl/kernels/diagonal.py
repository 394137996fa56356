"""The recurrence of a diagonal A as torch operators over the fused loops, with its derivatives.

On CPU tensors in float32 and float64 the loops run; elsewhere, under torch.compile, and inside `plain_torch()` the
twin does. First derivatives come from the loops; where the graph of a backward pass is kept (create_graph=True) that
pass is the twin's, so that second derivatives exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctlssl.kernels.diagonal_twin import bank_twin, states_twin

__all__ = ["diagonal_bank", "diagonal_states", "plain_torch"]

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within it every recurrence is plain torch: slower, on any device, and differentiable to any order.

    Example:
        >>> import torch
        >>> from ctlssl import LSSL
        >>> layer, u = LSSL(2, state_size=4, structure="diagonal", method="zoh"), torch.ones(1, 3, 2)
        >>> with plain_torch():
        ...     expected, _ = layer(u, view="recurrence")
        >>> torch.allclose(layer(u, view="recurrence")[0], expected, atol=1e-5)
        True
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def diagonal_bank(
    u: Tensor,
    held: Tensor | None,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    x: Tensor,
    hold: Sequence[float],
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """C x of a bank of H systems, (B, L, H, M), and the last committed state, (B, H, 2 n).

    Args:
        u: inputs, (B, L, H).
        held: the last committed input before each row, (B, L, H); None where the hold does not look back.
        gaps: (B, L) float64.
        kinds: 0 padding, 1 committed, 2 a query, (B, L) uint8.
        poles: eigenvalues of the pairs, (H, 2 n) float64.
        B: input map, (H, 2 n).
        C: output map, (H, M, 2 n).
        x: state before the first row, (B, H, 2 n).
        hold: weights (p_F, p_G, n_F, n_G, kick).
        alpha: of gbt; negative for the exact rule.
    """
    if not _fused(u):
        return bank_twin(u, held, gaps, kinds, poles, B, C, x, hold, alpha)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (u, gaps, poles, B, C, x))
    return _bank(u, held, gaps, kinds, poles, B, C, x, list(hold), alpha, keep)[:2]


def diagonal_states(
    first: Tensor,
    second: Tensor | None,
    gaps: Tensor,
    kinds: Tensor,
    poles: Tensor,
    x: Tensor,
    kick: bool,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """States (B, L, 1, 2 n) and last state (B, 1, 2 n) from drives (B, L, 1, 2 n); arguments as `states_twin`."""
    if not _fused(first):
        return states_twin(first, second, gaps, kinds, poles, x, kick, alpha)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (first, gaps, poles, x))
    return _states(first, second, gaps, kinds, poles, x, kick, alpha, keep)[:2]


def _fused(u: Tensor) -> bool:
    usable = u.device.type == "cpu" and u.dtype in (torch.float32, torch.float64)
    return usable and not torch.compiler.is_compiling() and not _plain.get()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _checkpoints(x: Tensor, length: int, keep: bool) -> Tensor:
    return x.new_zeros(x.shape[0], -(-length // 64) if keep else 0, *x.shape[1:])


def _bank_arrays(u: Tensor, held: Tensor | None, *rest: Any) -> SimpleNamespace:
    gaps, kinds, poles, B, C, x, hold, alpha = rest
    names = {"u": u, "held": u if held is None else held, "gaps": gaps, "kinds": kinds, "poles": poles, "B": B, "x": x}
    given = {name: _array(tensor) for name, tensor in names.items()}
    p_F, p_G, n_F, n_G, kick = hold
    weights = np.array([0.0, 0.0, kick, 0.0, 1.0] if kick else [p_F, p_G, n_F, n_G, 0.0])
    return SimpleNamespace(**given, C=_array(C.transpose(0, 1)), hold=weights, alpha=float(alpha))


def _states_arrays(first: Tensor, second: Tensor | None, *rest: Any) -> SimpleNamespace:
    gaps, kinds, poles, x, kick, alpha = rest
    names = {"first": first, "gaps": gaps, "kinds": kinds, "poles": poles, "x": x}
    names["second"] = first.new_zeros(1, 1, 1, 0) if second is None else second
    given = {name: _array(tensor) for name, tensor in names.items()}
    return SimpleNamespace(**given, ramp=second is not None, kick=bool(kick), alpha=float(alpha))


@torch.library.custom_op("ctlssl::diagonal_bank", mutates_args=())
def _bank(
    u: Tensor, held: Tensor | None, gaps: Tensor, kinds: Tensor, poles: Tensor, B: Tensor, C: Tensor, x: Tensor,
    hold: list[float], alpha: float, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from ctlssl.kernels import loops

    y, end, kept = (t.zero_() for t in _bank_fake(u, held, gaps, kinds, poles, B, C, x, hold, alpha, keep))
    loops.bank(_bank_arrays(u, held, gaps, kinds, poles, B, C, x, hold, alpha), y.numpy(), end.numpy(), kept.numpy())
    return y, end, kept


@_bank.register_fake
def _bank_fake(u, held, gaps, kinds, poles, B, C, x, hold, alpha, keep):  # noqa: ANN001, ANN202
    y = u.new_empty(*u.shape, C.shape[1])
    return y, x.new_empty(x.shape), _checkpoints(x, u.shape[1], keep)


@torch.library.custom_op("ctlssl::diagonal_bank_adjoint", mutates_args=())
def _bank_adjoint(
    gy: Tensor, gend: Tensor, kept: Tensor, u: Tensor, held: Tensor | None, gaps: Tensor, kinds: Tensor,
    poles: Tensor, B: Tensor, C: Tensor, x: Tensor, hold: list[float], alpha: float, clocked: bool,
) -> list[Tensor]:  # fmt: skip
    from ctlssl.kernels import loops

    arrays = _bank_arrays(u, held, gaps, kinds, poles, B, C, x, hold, alpha)
    found = loops.bank_adjoint(arrays, _array(kept), _array(gy), _array(gend), clocked)
    gu, gheld, ggaps, gpoles, gB, gC, gx = (torch.from_numpy(part) for part in found)
    return [gu, gheld, ggaps, gpoles, gB, gC.transpose(0, 1).contiguous(), gx]


@_bank_adjoint.register_fake
def _bank_adjoint_fake(gy, gend, kept, u, held, gaps, kinds, poles, B, C, x, hold, alpha, clocked):  # noqa: ANN001, ANN202
    looks_back = (hold[0] or hold[1]) and not hold[4]
    gheld = u.new_empty(u.shape) if looks_back else u.new_empty(1, 1, 0)
    ggaps = gaps.new_empty(gaps.shape if clocked else (1, 0))
    return [u.new_empty(u.shape), gheld, ggaps, *(t.new_empty(t.shape) for t in (poles, B, C, x))]


@torch.library.custom_op("ctlssl::diagonal_states", mutates_args=())
def _states(
    first: Tensor, second: Tensor | None, gaps: Tensor, kinds: Tensor, poles: Tensor, x: Tensor,
    kick: bool, alpha: float, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from ctlssl.kernels import loops

    shown, end, kept = (t.zero_() for t in _states_fake(first, second, gaps, kinds, poles, x, kick, alpha, keep))
    arrays = _states_arrays(first, second, gaps, kinds, poles, x, kick, alpha)
    loops.states(arrays, shown.numpy(), end.numpy(), kept.numpy())
    return shown, end, kept


@_states.register_fake
def _states_fake(first, second, gaps, kinds, poles, x, kick, alpha, keep):  # noqa: ANN001, ANN202
    return first.new_empty(first.shape), x.new_empty(x.shape), _checkpoints(x, first.shape[1], keep)


@torch.library.custom_op("ctlssl::diagonal_states_adjoint", mutates_args=())
def _states_adjoint(
    gshown: Tensor, gend: Tensor, kept: Tensor, first: Tensor, second: Tensor | None, gaps: Tensor, kinds: Tensor,
    poles: Tensor, x: Tensor, kick: bool, alpha: float, clocked: bool,
) -> list[Tensor]:  # fmt: skip
    from ctlssl.kernels import loops

    arrays = _states_arrays(first, second, gaps, kinds, poles, x, kick, alpha)
    found = loops.states_adjoint(arrays, _array(kept), _array(gshown), _array(gend), clocked)
    return [torch.from_numpy(part) for part in found]


@_states_adjoint.register_fake
def _states_adjoint_fake(gshown, gend, kept, first, second, gaps, kinds, poles, x, kick, alpha, clocked):  # noqa: ANN001, ANN202
    gsecond = first.new_empty((1, 1, 1, 0) if second is None else first.shape)
    ggaps = gaps.new_empty(gaps.shape if clocked else (1, 0))
    return [first.new_empty(first.shape), gsecond, ggaps, poles.new_empty(poles.shape), x.new_empty(x.shape)]


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    ctx.places = [k for k, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.rest = [None if isinstance(value, Tensor) else value for value in inputs[:-1]]
    ctx.save_for_backward(*tensors, output[2])


def _rule(adjoint: Callable, twin: Callable, order: Sequence[int]) -> Callable:
    """The backward rule: the fused adjoint, whose results belong to the inputs at the places of order."""

    def backward(ctx: Any, gy: Tensor, gend: Tensor, _: Tensor) -> tuple:
        *tensors, kept = ctx.saved_tensors
        inputs = list(ctx.rest)
        for place, tensor in zip(ctx.places, tensors, strict=True):
            inputs[place] = tensor
        grads = [None] * (len(inputs) + 1)
        asked = [place for place in order if ctx.needs_input_grad[place]]
        if torch.is_grad_enabled():
            wanted = [inputs[place] for place in asked]
            outputs = twin(*inputs)
            found = torch.autograd.grad(outputs, wanted, (gy, gend), create_graph=True, allow_unused=True)
            found = dict(zip(asked, found, strict=True))
        else:
            found = dict(zip(order, adjoint(gy, gend, kept, *inputs, ctx.needs_input_grad[2]), strict=True))
        for place in asked:
            grads[place] = found[place]
        return tuple(grads)

    return backward


def _refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "the fused recurrence has no second derivatives of its own; run the forward pass inside "
        "ctlssl.kernels.plain_torch(), which is plain torch"
    )


_bank.register_autograd(_rule(_bank_adjoint, bank_twin, (0, 1, 2, 4, 5, 6, 7)), setup_context=_remember)
_states.register_autograd(_rule(_states_adjoint, states_twin, (0, 1, 2, 4, 5)), setup_context=_remember)
_bank_adjoint.register_autograd(_refuse)
_states_adjoint.register_autograd(_refuse)
