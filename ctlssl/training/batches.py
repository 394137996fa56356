"""Examples in batches of like length, on the device of the model, in a mode and a random state that are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ctlssl.contract import Model, Prediction
from ctlssl.packed_series import PackedSeries
from ctlssl.tasks import Examples
from ctlssl.training.chunks import Pieces, predict_in_chunks

__all__ = ["batches_by_length", "device_of", "modes_restored", "on_device", "own_randomness", "run_model", "shuffled"]

_POOL = 4  # batches shuffled together before they are sorted by length: little padding, and no two epochs alike


def shuffled(lengths: Tensor, batch_size: int, order: torch.Generator) -> list[Tensor]:
    """Positions of series in batches of like length, in an order that the generator draws.

    Args:
        lengths: (B,) rows of each series, on the CPU.
        batch_size: series in a batch.
        order: what draws.
    """
    batches: list[Tensor] = []
    for pool in torch.randperm(len(lengths), generator=order).split(_POOL * batch_size):
        by_length = pool[torch.argsort(lengths[pool], stable=True)]  # (pool,)
        batches += by_length.split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=order).tolist()]


def batches_by_length(model: Model, examples: Examples, batch_size: int) -> Iterator[tuple[Tensor, Examples]]:
    """Positions and examples of one batch after the other, by length."""
    for index in torch.argsort(examples.series.lengths.cpu(), stable=True).split(batch_size):
        if len(index):
            yield index, on_device(examples.select(index), device_of(model))


def run_model(model: Model, batch: Examples, chunk: int | None = None, rate: float | Tensor = 1.0) -> Prediction:
    """What a model answers for a batch, padded or packed, in pieces of `chunk` rows or whole."""
    if chunk is not None:
        return predict_in_chunks(model, Pieces(batch, chunk), rate)
    run = model.packed if isinstance(batch.series, PackedSeries) else model
    return run(batch.series, query_times=batch.query_times, rate=rate)


def on_device(examples: Examples, device: torch.device) -> Examples:
    """The same examples there."""
    names = ("labels", "query_times", "targets", "target_observed", "weights")
    parts = {name: getattr(examples, name) for name in names}
    moved = {name: part if part is None else part.to(device) for name, part in parts.items()}
    return replace(examples, series=examples.series.to(device), **moved)


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a model are."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Dropout and the like draw from the seed; the state of the global generators is put back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Put the training or evaluation mode of every module back."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
