"""Recipes for sepsis2019."""

from __future__ import annotations

from dataclasses import replace

from ctlssl.recipes.recipe import Recipe

__all__ = ["RECIPES"]

_SEPSIS = Recipe(
    task="sepsis2019/sepsis",
    metric="auroc",
    width=48,
    options={"summaries": True, "span_pieces": 36, "channel_dropout": 0.1, "dropout": 0.3},
    training={
        "epochs": 8,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "dynamics_rate": 0.5,
        "weight_decay": 0.1,
        "patience": 8,
        "schedule": "cosine",
        "average": 0.99,
    },
    seeds=3,
    ablation={
        "no layer": {"options": {"layers": 0}},
        "no summaries": {"options": {"summaries": False}},
        "no length in pieces": {"options": {"span_pieces": 0}},
        "neither summaries nor length": {"options": {"summaries": False, "span_pieces": 0}},
        "two layers of 64": {"width": 64, "options": {"layers": 2}},
    },
    minutes=10.0,
)

_VALUES = replace(
    _SEPSIS,
    task="sepsis2019/sepsis_values",
    options={**_SEPSIS.options, "state_size": 64, "fading": 0.0625, "statistics": True, "channel_dropout": 0.0},
    training={**_SEPSIS.training, "epochs": 7},
    ablation={
        "no layer": {"options": {"layers": 0}},
        "no summaries": {"options": {"summaries": False, "fading": 0.0, "statistics": False}},
        "no length in pieces": {"options": {"span_pieces": 0}},
        "no fading summaries": {"options": {"fading": 0.0}},
        "statistics in pieces alone": {"options": {"statistics": False}},
        "state of 16": {"options": {"state_size": 16}},
        "half the passes": {"training": {"epochs": 3}},
    },
)

RECIPES = (_SEPSIS, _VALUES)
