"""The questions of sepsis2019, in the protocol of Neural CDEs as its code has it.

Every record is shown up to its 72nd hour or its end, whichever comes first, and those of less than three hours are
left out. A record that ends early ends for a reason: its length alone tells much of the label. The question
"sepsis2019/length" says how much, and records of 16 to 59 hours, where it tells little, are scored beside all.

References:
    Reyna et al. (2020), Early prediction of sepsis from clinical data, Critical Care Medicine 48(2), 210-217. Kidger,
    Morrill, Foster, Lyons (2020), Neural controlled differential equations for irregular time series,
    arXiv:2005.08926, for the protocol.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
import xarray as xr

from ctlssl.examples import Examples
from ctlssl.packed_series import PackedSeries
from ctlssl.questions.task import Task
from ctlssl.schema import channels, select_rows, select_series, series_of_row, to_packed

__all__ = ["TASKS", "covariates", "hourly", "in_band", "length", "sepsis", "sepsis_values"]

WINDOW = 72.0  # h
LEAST = 3.0  # h
BAND = (16.0, 59.0)  # h, lengths which tell little of the label

# What stands for a channel that was never measured in a record: a value of a healthy adult.
HEALTHY = {
    "heart_rate": 75.0,
    "pulse_oximetry": 98.0,
    "temperature": 36.8,
    "systolic_pressure": 120.0,
    "mean_pressure": 90.0,
    "diastolic_pressure": 75.0,
    "respiration_rate": 16.0,
    "end_tidal_carbon_dioxide": 38.0,
    "base_excess": 0.0,
    "bicarbonate": 24.0,
    "inspired_oxygen": 0.21,
    "ph": 7.4,
    "arterial_carbon_dioxide": 40.0,
    "oxygen_saturation": 97.0,
    "aspartate_aminotransferase": 25.0,
    "blood_urea_nitrogen": 14.0,
    "alkaline_phosphatase": 75.0,
    "calcium": 9.3,
    "chloride": 102.0,
    "creatinine": 0.9,
    "bilirubin_direct": 0.1,
    "glucose": 95.0,
    "lactate": 1.0,
    "magnesium": 2.0,
    "phosphate": 3.5,
    "potassium": 4.2,
    "bilirubin_total": 0.6,
    "troponin_i": 0.01,
    "hematocrit": 42.0,
    "hemoglobin": 14.0,
    "partial_thromboplastin_time": 30.0,
    "white_cell_count": 7.0,
    "fibrinogen": 300.0,
    "platelets": 250.0,
}


def covariates(ds: xr.Dataset, intensity: bool = True) -> torch.Tensor:
    """What is known of each record at its start, (series, 7) or (series, 5) float32.

    Age, sex, the two units (0 where they are not known), and asinh of the hours from the admission to hospital (0 where
    they are not known), which are minutes for some and months for others; with observation intensity also whether each
    of the units is known.

    Args:
        ds: the data set.
        intensity: tell what is known.
    """
    columns = [ds[name].values for name in ("age", "gender", "unit_1", "unit_2")]
    columns.append(np.arcsinh(ds["hospital_admission"].values))
    known = [~np.isnan(ds[name].values) for name in ("unit_1", "unit_2")] if intensity else []
    table = np.stack([*columns, *known], axis=1).astype(np.float32)  # (series, S)
    return torch.from_numpy(np.nan_to_num(table))


def sepsis(ds: xr.Dataset) -> Examples:
    """With observation intensity: what was measured and when, one row an hour, NaN where nothing was."""
    shown = _shown(ds)
    return _examples(shown, to_packed(shown, static=()), covariates(shown))


def sepsis_values(ds: xr.Dataset) -> Examples:
    """Without observation intensity: a value of every channel in every hour, see `hourly`."""
    shown = hourly(_shown(ds))
    return _examples(shown, to_packed(shown, static=()), covariates(shown, intensity=False))


def length(ds: xr.Dataset) -> Examples:
    """Nothing but how long each record is: one row an hour, all the same."""
    shown = _shown(ds)
    hours = _last_hours(shown).astype(np.int64)  # (series,)
    times, same = torch.from_numpy(_grid(hours)), torch.ones(int(hours.sum()), 1)
    series = PackedSeries(same, times, same.bool(), torch.from_numpy(hours))
    return _examples(shown, series, None, ("hour",))


def hourly(ds: xr.Dataset) -> xr.Dataset:
    """A value of every channel in every hour from the first to the last of each record.

    A value stands until the next one, and the first also before it, as in the splines of the protocol; a channel that
    was never measured has a value of a healthy adult throughout, as it has the mean there. What was measured when can
    then be told by a change of a value alone.

    Args:
        ds: the data set, or some records of it.
    """
    hours = _last_hours(ds).astype(np.int64)  # (series,)
    start = np.cumsum(hours) - hours
    place = start[series_of_row(ds)] + ds["time"].values.astype(np.int64) - 1  # (obs,) on the grid
    grid = {}
    for name in channels(ds):
        values = ds[name].values
        known = ~np.isnan(values)
        grid[name] = ("obs", _carried(place[known], values[known], hours, HEALTHY[name]), ds[name].attrs)
    time = ("obs", _grid(hours), ds["time"].attrs)
    row_size = ds["row_size"].copy(data=hours)
    return ds.drop_dims("obs").assign(row_size=row_size, **grid).assign_coords(time=time)


def in_band(examples: Examples) -> np.ndarray:
    """Which records have 16 to 59 hours, (B,) bool; every record has a row in its last hour."""
    series = examples.series
    last = series.times[series.lengths.cumsum(0) - 1].numpy()  # (B,)
    return (last >= BAND[0]) & (last <= BAND[1])


def _shown(ds: xr.Dataset) -> xr.Dataset:
    """The first 72 hours of the records of three hours and more."""
    shown = select_rows(ds, ds["time"].values <= WINDOW)
    return select_series(shown, _last_hours(shown) >= LEAST)


def _last_hours(ds: xr.Dataset) -> np.ndarray:
    """The last hour of each record, (series,); 0 without a row."""
    hours = np.zeros(ds.sizes["series"])
    np.maximum.at(hours, series_of_row(ds), ds["time"].values)
    return hours


def _grid(hours: np.ndarray) -> np.ndarray:
    """The hours 1, 2, ... of each series, one after another, float64."""
    return np.arange(1.0, hours.sum() + 1) - np.repeat(np.cumsum(hours) - hours, hours)


def _carried(place: np.ndarray, values: np.ndarray, hours: np.ndarray, healthy: float) -> np.ndarray:
    """Values (K,) at some increasing places of the grid, carried to all places within each series."""
    if not len(place):
        return np.full(hours.sum(), healthy, dtype=values.dtype)
    ends = np.repeat(np.cumsum(hours), hours)  # (T,)
    starts = ends - np.repeat(hours, hours)
    last = np.searchsorted(place, np.arange(len(ends)), side="right") - 1  # (T,) the last value up to each place
    following, last = (last + 1).clip(max=len(place) - 1), last.clip(min=0)
    before = (place[last] >= starts) & (place[last] < ends) & (place[last] <= np.arange(len(ends)))
    after = (place[following] >= starts) & (place[following] < ends)
    return np.where(before, values[last], np.where(after, values[following], values.dtype.type(healthy)))


def _examples(
    ds: xr.Dataset, series: PackedSeries, static: torch.Tensor | None, variables: tuple[str, ...] | None = None
) -> Examples:
    return Examples(
        series=replace(series, static=static),
        ids=ds["series"].values,
        labels=torch.from_numpy(ds["sepsis"].values.astype(np.int64)),
        variables=channels(ds) if variables is None else variables,
    )


_PROTOCOL = {
    "dataset": "sepsis2019",
    "kind": "classification",
    "window": WINDOW,
    "landmark": WINDOW,
    "shares": (0.7, 0.15, 0.15),
    "subgroups": {"16 to 59 h": in_band},
}

TASKS = (
    Task(
        name="sepsis2019/sepsis",
        description="sepsis in the first 72 h in intensive care, from what was measured and when",
        build=sepsis,
        covariates=covariates,
        **_PROTOCOL,
    ),
    Task(
        name="sepsis2019/sepsis_values",
        description="the same from values alone, carried to every hour, without what was measured when",
        build=sepsis_values,
        rows=hourly,
        covariates=partial(covariates, intensity=False),
        **_PROTOCOL,
    ),
    Task(
        name="sepsis2019/length",
        description="the same from the length of the record alone, which gives much of the label away",
        build=length,
        as_recorded=False,
        **_PROTOCOL,
    ),
)
