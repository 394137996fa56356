"""Tasks on files larger than memory: the parts of the split lie on disk, and a batch is read when it is its turn."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ctlssl.contract import Problem
from ctlssl.examples import Examples
from ctlssl.files import opened_dataset
from ctlssl.normalization import Normalizer
from ctlssl.packed_series import PackedSeries
from ctlssl.runs.outcomes import join
from ctlssl.runs.table_task import Loaded, TableTask
from ctlssl.schema import channels, series_of_row, static
from ctlssl.series import TimeSeries
from ctlssl.splitting import deal
from ctlssl.tasks import Split, clock_of

__all__ = ["split_on_disk"]

_BLOCK_BYTES = 2**24  # of a block of rows, all channels in float64


def split_on_disk(task: TableTask, folder: Path, seed: int) -> tuple[Split, Loaded]:
    """What `prepare` gives of a table task, with series that lie in files: as much memory as one variable and a batch.

    Split, normal scores, median gap and longest span are those of `prepare`.

    Args:
        task: on a .nc of the schema, with labels.
        folder: where the files go; it is made.
        seed: of the split.

    Returns:
        the split, and a `Loaded` whose Dataset has no rows: names, units and notes.

    Raises:
        FileNotFoundError: a file that is not there.
        OSError: the folder is full.
        TypeError: as `TableTask.load`.
        ValueError: as `TableTask.load`; forecasts, and records of another ending.
    """
    if Path(task.records).suffix != ".nc" or not task.label or task.limits:
        raise ValueError(
            "from disk, the series of a .nc are classified or regressed as they stand there: make it by "
            "ctlssl.convert_table, give a label, and no limits."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with opened_dataset(task.records) as ds:
        loaded, plan = _planned(task, ds, seed)
        train = (ds[name].values[plan.part == 0] for name in channels(ds))
        columns = (column[~np.isnan(column)] for column in train)
        normalizer = Normalizer.of_channels(columns, None if plan.static is None else plan.static[plan.index[0]])
        _write(ds, plan.part, normalizer, folder)
        parts = [plan.examples(k, normalizer, channels(ds), folder) for k in range(len(_PARTS))]
    problem = Problem(
        kind=loaded.task.kind,
        channels=len(normalizer.counts),
        outputs=max(2, len(loaded.classes)) if loaded.task.kind == "classification" else plan.labels.shape[1],
        static=0 if plan.static is None else plan.static.shape[1],
        **clock_of(parts[0].series),
    )
    return Split(*parts, problem=problem, normalizer=normalizer), loaded


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which series and rows go where.

    Args:
        part: (T,) of each row of the file, the part that it goes to; -1 where it is not shown.
        index: of each part, positions among the B series that are asked about.
        ids: (B,).
        labels: (B,) or (B, T).
        static: (B, S) in raw units, or None.
        lengths: (B,) rows that are shown.
    """

    part: np.ndarray
    index: tuple[np.ndarray, np.ndarray, np.ndarray]
    ids: np.ndarray
    labels: torch.Tensor
    static: torch.Tensor | None
    lengths: torch.Tensor

    def examples(self, k: int, normalizer: Normalizer, variables: tuple[str, ...], folder: Path) -> Examples:
        """A part, whose rows lie in the folder."""
        index = self.index[k]
        lengths = self.lengths[index]
        rows, D = int(lengths.sum()), len(normalizer.counts)
        static = None if self.static is None else normalizer.apply_static(self.static[index], torch.float32)
        series = PackedSeries.of_sound_parts(
            values=_mapped(folder / f"{_PARTS[k]}.values", torch.float32, (rows, D)),
            times=_mapped(folder / f"{_PARTS[k]}.times", torch.float64, (rows,)),
            observed=_mapped(folder / f"{_PARTS[k]}.observed", torch.bool, (rows, D)),
            lengths=lengths,
            static=static,
        )
        return Examples(series, self.ids[index], self.labels[index], variables=variables)


def _planned(task: TableTask, ds: xr.Dataset, seed: int) -> tuple[Loaded, _Plan]:
    """The question, put to a Dataset that has the numbers of the rows of the file in place of their values."""
    time = ds["time"].values
    number = np.full(len(time), np.nan)  # (T,)
    for name in channels(ds):
        seen = ~np.isnan(ds[name].values)
        number[seen] = np.flatnonzero(seen)
    bare = ds.drop_vars(list(channels(ds))).load().assign({_ROW: ("obs", number)})
    outcomes, needed = task.outcomes()
    own = [name for name in needed if name not in outcomes.table.columns]
    loaded = task.ask(*join(bare, outcomes, own, needed, task.records))
    rows, chosen = task.seen(loaded.ds)
    labels = task.answers(loaded.ds)[torch.from_numpy(chosen)]
    none = torch.zeros(len(labels), 0, 1)
    nothing = TimeSeries(none, none[..., 0].double(), none.bool(), torch.zeros(len(labels), dtype=torch.int64))
    ids = loaded.ds["series"].values[chosen]
    index = deal(Examples(nothing, ids, labels), seed)
    place = np.full(loaded.ds.sizes["series"], -1)
    for k, members in enumerate(index):
        place[np.flatnonzero(chosen)[members]] = k
    of = series_of_row(loaded.ds)
    part = np.full(len(time), -1, dtype=np.int8)
    part[loaded.ds[_ROW].values[rows].astype(np.int64)] = place[of[rows]]
    lengths = torch.from_numpy(np.bincount(of[rows], minlength=len(chosen))[chosen])
    columns = [loaded.ds[name].values[chosen] for name in static(loaded.ds)]
    covariates = torch.from_numpy(np.stack(columns, axis=1)) if columns else None
    return loaded, _Plan(part, index, ids, labels, covariates, lengths)


def _write(ds: xr.Dataset, part: np.ndarray, normalizer: Normalizer, folder: Path) -> None:
    """The rows of each part in normal scores, one block of the file after the other."""
    names, time = channels(ds), ds["time"].values
    rows = max(1, _BLOCK_BYTES // (8 * max(len(names), 1)))
    with ExitStack() as files:
        written = {
            (k, what): files.enter_context(open(folder / f"{name}.{what}", "wb"))
            for k, name in enumerate(_PARTS)
            for what in ("values", "times", "observed")
        }
        for begin in range(0, len(time), rows):
            block = slice(begin, begin + rows)
            if (part[block] < 0).all():
                continue
            raw = torch.from_numpy(np.stack([ds[name][block].values for name in names], axis=1).astype(np.float64))
            observed = ~raw.isnan() & normalizer.seen  # (n, D)
            values = normalizer.apply_values(raw, observed, torch.float32).numpy()
            for k in range(len(_PARTS)):
                own = part[block] == k
                values[own].tofile(written[k, "values"])
                time[block][own].astype(np.float64).tofile(written[k, "times"])
                observed.numpy()[own].tofile(written[k, "observed"])


def _mapped(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """A file as a tensor, of which only what is used is in memory; written to, it leaves the file as it is."""
    if not math.prod(shape):
        return torch.zeros(shape, dtype=dtype)
    return torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=dtype).view(shape)


_PARTS = ("train", "valid", "test")
_ROW = "number of the row in the file"
