"""How the continuous baselines call a solver of torchdiffeq."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Solver"]

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

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the solver's assertion, its only word where it cannot finish, into a ValueError with a remedy."""
        try:
            yield
        except AssertionError as error:
            reason = str(error).splitlines()[0][:100]
            raise ValueError(f"{self.method} gave up ({reason}); loosen rtol and atol, or take method='rk4'") from error


def _hardest_series(error: Tensor) -> Tensor:
    """The largest root mean square over the series (n, W); detached, since step sizes carry no gradient."""
    return error.detach().square().mean(dim=-1).sqrt().amax()
