"""One observation by the shortest way: of a layer that streams, checks and wrappers would take most of the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from ctlssl.kernels.operators import direct, fused
from ctlssl.views import State
from ctlssl.views.recurrence import one_row

__all__ = ["quick_step"]


def quick_step(layer: nn.Module, u: Tensor, dt: Tensor | float | None, state: State) -> tuple[Tensor, State] | None:
    """What `layer.step` answers, bit for bit, or None where the general way must be gone.

    That is wherever gradients, hooks, a tracer or another device look on, and wherever anything is unusual: what fails
    one of the few checks here is refused or served there.

    Args:
        layer: an `LSSL` whose system is diagonal, and whose gaps are multiplied by its step sizes alone.
        u: input, (B, H).
        dt: time since the previous observation, (B,).
        state: the state before it.
    """
    if not isinstance(state, State) or not isinstance(u, Tensor) or not isinstance(dt, Tensor):
        return None
    if layer.structure != "diagonal" or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
        return None
    if not fused(u) or not direct((u, dt, *state)) or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return None
    batch, dtype = u.shape[0], layer.C.dtype
    shapes = u.shape == state.u.shape == (batch, layer.channels) and dt.shape == (batch,) != (0,)
    shapes = shapes and state.x.shape == (batch, *layer._state_shape())
    if not shapes or not u.dtype == state.x.dtype == state.u.dtype == dtype or not dt.is_floating_point():
        return None
    gaps = dt[:, None].double()  # (B, 1)
    low, high = torch.stack(gaps.aminmax()).tolist() if batch > 1 else (gaps.item(),) * 2  # NaN where one is NaN
    if not 0 <= low <= high < math.inf:
        return None
    return one_row(layer._current_system(), layer.method, u, gaps, state)
