"""Fit, predict and evaluate any model of the contract; everything random is drawn from the seed, nothing leaks out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ctlssl.contract import Model, Prediction
from ctlssl.packed_series import PackedSeries
from ctlssl.tasks import Examples
from ctlssl.training.chunks import Pieces, backward_in_chunks, predict_in_chunks, terms_in_chunks
from ctlssl.training.losses import LOSSES, Terms, mean_loss
from ctlssl.training.metrics import classification_metrics, regression_metrics
from ctlssl.training.optimization import Training, parameter_groups

__all__ = [
    "Batches",
    "History",
    "Measure",
    "Progress",
    "evaluate",
    "fit",
    "own_randomness",
    "predict",
    "score",
    "shuffled",
]

Progress = Callable[[int, float, float], None]  # epoch from 1, its training loss, its validation loss
Batches = Callable[[int], Iterable[Examples]]  # epoch from 0 -> its batches, for data that is made anew in each
Measure = Callable[[int], float]  # epoch from 0 -> the loss of the model after it

_POOL = 4  # batches shuffled together before they are sorted by length: little padding, and no two epochs alike


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


def fit(
    model: Model,
    train: Examples | Batches,
    valid: Examples | Measure | None = None,
    training: Training | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a model in place with AdamW, and leave it with its best weights.

    The same seed, weights and data give the same bits on one machine with one number of threads. The global random
    state and the training / evaluation mode of every module are left as they were found.

    Args:
        model: its device decides where the batches go.
        train: training part; or a function that gives the batches of an epoch (from 0), for data that is made anew in
            each.
        valid: validation part, for early stopping; or a function that measures a loss of the model after an epoch;
            None runs all epochs and keeps the last weights.
        training: how; None is ``Training()``.
        progress: called after every epoch with its number (from 1), its training loss and its validation loss
            (NaN without a validation part).

    Raises:
        ValueError: a part without a series, or without what the problem needs; packed series that are to be learned
            in chunks.
        FloatingPointError: a loss or a gradient that is not finite, naming the epoch, the step and the series. The
            model then holds the best weights met before.
    """
    training = Training() if training is None else training
    for name, part in {"training": train, "validation": valid}.items():
        if isinstance(part, Examples):
            _check(model, part, name)
            if training.chunk is not None and isinstance(part.series, PackedSeries):
                raise ValueError(
                    f"chunk={training.chunk} cuts a TimeSeries, but in the {name} part is found PackedSeries; pass its "
                    "to_series(), or train it whole with chunk=None."
                )
    run = _Run(model, training)
    with own_randomness(run.device, training.seed), _modes_restored(model):
        try:
            for epoch in range(training.epochs):
                run.train(train, epoch)
                loss = math.nan if valid is None else run.validate(valid, epoch)
                if progress is not None:
                    progress(epoch + 1, run.train_loss[-1], loss)
                if valid is not None and epoch - run.best_epoch >= training.patience:
                    break
        finally:
            run.restore_best()
    return run.history()


def predict(model: Model, examples: Examples, batch_size: int = 64, chunk: int | None = None) -> Prediction:
    """What the model answers for every series, in the order of the examples, in evaluation mode and without gradients.

    Args:
        model: its mode is left as it was found.
        examples: B series, with query times (B, Q) where the problem is forecasting.
        batch_size: series in a batch; it changes speed and memory only.
        chunk: rows of a series that are in memory at a time, of a model that keeps a state; None for all.

    Returns:
        a prediction of B rows without a state; a query that is absent has mean 0 and scale 1.
    """
    rows: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {}
    width = 0 if examples.query_times is None else examples.query_times.shape[1]
    with _modes_restored(model), torch.no_grad():
        model.eval()
        for index, batch in _batches(model, examples, batch_size):
            prediction = _answer(model, batch, chunk)
            rows.append(index)
            for name, filler in _FILLERS.items():
                answer = getattr(prediction, name)
                if answer is not None:
                    if model.problem.kind == "forecasting":
                        answer = _widen(answer, width, filler)  # (b, Q, ...)
                    parts.setdefault(name, []).append(answer)
    if not rows:
        raise ValueError("There is no series to predict for.")
    back = torch.argsort(torch.cat(rows))  # (B,)
    return Prediction(**{name: torch.cat(answers)[back.to(answers[0].device)] for name, answers in parts.items()})


