"""The questions of japanese_vowels: who speaks, with all frames and with a share of them dropped."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import class_of_series
from ctlssl.schema import select_rows

__all__ = ["TASKS"]

_SEED = 56789  # of what is dropped


def speaker(ds: xr.Dataset, dropped: float) -> Examples:
    """Who speaks, on the published parts.

    Args:
        ds: the data.
        dropped: share of the frames of each utterance that are taken away, the same ones in every call; the others
            keep their times. At least one frame stays.
    """
    ds = select_rows(ds, _kept(ds["row_size"].values, dropped))
    return replace(class_of_series(ds, "speaker"), part=ds["part"].values)


def _kept(row_size: np.ndarray, dropped: float) -> np.ndarray:
    """Which rows stay, (obs,) bool."""
    draw, flags = np.random.default_rng(_SEED), []
    for rows in row_size.tolist():
        flag = np.ones(rows, dtype=bool)
        flag[draw.permutation(rows)[: min(round(dropped * rows), rows - 1)]] = False
        flags.append(flag)
    return np.concatenate(flags)


def _task(name: str, dropped: float, told: str) -> Task:
    return Task(
        name=f"japanese_vowels/{name}",
        dataset="japanese_vowels",
        kind="classification",
        description=f"which of nine speakers, from an utterance{told}; 270 to learn from, 370 to test on, as published",
        window=185.6,
        build=partial(speaker, dropped=dropped),
        as_recorded=dropped == 0,
    )


TASKS = (
    _task("speaker", 0.0, ""),
    _task("speaker30", 0.3, " of which 30 % of the frames are dropped"),
    _task("speaker50", 0.5, " of which 50 % of the frames are dropped"),
    _task("speaker70", 0.7, " of which 70 % of the frames are dropped"),
)
