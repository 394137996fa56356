"""A fit under way: what its epochs share, what of it is kept in a checkpoint, and how it goes on from one."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from ctlssl.contract import Model
from ctlssl.sealed import structure_of
from ctlssl.tasks import Examples
from ctlssl.training.averaging import WeightAverage
from ctlssl.training.batches import batches_by_length, device_of, modes_restored, on_device, run_model, shuffled
from ctlssl.training.checkpoints import Checkpoint, Checkpoints, Interrupted
from ctlssl.training.chunks import Pieces, backward_in_chunks, terms_in_chunks
from ctlssl.training.losses import Terms, loss_of, mean_loss
from ctlssl.training.optimization import SCHEDULES, Training, parameter_groups
from ctlssl.training.processes import own_rows, present
from ctlssl.training.thinning import thinned

__all__ = ["Batches", "History", "Measure", "Run"]

Batches = Callable[[int], Iterable[Examples]]  # epoch from 0 -> its batches, for data that is made anew in each
Measure = Callable[[int], float]  # epoch from 0 -> the loss of the model after it

_CHANGEABLE = (
    "epochs",
    "patience",
)  # of `Training`: they decide when a fit ends, and at a constant rate nothing before
_DIGESTED = 2**16  # rows, or series, whose digest is taken at a time


@dataclass(frozen=True)
class History:
    """What happened in a fit, one number an epoch.

    Args:
        train_loss: mean loss over the targets of the training part, as it was met batch by batch; NaN without any.
        valid_loss: mean loss over the targets of the validation part after the epoch; empty without such a part.
        seconds: of the pass over the training part, validation not counted.
        best_epoch: position in these lists of the epoch whose weights the model holds now.
        evaluations_per_epoch: mean number of solver evaluations in a training pass; 0 for a model without a solver.
    """

    train_loss: tuple[float, ...]
    valid_loss: tuple[float, ...]
    seconds: tuple[float, ...]
    best_epoch: int
    evaluations_per_epoch: float


@dataclass
class Progressed:
    """What the epochs of a fit left behind, and how far the present one is; every field is a plain JSON value.

    Args:
        train_loss: of every epoch that is done.
        valid_loss: likewise.
        seconds: likewise.
        evaluations: of a solver, in all training passes.
        best_epoch: from 0.
        step: batches of the present epoch that are done.
        total: sum of the losses of these.
        count: targets of these.
        elapsed: seconds that they took.
        updates: steps of the optimizer in all epochs.
    """

    train_loss: list[float] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    evaluations: int = 0
    best_epoch: int = 0
    step: int = 0
    total: float = 0.0
    count: float = 0.0
    elapsed: float = 0.0
    updates: int = 0


class Run:
    """A fit under way.

    Args:
        model: trained in place.
        training: how.
        checkpoints: where it is kept, or None.
    """

    def __init__(self, model: Model, training: Training, checkpoints: Checkpoints | None = None) -> None:
        self.model, self.training, self.checkpoints = model, training, checkpoints
        self.past = Progressed()
        self.best_weights: dict[str, Tensor] | None = None
        self.device = device_of(model)
        self.loss = loss_of(model.problem)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, training))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = WeightAverage(model, training.average) if training.average else None
        self.order = torch.Generator().manual_seed(training.seed)
        self.order_at_start = self.order.get_state()
        self.steps = 1  # of an epoch, where it is known
        self.processes = present()
        self.stopping = False  # of several processes: after this step, all of them
        self.identity: dict[str, object] = {}

    @property
    def epoch(self) -> int:
        """The present epoch, from 0."""
        return len(self.past.train_loss)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or no better validation loss was met for too long."""
        waited = self.epoch - 1 - self.past.best_epoch if self.past.valid_loss else 0
        return self.epoch >= self.training.epochs or waited >= self.training.patience

    def resume(self, train: Examples, valid: Examples | None) -> None:
        """Go on from the newest checkpoint, if there is one.

        Raises:
            ValueError: a checkpoint of another model, other data or another training, or none that is sound.
        """
        self.identity = _identity(self.model, self.training, train, valid)
        checkpoint = self.checkpoints.newest()
        if checkpoint is not None:
            self._check_identity(checkpoint.about)
            self._restore(checkpoint)

    def train(self, part: Examples | Batches) -> None:
        """What is left of a pass over the training part."""
        past, began = self.past, time.perf_counter()
        if not past.step:
            self.order_at_start = self.order.get_state()
        given = self.in_order(part) if isinstance(part, Examples) else part(self.epoch)
        self.model.train()
        for batch in (on_device(batch, self.device) for batch in given):
            evaluations = self.model.evaluations
            self.step(batch, f"epoch {self.epoch + 1}, step {past.step + 1}")
            past.step += 1
            past.evaluations += self.model.evaluations - evaluations
            if self.checkpoints is not None and (self.checkpoints.due() or self.stopping):
                past.elapsed, began = past.elapsed + time.perf_counter() - began, time.perf_counter()
                self.keep()
        past.seconds.append(past.elapsed + time.perf_counter() - began)
        past.train_loss.append(past.total / past.count if past.count else math.nan)
        past.step, past.total, past.count, past.elapsed = 0, 0.0, 0.0, 0.0

    def in_order(self, examples: Examples) -> Iterator[Examples]:
        """The batches of an epoch that are not done."""
        batches = shuffled(examples.series.lengths.cpu(), self.training.batch_size, self.order)
        self.steps = len(batches)
        for index in islice(batches, self.past.step, None):
            yield examples.select(index)

    def step(self, batch: Examples, where: str) -> None:
        """Learn from one batch."""
        done = min((self.epoch + min(self.past.step / self.steps, 1.0)) / self.training.epochs, 1.0)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * SCHEDULES[self.training.schedule](done)
        self.optimizer.zero_grad(set_to_none=True)
        # by the number of the step and not from a state, so that it is the same in a fit that goes on
        batch = thinned(batch, self.training.thin, np.random.default_rng([self.training.seed, self.past.updates]))
        with own_rows(batch, self.processes) as own:
            terms = self.learn(own, where)
        total, count = self.together(terms)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        _check_gradient(norm, batch, where, self.training)
        self.optimizer.step()
        self.past.updates += 1
        if self.average is not None:
            self.average.update(self.model, self.past.updates)
        self.past.total += total
        self.past.count += count

    def together(self, terms: Terms) -> tuple[float, float]:
        """The sum and the count of the terms of all processes, which then have the gradients of their mean."""
        total, count = float(terms.total.detach().sum()), float(terms.count.sum())
        if not self.processes.several:
            return total, count
        stopped = self.checkpoints is not None and self.checkpoints.stop_requested
        total, whole, stops = self.processes.added(total, count, float(stopped))
        self.processes.add_gradients(self.model, count, whole)
        self.stopping = stops > 0
        return total, whole

    def learn(self, batch: Examples, where: str) -> Terms:
        """The terms of the loss, whose gradients the parameters then have."""
        if self.in_chunks(batch):
            terms = backward_in_chunks(self.model, Pieces(batch, self.training.chunk), self.training.chunk_gradient)
            _check_finite(terms, batch, where, self.training)
            return terms
        terms = self.loss(run_model(self.model, batch), batch)
        _check_finite(terms, batch, where, self.training)
        mean_loss(terms).backward()
        return terms

    def terms(self, batch: Examples) -> Terms:
        """The terms of the loss alone."""
        if self.in_chunks(batch):
            return terms_in_chunks(self.model, Pieces(batch, self.training.chunk))
        return self.loss(run_model(self.model, batch), batch)

    def in_chunks(self, batch: Examples) -> bool:
        """Whether the series of a batch are longer than a chunk."""
        chunk = self.training.chunk
        return chunk is not None and bool((batch.series.lengths > chunk).any())

    def averaged(self) -> AbstractContextManager[None]:
        """The model has the weights that are validated and kept: their mean over the steps where one is asked for."""
        return nullcontext() if self.average is None else self.average.in_place(self.model)

    def validate(self, part: Examples | Measure) -> float:
        """The loss of the validation part; keeps the weights where it is the best so far."""
        past, epoch = self.past, self.epoch - 1
        past.valid_loss.append(self.measure(part, epoch) if isinstance(part, Examples) else part(epoch))
        if self.best_weights is None or past.valid_loss[-1] < past.valid_loss[past.best_epoch]:
            past.best_epoch = epoch
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return past.valid_loss[-1]

    def measure(self, examples: Examples, epoch: int) -> float:
        """The mean loss over all targets of the validation part."""
        total = count = 0.0
        with modes_restored(self.model), torch.no_grad():
            self.model.eval()
            batches = batches_by_length(self.model, examples, self.training.batch_size)
            for _, batch in islice(batches, self.processes.rank, None, self.processes.count):
                terms = self.terms(batch)
                _check_finite(terms, batch, f"validation after epoch {epoch + 1}", self.training)
                total += float(terms.total.sum())
                count += float(terms.count.sum())
        total, count = self.processes.added(total, count)
        return total / max(count, 1.0)

    def restore_best(self) -> None:
        """Back to the weights of the best epoch; without a validation part the last ones, or their mean, stay."""
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        elif self.average is not None:
            self.model.load_state_dict(self.average.weights)

    def history(self) -> History:
        """What happened."""
        past = self.past
        best = past.best_epoch if past.valid_loss else self.epoch - 1
        lists = (tuple(past.train_loss), tuple(past.valid_loss), tuple(past.seconds))
        return History(*lists, best_epoch=best, evaluations_per_epoch=past.evaluations / self.epoch)

    def keep(self) -> None:
        """Write a checkpoint.

        Raises:
            Interrupted: the fit was asked to stop, and is not finished.
        """
        if self.checkpoints is None:
            return
        if self.checkpoints.writes:
            self.checkpoints.write(Checkpoint(self._tensors(), {"identity": self.identity, "past": asdict(self.past)}))
        stopped = self.stopping if self.processes.several else self.checkpoints.stop_requested
        if stopped and not self.finished:
            raise Interrupted(f"stopped in epoch {self.epoch + 1} after step {self.past.step}")

    def _tensors(self) -> dict[str, Tensor]:
        order = self.order_at_start if self.past.step else self.order.get_state()
        tensors = {"random.default": torch.default_generator.get_state(), "random.order": order}
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        average = {} if self.average is None else self.average.weights
        parts = {"model": self.model.state_dict(), "best": self.best_weights or {}, "average": average}
        for part, weights in parts.items():
            tensors |= {f"{part}.{name}": tensor for name, tensor in weights.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        return tensors

    def _restore(self, checkpoint: Checkpoint) -> None:
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("model", "best", "average", "optimizer", "random")}
        for name, tensor in checkpoint.tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = tensor
        self.past = Progressed(**checkpoint.about["past"])
        self.model.load_state_dict(parts["model"])
        self.best_weights = {name: part.to(self.device) for name, part in parts["best"].items()} or None
        if self.average is not None:
            self.average.load(parts["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.order.set_state(parts["random"]["order"])
        self.order_at_start = parts["random"]["order"]
        torch.default_generator.set_state(parts["random"]["default"])
        if self.device.type == "cuda" and "cuda" in parts["random"]:
            torch.cuda.set_rng_state(parts["random"]["cuda"], self.device)

    def _check_identity(self, about: dict) -> None:
        # what an earlier version did not write, it did as the default does
        found = {f"training.{name}": value for name, value in Training().to_dict().items()} | about.get("identity", {})
        for name, here in self.identity.items():
            if found.get(name) != here:
                raise ValueError(
                    f"the checkpoints in {self.checkpoints.folder} are of a fit with {name} {found.get(name)!r}, this "
                    f"one has {here!r}; give this fit a folder of its own"
                )


def _identity(model: Model, training: Training, train: Examples, valid: Examples | None) -> dict[str, object]:
    """What must be the same where a fit goes on."""
    changeable = _CHANGEABLE if training.schedule == "constant" else ("patience",)
    settings = {f"training.{k}": v for k, v in training.to_dict().items() if k not in changeable}
    dropouts = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    data = {"training data": _digest(train), "validation data": None if valid is None else _digest(valid)}
    named = {"model": type(model).__name__, "problem": model.problem.to_dict(), "structure": structure_of(model)}
    return {**named, "dropout": dropouts, **settings, **data}


def _digest(examples: Examples) -> str:
    """A sum over everything that a fit reads of a part of the data."""
    total, series = hashlib.sha256(), examples.series
    parts = [series.values, series.times, series.observed, series.lengths, series.static]
    parts += [examples.labels, examples.query_times, examples.targets, examples.target_observed, examples.weights]
    for part in parts:
        if part is None:
            total.update(b"none;")
            continue
        total.update(f"{part.dtype} {tuple(part.shape)};".encode())
        for rows in part.detach().split(_DIGESTED):  # series that lie on disk are not all read into memory
            rows = rows.nan_to_num() if part is series.values else rows
            total.update(rows.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()[:16]


def _check_finite(terms: Terms, batch: Examples, where: str, training: Training) -> None:
    sound = torch.isfinite(terms.total.detach()).cpu()  # (B,)
    if not bool(sound.all()):
        ids = [str(name) for name, fine in zip(batch.ids, sound.tolist(), strict=True) if not fine]
        raise FloatingPointError(f"{where}: the loss is not finite for series {_named(ids)}; {_remedy(training)}")


def _check_gradient(norm: Tensor, batch: Examples, where: str, training: Training) -> None:
    if not bool(torch.isfinite(norm)):
        ids = [str(name) for name in batch.ids]
        raise FloatingPointError(f"{where}: the gradient is not finite with series {_named(ids)}; {_remedy(training)}")


def _named(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _remedy(training: Training) -> str:
    return f"lower learning_rate (now {training.learning_rate:g}), or look at the values of these series."