def evaluate(model: Model, examples: Examples, batch_size: int = 64, chunk: int | None = None) -> dict[str, float]:
    """The metrics of a model on a part of the data.

    Args:
        model: its mode is left as it was found.
        examples: with labels, or with targets and their times.
        batch_size: series in a batch; it changes speed and memory only.
        chunk: rows of a series that are in memory at a time, of a model that keeps a state; None for all.

    Returns:
        auroc, auprc, log_loss and accuracy for classification; rmse and mae, pooled over the observed targets and in
        the units of the examples, for regression and forecasting.

    Raises:
        ValueError: no series, or no labels or targets.
        FloatingPointError: predictions that are not finite.
    """
    _check(model, examples, "evaluated")
    return score(model.problem.kind, predict(model, examples, batch_size, chunk), examples)


def score(kind: str, prediction: Prediction, examples: Examples) -> dict[str, float]:
    """The metrics of a prediction, as `evaluate` reports them.

    Args:
        kind: of the problem.
        prediction: B rows, for the examples in their order.
        examples: with labels, or with targets and their times.

    Raises:
        ValueError: there is nothing to score.
        FloatingPointError: predictions that are not finite.
    """
    return _METRICS[kind](prediction, examples)


@dataclass(eq=False)
class _Run:
    """A fit under way: what its epochs share."""

    model: Model
    training: Training
    train_loss: list[float] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    evaluations: int = 0
    best_epoch: int = 0
    best_weights: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.device = _device(self.model)
        self.loss = LOSSES[self.model.problem.kind]
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.training))
        self.order = torch.Generator().manual_seed(self.training.seed)

    def train(self, part: Examples | Batches, epoch: int) -> None:
        """One pass over the training part."""
        given = self.in_order(part) if isinstance(part, Examples) else part(epoch)
        self.model.train()
        evaluations, clock = self.model.evaluations, time.perf_counter()
        total = count = 0.0
        for step, batch in enumerate(_on(batch, self.device) for batch in given):
            self.optimizer.zero_grad(set_to_none=True)
            terms = self.learn(batch, f"epoch {epoch + 1}, step {step + 1}")
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
            _check_gradient(norm, batch, f"epoch {epoch + 1}, step {step + 1}", self.training)
            self.optimizer.step()
            total += float(terms.total.detach().sum())
            count += float(terms.count.sum())
        self.seconds.append(time.perf_counter() - clock)
        self.evaluations += self.model.evaluations - evaluations
        self.train_loss.append(total / count if count else math.nan)

    def in_order(self, examples: Examples) -> Iterator[Examples]:
        """The batches of an epoch."""
        for index in shuffled(examples.series.lengths.cpu(), self.training.batch_size, self.order):
            yield examples.select(index)

    def learn(self, batch: Examples, where: str) -> Terms:
        """The terms of the loss, whose gradients the parameters then have."""
        if self.in_chunks(batch):
            terms = backward_in_chunks(self.model, Pieces(batch, self.training.chunk), self.training.chunk_gradient)
            _check_finite(terms, batch, where, self.training)
            return terms
        terms = self.loss(_answer(self.model, batch), batch)
        _check_finite(terms, batch, where, self.training)
        mean_loss(terms).backward()
        return terms

    def terms(self, batch: Examples) -> Terms:
        """The terms of the loss alone."""
        if self.in_chunks(batch):
            return terms_in_chunks(self.model, Pieces(batch, self.training.chunk))
        return self.loss(_answer(self.model, batch), batch)

    def in_chunks(self, batch: Examples) -> bool:
        """Whether the series of a batch are longer than a chunk."""
        chunk = self.training.chunk
        return chunk is not None and bool((batch.series.lengths > chunk).any())

    def validate(self, part: Examples | Measure, epoch: int) -> float:
        """The loss of the validation part; keeps the weights where it is the best so far."""
        self.valid_loss.append(self.measure(part, epoch) if isinstance(part, Examples) else part(epoch))
        if self.best_weights is None or self.valid_loss[-1] < self.valid_loss[self.best_epoch]:
            self.best_epoch = epoch
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return self.valid_loss[-1]

    def measure(self, examples: Examples, epoch: int) -> float:
        """The mean loss over all targets of the validation part."""
        total = count = 0.0
        with _modes_restored(self.model), torch.no_grad():
            self.model.eval()
            for _, batch in _batches(self.model, examples, self.training.batch_size):
                terms = self.terms(batch)
                _check_finite(terms, batch, f"validation after epoch {epoch + 1}", self.training)
                total += float(terms.total.sum())
                count += float(terms.count.sum())
        return total / max(count, 1.0)

    def restore_best(self) -> None:
        """Back to the weights of the best epoch; without a validation part the last ones stay."""
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)

    def history(self) -> History:
        """What happened."""
        epochs = len(self.train_loss)
        best = self.best_epoch if self.valid_loss else epochs - 1
        lists = (tuple(self.train_loss), tuple(self.valid_loss), tuple(self.seconds))
        return History(*lists, best_epoch=best, evaluations_per_epoch=self.evaluations / epochs)


