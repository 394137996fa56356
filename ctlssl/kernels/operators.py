"""What torch operators over compiled loops have in common: when they run, what they read, their derivatives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["array", "direct", "fused", "is_plain", "operator", "plain_torch", "register_derivative"]

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


def is_plain() -> bool:
    """Whether `plain_torch` is in force."""
    return _plain.get()


def fused(u: Tensor) -> bool:
    """Whether compiled loops run for inputs like these."""
    usable = u.device.type == "cpu" and u.dtype in (torch.float32, torch.float64)
    # Without numba's compiler, as in a debugger or under coverage, vectors in registers cannot be had.
    interpreted = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    # Nor are there rules for torch.func and forward mode: the twin answers, or says what it cannot do.
    transformed = torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    return usable and not (torch.compiler.is_compiling() or is_plain() or interpreted or transformed)


def direct(tensors: Sequence[Any]) -> bool:
    """Whether nothing looks on: no gradients, no dispatch mode, tensors of no special kind.

    What an operator runs may then be called by itself: the dispatcher and the derivative's wrapper cost more than a
    single row does.
    """
    if torch.is_grad_enabled() or torch._C._len_torch_dispatch_stack():
        return False
    return all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)


def array(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor as a contiguous array."""
    return tensor.numpy(force=True) if tensor.is_contiguous() else tensor.detach().contiguous().numpy()


def operator(schema: str, function: Callable, fake: Callable) -> Any:
    """A torch operator of this name space that runs on CPU tensors.

    What `torch.library.custom_op` makes of a function, without its import of all of torch's compiler at the first call.

    Args:
        schema: name, arguments and results, as in ``"sine(Tensor x) -> Tensor"``.
        function: what runs.
        fake: the same for tensors without numbers, for shapes alone.
    """
    name = f"ctlssl::{schema.partition('(')[0]}"
    torch.library.define(name, schema[len(name) - len("ctlssl::") :])
    torch.library.impl(name, "CPU", function)
    torch.library.register_fake(name, fake)
    return getattr(torch.ops.ctlssl, name.partition("::")[2]).default


def register_derivative(operator: Any, adjoint: Any, twin: Callable, order: Sequence[int]) -> None:
    """Let an operator f(*inputs, keep) -> (shown, last state, kept for the way back) be differentiated.

    Args:
        operator: the operator.
        adjoint: the operator (g of shown, g of the last state, kept, *inputs, clocked) -> gradients; `clocked` tells
            whether that of the gaps, input 2, is asked for.
        twin: the same as `operator` in plain torch, (*inputs) -> (shown, last state).
        order: the places among the inputs to which the gradients belong.
    """

    def remember(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.keep = inputs[-1]
        ctx.places = [k for k, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.rest = [None if isinstance(value, Tensor) else value for value in inputs[:-1]]
        ctx.save_for_backward(*(inputs[k] for k in ctx.places), output[2])

    def backward(ctx: Any, gshown: Tensor, gend: Tensor, _: Tensor) -> tuple:
        *tensors, kept = ctx.saved_tensors
        if not ctx.keep:
            raise RuntimeError("called with keep=False, which leaves no way back; pass keep=True to differentiate")
        inputs = list(ctx.rest)
        for place, tensor in zip(ctx.places, tensors, strict=True):
            inputs[place] = tensor
        asked = [place for place in order if ctx.needs_input_grad[place]]
        if torch.is_grad_enabled():
            wanted = [inputs[place] for place in asked]
            shown, last = twin(*inputs)
            found = torch.autograd.grad((shown, last), wanted, (gshown, gend), create_graph=True, allow_unused=True)
            found = dict(zip(asked, found, strict=True))
        else:
            found = dict(zip(order, adjoint(gshown, gend, kept, *inputs, ctx.needs_input_grad[2]), strict=True))
        return tuple(found[place] if place in asked else None for place in range(len(inputs) + 1))

    def refuse(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            "the fused recurrence has no second derivatives of its own; run the forward pass inside "
            "ctlssl.kernels.plain_torch(), which is plain torch"
        )

    torch.library.register_autograd(operator.name(), backward, setup_context=remember)
    torch.library.register_autograd(adjoint.name(), refuse)
