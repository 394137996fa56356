"""The questions of the generated data sets of `ctlssl.synthetic`."""

from __future__ import annotations

from functools import partial

import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import class_of_series, later_values, numbers_of_series, response_to_inputs

__all__ = ["TASKS"]


def planned_doses(ds: xr.Dataset, until: float) -> Examples:
    """Concentrations after a time, from those before it and from all doses."""
    return response_to_inputs(ds, "concentration", ("dose",), ds["time"].values <= until)


TASKS = (
    Task(
        name="drug_kinetics/clearance",
        dataset="drug_kinetics",
        kind="regression",
        description="logarithm of the clearance of each subject, from doses and concentrations of 72 h",
        window=72.0,
        build=partial(numbers_of_series, labels=("clearance",), logarithm=True),
    ),
    Task(
        name="drug_kinetics/forecast",
        dataset="drug_kinetics",
        kind="forecasting",
        description="concentrations of the hours 48 to 72, in which nothing is given, from the first 48 h",
        window=48.0,
        build=partial(later_values, landmark=48.0, asked=("concentration",)),
        landmark=48.0,
    ),
    Task(
        name="drug_kinetics/planned",
        dataset="drug_kinetics",
        kind="forecasting",
        description="concentrations of the hours 6 to 72, from those before and from all doses, which are planned",
        window=72.0,
        build=partial(planned_doses, until=6.0),
        as_recorded=False,
    ),
    Task(
        name="jumps/forecast",
        dataset="jumps",
        kind="forecasting",
        description="positions of the seconds 10 to 15, in which no kick comes, from the first 10 s",
        window=10.0,
        build=partial(later_values, landmark=10.0, asked=("position",)),
        landmark=10.0,
    ),
    Task(
        name="ornstein_uhlenbeck/forecast",
        dataset="ornstein_uhlenbeck",
        kind="forecasting",
        description="values of the seconds 10 to 15, from the first 10 s",
        window=10.0,
        build=partial(later_values, landmark=10.0),
        landmark=10.0,
    ),
    Task(
        name="oscillators/frequency",
        dataset="oscillators",
        kind="classification",
        description="which of two frequencies, from values at times that hide it",
        window=192.0,
        build=partial(class_of_series, label="frequency"),
    ),
    Task(
        name="pendulum/angle",
        dataset="pendulum",
        kind="regression",
        description="sine and cosine of the angle at the last image, from all images",
        window=1.0,
        build=partial(numbers_of_series, labels=("last_sine", "last_cosine"), hidden=("sine", "cosine")),
        as_recorded=False,
    ),
    Task(
        name="spirals/direction",
        dataset="spirals",
        kind="classification",
        description="outwards or inwards, from the whole spiral",
        window=12.0,
        build=partial(class_of_series, label="direction"),
    ),
    Task(
        name="spirals/forecast",
        dataset="spirals",
        kind="forecasting",
        description="points of the seconds 6 to 12, from the first 6 s",
        window=6.0,
        build=partial(later_values, landmark=6.0),
        landmark=6.0,
    ),
)
