"""The questions of physionet2012: the first 48 hours of intensive-care stays, all of which end later.

References:
    Silva, Moody, Scott, Celi, Mark (2012), Predicting in-hospital mortality of ICU patients, Computing in Cardiology
    39, 245-248. Rubanova, Chen, Duvenaud (2019), Latent ODEs for irregularly-sampled time series, arXiv:1907.03907,
    whose protocol is 80 % of the 4,000 stays of set a for training and 20 % for testing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.questions.task import Task
from ctlssl.questions.windows import part_of, rows_with_a_value
from ctlssl.schema import channels

__all__ = ["TASKS", "covariates"]

_LIKELY = {  # descriptor: the range in which it can be true, and what stands for it where it is not known
    "height": (100.0, 230.0, 170.0),
    "admission_weight": (20.0, 300.0, 80.0),
}
_UNITS = (1, 2, 3, 4)  # of intensive care, see `icu_type`


def covariates(ds: xr.Dataset) -> torch.Tensor:
    """What is known of each stay on admission, (series, 10) float64.

    The age; height and weight, each followed by whether it is known (that of an average adult stands for what is not,
    or cannot be true); the sex as -1 female, 1 male or 0 unknown; and the four units of intensive care, one of which
    is 1.

    Args:
        ds: the data set.
    """
    columns = [ds["age"].values]
    for name, (least, most, typical) in _LIKELY.items():
        value = ds[name].values.astype(np.float64)  # (series,)
        known = (value >= least) & (value <= most)
        columns += [np.where(known, value, typical), known]
    gender = ds["gender"].values  # (series,)
    columns.append(np.where(gender == 0, -1.0, np.where(gender == 1, 1.0, 0.0)))
    columns += [ds["icu_type"].values == unit for unit in _UNITS]
    return torch.from_numpy(np.stack([column.astype(np.float64) for column in columns], axis=1))


def death(ds: xr.Dataset, later_set: bool = False) -> Examples:
    """Death in hospital, from the first 48 hours; a stay of which nothing was measured is asked for as well.

    Args:
        ds: the data.
        later_set: learn from set a and test on set b; otherwise set a alone.
    """
    sets = ds["set"].values
    chosen = np.ones(len(sets), dtype=bool) if later_set else sets == "a"
    series = part_of(ds, rows_with_a_value(ds, -np.inf, 48.0), chosen)
    return Examples(
        series=replace(series, static=covariates(ds)[torch.from_numpy(chosen)]),
        ids=ds["series"].values[chosen],
        labels=torch.from_numpy(ds["in_hospital_death"].values[chosen].astype(np.int64)),
        variables=channels(ds),
        part=np.where(sets == "b", "test", "train") if later_set else None,
    )


TASKS = (
    Task(
        name="physionet2012/death",
        dataset="physionet2012",
        kind="classification",
        description="death in hospital, from the first 48 h in intensive care, set a",
        window=48.0,
        landmark=48.0,
        build=death,
        covariates=covariates,
        shares=(0.64, 0.16, 0.2),
    ),
    Task(
        name="physionet2012/death_b",
        dataset="physionet2012",
        kind="classification",
        description="death in hospital, from the first 48 h in intensive care, learned from set a for set b",
        window=48.0,
        landmark=48.0,
        build=partial(death, later_set=True),
        covariates=covariates,
        shares=(0.64, 0.16, 0.2),
    ),
)
