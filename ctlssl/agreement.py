"""The three views of one layer side by side: how far apart, how fast, how large."""

from __future__ import annotations

import copy
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctlssl.discretization import Discretization, exact
from ctlssl.layers import LSSL
from ctlssl.views import Integration, Response
from ctlssl.views.integration import HeldField

if TYPE_CHECKING:
    import xarray

__all__ = ["REFERENCES", "views_agree"]

SOLVERS = (Integration(rtol=1e-3, atol=1e-6), Integration(rtol=1e-6, atol=1e-9), Integration(method="rk4", steps=4))

REFERENCES = {
    "recurrence": "recurrence in float64",
    "exact": "exact solution of the equation along its hold, in float64",
}

_LONGEST = 0.5  # seconds after which a view is not run again to be timed


def views_agree(
    layer: LSSL,
    u: Tensor,
    dt: Tensor | float | None = None,
    lengths: Tensor | None = None,
    solvers: Sequence[Integration] = SOLVERS,
    repeats: int = 3,
    is_query: Tensor | None = None,
    rate: Tensor | float = 1.0,
    reference: str = "recurrence",
    gradients: bool = False,
) -> xarray.Dataset:
    """Run recurrence, convolution (on a uniform grid) and ODE solvers on the same parameters and inputs.

    A solver integrates the hold of the layer's method. With an exact rule (zoh, foh, impulse) the recurrence is the
    solution of that equation, and a solver agrees with it to its tolerance; a gbt rule and a solver differ by the
    order of the rule. The reference "recurrence" measures how far the views are from the layer as it is, "exact" how
    far all of them, the layer's own rule among them, are from the equation.

    Args:
        layer: the layer; its dtype is the one that is timed.
        u: inputs, (B, L, H).
        dt: gaps as in `LSSL.forward`.
        lengths: rows of each series, (B,).
        solvers: the integrations to run.
        repeats: timed runs of each view, fewer of one that takes long; the median is reported.
        is_query: as in `LSSL.forward`.
        rate: as in `LSSL.forward`.
        reference: what errors are from: "recurrence", in float64, or "exact", which is the recurrence in float64 of
            the exact rule with the layer's hold.
        gradients: also run every view backwards, from one fixed random weighting of the outputs to the inputs and all
            learned parameters.

    Returns:
        A dataset over `view`: `error` (max |y - reference| / max |reference|), `seconds` (forward, median), `memory`
        (peak bytes allocated in a forward run), `evaluations` (of A x + B u), and with `gradients` also
        `gradient_error` (the same measure for every tensor that has a gradient, the largest of them),
        `gradient_seconds`, `gradient_memory` and `gradient_evaluations` (forwards and backwards together). All are NaN
        where the grid is not the view's or a solver gave up, and `note` says so.

    Raises:
        ValueError: wrong inputs, an unknown reference or solver, or two solvers that differ in nothing that is shown.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = LSSL(2, state_size=4, structure="diagonal", method="zoh")
        >>> report = views_agree(layer, torch.randn(1, 20, 2), 1.0, repeats=1)
        >>> bool(report.error.sel(view="convolution") < 1e-4)
        True
    """
    import xarray

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1; found {repeats}")
    if reference not in REFERENCES:
        raise ValueError(f"reference {reference!r} is unknown; it is one of {', '.join(REFERENCES)}")
    views = _named(solvers)
    trial = _Trial(layer, u, {"dt": dt, "lengths": lengths, "is_query": is_query, "rate": rate})
    truth = _true_trial(trial, reference)
    outputs = truth.forward("recurrence").y
    slopes = truth.backward("recurrence") if gradients else None
    rows = [_measured(trial, view, outputs, slopes, repeats) for view in views.values()]
    columns = {name: ("view", [row.get(name, float("nan")) for row in rows]) for name in _columns(gradients)}
    notes = [str(row.get("note", "")) for row in rows]
    report = xarray.Dataset(columns | {"note": ("view", notes)}, coords={"view": list(views)})
    for name in columns:
        report[name].attrs["units"] = _UNITS.get(name.removeprefix("gradient_"), "1")
    report.error.attrs["long_name"] = f"max |y - reference| / max |reference|; reference: {REFERENCES[reference]}"
    report.attrs["layer"] = f"LSSL({layer.extra_repr()})"
    report.attrs["shape"] = str(tuple(u.shape))
    return report


_MEASURES = ("error", "seconds", "memory", "evaluations")
_UNITS = {"seconds": "s", "memory": "bytes"}


def _columns(gradients: bool) -> list[str]:
    return [*_MEASURES, *(f"gradient_{name}" for name in _MEASURES if gradients)]


