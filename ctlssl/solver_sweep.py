"""Views and solvers side by side: what each costs, and how far its outputs and gradients are from the equation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctlssl.agreement import views_agree
from ctlssl.contract import Model
from ctlssl.layers import LSSL
from ctlssl.series import TimeSeries
from ctlssl.views import Integration

if TYPE_CHECKING:
    import xarray

__all__ = ["LayerRun", "compare_views", "example_runs", "model_runs", "solver_sweep"]


@dataclass(frozen=True, eq=False)
class LayerRun:
    """A layer and what it is run on.

    Args:
        layer: the layer.
        u: inputs, (B, L, H).
        dt: gaps as in `LSSL.forward`.
        lengths: rows of each series, (B,).
        is_query: rows that leave the state untouched, (B, L).
        rate: factor of all gaps, a number or (B,).
    """

    layer: LSSL
    u: Tensor
    dt: Tensor | float | None = None
    lengths: Tensor | None = None
    is_query: Tensor | None = None
    rate: Tensor | float = 1.0

    def cut(self, series: int, rows: int, dtype: torch.dtype) -> LayerRun:
        """The first rows of the first series, layer and inputs in a dtype."""
        part = {name: getattr(self, name) for name in ("dt", "lengths", "is_query", "rate")}
        for name, value in part.items():
            if isinstance(value, Tensor) and value.dim():
                value = value[..., :rows] if name in ("dt", "is_query") else value
                part[name] = value if name in ("dt", "is_query") and value.dim() == 1 else value[:series]
        if part["lengths"] is not None:
            part["lengths"] = part["lengths"].clamp(max=rows)
        return LayerRun(self.layer.to(dtype), self.u[:series, :rows].to(dtype), **part)


def solver_sweep(
    methods: Sequence[str] = ("rk4", "dopri5", "dopri8"),
    tolerances: Sequence[float] = (1e-2, 1e-4, 1e-6),
    steps: Sequence[int] = (1, 4, 16),
    adjoint: bool = True,
) -> tuple[Integration, ...]:
    """Integrations over a range of accuracies: tolerances of adaptive solvers, steps a gap of fixed ones.

    Args:
        methods: solvers of torchdiffeq.
        tolerances: relative ones; the absolute one is a thousandth of it.
        steps: a gap, of fixed solvers.
        adjoint: each adaptive solver also with the adjoint equation for its gradients.

    Raises:
        ValueError: no method, or numbers that are not positive.

    Example:
        >>> [solver.rtol for solver in solver_sweep(["dopri5"], [1e-2, 1e-4], adjoint=False)]
        [0.01, 0.0001]
    """
    if not methods:
        raise ValueError("a sweep needs at least one solver, such as dopri5")
    chosen = []
    for method in dict.fromkeys(methods):
        if Integration(method).fixed:
            chosen += [Integration(method, steps=number) for number in dict.fromkeys(steps)]
            continue
        for kind in (False, True) if adjoint else (False,):
            chosen += [Integration(method, rtol, rtol / 1000, adjoint=kind) for rtol in dict.fromkeys(tolerances)]
    return tuple(chosen)


def example_runs(
    structure: str = "diagonal",
    measure: str = "legs",
    method: str = "zoh",
    channels: int = 4,
    state_size: int = 8,
    batch: int = 2,
    length: int = 8,
    decades: float = 4.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, LayerRun]:
    """A fresh layer on random inputs, in three cases.

    "uniform grid": gaps of 1, and step sizes of .003 to .03 a channel;
    "irregular": the same layer with exponential gaps of mean 1;
    "stiff": the same gaps, and step sizes from 2 down over the decades asked for, so that eigenvalues lie over
    decades and the fastest modes settle within a small part of a gap. A diagonal layer has real poles there (measure
    "real"): a mode that also oscillates fast is expensive to any solver, not for its stiffness.

    Args:
        structure: of A, as in `LSSL`.
        measure: of the start, as in `LSSL`.
        method: discretization, as in `LSSL`.
        channels: H.
        state_size: N.
        batch: B.
        length: L.
        decades: of step sizes between the fastest and the slowest channel of the stiff layer.
        seed: of weights, inputs and gaps.
        dtype: of weights and inputs.

    Raises:
        ValueError: options that `LSSL` refuses, fewer than 2 channels, or decades that are not positive.
    """
    if channels < 2 or not 0 < decades < math.inf:
        raise ValueError(f"a stiff bank needs 2 channels and positive decades; found {channels} and {decades}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        mild = LSSL(channels, state_size, structure, measure, method, step_range=(0.003, 0.03)).to(dtype)
        settling = "real" if structure == "diagonal" else measure
        ends = (_FASTEST * 10.0**-decades, _FASTEST)
        stiff = LSSL(channels, state_size, structure, settling, method, step_range=ends).to(dtype)
        u = torch.randn(batch, length, channels, dtype=torch.float64).to(dtype)  # (B, L, H)
        gaps = torch.empty(batch, length, dtype=torch.float64).exponential_(1.0)  # (B, L)
    with torch.no_grad():  # the two ends of the range, whatever was drawn
        stiff.log_step.copy_(torch.linspace(*map(math.log, ends), channels))
    return {
        "uniform grid": LayerRun(mild, u, 1.0),
        "irregular": LayerRun(mild, u, gaps),
        "stiff": LayerRun(stiff, u, gaps),
    }


def model_runs(
    model: Model,
    series: TimeSeries,
    query_times: Tensor | None = None,
    rows: int = 32,
    dtype: torch.dtype | None = None,
) -> dict[str, LayerRun]:
    """The linear state-space layers of a model on what reaches each of them when the model reads some series.

    Args:
        model: trained, or not; it is left as it is, the layers are copies.
        series: B series.
        query_times: as in `Model.forward`.
        rows: most rows that are kept of each series; layers are causal, so that the others change nothing before them.
        dtype: of the copies and their inputs; the model's own if None.

    Raises:
        ValueError: a model without such a layer.
    """
    import copy

    reached: dict[str, tuple[Any, ...]] = {}
    layers = {name: part for name, part in model.named_modules() if isinstance(part, LSSL)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear state-space layer, which could be run in other views")

    def listen(name: str) -> Callable[..., None]:
        return lambda layer, inputs, keywords: reached.update({name: (inputs, keywords)})

    hooks = [part.register_forward_pre_hook(listen(name), with_kwargs=True) for name, part in layers.items()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(series, query_times)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    runs = {}
    for name, ((u, dt), keywords) in reached.items():
        layer = copy.deepcopy(layers[name])
        run = LayerRun(layer, u, dt, keywords["lengths"], keywords["is_query"], keywords["rate"])
        runs[name] = run.cut(series.batch, rows, u.dtype if dtype is None else dtype)
    return runs


def compare_views(
    runs: Mapping[str, LayerRun],
    solvers: Sequence[Integration] | None = None,
    repeats: int = 3,
    gradients: bool = True,
    progress: Callable[[str], None] | None = None,
) -> xarray.Dataset:
    """Run recurrence, convolution and a sweep of solvers on every case, against the exact solution.

    The reference is the float64 recurrence of the exact rule with the layer's own hold: the solution of the equation
    that every view approximates, with no step size or tolerance of its own. No solver of torchdiffeq is A-stable: where
    poles are stiff each pays for the fastest, and the adjoint equation, which runs a decay backwards, most of all.

    Args:
        runs: case -> layer and inputs, such as from `example_runs` or `model_runs`.
        solvers: None is `solver_sweep()`.
        repeats: timed runs of each view, fewer of one that takes long; the median is kept.
        gradients: also of the gradients with respect to inputs and learned parameters.
        progress: called with the name of each case before it is run.

    Returns:
        The columns of `ctlssl.views_agree` over (case, view), and over `case`: `fastest` and `slowest`, the largest and
        smallest |lambda| times the median gap (NaN of a layer whose steps depend on the input).

    Raises:
        ValueError: no case, or what `ctlssl.views_agree` refuses.

    Example:
        >>> runs = example_runs(channels=2, state_size=4, batch=1, length=6)
        >>> found = compare_views({"stiff": runs["stiff"]}, solver_sweep(["rk4"], steps=[1]), 1, gradients=False)
        >>> bool(found.error.sel(case="stiff", view="recurrence") < 1e-12), dict(found.sizes)
        (True, {'case': 1, 'view': 3})
    """
    import xarray

    if not runs:
        raise ValueError("there is no case to run; see example_runs and model_runs")
    solvers = solver_sweep() if solvers is None else solvers
    reports = []
    for name, run in runs.items():
        if progress is not None:
            progress(name)
        rest = {key: getattr(run, key) for key in ("lengths", "is_query", "rate")}
        report = views_agree(
            run.layer, run.u, run.dt, solvers=solvers, repeats=repeats, reference="exact", gradients=gradients, **rest
        )
        report["fastest"], report["slowest"] = _speeds(run)
        layer = report.attrs.pop("layer")
        report["layer"], report["shape"] = layer, report.attrs.pop("shape")
        reports.append(report.expand_dims(case=[name]))
    found = xarray.concat(reports, dim="case", combine_attrs="override")
    for name in ("fastest", "slowest"):
        found[name].attrs["long_name"] = f"|lambda| of the {name} mode times the median gap"
    found.attrs["threads"] = torch.get_num_threads()
    found.attrs["dtype"] = ", ".join(sorted({str(run.u.dtype).removeprefix("torch.") for run in runs.values()}))
    return found


_FASTEST = 2.0  # step size of the fastest channel of the stiff layer


def _speeds(run: LayerRun) -> tuple[float, float]:
    """The largest and smallest |lambda| times the median gap."""
    if run.layer.gate is not None:
        return math.nan, math.nan
    gaps = torch.as_tensor(1.0 if run.dt is None else run.dt, dtype=torch.float64)
    if run.lengths is not None and gaps.dim() == 2:
        gaps = gaps[torch.arange(gaps.shape[1]) < run.lengths[:, None]]
    with torch.no_grad():
        speeds = run.layer.system().poles().abs() * (gaps.median() if gaps.numel() else 1.0)
    return speeds.max().item(), speeds.min().item()
