"""What comes late, put where it belongs: a state from before the window, and the rows since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ctlssl.model_state import ModelState
from ctlssl.series import TimeSeries
from ctlssl.streaming.bank import Bank
from ctlssl.streaming.kept import FlatRows, KeptRows
from ctlssl.streaming.reader import Reader

__all__ = ["Replay"]


class Replay:
    """A state of each stream at a time before its window, and the rows since that time.

    Rows that have left the window are put away, into that state, now and then and many at a time: each row is read
    once more than without a window, and the memory is that of twice the rows in the windows at most.

    Args:
        reader: the model.
        window: in data time.
        base: the states from before the rows.
        kept: the rows.
    """

    def __init__(self, reader: Reader, window: float, base: Bank, kept: KeptRows) -> None:
        self._reader, self._window, self.base, self.kept = reader, window, base, kept

    @contextmanager
    def keeping(self, rows: FlatRows, last: Tensor) -> Iterator[None]:
        """Keep rows, unless what is done with them fails; `last` (B,) is the last time of each stream before them."""
        if len(self.kept) + len(rows) > self.kept.limit:
            self._put_away(last)
        before = len(self.kept)
        self.kept.append(rows)
        try:
            yield
        except BaseException:
            self.kept.truncate(before)
            raise

    def again(self, index: Tensor) -> tuple[Tensor, ModelState]:
        """Streams, in rising order, and their states after all rows that are kept of them."""
        return self._through(self._rows_of(index))

    def history(self, index: Tensor) -> tuple[ModelState, TimeSeries]:
        """The states (M,) before the window, and all rows since, of streams in rising order of which some are kept."""
        ((_, rows),) = self._rows_of(index).rounds(at_once=True)
        return self.base.at(index), rows

    def reset(self, index: Tensor, state: ModelState) -> None:
        """Start some streams anew."""
        self.base.write(index, state)
        self.kept.forget(self._flags(index)[self.kept.rows.series])

    def _put_away(self, last: Tensor) -> None:
        rows = self.kept.rows
        gone = rows.times < last[rows.series] - self._window  # (K,)
        if bool(gone.any()):
            self.base.write(*self._through(rows.at(gone)))
        self.kept.forget(gone)

    def _through(self, rows: FlatRows) -> tuple[Tensor, ModelState]:
        """The streams of some rows, and their states from before the window moved on by these rows."""
        streams = rows.streams()  # (M,)
        moving = Bank(self.base.at(streams))
        for position, batch in rows.rounds():
            after = self._reader.run(moving.at(position), streams[position], batch).state
            moving.write(position, after)
        return streams, moving.state

    def _rows_of(self, index: Tensor) -> FlatRows:
        rows = self.kept.rows
        return rows.at(self._flags(index)[rows.series])

    def _flags(self, index: Tensor) -> Tensor:
        flags = torch.zeros(self.base.state.batch, dtype=torch.bool, device=index.device)
        flags[index] = True
        return flags  # (B,)
