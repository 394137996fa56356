"""Questions about the future made of whole records: shown until a cut, asked after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ctlssl.examples import Examples
from ctlssl.packed_series import PackedSeries
from ctlssl.schema import to_packed

__all__ = ["cut_records", "last_rows", "time_since_last"]


def last_rows(series: PackedSeries, known: Sequence[bool]) -> np.ndarray:
    """The time of the last row of each series in which a channel was observed that is not known in advance, (B,).

    Args:
        series: B series.
        known: of each channel, whether it is known in advance.

    Returns:
        NaN where there is none.
    """
    rows = (series.observed & ~torch.tensor(known, dtype=torch.bool)).any(dim=1).numpy()  # (T,)
    ends = np.cumsum(series.lengths.numpy())
    found = np.full(series.batch, np.nan)
    for b, (end, length) in enumerate(zip(ends, series.lengths.tolist(), strict=True)):
        places = np.flatnonzero(rows[end - length : end])
        if len(places):
            found[b] = series.times[end - length + places[-1]]
    return found


def cut_records(
    ds: xr.Dataset,
    variables: Sequence[str],
    known: Sequence[str],
    ahead: float,
    cuts: int,
    draw: np.random.RandomState,
) -> Examples:
    """Each record cut at a few of its rows: what is there until the cut is shown, what comes soon after it is asked.

    Rows after the cut stay as far as they hold channels that are known in advance. A cut after which nothing is asked
    is left out.

    Args:
        ds: records of the schema.
        variables: names of the D channels.
        known: those that are known in advance, which are not asked.
        ahead: data time after the cut in which values are asked.
        cuts: at most so many of each record, at rows drawn without repetition.
        draw: what draws.

    Returns:
        examples in raw units, each with the id of its record.
    """
    packed = to_packed(ds, variables, dtype=torch.float64, missing="unobserved")
    planned = np.array([name in known for name in variables])  # (D,)
    ends = np.cumsum(packed.lengths.numpy())
    pieces, owners = [], []
    for b, (end, length) in enumerate(zip(ends, packed.lengths.tolist(), strict=True)):
        rows = slice(end - length, end)
        times, observed = packed.times[rows].numpy(), packed.observed[rows].numpy()  # (L,), (L, D)
        ask = observed & ~planned
        places = np.flatnonzero(ask.any(axis=1))[:-1]
        for place in np.sort(draw.permutation(places)[:cuts]):
            now = times[place]
            later = (times > now) & (times <= now + ahead)
            asked = ask & later[:, None]  # (L, D)
            if asked.any():
                shown = observed & ((times <= now)[:, None] | (later[:, None] & planned))
                pieces.append((np.arange(rows.start, rows.stop), shown, asked))
                owners.append(b)
    return _examples(packed, pieces, np.asarray(owners, dtype=np.int64), np.asarray(ds["series"].values))


def _examples(
    packed: PackedSeries, pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]], owners: np.ndarray, ids: np.ndarray
) -> Examples:
    """Rows with something shown, and rows with something asked, of every piece, padded."""
    kept = [(rows[shown.any(axis=1)], shown[shown.any(axis=1)]) for rows, shown, _ in pieces]
    lengths = torch.tensor([len(rows) for rows, _ in kept], dtype=torch.int64)
    place = torch.from_numpy(np.concatenate([rows for rows, _ in kept]) if kept else np.empty(0, dtype=np.int64))
    flags = np.concatenate([shown for _, shown in kept]) if kept else np.empty((0, packed.values.shape[1]), dtype=bool)
    series = PackedSeries(
        values=packed.values[place],
        times=packed.times[place],
        observed=torch.from_numpy(flags),
        lengths=lengths,
        static=None if packed.static is None else packed.static[torch.from_numpy(owners)],
    )
    asked = [(rows[wanted.any(axis=1)], wanted[wanted.any(axis=1)]) for rows, _, wanted in pieces]
    width = max((len(rows) for rows, _ in asked), default=0)
    query_times = torch.full((len(pieces), width), torch.nan, dtype=torch.float64)
    targets = torch.full((len(pieces), width, packed.values.shape[1]), torch.nan, dtype=torch.float64)
    wanted = torch.zeros(targets.shape, dtype=torch.bool)
    for b, (rows, flag) in enumerate(asked):
        query_times[b, : len(rows)], targets[b, : len(rows)] = packed.times[rows], packed.values[rows]
        wanted[b, : len(rows)] = torch.from_numpy(flag)
    return Examples(series.to_series(), ids[owners], query_times=query_times, targets=targets, target_observed=wanted)


def time_since_last(examples: Examples, known: Sequence[bool]) -> Tensor:
    """The time from the last row in which a channel was observed that is not known in advance to each query, (B, Q)."""
    series = examples.series
    rows = (series.observed & ~torch.tensor(known, dtype=torch.bool)).any(dim=-1) & series.in_length  # (B, L)
    last = torch.where(rows, series.times, -torch.inf).amax(dim=1)  # (B,)
    return examples.query_times - last.unsqueeze(1)
