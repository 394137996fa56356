"""The recipe for asas."""

from __future__ import annotations

from ctlssl.recipes.recipe import Recipe

__all__ = ["RECIPES"]

RECIPES = (
    Recipe(
        task="asas/class",
        metric="macro_f1",
        model="folded",
        width=32,
        options={"state_size": 32, "dropout": 0.2},
        training={"epochs": 50, "learning_rate": 5e-3, "schedule": "cosine", "average": 0.95},
        refit=True,
        seeds=5,
        ablation={
            "three models, not one": {"members": 3},
            "times as they are, not folded": {"model": "lssl"},
            "one period, not two": {"options": {"periods": 1}},
        },
        minutes=5.0,
    ),
)
