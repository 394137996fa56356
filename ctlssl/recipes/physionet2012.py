"""Recipes for physionet2012."""

from __future__ import annotations

from dataclasses import replace

from ctlssl.recipes.recipe import Recipe

__all__ = ["RECIPES"]

_DEEP = {"options": {"summaries": "deep", "layers": 0}, "training": {"weight_decay": 0.05}}

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
    members=3,
    refit=True,
    seeds=5,
    ablation={
        "one model": {"members": 1},
        "one model, deep": {"members": 1, **_DEEP},
        "one model, no summaries": {"members": 1, "options": {"summaries": False}},
        "one model, no layer": {"members": 1, "options": {"layers": 0}},
        "one model, values in pieces": {"members": 1, "options": {"pieces": 6}},
        "one model, no channel dropout": {"members": 1, "options": {"channel_dropout": 0.0}},
        "one model, neither summaries nor carried values": {
            "members": 1,
            "options": {"summaries": False, "carried": False},
        },
        "one model, no summaries, mean alone": {"members": 1, "options": {"summaries": False, "pooling": ["mean"]}},
        "one model, no summaries, 2 layers of 64": {
            "members": 1,
            "width": 64,
            "options": {"summaries": False, "layers": 2},
        },
        "one model, constant rate, no mean of weights": {
            "members": 1,
            "training": {"schedule": "constant", "average": 0.0},
        },
    },
    minutes=25.0,
)

RECIPES = (
    _DEATH,
    replace(
        _DEATH,
        task="physionet2012/death_b",
        members=6,
        kinds=[{}, _DEEP],
        seeds=3,
        ablation={
            "six models, none deep": {"kinds": []},
            "six models, all deep": {"kinds": [_DEEP]},
            **_DEATH.ablation,
        },
    ),
)