def _classification_scores(prediction: Prediction, examples: Examples) -> dict[str, float]:
    probabilities = torch.softmax(prediction.logits.double(), dim=1)  # (B, K)
    return classification_metrics(examples.labels.cpu().numpy(), probabilities.cpu().numpy())


def _regression_scores(prediction: Prediction, examples: Examples) -> dict[str, float]:
    observed = ~torch.isnan(examples.labels)  # (B, T)
    return _pooled_scores(prediction.mean, examples.labels, observed)


def _forecasting_scores(prediction: Prediction, examples: Examples) -> dict[str, float]:
    return _pooled_scores(prediction.mean, examples.targets, examples.target_observed)


def _pooled_scores(mean: Tensor, targets: Tensor, observed: Tensor) -> dict[str, float]:
    chosen = observed.cpu()
    return regression_metrics(targets.cpu()[chosen].double().numpy(), mean.cpu()[chosen].double().numpy())


_METRICS = {
    "classification": _classification_scores,
    "regression": _regression_scores,
    "forecasting": _forecasting_scores,
}
_NEEDS = {"classification": ("labels",), "regression": ("labels",), "forecasting": ("query_times", "targets")}
_FILLERS = {"logits": 0.0, "mean": 0.0, "scale": 1.0, "quantiles": 0.0}  # what an absent query is answered with


def _check(model: Model, examples: Examples, part: str) -> None:
    if not len(examples):
        raise ValueError(f"The {part} part has no series.")
    missing = [name for name in _NEEDS[model.problem.kind] if getattr(examples, name) is None]
    if missing:
        raise ValueError(f"The {part} part has no {' and no '.join(missing)}, which {model.problem.kind} needs.")


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


def _batches(model: Model, examples: Examples, batch_size: int) -> Iterator[tuple[Tensor, Examples]]:
    """Positions and examples of one batch after the other, by length."""
    for index in torch.argsort(examples.series.lengths.cpu(), stable=True).split(batch_size):
        if len(index):
            yield index, _on(examples.select(index), _device(model))


def _answer(model: Model, batch: Examples, chunk: int | None = None) -> Prediction:
    if chunk is not None:
        return predict_in_chunks(model, Pieces(batch, chunk))
    run = model.packed if isinstance(batch.series, PackedSeries) else model
    return run(batch.series, query_times=batch.query_times)


def _widen(answer: Tensor, width: int, filler: float) -> Tensor:
    absent = answer.new_full((answer.shape[0], width - answer.shape[1], *answer.shape[2:]), filler)
    return torch.cat([answer, absent], dim=1)  # (B, Q, ...)


def _on(examples: Examples, device: torch.device) -> Examples:
    names = ("labels", "query_times", "targets", "target_observed")
    parts = {name: getattr(examples, name) for name in names}
    moved = {name: part if part is None else part.to(device) for name, part in parts.items()}
    return replace(examples, series=examples.series.to(device), **moved)


def _device(model: nn.Module) -> torch.device:
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
def _modes_restored(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
