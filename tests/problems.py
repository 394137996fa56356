"""Exact solutions and slow reference simulators, in numpy and mpmath, that share no code with the library.

Everything here is dense and goes one step at a time. Functions of a matrix are formed from an eigen-decomposition in
60 digits, so that the truth stays true for gaps of 1e-9 and of 1e9, for eigenvalues that are zero, and for matrices far
from normal; for moderate norms `block_phi` and LU are a second, faster way, held against the first by a test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np
import scipy.linalg

DIGITS = 60
NEXT, PREVIOUS, LINEAR, IMPULSE = "next", "previous", "linear", "impulse"


def phi(k: int, z: complex) -> mp.mpc:
    """phi_0 = e^z, phi_1 = (e^z - 1)/z, phi_2 = (e^z - 1 - z)/z^2, in 60 digits or more for any z."""
    with mp.workdps(max(DIGITS, mp.mp.dps)):
        z = mp.mpmathify(z)
        if abs(z) < mp.mpf("0.1"):
            total, term, j = mp.mpf(0), 1 / mp.factorial(k), 0
            while j < 5 or abs(term) > mp.eps * abs(total) / 10:
                total, j = total + term, j + 1
                term = term * z / (j + k)
            return total
        value = mp.exp(z)
        for j in range(k):
            value = (value - 1 / mp.factorial(j)) / z
        return value


@dataclass(frozen=True)
class Truth:
    """A method as the table of the design has it: rule ("exact" or alpha), hold, and order on a smooth input."""

    rule: str | float
    hold: str
    order: int | None

    def scalars(self) -> dict[str, Callable]:
        """Functions of z = h lambda: abar, and the factors of h B on u_{k-1} and u_k."""
        if self.rule == "exact":
            first, second = functools.partial(phi, 1), functools.partial(phi, 2)
            return {
                "abar": functools.partial(phi, 0),
                "whole": first,
                "early": lambda z: first(z) - second(z),
                "late": second,
            }
        a = mp.mpf(self.rule)

        def resolvent(z: mp.mpc) -> mp.mpc:
            return 1 / (1 - a * z)

        return {
            "abar": lambda z: resolvent(z) * (1 + (1 - a) * z),
            "whole": resolvent,
            "early": lambda z: (1 - a) * resolvent(z),
            "late": lambda z: a * resolvent(z),
        }


METHODS = {
    "forward_euler": Truth(0.0, NEXT, 1),
    "bilinear": Truth(0.5, NEXT, 1),
    "backward_euler": Truth(1.0, NEXT, 1),
    "zoh": Truth("exact", NEXT, 1),
    "foh": Truth("exact", LINEAR, 2),
    "trapezoid": Truth(0.5, LINEAR, 2),
    "impulse": Truth("exact", IMPULSE, None),
}


@functools.lru_cache(maxsize=256)
def _eigen(data: bytes, N: int) -> tuple:
    """Eigenvalues, right and left eigenvectors, and the digits to go on with.

    A matrix without a basis of eigenvectors (all eigenvalues of LagT are -1/2) is moved by 1e-80 and decomposed in 240
    digits: the basis is then terribly conditioned, and there are digits enough for it.
    """
    for digits, nudge in ((DIGITS, "0"), (240, "1e-80")):
        with mp.workdps(digits):
            A = mp.matrix(np.frombuffer(data).reshape(N, N).tolist())
            A += mp.mpf(nudge) * mp.matrix([[mp.cos(1 + i + N * j) for j in range(N)] for i in range(N)])
            values, right = mp.eig(A)
            if mp.mpf(nudge) == 0 and abs(mp.det(right)) < mp.mpf("1e-20"):
                continue
            return values, right, right**-1, digits
    raise ArithmeticError("no eigen-decomposition")


def matrix_functions(A: np.ndarray, functions: dict[str, Callable], h: float) -> dict[str, np.ndarray]:
    """f(h A) for each f, correct to all digits of float64."""
    A = np.ascontiguousarray(A, dtype=np.float64)
    values, right, left, digits = _eigen(A.tobytes(), len(A))
    out = {}
    with mp.workdps(digits):
        h = mp.mpf(float(h))
        for name, f in functions.items():
            scaled = right * mp.diag([f(h * v) for v in values]) * left
            out[name] = np.array([[float(mp.re(scaled[i, j])) for j in range(len(A))] for i in range(len(A))])
    return out


def block_phi(A: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """e^{hA}, phi_1(hA), phi_2(hA) by the exponential of one augmented block matrix."""
    N = len(A)
    zero, eye = np.zeros((N, N)), np.eye(N)
    block = scipy.linalg.expm(np.block([[h * A, eye, zero], [zero, zero, eye], [zero, zero, zero]]))
    return block[:N, :N], block[:N, N : 2 * N], block[:N, 2 * N :]


def _moderate(A: np.ndarray, h: float) -> bool:
    """Whether plain double precision loses nothing: the scale of hA is near one, or h is zero."""
    return h == 0 or 1e-2 < abs(h) * np.abs(A).sum(0).max() < 30


def _plain(A: np.ndarray, truth: Truth, h: float) -> dict[str, np.ndarray]:
    """The same functions of hA as `Truth.scalars` in double precision, by LU and the augmented exponential."""
    if truth.rule == "exact":
        e, phi1, phi2 = block_phi(A, h)
        return {"abar": e, "whole": phi1, "early": phi1 - phi2, "late": phi2}
    eye = np.eye(len(A))
    resolvent = np.linalg.inv(eye - truth.rule * h * A)
    abar = resolvent @ (eye + (1 - truth.rule) * h * A)
    return {"abar": abar, "whole": resolvent, "early": (1 - truth.rule) * resolvent, "late": truth.rule * resolvent}


def coefficients(A: np.ndarray, B: np.ndarray, truth: Truth, h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Abar(h) (N, N), Bprev(h) (N, U), Bnext(h) (N, U) of the design's table, for B (N, U)."""
    wanted = {
        NEXT: ("abar", "whole"),
        PREVIOUS: ("abar", "whole"),
        LINEAR: ("abar", "early", "late"),
        IMPULSE: ("abar",),
    }[truth.hold]
    if _moderate(A, h):
        parts = _plain(A, truth, h)
    else:
        scalars = truth.scalars()
        parts = matrix_functions(A, {name: scalars[name] for name in wanted}, h)
    zero = np.zeros_like(B)
    prev_next = {
        NEXT: lambda: (zero, h * parts["whole"] @ B),
        PREVIOUS: lambda: (h * parts["whole"] @ B, zero),
        LINEAR: lambda: (h * parts["early"] @ B, h * parts["late"] @ B),
        IMPULSE: lambda: (zero, B),
    }[truth.hold]()
    return parts["abar"], *prev_next