def _named(solvers: Sequence[Integration]) -> dict[str, str | Integration]:
    """Every view by the name it has in a report."""
    views: dict[str, str | Integration] = {"recurrence": "recurrence", "convolution": "convolution"}
    for solver in solvers:
        size = f"steps={solver.steps}" if solver.fixed else f"rtol={solver.rtol:g}"
        name = f"{solver.method} {size}" + (" adjoint" if solver.adjoint else "")
        name = f"{name} atol={solver.atol:g}" if name in views else name
        if name in views:
            raise ValueError(f"two solvers are both called {name!r}; leave one out")
        views[name] = solver
    return views


@dataclass(frozen=True, eq=False)
class _Trial:
    """A layer and its inputs, which any view can run forwards, and backwards from one weighting of the outputs."""

    layer: LSSL
    u: Tensor
    arguments: dict[str, Any]

    def forward(self, view: str | Integration) -> Response:
        with torch.no_grad():
            return self.layer.simulate(self.u, view=view, **self.arguments)

    def backward(self, view: str | Integration) -> list[Tensor]:
        """The gradients of inputs and learned parameters, zeros where there is none."""
        u = self.u.detach().clone().requires_grad_()
        leaves = [u, *(part for part in self.layer.parameters() if part.requires_grad)]
        with torch.enable_grad():
            y = self.layer.simulate(u, view=view, **self.arguments).y
            draw = torch.Generator().manual_seed(0)
            weights = torch.randn(y.shape, generator=draw, dtype=torch.float64).to(y)
            found = torch.autograd.grad((y * weights).sum(), leaves, allow_unused=True)
        return [torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, found, strict=True)]


def _true_trial(trial: _Trial, reference: str) -> _Trial:
    layer = copy.deepcopy(trial.layer).double()
    if reference == "exact":
        layer.method = Discretization(exact, layer.method.hold)
    return _Trial(layer, trial.u.double(), trial.arguments)


def _measured(
    trial: _Trial, view: str | Integration, outputs: Tensor, slopes: list[Tensor] | None, repeats: int
) -> dict[str, float | str]:
    """The numbers of one view; a note in their place where it cannot serve the grid, or cannot finish."""
    runs: dict[str, tuple[Callable[[], list[Tensor]], list[Tensor]]]
    runs = {"": (lambda: [trial.forward(view).y], [outputs])}
    if slopes is not None:
        runs["gradient_"] = (lambda: trial.backward(view), slopes)
    row: dict[str, float | str] = {}
    for kind, (run, truth) in runs.items():
        try:
            with _counted_evaluations() as count:
                found, memory = _with_peak_memory(run)
        except ValueError as error:
            gave_up = isinstance(error.__cause__, AssertionError)  # as a solver does
            if view != "convolution" and not gave_up and not trial.layer.method.rule.growing:
                raise
            return row | {"note": str(error)}
        row |= {f"{kind}error": _relative_error(found, truth), f"{kind}memory": float(memory)}
        row |= {f"{kind}evaluations": float(count[0]), f"{kind}seconds": _median_seconds(run, repeats)}
    return row


def _relative_error(found: list[Tensor], truth: list[Tensor]) -> float:
    """Max |found - true| / max |true| of the worst tensor; infinite where a number is not finite."""
    worst = 0.0
    for part, true in zip(found, truth, strict=True):
        if not part.isfinite().all():
            return float("inf")
        if part.numel():
            scale = true.abs().max().clamp(min=torch.finfo(true.dtype).tiny)
            worst = max(worst, ((part.to(true) - true).abs().max() / scale).item())
    return worst


def _median_seconds(run: Callable[[], Any], repeats: int) -> float:
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < _LONGEST:
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


@contextmanager
def _counted_evaluations() -> Iterator[list[int]]:
    """Counts the calls of the field, those of an adjoint equation in the backward pass among them."""
    count = [0]

    def called(module: nn.Module, inputs: Any) -> None:
        count[0] += isinstance(module, HeldField)

    hook = register_module_forward_pre_hook(called)
    try:
        yield count
    finally:
        hook.remove()


def _with_peak_memory(run: Callable[[], Any]) -> tuple[Any, int]:
    """The result of a run, and the largest sum of bytes of tensors it made and still held at one time."""
    with _Allocations() as allocations:
        result = run()
    return result, allocations.peak


class _Allocations(TorchDispatchMode):
    """Adds the storage of every new tensor, and takes it off when it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.held)
        return out

    def _freed(self, size: int) -> None:
        self.held -= size
