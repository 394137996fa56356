"""Results of cells as one Dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray

from ctlssl.comparison.cells import Result
from ctlssl.comparison.plans import Plan
from ctlssl.training.metrics import HIGHER_IS_BETTER

__all__ = ["PARTS", "Place", "table_of"]

PARTS = ("train", "valid", "test")
Place = tuple[str, str, int]  # task, model, seed

_CUBE = ("task", "model", "seed")
_COSTS = (
    "train_seconds",
    "seconds_per_epoch",
    "epochs",
    "evaluations_per_epoch",
    "parameters",
    "width",
    "peak_bytes",
    "tuning_seconds",
)
_CURVES = ("train_loss", "valid_loss")
_UNITS = {"train_seconds": "s", "seconds_per_epoch": "s", "tuning_seconds": "s", "peak_bytes": "bytes"}


def table_of(plan: Plan, results: Mapping[Place, Result], sizes: Mapping[str, list[int]]) -> xarray.Dataset:
    """Metrics, costs, learning curves and reasons of failures over (task, model, seed).

    Args:
        plan: what was done.
        results: of the cells that score a model; `failure` instead of `metrics` where there is no score.
        sizes: series in the parts of each task.
    """
    models = [*plan.models, *plan.references]
    shape = len(plan.tasks), len(models), len(plan.seeds)
    longest = max([len(curve) for result in results.values() for curve in result.get("curves", {}).values()] + [0])
    values: dict[str, Any] = {name: (_CUBE, np.full(shape, np.nan)) for name in (*HIGHER_IS_BETTER, *_COSTS)}
    values |= {name: ((*_CUBE, "epoch"), np.full((*shape, longest), np.nan)) for name in _CURVES}
    values |= {name: (_CUBE, np.full(shape, "", dtype=object)) for name in ("failure", "settings")}
    values["series"] = (("task", "part"), [sizes[task] for task in plan.tasks])
    coordinates: dict[str, Any] = {
        "task": list(plan.tasks),
        "model": models,
        "seed": list(plan.seeds),
        "part": list(PARTS),
        "epoch": np.arange(1, longest + 1),
        "kind": ("task", [task.kind for task in plan.tasks.values()]),
        "family": ("model", ["neural"] * len(plan.models) + ["reference"] * len(plan.references)),
    }
    table = xarray.Dataset(values, coordinates, _attributes(plan))
    for place, result in results.items():
        _fill(table, dict(zip(_CUBE, place, strict=True)), result)
    for name, unit in _UNITS.items():
        table[name].attrs["units"] = unit
    for name in ("failure", "settings"):
        table[name] = table[name].astype(np.str_)
    return table


def _fill(table: xarray.Dataset, place: Mapping[str, Any], result: Result) -> None:
    for name, value in {**result.get("metrics", {}), **result.get("costs", {})}.items():
        table[name].loc[place] = np.nan if value is None else value
    for name, curve in result.get("curves", {}).items():
        table[name].loc[place][: len(curve)] = np.array(curve, dtype=float)
    table["failure"].loc[place] = result.get("failure", "")
    table["settings"].loc[place] = json.dumps(result["settings"]) if result.get("settings") else ""


def _attributes(plan: Plan) -> dict[str, Any]:
    attributes = {
        "title": "Test metrics and costs of models trained on the same splits",
        "training": json.dumps(plan.training.to_dict()),
        "threads": plan.threads,
        "versions": json.dumps({name: version(name) for name in ("torch", "numpy", "scikit-learn")}),
        "tuning": json.dumps({name: list(values) for name, values in plan.grid.items()}),
    }
    if plan.parameters is None:
        return attributes | {"width": plan.width}
    return attributes | {"parameters": plan.parameters}