@dataclass(frozen=True)
class Simulation:
    """Outputs (L, Y) with zeros past the length, and the state after the last observation: x (N,), u (U,)."""

    y: np.ndarray
    x: np.ndarray
    u: np.ndarray


def simulate(
    A: np.ndarray,
    B: np.ndarray,
    C: np.ndarray,
    D: np.ndarray,
    truth: Truth,
    u: np.ndarray,
    h: np.ndarray,
    state: tuple[np.ndarray, np.ndarray] | None = None,
    length: int | None = None,
    is_query: np.ndarray | None = None,
) -> Simulation:
    """One series through x' = A x + B u, y = C x + D u: A (N, N), B (N, U), C (Y, N), D (Y, U), u (L, U), h (L,).

    A query is an observation that is not committed: it starts from the last committed state and leaves it alone.
    """
    L = len(u)
    x, last = (np.zeros(len(A)), np.zeros(u.shape[1])) if state is None else state
    y = np.zeros((L, len(C)))
    for k in range(L if length is None else length):
        Abar, Bprev, Bnext = coefficients(A, B, truth, h[k])
        reached = Abar @ x + Bprev @ last + Bnext @ u[k]
        y[k] = C @ reached + D @ u[k]
        if is_query is None or not is_query[k]:
            x, last = reached, u[k]
    return Simulation(y, x, last)


def sines_response(A: np.ndarray, B: np.ndarray, omegas: np.ndarray, t: np.ndarray) -> np.ndarray:
    """x(t) (T, N) of x' = A x + B sum_j sin(w_j t), x(0) = 0, in closed form; B (N,)."""
    N = len(A)
    x = np.zeros((len(t), N))
    for omega in omegas:
        steady = np.linalg.solve(1j * omega * np.eye(N) - A, B)  # of the input e^{i w t}
        for i, s in enumerate(t):
            x[i] += (np.exp(1j * omega * s) * steady - scipy.linalg.expm(A * s) @ steady).imag
    return x


def observed_order(steps: np.ndarray, errors: np.ndarray) -> float:
    """Slope of log error over log step by least squares."""
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest deviation over the largest entry of the reference, the measure of the clock contract."""
    value, reference = np.asarray(value, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if not np.all(np.isfinite(value)):
        return float("inf")
    if value.shape != reference.shape:
        raise ValueError(f"shape {value.shape} against a reference of shape {reference.shape}")
    scale = np.abs(reference).max(initial=0.0)
    return float(np.abs(value - reference).max(initial=0.0) / (scale if scale > 0 else 1.0))
