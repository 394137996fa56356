"""The tables of members that every contract test runs over.

A new structure brings one entry here: how to draw a stable member, as the arguments of its own constructor, and how to
write the same matrix in plain numpy. It then inherits all contract tests.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ctlssl.layers.lssl import LSSL
from ctlssl.state_matrices import DPLR, Dense, Diagonal, Quasiseparable, StateMatrix
from ctlssl.state_space import StateSpace
from tests import problems


@dataclass(frozen=True)
class Structure:
    """A structure under contract.

    Args:
        name: the name that the library gives it.
        build: its constructor.
        draw: (generator, batch shape, N) -> the constructor's arguments of a random stable member, float64 arrays.
        dense: the same arguments, without batch -> the matrix (N, N).
        measures: the starts that exist for it.
        even: whether N must be even.
    """

    name: str
    build: type[StateMatrix]
    draw: Callable[[np.random.Generator, tuple[int, ...], int], tuple[np.ndarray, ...]]
    dense: Callable[..., np.ndarray]
    measures: tuple[str, ...]
    even: bool

    def member(self, rng: np.random.Generator, N: int, batch: tuple[int, ...] = ()) -> tuple[StateMatrix, np.ndarray]:
        """A random stable member and its truth (*batch, N, N)."""
        # Values that float32 holds exactly, so that one truth serves both dtypes.
        fields = tuple(field.astype(np.float32).astype(np.float64) for field in self.draw(rng, batch, N))
        truth = np.empty((*batch, N, N))
        for index in np.ndindex(*batch):
            truth[index] = self.dense(*(field[index] for field in fields))
        return self.build(*(torch.from_numpy(field) for field in fields)), truth


def _draw_dense(rng: np.random.Generator, batch: tuple[int, ...], N: int) -> tuple[np.ndarray, ...]:
    raw, root = rng.standard_normal((*batch, N, N)), rng.standard_normal((*batch, N, N)) / N**0.5
    return (raw - raw.swapaxes(-1, -2) - root @ root.swapaxes(-1, -2) - 0.1 * np.eye(N),)


def _draw_diagonal(rng: np.random.Generator, batch: tuple[int, ...], N: int) -> tuple[np.ndarray, ...]:
    return -np.exp(rng.uniform(-2, 1, (*batch, N // 2))), rng.uniform(-6, 6, (*batch, N // 2))


def _draw_dplr(rng: np.random.Generator, batch: tuple[int, ...], N: int) -> tuple[np.ndarray, ...]:
    P = rng.standard_normal((*batch, N, 2)) / 2
    return *_draw_diagonal(rng, batch, N), P, P


def _draw_quasiseparable(rng: np.random.Generator, batch: tuple[int, ...], N: int) -> tuple[np.ndarray, ...]:
    P, Q = np.exp(rng.uniform(-0.5, 1, (*batch, N))), np.exp(rng.uniform(-0.5, 1, (*batch, N)))
    D = rng.uniform(0.1, 1, (*batch, N))
    main, low = rng.uniform(0.5, 1.5, (*batch, N)), rng.uniform(-1, 1, (*batch, N - 1))
    skew = rng.uniform(-1, 1, (*batch, N - 1))
    diag = main**2  # of L L^T, L with the diagonal `main` and the subdiagonal `low`
    diag[..., 1:] += low**2
    off = main[..., :-1] * low
    return P, D, Q, off + skew, diag, off - skew


def _dense_diagonal(real: np.ndarray, imag: np.ndarray) -> np.ndarray:
    return np.block([[np.diag(real), -np.diag(imag)], [np.diag(imag), np.diag(real)]])


def _dense_dplr(real: np.ndarray, imag: np.ndarray, P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    return _dense_diagonal(real, imag) - P @ Q.T


def _dense_quasiseparable(P, D, Q, lower, diag, upper) -> np.ndarray:
    T = np.diag(diag) + np.diag(lower, -1) + np.diag(upper, 1)
    return -np.diag(P) @ (np.diag(D) + np.linalg.inv(T)) @ np.diag(Q)


HIPPO = ("legs", "legt", "lagt", "fourier")
STRUCTURES = {
    structure.name: structure
    for structure in (
        Structure("dense", Dense, _draw_dense, lambda matrix: matrix, HIPPO, even=False),
        Structure("diagonal", Diagonal, _draw_diagonal, _dense_diagonal, (*HIPPO, "lin", "inv", "real"), even=True),
        Structure("dplr", DPLR, _draw_dplr, _dense_dplr, HIPPO, even=True),
        Structure("quasiseparable", Quasiseparable, _draw_quasiseparable, _dense_quasiseparable, HIPPO[:3], even=False),
    )
}
METHODS = problems.METHODS

STRUCTURE_PARAMS = [pytest.param(structure, id=name) for name, structure in STRUCTURES.items()]
KIND_PARAMS = [pytest.param(False, id="bank"), pytest.param(True, id="multi-input")]
METHOD_PARAMS = [pytest.param(name, truth, id=name) for name, truth in METHODS.items()]


@dataclass(frozen=True)
class System:
    """A system under contract: the library's, and for each group the same matrices A, B (N, I), C (O, N), D (O, I)."""

    space: StateSpace
    groups: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]

    def simulate(
        self,
        truth: problems.Truth,
        u: np.ndarray,
        dt: np.ndarray,
        state: tuple[np.ndarray, np.ndarray] | None = None,
        lengths: np.ndarray | None = None,
        is_query: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Outputs (B, L, H * M), states (B, G, N) and last inputs (B, H) by the slow reference."""
        y, x, last = [], [], []
        for b in range(len(u)):
            runs = []
            for g, group in enumerate(self.groups):
                channels = slice(None) if self.space.multi_input else slice(g, g + 1)
                start = None if state is None else (state[0][b, g], state[1][b, channels])
                length = None if lengths is None else int(lengths[b])
                asked = None if is_query is None else is_query[b]
                runs.append(problems.simulate(*group, truth, u[b][:, channels], dt[b], start, length, asked))
            y.append(np.concatenate([run.y for run in runs], axis=-1))
            x.append(np.stack([run.x for run in runs]))
            last.append(np.concatenate([run.u for run in runs]))
        return np.stack(y), np.stack(x), np.stack(last)


def random_system(
    structure: Structure, rng: np.random.Generator, multi_input: bool, N: int = 6, H: int = 2, M: int = 2
) -> System:
    """A bank of H systems with M outputs each, or one system with H inputs and outputs."""

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    A, truth = structure.member(rng, N, () if multi_input else (H,))
    if multi_input:
        B, C, D = draw(N, H), draw(H, N), draw(H)
        groups = [(truth, B, C, np.diag(D))]
    else:
        B, C, D = draw(H, N), draw(H, M, N), draw(H, M)
        groups = [(truth[h], B[h][:, None], C[h], D[h][:, None]) for h in range(H)]
    return System(StateSpace(A, *map(torch.from_numpy, (B, C, D)), multi_input), groups)


def dense_system(space: StateSpace) -> System:
    """The slow reference of a layer's system, from what `to_dense` promises and nothing else."""
    A, B, C, D = (m.detach().double().numpy() for m in space.to_dense())
    if space.multi_input:
        return System(space, [(A, B, C, np.diag(D))])
    return System(space, [(A[h], B[h][:, None], C[h], D[h][:, None]) for h in range(len(B))])


def generator(*key: object) -> np.random.Generator:
    """A generator seeded by what is tested; the seed is printed, so that a failure can be repeated."""
    seed = zlib.crc32(repr(key).encode())
    print(f"seed {seed} of {key}")
    return np.random.default_rng(seed)


def make_layer(
    structure: str,
    method: str = "zoh",
    multi_input: bool = False,
    dtype: torch.dtype = torch.float64,
    channels: int = 3,
    N: int = 6,
    **options: object,
) -> LSSL:
    """A small layer with steps that matter over a few unit gaps."""
    options.setdefault("heads", 1 if multi_input else 2)
    options.setdefault("step_range", (0.1, 1.0))
    layer = LSSL(channels, N, structure=structure, method=method, multi_input=multi_input, **options)
    return layer.to(dtype)


def layer_batch(
    rng: np.random.Generator, B: int, L: int, channels: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (B, L, H) and irregular gaps (B, L), of values that float32 holds exactly."""
    u = rng.standard_normal((B, L, channels)).astype(np.float32)
    dt = rng.exponential(0.5, (B, L)).astype(np.float32).astype(np.float64)
    return torch.from_numpy(u).to(dtype), torch.from_numpy(dt)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equality to the last bit, NaN included."""
    return torch.equal(torch.nan_to_num(a, nan=7.25), torch.nan_to_num(b, nan=7.25))


def wide_gaps(rng: np.random.Generator, L: int) -> np.ndarray:
    """Gaps of 1e-9 to 1e9 mixed in one series, (L,)."""
    return 10.0 ** rng.permutation(np.linspace(-9, 9, L))


def sampled(share: float, *tables: list) -> list:
    """Product of parameter tables; a fixed sample of it runs by default, the rest is marked slow."""
    params = []
    for combination in itertools.product(*tables):
        parts = [part if isinstance(part, type(pytest.param())) else pytest.param(part) for part in combination]
        name = "-".join(str(part.id or part.values[0]) for part in parts)
        chosen = zlib.crc32(name.encode()) % 1000 < 1000 * share
        values = [value for part in parts for value in part.values]
        params.append(pytest.param(*values, id=name, marks=() if chosen else pytest.mark.slow))
    return params
