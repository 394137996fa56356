"""Which view runs when none is named: decided by what was given, never by what is in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctlssl.views import Integration, convolution, integration, recurrence

__all__ = ["VIEWS", "ViewChoice", "choose_view", "crossover_length", "one_gap_for_all"]

VIEWS = {"recurrence": recurrence, "convolution": convolution, "integration": integration}

_STEPPED = 16
"""Length from which the convolution is faster than steps that are not one compiled loop."""

BENCHMARK = "benchmarks/crossover.py"

# Lengths from which a layer convolves on a regular grid, forward and backward: (on a CPU, elsewhere), None for never.
# BENCHMARK measures them.
_CROSSOVERS: dict[tuple[str, bool], tuple[int | None, int | None]] = {
    ("dense", False): (_STEPPED, _STEPPED),
    ("dense", True): (_STEPPED, _STEPPED),
    ("diagonal", False): (None, _STEPPED),
    ("diagonal", True): (None, None),
    ("dplr", False): (2048, _STEPPED),
    ("dplr", True): (None, _STEPPED),
    ("quasiseparable", False): (2048, _STEPPED),
    ("quasiseparable", True): (None, _STEPPED),
}

# The same on a CPU where A, B and the step are not learned, and the convolution keeps what it can of its kernel. With
# several inputs it does not pay: its transforms are of a matrix of kernels.
_FIXED_CROSSOVERS = {"dense": _STEPPED, "diagonal": 512, "dplr": _STEPPED, "quasiseparable": _STEPPED}


@dataclass(frozen=True)
class ViewChoice:
    """The view that a layer runs, and why.

    Args:
        name: "recurrence", "convolution" or "integration".
        reason: a sentence for who reads it.
    """

    name: str
    reason: str


def crossover_length(
    structure: str, multi_input: bool, device: str, tabulated: bool = False, fixed: bool = False
) -> int | None:
    """Length from which the convolution is faster than the recurrence, None where it never is.

    Args:
        structure: name of the structure of A.
        multi_input: whether one system reads all channels.
        device: type of the device.
        tabulated: whether the rule needs a matrix a gap of any structure but the diagonal one, as exact rules do.
        fixed: whether neither A nor B nor the step is learned.
    """
    if tabulated and structure != "diagonal":
        return _STEPPED
    if fixed and not multi_input and device == "cpu":
        return _FIXED_CROSSOVERS[structure]
    return _CROSSOVERS[structure, multi_input][device != "cpu"]


def choose_view(
    view: str | Integration,
    dt: Tensor | float | None,
    rate: Tensor | float,
    is_query: Tensor | None,
    length: int,
    system: tuple[str, bool, str, bool],
    gated: bool = False,
    fixed: bool = False,
) -> ViewChoice:
    """The view that runs on these arguments of a layer.

    "auto" convolves only when one gap and one rate serve all rows and series, no row is a query, no step size depends
    on the input, and the record is at least as long as the crossover. Gaps that happen to be equal do not count: a
    result must not change its rounding, nor a program its speed, with the values of the data.

    Args:
        view: what the caller asked for.
        dt: as given to the layer.
        rate: as given to the layer.
        is_query: as given to the layer.
        length: rows L.
        system: structure, whether it is multi-input, type of the device, whether its rule needs a matrix a gap.
        gated: whether step sizes depend on the input.
        fixed: whether neither A nor B nor the step is learned.

    Raises:
        ValueError: a view that does not exist, or the convolution of a gated layer.
    """
    if isinstance(view, Integration):
        return ViewChoice("integration", "an Integration with its tolerances was asked for")
    if not isinstance(view, str) or view not in ("auto", *VIEWS):
        raise ValueError(f"unknown view {view!r}; choose auto, {', '.join(VIEWS)} or an Integration(...)")
    if gated and view == "convolution":
        raise ValueError("input-dependent steps make every gap another one; use view='recurrence'")
    if view != "auto":
        return ViewChoice(view, f"view={view!r} was asked for")
    obstacle = "step sizes depend on the input" if gated else _obstacle(dt, rate, is_query)
    if obstacle:
        return ViewChoice("recurrence", f"{obstacle}, and only the recurrence serves any grid")
    structure, multi_input, device, _ = system
    kind = f"a {'fixed ' if fixed else ''}{'multi-input ' if multi_input else ''}{structure} system on {device}"
    crossover = crossover_length(*system, fixed)
    if crossover is None:
        return ViewChoice("recurrence", f"for {kind} the recurrence is at least as fast at every length ({BENCHMARK})")
    if length < crossover:
        return ViewChoice("recurrence", f"{length} rows are fewer than {crossover}, {_measured(kind)}")
    return ViewChoice("convolution", f"one gap for all {length} rows, no fewer than {crossover}, {_measured(kind)}")


def one_gap_for_all(dt: Tensor | float | None, rate: Tensor | float, is_query: Tensor | None) -> bool:
    """Whether every row of every series has the same gap by what was given, whatever its value."""
    return not _obstacle(dt, rate, is_query)


def _obstacle(dt: Tensor | float | None, rate: Tensor | float, is_query: Tensor | None) -> str:
    """Why there may be more than one gap, or nothing."""
    if is_query is not None:
        return "rows may be queries (is_query was given)"
    if dt is not None and torch.as_tensor(dt).ndim:
        return f"dt has a gap a row (shape {tuple(torch.as_tensor(dt).shape)}), equal or not"
    if torch.as_tensor(rate).ndim:
        return "rate has a number a series"
    return ""


def _measured(kind: str) -> str:
    return f"from which the convolution is faster for {kind} ({BENCHMARK})"
