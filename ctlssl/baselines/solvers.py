"""How the continuous baselines call a solver of torchdiffeq."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Field", "Solver"]

_ADAPTIVE = {
    "euler": False,
    "midpoint": False,
    "heun3": False,
    "rk4": False,
    "adaptive_heun": True,
    "fehlberg2": True,
    "bosh3": True,
    "dopri5": True,
    "dopri8": True,
}
_MOST_STEPS = 20_000  # of an adaptive solver in one call, so that every loop ends


@dataclass(frozen=True)
class Solver:
    """A solver and its accuracy.

    Args:
        method: fixed steps: "euler", "midpoint", "heun3", "rk4"; adaptive: "adaptive_heun", "fehlberg2", "bosh3",
            "dopri5", "dopri8".
        steps: of a fixed solver in each unit interval.
        rtol: relative tolerance of an adaptive solver.
        atol: absolute tolerance of an adaptive solver.

    Raises:
        ValueError: for an unknown method, or a number that is not positive.

    >>> Solver("rk4", steps=2).keywords()["options"]
    {'step_size': 0.5}
    """

    method: str = "rk4"
    steps: int = 1
    rtol: float = 1e-3
    atol: float = 1e-4

    def __post_init__(self) -> None:
        if self.method not in _ADAPTIVE:
            raise ValueError(f"solver {self.method!r} is unknown; it is one of {', '.join(_ADAPTIVE)}")
        for name in ("steps", "rtol", "atol"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of a solver is {getattr(self, name)!r}; it must be positive")

    def keywords(self, jumps: Tensor | None = None) -> dict[str, Any]:
        """The arguments of `odeint` beside the problem.

        Args:
            jumps: times (J,) at which the field jumps; a fixed solver steps from one to the next, and no solver reads
                the wrong side of one.
        """
        fixed = {"step_size": 1.0 / self.steps}
        adaptive = {"norm": _hardest_series, "max_num_steps": _MOST_STEPS}
        options = adaptive if _ADAPTIVE[self.method] else fixed
        if jumps is not None:
            options |= {"jump_t": jumps} if _ADAPTIVE[self.method] else {"perturb": True}
        return {"method": self.method, "rtol": self.rtol, "atol": self.atol, "options": options}

    def flow(self, slope: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
        """The state at tau = 1 of dh/dtau = slope(h), from h = start (n, W) at 0: (n, W)."""
        from torchdiffeq import odeint  # here, so that the package does not load a solver for those who need none

        with self.explained():
            return odeint(lambda tau, h: slope(h), start, start.new_tensor([0.0, 1.0]), **self.keywords())[-1]

    def path(self, slope: Callable[[Tensor], Tensor], start: Tensor, times: Sequence[float]) -> Tensor:
        """The states at T increasing times of dh/dt = slope(h), from h = start (n, W) at the first: (T, n, W).

        A fixed solver makes one step from each time to the next, whatever its `steps`.
        """
        from torchdiffeq import odeint

        keywords = self.keywords()
        if not _ADAPTIVE[self.method]:
            keywords["options"] = {}
        with self.explained():
            return odeint(lambda t, h: slope(h), start, start.new_tensor(times), **keywords)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the solver's assertion, its only word where it cannot finish, into a ValueError with a remedy."""
        try:
            yield
        except AssertionError as error:
            reason = str(error).splitlines()[0][:100]
            raise ValueError(f"{self.method} gave up ({reason}); loosen rtol and atol, or take method='rk4'") from error


class Field(nn.Module):
    """The vector field s * tanh(W2 tanh(W1 h + b1) + b2), with one learned speed s a unit.

    Args:
        width: W of h.
        hidden: of the hidden layer.
        spans: units of the clock in a whole horizon. A unit moves by 1 to 10 over a horizon at most: no gap throws the
            state far at the start.
    """

    def __init__(self, width: int, hidden: int, spans: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width), nn.Tanh())
        self.log_speed = nn.Parameter(torch.linspace(0.0, math.log(10.0), width) - math.log(spans))  # (W,)
        self.calls = 0

    def forward(self, state: Tensor, pace: Tensor) -> Tensor:
        """dh/dtau at h (n, W), where dt = gap dtau and pace = gap * s."""
        self.calls += 1
        return pace * self.body(state)

    def through(self, solver: Solver, state: Tensor, gap: Tensor) -> Tensor:
        """The states (n, W) after gaps (n, 1) of the clock, a factor of each state's own field: all at once."""
        if state.shape[0] == 0:
            return state
        pace = gap * self.log_speed.exp()  # (n, W)
        return solver.flow(lambda h: self(h, pace), state)


def _hardest_series(error: Tensor) -> Tensor:
    """The largest root mean square over the series (n, W); detached, since step sizes carry no gradient."""
    return error.detach().square().mean(dim=-1).sqrt().amax()
