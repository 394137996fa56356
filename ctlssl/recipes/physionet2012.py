"""Recipes for physionet2012."""

from __future__ import annotations

from dataclasses import replace

from ctlssl.recipes.recipe import Recipe

__all__ = ["RECIPES"]

_DEATH = Recipe(
    task="physionet2012/death",
    metric="auroc",
    width=32,
    options={"summaries": True, "channel_dropout": 0.1},
    training={
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "dynamics_rate": 0.5,
        "weight_decay": 0.3,
        "schedule": "cosine",
        "average": 0.98,
    },
    members=5,
    refit=True,
    seeds=5,
    ablation={
        "one model, not five": {"members": 1},
    },
    minutes=25.0,
)

RECIPES = (_DEATH, replace(_DEATH, task="physionet2012/death_b", seeds=1))
