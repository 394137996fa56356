"""One observation of a diagonal layer in real arithmetic, as ONNX, which knows no complex numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctlssl.layers import LSSL
from ctlssl.views.recurrence import diagonal_maps, rule_of

__all__ = ["export_onnx_step"]

_NEAR, _TERMS = 0.25, 12  # below it phi functions are summed: .25^12 / 14! is below the digits of float64

Pair = tuple[Tensor, Tensor]  # real and imaginary part


def export_onnx_step(layer: LSSL, path: str | os.PathLike) -> None:
    """Write one observation of a layer as ONNX: the gap is an input, the state goes in and comes out.

    Inputs ``u`` (B, H), ``dt`` (B,) float64, ``x`` and ``held``, the two tensors of the state; outputs ``y`` (B, H
    heads), ``x_next`` and ``held_next``. Needs ``pip install 'ctlssl[onnx]'``.

    Args:
        layer: an `LSSL` of a diagonal structure, with a state; its numbers become constants of the file.
        path: the file.

    Raises:
        ValueError: a layer of another structure, a bidirectional one, or one whose gaps are gated.
        ImportError: onnxscript is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> layer = LSSL(2, state_size=4, structure="diagonal", method="zoh")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_onnx_step(layer, Path(folder) / "step.onnx")
        ...     (Path(folder) / "step.onnx").stat().st_size > 1000
        True
    """
    step = RealStep(layer)
    state = layer.initial_state(3)
    arguments = (torch.zeros_like(state.u), torch.ones(3, dtype=torch.float64), *(part.detach() for part in state))
    series = torch.export.Dim("series", min=1, max=65536)
    with torch.no_grad():
        program = torch.onnx.export(
            step.eval(),
            arguments,
            dynamo=True,
            input_names=["u", "dt", "x", "held"],
            output_names=["y", "x_next", "held_next"],
            dynamic_shapes=tuple({0: series} for _ in arguments),
            verbose=False,
        )
    program.save(os.fspath(path))


class RealStep(nn.Module):
    """One row of a diagonal layer, as it is now, without complex numbers; its numbers are constants.

    Args:
        layer: an `LSSL` of a diagonal structure, with a state.

    Raises:
        ValueError: another one.
    """

    def __init__(self, layer: LSSL) -> None:
        super().__init__()
        alone = layer.gate is None and layer.step_size.gap  # the step sizes multiply the gap, and nothing else does
        if layer.structure != "diagonal" or layer.bidirectional or not alone:
            raise ValueError(
                "a step is exported of a causal layer of structure 'diagonal' without a gate, whose steps are its gaps "
                f"times learned sizes; found {layer!r}."
            )
        with torch.no_grad():
            poles, B, C, D = diagonal_maps(layer._current_system(), layer.C.dtype)
        for name, part in {"poles": poles, "B": B, "C": C, "D": D}.items():
            self.register_buffer(name, part.detach().clone())
        (self.p_F, self.p_G, self.n_F, self.n_G, self.kick), self.alpha = rule_of(layer.method)
        self.multi_input = layer.multi_input

    def forward(self, u: Tensor, dt: Tensor, x: Tensor, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output, and the state after the row.

        Args:
            u: (B, H).
            dt: (B,) float64.
            x: (B, G, 2 n).
            held: (B, H), the input before.
        """
        h = dt[:, None, None]  # (B, 1, 1)
        real, imaginary = self.poles.chunk(2, dim=-1)  # (G, n)
        power, flat, ramp = self._scalars((h * real, h * imaginary))
        state = _times(_cast(power, u.dtype), _halves(x))
        if self.kick:
            state = _plus(state, _halves(self.kick * self._driven(u)))
        else:
            held_part = self._driven(self.p_F * held + self.n_F * u)
            state = _plus(state, _times(_cast(_by(flat, h), u.dtype), _halves(held_part)))
            if self.p_G or self.n_G:
                ramped = self._driven(self.p_G * held + self.n_G * u)
                state = _plus(state, _times(_cast(_by(ramp, h), u.dtype), _halves(ramped)))
        after = torch.cat(state, dim=-1)  # (B, G, 2 n)
        if self.multi_input:
            return after[:, 0] @ self.C.mT + self.D * u, after, u + 0
        y = (self.C * after[..., None, :]).sum(-1) + self.D * u[..., None]  # (B, H, M)
        return y.flatten(-2), after, u + 0

    def _driven(self, u: Tensor) -> Tensor:
        """B u, (B, G, 2 n)."""
        return (u @ self.B.mT)[:, None] if self.multi_input else self.B * u[..., None]

    def _scalars(self, z: Pair) -> tuple[Pair, Pair, Pair]:
        """(Abar, F / h, G / h) of the eigenvalues, z = h lambda."""
        if self.alpha >= 0:
            resolvent = _inverse((1 - self.alpha * z[0], -self.alpha * z[1]))
            power = _times((1 + (1 - self.alpha) * z[0], (1 - self.alpha) * z[1]), resolvent)
            return power, resolvent, (self.alpha * resolvent[0], self.alpha * resolvent[1])
        size = z[0].exp()
        power = size * torch.cos(z[1]), size * torch.sin(z[1])
        near = z[0].square() + z[1].square() < _NEAR**2
        inverse = _inverse((torch.where(near, 1.0, z[0]), torch.where(near, 0.0, z[1])))
        flat = _times((power[0] - 1, power[1]), inverse)
        ramp = _times((flat[0] - 1, flat[1]), inverse)
        small = torch.where(near, z[0], 0.0), torch.where(near, z[1], 0.0)
        summed = _series(small, 2)
        flat_summed = _times(small, summed)
        flat_summed = flat_summed[0] + 1, flat_summed[1]
        return power, _where(near, flat_summed, flat), _where(near, summed, ramp)


def _series(z: Pair, order: int) -> Pair:
    """phi_order near 0: sum_j z^j / (j + order)!."""
    last = 1 / math.factorial(_TERMS + order)
    total = torch.full_like(z[0], last), torch.zeros_like(z[0])
    for j in range(_TERMS - 1, -1, -1):
        total = _times(total, z)
        total = total[0] + 1 / math.factorial(j + order), total[1]
    return total


def _times(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _plus(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def _by(a: Pair, factor: Tensor) -> Pair:
    return a[0] * factor, a[1] * factor


def _inverse(z: Pair) -> Pair:
    size = z[0].square() + z[1].square()
    return z[0] / size, -z[1] / size


def _where(flag: Tensor, a: Pair, b: Pair) -> Pair:
    return torch.where(flag, a[0], b[0]), torch.where(flag, a[1], b[1])


def _cast(a: Sequence[Tensor], dtype: torch.dtype) -> Pair:
    return a[0].to(dtype), a[1].to(dtype)


def _halves(x: Tensor) -> Pair:
    return x.chunk(2, dim=-1)
