"""Recipes for the pendulum's images."""

from __future__ import annotations

from ctlssl.recipes.recipe import Recipe

__all__ = ["RECIPES"]

RECIPES = (
    Recipe(
        task="pendulum_cru/angles",
        metric="rmse",
        model="image_lssl",
        width=48,
        options={
            "layers": 3,
            "state_size": 48,
            "blocks": 24,  # of two states: no mode turns much faster than it falls, or than the pendulum
            "input_gate": True,
            "dropout": 0.0,
            "features": 16,
            "scales": False,
        },
        training={
            "epochs": 40,
            "learning_rate": 6e-3,
            "dynamics_rate": 0.5,
            "weight_decay": 0.05,
            "patience": 40,
            "schedule": "cosine",
            "average": 0.98,
            "thin": 0.3,
        },
        seeds=3,
        ablation={
            "likelihood, not squares": {"options": {"scales": True}},
            "pixels left out": {"options": {"pixel_dropout": 0.2}},
            "rows kept": {"training": {"thin": 0.0}},
            "one block of modes": {"options": {"blocks": 1}},
            "no input gate": {"options": {"input_gate": False}},
            "no norms at the images": {"options": {"norm": False}},
        },
        minutes=25.0,
    ),
)
