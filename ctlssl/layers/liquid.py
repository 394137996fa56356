"""The liquid layer: a diagonal bank whose transitions the input bends."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ctlssl import hippo
from ctlssl.discretization import Discretization, Rule, exact, named_method
from ctlssl.holds import NEXT
from ctlssl.kernels.liquid import liquid_bank, liquid_share
from ctlssl.layers.linear_form import LinearForm
from ctlssl.layers.liquid_kernels import KERNELS, liquid_convolution
from ctlssl.layers.recurrent import RecurrentLayer
from ctlssl.state_matrices import Diagonal
from ctlssl.state_matrices.diagonal import join_pairs, multiply, split_pairs
from ctlssl.state_matrices.phi import phi_functions
from ctlssl.step_size import initial_log_steps
from ctlssl.views.passes import elementwise_pass, stepwise_pass
from ctlssl.views.response import Rows

__all__ = ["LiquidLSSL"]

FORMS = ("paper", "exact")


@final
class LiquidLSSL(RecurrentLayer):
    r"""Each channel's input also multiplies its state, through B taken as a diagonal matrix.

        paper:  x_k = (Abar_k + Bbar_k u_k) x_{k-1} + Bbar_k u_k,   y_k = C x_k + D u_k
        exact:  the solution of x' = (lambda + b u_k) x + b u_k over the gap before row k

    Products are elementwise over conjugate pairs, and Abar_k, Bbar_k are those of the row's own gap times the channel's
    step. Unrolled, x is a sum over products of 1, 2, 3, ... inputs; `degree` cuts it after products of P, exactly, by P
    nested recurrences, each driven by the one before.

    An input could make the state grow without bound, so a guard scales the liquid factor, that of x_{k-1}, and never
    the drive: by the largest s <= 1 with |Abar + s Bbar u| <= 1 (paper), or with Re(lambda + s b u) <= 0 (exact). Where
    the step does not grow s is exactly 1 and nothing changes.

    On grids of one gap there is also a convolution, of products of neighbouring inputs alone (`kernel`): "kb" with
    kernels C Abar^j Bbar^p, "pb" with Abar replaced by 1 in the orders p >= 2, the last `lags` products being read.
    Neither is the recurrence: they have degree P >= 2, view="convolution", and start from nothing.

    Args:
        channels: inputs and outputs H.
        state_size: real state dimensions N of each channel's system, even.
        form: "paper", or "exact", which is what an ODE solver finds.
        method: rule of the paper's form: "bilinear" (the paper's), "backward_euler", "zoh", or any with hold "next".
        degree: P, products of at most so many inputs; None is all.
        kernel: None, "kb" or "pb", what view="convolution" runs.
        lags: products that "pb" reads at each row.
        measure: start of A: "legs", "legt", "lagt", "fourier", "lin", "inv", "real".
        step_range: smallest and largest initial step size, one a channel.
        guard: whether growth is guarded.

    Shapes:
        u (B, L, H) and dt None (= 1), a number, (L,) or (B, L) -> y (B, L, H) and the state, x (B, H, P or 1, N).

    Raises:
        ValueError: unknown names, or options that exclude one another.

    References:
        Hasani, Lechner, Wang, Chahine, Amini, Rus (2022), Liquid structural state-space models, arXiv:2209.12951.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = LiquidLSSL(channels=2, state_size=4)
        >>> y, state = layer(torch.randn(3, 5, 2), torch.rand(3, 5))
        >>> y.shape, state.x.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 2, 1, 4]))
    """

    def __init__(
        self,
        channels: int,
        state_size: int = 16,
        *,
        form: str = "paper",
        method: str | Rule | Discretization = "bilinear",
        degree: int | None = None,
        kernel: str | None = None,
        lags: int = 16,
        measure: str = "legs",
        step_range: tuple[float, float] = (1e-3, 1e-1),
        guard: bool = True,
    ) -> None:
        super().__init__()
        if channels < 1 or state_size < 1:
            raise ValueError(f"channels and state_size need to be at least 1; found {channels} and {state_size}")
        self.method = named_method(exact if form == "exact" else method)
        _check(form, self.method, degree, kernel, lags)
        self.channels, self.state_size, self.form, self.degree = channels, state_size, form, degree
        self.kernel, self.lags, self.guard = kernel, lags, guard
        self.views = ("recurrence", "convolution") if kernel else ("recurrence",)
        self.growing = self.method.rule.growing
        A, B = hippo.start("diagonal", measure, state_size)
        for name, value in A.free().items():
            self.register_parameter(f"A_{name}", nn.Parameter(value.float()))
        self.log_step = nn.Parameter(initial_log_steps((channels,), step_range))
        self.B = nn.Parameter(B.float().repeat(channels, 1))
        self.C = nn.Parameter(torch.randn(channels, state_size))
        self.D = nn.Parameter(torch.randn(channels))

    @property
    def _row_numbers(self) -> int:
        fused = self.form == "paper" and self.degree is None
        return 1 if fused else super()._row_numbers

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(H, P, N) with degree P, else (H, 1, N)."""
        return self.channels, self.degree or 1, self.state_size

    def linear_form(self, rows: Rows) -> LinearForm:
        """The complex factors of each row as real rotations, block by block."""
        kept, liquid, response = self._coefficients(rows)  # (B, L, H, n)
        B, L, H = kept.shape[:3]
        P, N = self.state_shape[1:]
        factor = kept + liquid if self.degree is None else kept
        blocks = Diagonal(factor.real, factor.imag).to_dense()  # (B, L, H, N, N)
        below = Diagonal(liquid.real, liquid.imag).to_dense()
        whole = blocks.new_zeros(B, L, H, P, N, H, P, N)
        for h in range(H):
            for p in range(P):
                whole[:, :, h, p, :, h, p] = blocks[:, :, h]
                if p:
                    whole[:, :, h, p, :, h, p - 1] = below[:, :, h]
        per_unit = join_pairs(response)  # (B, L, H, N)
        drives = per_unit.new_zeros(B, L, H, P, N, H)
        for h in range(H):
            drives[:, :, h, 0, :, h] = per_unit[:, :, h]
        read = torch.zeros(H, H, P, N, dtype=rows.u.dtype)
        for h in range(H):
            read[h, h] = self.C[h].to(rows.u.dtype)
        S, feed = H * P * N, self.D.to(rows.u.dtype).diag()
        maps = read.reshape(H, S).expand(B, L, H, S), feed.expand(B, L, H, H)
        return LinearForm(whole.reshape(B, L, S, S), drives.reshape(B, L, S, H), *maps, rows.start.x.flatten(1))

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        named = f"form={self.form!r}, method={self.method.name!r}, degree={self.degree}, guard={self.guard}"
        return f"{self.channels}, {self.state_size}, {named}, kernel={self.kernel!r}, lags={self.lags}"

    def _run(self, rows: Rows, view: str) -> tuple[Tensor, Tensor]:
        if view == "convolution":
            return self._convolve(rows), rows.start.x
        if self.form == "paper" and self.degree is None:
            return self._fused(rows)
        kept, liquid, response = self._coefficients(rows)  # (B, L, H, n)
        drive = response * rows.u[..., None]
        x = split_pairs(rows.start.x)  # (B, H, P, n)
        if self.degree is None:
            seen, last = elementwise_pass((kept + liquid)[..., None, :], drive[..., None, :], rows, x)
        else:
            seen, last = stepwise_pass(_nested, (kept, liquid, drive), rows, x)
        states = join_pairs(seen.sum(-2))  # (B, L, H, N)
        return (states * self.C).sum(-1) + self.D * rows.u, join_pairs(last)

    def _fused(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The paper's recurrence, by a loop that never holds the states of all rows."""
        _, poles, b = self._continuous(rows)
        maps = self.log_step.double().exp(), rows.dt.double(), rows.kinds, poles, b, split_pairs(self.C.double())
        x = split_pairs(rows.start.x[:, :, 0].double())  # (B, H, n)
        y, last = liquid_bank(rows.u, *maps, x, getattr(self.method.rule, "alpha", -1.0), self.guard)
        return y + self.D * rows.u, join_pairs(last)[:, :, None].to(y.dtype)

    def _convolve(self, rows: Rows) -> Tensor:
        gaps = rows.dt[rows.inside]
        if bool((gaps != gaps[:1]).any()) or rows.is_query is not None or bool(rows.start.x.any()):
            raise ValueError(
                f"the {self.kernel} kernel needs one gap for all rows, no query, and no state before the first row; "
                "use view='recurrence'"
            )
        one = Rows(rows.u[:1, :1], gaps[:1].reshape(1, 1) if len(gaps) else rows.dt[:1, :1], rows.start, None, None)
        A, B = (part[0, 0] for part in self._responses(one))  # (H, n)
        y = liquid_convolution(rows.u, A, B, self.C.double(), self.degree, KERNELS[self.kernel], self.lags)
        return y + self.D * rows.u

    def _responses(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Abar and Bbar of each row, (B, L, H, n) complex128."""
        h, poles, b = self._continuous(rows)
        kept, held = self.method.rule.scalars(h * poles, ramp=False)[:2]
        return kept, multiply(h * held, b)

    def _continuous(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Gaps (B, L, H, 1) float64, eigenvalues (n,) and B (H, n), complex128."""
        A = Diagonal.from_free({"log_decay": self.A_log_decay.double(), "frequency": self.A_frequency.double()})
        return self._steps(rows)[..., None], A.poles, split_pairs(self.B.double())

    def _coefficients(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """What multiplies x_{k-1} without the input, what the input adds to it, and the drive per unit of input."""
        u = rows.u.double()[..., None]  # (B, L, H, 1)
        if self.form == "exact":
            h, poles, b = self._continuous(rows)
            bent = poles + self._held_back(poles, b * u) * (b * u)  # (B, L, H, n)
            kept, held = phi_functions(h * bent, top=1)
            plain = (h * poles).exp()
            parts = plain, kept - plain, multiply(h * held, b)
        else:
            kept, response = self._responses(rows)
            push = response * u
            parts = kept, push * liquid_share(kept, push) if self.guard else push, response
        dtype = torch.complex64 if rows.u.dtype == torch.float32 else torch.complex128
        return tuple(part.to(dtype) for part in parts)

    def _held_back(self, poles: Tensor, push: Tensor) -> Tensor:
        """The largest s <= 1 with Re(lambda + s push) <= 0."""
        if not self.guard:
            return torch.ones_like(push.real)
        beyond = push.real > -poles.real
        return torch.where(beyond, -poles.real / torch.where(beyond, push.real, 1), 1)


def _nested(x: Tensor, kept: Tensor, liquid: Tensor, drive: Tensor) -> Tensor:
    """One row of P nested recurrences x (B, H, P, n): each is driven by what the one before it was."""
    pushed = torch.cat([drive[..., None, :], liquid[..., None, :] * x[..., :-1, :]], dim=-2)
    return kept[..., None, :] * x + pushed


def _check(form: str, method: Discretization, degree: int | None, kernel: str | None, lags: int) -> None:
    if form not in FORMS:
        raise ValueError(f"form is one of {FORMS}; found {form!r}")
    if method.hold is not NEXT:
        raise ValueError(f"a liquid layer holds its next input; found the hold {method.hold.name!r} of {method.name}")
    if degree is not None and (not isinstance(degree, int) or degree < 1):
        raise ValueError(f"degree is None or a whole number from 1 on; found {degree!r}")
    if form == "exact" and (degree is not None or kernel is not None):
        raise ValueError("degree and kernel are of the paper's form; the exact one is no finite sum of products")
    if kernel is not None and (kernel not in KERNELS or degree is None or lags < 1):
        raise ValueError(f"kernel is one of {', '.join(KERNELS)}, with a degree and lags >= 1; found {kernel!r}")
