"""The data sets: bundled files, one folder each and found by looking, generated ones, and files that users prepare."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from ctlssl.files import open_dataset
from ctlssl.schema import channels, labels, static
from ctlssl.synthetic import GENERATORS

__all__ = ["DatasetCard", "dataset_names", "describe_dataset", "load_dataset"]

# In an installed package the folders lie inside it, in a source checkout beside it. The second place may be another
# package's: only a folder with a file of its own name counts. What a user prepares may also lie in a folder of his own,
# named by the environment variable.
_OWN = "CTLSSL_DATA"
_PLACES = (Path(__file__).parent / "_datasets", Path(__file__).parent.parent / "datasets")


@dataclass(frozen=True)
class DatasetCard:
    """What there is to know of a data set before it is used.

    Args:
        name: what `load_dataset` calls it.
        title: one line.
        series: number of series.
        rows: number of rows.
        observed: share of the cells that hold a value, 0 to 1.
        channels: names of the channels.
        static: names of the static covariates.
        labels: names of the labels.
        licence: under which the data may be used.
        references: whom to cite.
    """

    name: str
    title: str
    series: int
    rows: int
    observed: float
    channels: tuple[str, ...]
    static: tuple[str, ...]
    labels: tuple[str, ...]
    licence: str
    references: str


def dataset_names() -> tuple[str, ...]:
    """The names of the data sets that can be loaded: those that come with the library, and those that were prepared.

    Example:
        >>> "covid19" in dataset_names(), "oscillators" in dataset_names()
        (True, True)
    """
    return tuple(sorted({*_files(), *GENERATORS}))


def load_dataset(name: str) -> xr.Dataset:
    """A data set that comes with the library, as a Dataset of the schema, in memory.

    What is not a file is drawn by its generator in `ctlssl.synthetic`, with its defaults: the same in every call. Data
    that may not be passed on are prepared from the user's own download by ``datasets/NAME/prepare.py``, which writes
    NAME.nc beside itself; in the folder that the environment variable CTLSSL_DATA names, it is found as well.

    Args:
        name: one of `dataset_names()`.

    Raises:
        ValueError: an unknown name, or data that were not prepared; the message says what there is, or what to do.

    Example:
        >>> ds = load_dataset("covid19")
        >>> ds.sizes["series"], ds.sizes["obs"], ds["albumin"].attrs["units"]
        (375, 6120, 'g/L')
    """
    files = _files()
    if name in files:
        return open_dataset(files[name])
    if name in GENERATORS:
        return GENERATORS[name]()
    for place in _PLACES:
        if name.isidentifier() and (script := place / name / "prepare.py").is_file():
            raise ValueError(f"data set {name!r} is not prepared; README.md beside {script} says how it is made.")
    raise ValueError(
        f"unknown data set {name!r}; choose from {', '.join(dataset_names())}. "
        "Files of your own are opened by ctlssl.open_dataset."
    )


def describe_dataset(name: str) -> DatasetCard:
    """The card of a data set.

    Args:
        name: one of `dataset_names()`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> card = describe_dataset("covid19")
        >>> card.labels, card.static, len(card.channels), card.licence
        (('outcome',), ('age', 'gender'), 74, 'MIT')
    """
    ds = load_dataset(name)
    names = channels(ds)
    seen = sum(int(np.isfinite(ds[channel].values).sum()) for channel in names)
    return DatasetCard(
        name=name,
        title=str(ds.attrs.get("title", "")),
        series=ds.sizes["series"],
        rows=ds.sizes["obs"],
        observed=seen / max(1, ds.sizes["obs"] * len(names)),
        channels=names,
        static=static(ds),
        labels=labels(ds),
        licence=str(ds.attrs.get("license", "")),
        references=str(ds.attrs.get("references", "")),
    )


def _files() -> dict[str, Path]:
    """The file of each data set: the one in a folder that bears its name."""
    found: dict[str, Path] = {}
    for place in reversed(_PLACES):
        for path in sorted(place.glob("*/*.nc")):
            if path.stem == path.parent.name:
                found[path.stem] = path
    if os.environ.get(_OWN):
        found |= {path.stem: path for path in Path(os.environ[_OWN]).glob("*.nc") if path.stem not in found}
    return dict(sorted(found.items()))
