"""The three views of one layer side by side: how far apart, how fast, how large."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctlssl.layers import LSSL
from ctlssl.views import Integration, Response

if TYPE_CHECKING:
    import xarray

__all__ = ["views_agree"]

SOLVERS = (Integration(rtol=1e-3, atol=1e-6), Integration(rtol=1e-6, atol=1e-9), Integration(method="rk4", steps=4))


def views_agree(
    layer: LSSL,
    u: Tensor,
    dt: Tensor | float | None = None,
    lengths: Tensor | None = None,
    solvers: Sequence[Integration] = SOLVERS,
    repeats: int = 3,
) -> xarray.Dataset:
    """Run recurrence, convolution (on a uniform grid) and ODE solvers on the same parameters and inputs.

    The reference is the recurrence in float64. A solver integrates the hold of the layer's method: with an exact rule
    (zoh, foh, impulse) it agrees to its tolerance, with a gbt rule to the order of that rule.

    Args:
        layer: the layer; its dtype is the one that is timed.
        u: inputs, (B, L, H).
        dt: gaps as in `LSSL.forward`.
        lengths: rows of each series, (B,).
        solvers: the integrations to run.
        repeats: timed runs of each view; the median is reported.

    Returns:
        A dataset over `view`: `error` (max |y - reference| / max |reference|; NaN where the grid is not the view's),
        `seconds` (forward, median), `memory` (peak bytes allocated in a forward run), `evaluations` (of A x + B u).

    Raises:
        ValueError: wrong inputs, or two solvers that differ in nothing that is shown.

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
    views: dict[str, str | Integration] = {"recurrence": "recurrence", "convolution": "convolution"}
    for solver in solvers:
        size = f"steps={solver.steps}" if solver.fixed else f"rtol={solver.rtol:g}"
        name = f"{solver.method} {size}" + (" adjoint" if solver.adjoint else "")
        name = f"{name} atol={solver.atol:g}" if name in views else name
        if name in views:
            raise ValueError(f"two solvers are both called {name!r}; leave one out")
        views[name] = solver
    with torch.no_grad():
        reference = layer.simulate(u.double(), dt, lengths=lengths, view="recurrence").y
        rows = [_measured(layer, u, dt, lengths, view, reference, repeats) for view in views.values()]
    columns = {name: ("view", [row[name] for row in rows]) for name in rows[0]}
    report = xarray.Dataset(columns, coords={"view": list(views)})
    report.error.attrs["long_name"] = "max |y - reference| / max |reference|; reference: recurrence in float64"
    report.seconds.attrs["units"] = "s"
    report.memory.attrs["units"] = "bytes"
    report.attrs["layer"] = f"LSSL({layer.extra_repr()})"
    report.attrs["shape"] = str(tuple(u.shape))
    return report


def _measured(
    layer: LSSL,
    u: Tensor,
    dt: Tensor | float | None,
    lengths: Tensor | None,
    view: str | Integration,
    reference: Tensor,
    repeats: int,
) -> dict[str, float]:
    def run() -> Response:
        return layer.simulate(u, dt, lengths=lengths, view=view)

    try:
        response, memory = _with_peak_memory(run)
    except ValueError:
        if view != "convolution":
            raise
        return dict.fromkeys(("error", "seconds", "memory", "evaluations"), float("nan"))
    y, scale = response.y, reference.abs().max().clamp(min=torch.finfo(reference.dtype).tiny)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return {
        "error": ((y.double() - reference).abs().max() / scale).item() if y.numel() else 0.0,
        "seconds": statistics.median(seconds),
        "memory": float(memory),
        "evaluations": float(response.evaluations),
    }


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
