"""One fit in several processes: each batch is divided among them, and every step is the step of one process.

The gradient of a batch is a sum over its targets divided by their number, so the sums of the processes are added and
divided by the count of all: no record is dropped, repeated or weighted otherwise, whatever their lengths. What
`DistributedDataParallel` does instead, a mean of the means of the processes, is another loss on ragged data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ctlssl.examples import Examples
from ctlssl.series import TimeSeries

__all__ = ["Processes", "joined", "own_rows", "present"]


@dataclass(frozen=True)
class Processes:
    """The processes of a fit, as one of them sees them.

    Args:
        rank: of this one, from 0.
        count: of them all.
    """

    rank: int = 0
    count: int = 1

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def rows(self, batch: int) -> Tensor:
        """The positions in a batch that are this one's: every count-th, so that like lengths are dealt out evenly."""
        return torch.arange(batch)[self.rank :: self.count]

    def added(self, *numbers: float) -> list[float]:
        """The sums of numbers over all processes."""
        if not self.several:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=_device())
        distributed.all_reduce(total)
        return total.tolist()

    def add_gradients(self, model: nn.Module, count: float, whole: float) -> None:
        """Make of gradients of the means over the targets of each process those of the mean over all targets.

        Args:
            model: whose gradients are changed; a parameter without one counts 0.
            count: targets of this process.
            whole: targets of all.
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        share = max(count, 1.0) / max(whole, 1.0)
        held = [torch.zeros_like(part) if part.grad is None else part.grad * share for part in parameters]
        flat = torch.cat([part.reshape(-1) for part in held]).to(_device())
        distributed.all_reduce(flat)
        for part, gradient in zip(parameters, flat.split([part.numel() for part in parameters]), strict=True):
            part.grad = gradient.view_as(part).to(part.device, part.dtype)


def present() -> Processes:
    """The processes of the group that this one has joined; one alone where it has joined none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that `torchrun` started beside this one, until the end; nothing where it is alone.

    Raises:
        RuntimeError: the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or present().several:
        yield present()
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield present()
    finally:
        distributed.destroy_process_group()


@contextmanager
def own_rows(batch: Examples, processes: Processes) -> Iterator[Examples]:
    """The part of a batch that is this process's, inside of which dropout draws for the whole batch and keeps its rows.

    So every record has the random numbers that it has in one process, and all processes go on with the same generator.
    The padding is that of the whole batch. A process for which there is no row reads the first one at a weight of 0:
    it has to draw as the others do. (Packed series, and what a model draws otherwise, are drawn in each process by
    itself.)

    Args:
        batch: the whole of it.
        processes: among which it is divided.
    """
    if not processes.several:
        yield batch
        return
    rows = processes.rows(len(batch))
    if not len(rows):
        rows, batch = torch.zeros(1, dtype=torch.int64), replace(batch, weights=torch.zeros(len(batch)))
    with _DropoutOfAll(len(batch), rows):
        yield _rows(batch, rows)


def _rows(batch: Examples, rows: Tensor) -> Examples:
    """Some rows of a batch, with its padding."""
    if not isinstance(batch.series, TimeSeries):
        return batch.select(rows)
    names = ("labels", "query_times", "targets", "target_observed", "weights")
    parts = {name: part[rows.to(part.device)] for name in names if (part := getattr(batch, name)) is not None}
    series = batch.series
    tensors = (series.values, series.times, series.observed, series.lengths, series.static)
    own = TimeSeries(*(None if part is None else part[rows.to(part.device)] for part in tensors))
    return replace(batch, series=own, ids=batch.ids[rows.numpy()], part=None, **parts)


class _DropoutOfAll(TorchFunctionMode):
    """Draws the dropout of some rows of a batch as that of the batch."""

    def __init__(self, batch: int, rows: Tensor) -> None:
        super().__init__()
        self.batch, self.rows = batch, rows

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.dropout:
            return func(*args, **kwargs)
        return self._dropout(*args, **kwargs)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0 or len(input) != len(self.rows):
            return functional.dropout(input, p, training, inplace)
        whole = functional.dropout(input.new_ones(self.batch, *input.shape[1:]), p)  # 0 or 1 / (1 - p)
        return input * whole[self.rows.to(input.device)]


def _device() -> torch.device:
    """Where what is sent must lie."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
