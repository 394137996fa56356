"""The question of plaid: which appliance it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import class_of_series

__all__ = ["TASKS"]


def plaid_appliance(ds: xr.Dataset) -> Examples:
    """Whole series, the type of the appliance, and the published part of each."""
    return replace(class_of_series(ds, "appliance"), part=np.array(["train", "test"])[ds["part"].values])


TASKS = (
    Task(
        name="plaid/appliance",
        dataset="plaid",
        kind="classification",
        description="type of an appliance, of eleven, from its load at a regular rate; the published test part",
        window=1344.0,
        build=plaid_appliance,
        shares=(0.64, 0.16, 0.2),
    ),
)
