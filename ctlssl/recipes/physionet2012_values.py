"""Recipes for the values of physionet2012; datasets/physionet2012/values.py prints their errors in published units."""

from __future__ import annotations

from ctlssl.recipes.recipe import Recipe

__all__ = ["RECIPES"]

_LATER = Recipe(
    task="physionet2012/extrapolation",
    metric="rmse",
    width=48,
    options={"layers": 2, "state_size": 32, "dropout": 0.1},
    training={"epochs": 8, "batch_size": 64, "learning_rate": 3e-3, "schedule": "cosine", "average": 0.98},
    seeds=3,
    minutes=10.0,
)

RECIPES = (
    _LATER,
    _LATER.changed(task="physionet2012/interpolation", options={"bidirectional": True}, minutes=20.0),
    _LATER.changed(task="physionet2012/next", training={"epochs": 6}, minutes=20.0),
)
