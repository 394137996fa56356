"""The continuous linear system x' = A x + B u, y = C x + D u: frozen, unlearned mathematics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ctlssl.state_matrices import Dense, StateMatrix
from ctlssl.state_matrices.phi import matrix_phi_functions

__all__ = ["StateSpace", "project"]

_Made = TypeVar("_Made")


@dataclasses.dataclass(frozen=True, eq=False)
class StateSpace:
    """A bank of H single-input systems, or one system with H inputs.

    | | A | B | C | D |
    |---|---|---|---|---|
    | bank | batch (H,) or () | (H, N) | (H, M, N) | (H, M) |
    | multi-input | batch () | (N, H) | (H, N) | (H,), feed-through of each channel to itself |

    Args:
        A: state matrix, per unit of time.
        B: input map, per unit of time.
        C: output map.
        D: feed-through.
        multi_input: which of the two rows of the table.

    Raises:
        ValueError: shapes that do not fit together.

    References:
        Gu et al. (2021), LSSL, for the bank; Smith, Warrington, Linderman (2023), S5, for the multi-input system.
    """

    A: StateMatrix
    B: Tensor
    C: Tensor
    D: Tensor
    multi_input: bool = False

    _made = None

    def __post_init__(self) -> None:
        N, H, batch = self.A.N, self.channels, tuple(self.A.batch_shape)
        if self.multi_input:
            if batch or self.B.shape != (N, H) or self.C.shape != (H, N) or self.D.shape != (H,):
                raise ValueError(f"a multi-input system needs A (), B (N, H), C (H, N), D (H,); {self._found()}")
        elif (
            self.D.ndim != 2
            or batch not in ((), (H,))
            or self.B.shape != (H, N)
            or self.C.shape != (H, self.D.shape[1], N)
        ):
            raise ValueError(f"a bank needs A () or (H,), B (H, N), C (H, M, N), D (H, M); {self._found()}")

    def _found(self) -> str:
        parts = "; ".join(f"{name} {tuple(getattr(self, name).shape)}" for name in "BCD")
        return f"found A batch {tuple(self.A.batch_shape)}, N {self.A.N}; {parts}"

    @property
    def channels(self) -> int:
        """Number of input channels H."""
        return self.D.shape[0] if self.D.ndim else 0

    @property
    def heads(self) -> int:
        """Outputs per channel M."""
        return 1 if self.multi_input else self.D.shape[-1]

    @property
    def groups(self) -> int:
        """Independent systems G: H in a bank, 1 with multiple inputs."""
        return 1 if self.multi_input else self.channels

    @property
    def inputs(self) -> Tensor:
        """B as (G, N, I): groups, states, inputs of a group."""
        return self.B[None] if self.multi_input else self.B[..., None]

    @property
    def outputs(self) -> Tensor:
        """C as (G, O, N): groups, outputs of a group, states."""
        return self.C[None] if self.multi_input else self.C

    def grouped(self, u: Tensor) -> Tensor:
        """Channels (..., H) as (..., G, I)."""
        return u[..., None, :] if self.multi_input else u[..., None]

    def driven(self, u: Tensor) -> Tensor:
        """B u as states (..., G, N), u (..., H)."""
        return project(u, self.B)[..., None, :] if self.multi_input else self.B * u[..., None]

    def read(self, x: Tensor, u: Tensor) -> Tensor:
        """The outputs C x + D u as (..., H * M), x (..., G, N), u (..., H)."""
        if self.multi_input:
            return torch.addcmul(project(x[..., 0, :], self.C), self.D, u)  # (..., H)
        return ((self.C * x[..., None, :]).sum(-1) + self.D * u[..., None]).flatten(-2)  # (..., H * M)

    def to(self, dtype: torch.dtype) -> StateSpace:
        """The same system with every tensor in another dtype."""
        return self.derived(dtype, lambda: self._cast(dtype))

    def split(self) -> list[StateSpace]:
        """The systems of a bank, each as a bank of one.

        Raises:
            ValueError: a multi-input system, which is one.
        """
        if self.multi_input:
            raise ValueError("a multi-input system is one system; only a bank can be split")
        parts = (self.A.split(self.channels), self.B.split(1), self.C.split(1), self.D.split(1))
        systems = [StateSpace(*part) for part in zip(*parts, strict=True)]
        return [system.remembering() for system in systems] if self.remembers else systems

    @property
    def remembers(self) -> bool:
        """Whether what `derived` is asked for is made once."""
        return self._made is not None

    def remembering(self) -> StateSpace:
        """The same system, which makes what `derived` is asked for once: for who never changes its tensors in place."""
        same = dataclasses.replace(self)
        object.__setattr__(same, "_made", {})
        return same

    def derived(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What `make` makes of the system's tensors; made once, and then the same object, by one that is remembering.

        Args:
            key: names what is made, and all it depends on beside the system.
            make: makes it.
        """
        if self._made is None:
            return make()
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _cast(self, dtype: torch.dtype) -> StateSpace:
        parts = (part.to(dtype) for part in (self.A, self.B, self.C, self.D))
        cast = StateSpace(*parts, self.multi_input)
        return cast.remembering() if self.remembers else cast

    def to_dense(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, B, C, D as tensors: (H, N, N) (H, N) (H, M, N) (H, M), or (N, N) (N, H) (H, N) (H,) if multi_input."""
        A = self.A.to_dense()
        return (A if self.multi_input else A.expand(self.channels, -1, -1)), self.B, self.C, self.D

    def poles(self) -> Tensor:
        """Eigenvalues of A, complex (..., N), per unit of time."""
        return self.A.eigenvalues()

    def impulse_response(self, times: Tensor) -> Tensor:
        """C e^{tA} B, without the feed-through's Dirac, (T, G, O, I).

        Args:
            times: (T,), unit of time of A.
        """
        A = self._grouped_matrix().to(torch.float64)
        power, _, _ = matrix_phi_functions(times.to(torch.float64).reshape(-1, 1, 1, 1) * A)  # (T, G, N, N)
        return (self.outputs.to(power) @ power @ self.inputs.to(power)).to(self.B.dtype)

    def frequency_response(self, omega: Tensor) -> Tensor:
        """C (i omega I - A)^-1 B + D, complex (F, G, O, I).

        Args:
            omega: (F,), radians per unit of time.
        """
        A = self._grouped_matrix().to(torch.complex128)
        eye = torch.eye(self.A.N, dtype=A.dtype, device=A.device)
        shifted = 1j * omega.reshape(-1, 1, 1, 1) * eye - A  # (F, G, N, N)
        return self.outputs.to(A) @ torch.linalg.solve(shifted, self.inputs.to(A)) + self._feed_through().to(A)

    def _grouped_matrix(self) -> Tensor:
        A = self.A.to_dense()
        return A if A.ndim == 3 else A[None]  # (G or 1, N, N)

    def _feed_through(self) -> Tensor:
        return torch.diag(self.D)[None] if self.multi_input else self.D[..., None]  # (G, O, I)

    @classmethod
    def from_scipy(cls, system: Any) -> StateSpace:
        """A continuous scipy.signal.StateSpace as a bank (one input) or a multi-input system.

        Args:
            system: a `scipy.signal.lti` object in any of its forms (state space, transfer function, zeros and poles).

        Raises:
            ValueError: a discrete system, or several inputs with another number of outputs or a D that is not diagonal.
        """
        if getattr(system, "dt", None) is not None:
            raise ValueError(f"only continuous systems can be taken over; this one has dt = {system.dt}")
        system = system.to_ss() if hasattr(system, "to_ss") else system
        A, B, C, D = (torch.as_tensor(m, dtype=torch.float64) for m in (system.A, system.B, system.C, system.D))
        if B.shape[1] == 1:
            return cls(Dense(A[None]), B.mT, C[None], D.mT)
        if D.shape[0] != D.shape[1] or not torch.equal(D, torch.diag(torch.diag(D))):
            raise ValueError(f"several inputs need as many outputs and a diagonal D; found D of shape {tuple(D.shape)}")
        return cls(Dense(A), B, C, torch.diag(D), multi_input=True)

    def to_scipy(self, channel: int | None = None) -> Any:
        """One channel of a bank, or a multi-input system, as a scipy.signal.StateSpace.

        Args:
            channel: which system of the bank; may be left out where there is only one.

        Raises:
            ValueError: no channel named for a bank of several, or one that does not exist.
        """
        from scipy.signal import StateSpace as ScipyStateSpace

        A, B, C, D = (m.detach().double().cpu().numpy() for m in self.to_dense())
        if self.multi_input:
            return ScipyStateSpace(A, B, C, self._feed_through()[0].detach().double().cpu().numpy())
        if channel is None and self.channels == 1:
            channel = 0
        if channel is None or not 0 <= channel < self.channels:
            raise ValueError(f"name one channel of the bank, 0 to {self.channels - 1}; found {channel}")
        return ScipyStateSpace(A[channel], B[channel][:, None], C[channel], D[channel][:, None])


_TILE = 16


def project(x: Tensor, matrix: Tensor) -> Tensor:
    """Rows x (..., K) times matrix (M, K) transposed, (..., M), each row as it would be in any other company.

    A matrix product works in tiles and rounds the rows left over at an edge another way, so a row would change its
    last bit when queries join the series. All sizes are filled up to whole tiles.
    """
    (M, K), rows = matrix.shape, x.reshape(-1, x.shape[-1])
    count, beyond = len(rows), -K % _TILE
    if count % _TILE or beyond:
        rows = torch.nn.functional.pad(rows, (0, beyond, 0, -count % _TILE))
    if M % _TILE or beyond:
        matrix = torch.nn.functional.pad(matrix, (0, beyond, 0, -M % _TILE))
    return (rows @ matrix.mT)[:count, :M].reshape(*x.shape[:-1], M)
