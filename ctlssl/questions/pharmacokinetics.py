"""The questions of pharmacokinetics: concentrations to come, from every dose and the first concentrations."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import response_to_inputs
from ctlssl.schema import select_series, series_of_row

__all__ = ["TASKS"]


def later_concentrations(
    ds: xr.Dataset, drug: str, inputs: tuple[str, ...], covariates: tuple[str, ...], until: float | None = None
) -> Examples:
    """Concentrations of a drug after the first ones, with all its doses shown: they are taken as planned in advance.

    A row of a dose after the last shown concentration is shown as well; a concentration asked for never is.

    Args:
        ds: the data.
        drug: the channel that is asked for.
        inputs: the channels that are shown beside it, at all times.
        covariates: the static ones.
        until: concentrations up to this time are shown; None: the first of each subject.
    """
    ds = select_series(ds, ds["drug"].values == drug)
    measured, owner = ds[drug].notnull().values, series_of_row(ds)  # (obs,)
    if until is None:
        first = np.full(ds.sizes["series"], -1)
        rows = np.flatnonzero(measured)
        first[owner[rows[::-1]]] = rows[::-1]  # the earliest is written last
        shown = measured & (first[owner] == np.arange(len(owner)))
    else:
        shown = measured & (ds["time"].values <= until)
    return response_to_inputs(ds, drug, inputs, shown, covariates)


def _task(
    drug: str, window: float, told: str, inputs: tuple[str, ...], covariates: tuple[str, ...], **more: float
) -> Task:
    return Task(
        name=f"pharmacokinetics/{drug}",
        dataset="pharmacokinetics",
        kind="forecasting",
        description=f"concentrations of {drug}, from all doses and {told}",
        window=window,
        build=partial(later_concentrations, drug=drug, inputs=inputs, covariates=covariates, **more),
        as_recorded=False,
        folds=4,
        shares=(0.55, 0.2, 0.25),
    )


_QUINIDINE = ("weight", "age", "height", "smokes", "heart_failure", "low_creatinine_clearance")

TASKS = (
    _task("phenobarbital", 168.0, "the first concentration", ("phenobarbital_dose",), ("weight", "apgar")),
    _task(
        "quinidine",
        168.0,
        "the first concentration",
        ("quinidine_dose", "quinidine_interval", "glycoprotein"),
        _QUINIDINE,
    ),
    _task("theophylline", 24.0, "the concentrations of 2 h", ("theophylline_dose",), ("weight",), until=2.0),
)
