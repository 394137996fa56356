"""Fit, predict and evaluate any model of the contract; everything random is drawn from the seed, nothing leaks out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ctlssl.contract import Model, Prediction, Problem
from ctlssl.packed_calls import ABSENT
from ctlssl.packed_series import PackedSeries
from ctlssl.tasks import Examples
from ctlssl.training.batches import batches_by_length, modes_restored, own_randomness, run_model
from ctlssl.training.checkpoints import Checkpoints
from ctlssl.training.metrics import classification_metrics, regression_metrics, survival_metrics
from ctlssl.training.optimization import Training
from ctlssl.training.run import Batches, History, Measure, Run

__all__ = ["Progress", "evaluate", "fit", "predict", "score"]

Progress = Callable[[int, float, float], None]  # epoch from 1, its training loss, its validation loss


def fit(
    model: Model,
    train: Examples | Batches,
    valid: Examples | Measure | None = None,
    training: Training | None = None,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
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
        checkpoints: where the fit is kept while it runs. Where there are checkpoints already, it goes on from the
            newest one, with no difference in any bit of weights and losses. ``patience``, and at a constant learning
            rate ``epochs``, may then be others than before; nothing else may.

    Raises:
        TypeError: what is no model of the contract, no examples, or no settings.
        ValueError: a part without a series, or without what the problem needs; packed series that are to be learned
            in chunks; checkpoints of another fit, or for data that is made anew in each epoch.
        Interrupted: the fit was asked to stop by ``checkpoints.stop()``.
        OSError: a checkpoint cannot be written; those before are whole.
        FloatingPointError: a loss or a gradient that is not finite, naming the epoch, the step and the series. The
            model then holds the best weights met before.
    """
    training = Training() if training is None else training
    _check_kinds("fit", model, train=train, valid=valid, training=training)
    for name, part in {"training": train, "validation": valid}.items():
        if isinstance(part, Examples):
            _check(model, part, name)
            if training.chunk is not None and isinstance(part.series, PackedSeries):
                raise ValueError(
                    f"chunk={training.chunk} cuts a TimeSeries, but in the {name} part is found PackedSeries; pass its "
                    "to_series(), or train it whole with chunk=None."
                )
    if checkpoints is not None and (callable(train) or callable(valid)):
        raise ValueError("checkpoints are kept of fits to Examples; a function that makes data has a past of its own")
    run = Run(model, training, checkpoints)
    with own_randomness(run.device, training.seed), modes_restored(model):
        try:
            if checkpoints is not None:
                run.resume(train, valid)
            while not run.finished:
                run.train(train)
                with run.averaged():
                    loss = math.nan if valid is None else run.validate(valid)
                    if progress is not None:
                        progress(run.epoch, run.past.train_loss[-1], loss)
                run.keep()
        finally:
            run.restore_best()
    return run.history()


def predict(
    model: Model, examples: Examples, batch_size: int = 64, chunk: int | None = None, rate: float | Tensor = 1.0
) -> Prediction:
    """What the model answers for every series, in the order of the examples, in evaluation mode and without gradients.

    Args:
        model: its mode is left as it was found.
        examples: B series, with query times (B, Q) where the problem asks at them.
        batch_size: series in a batch; it changes speed and memory only.
        chunk: rows of a series that are in memory at a time, of a model that keeps a state; None for all.
        rate: a number, or one a series (B,), that multiplies every elapsed time.

    Returns:
        a prediction of B rows without a state; a query that is absent has logits, mean and quantiles 0 and scale 1.
    """
    _check_kinds("predict", model, examples=examples)
    rows: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {}
    width = 0 if examples.query_times is None else examples.query_times.shape[1]
    per_series = isinstance(rate, Tensor) and rate.dim() > 0
    if per_series and rate.shape != (len(examples),):
        raise ValueError(f"rate has shape {tuple(rate.shape)}; give a number or one a series, ({len(examples)},).")
    with modes_restored(model), torch.no_grad():
        model.eval()
        for index, batch in batches_by_length(model, examples, batch_size):
            prediction = run_model(model, batch, chunk, rate[index] if per_series else rate)
            rows.append(index)
            for name, filler in ABSENT.items():
                answer = getattr(prediction, name)
                if answer is not None:
                    if model.problem.asks_queries:
                        answer = _widen(answer, width, filler)  # (b, Q, ...)
                    parts.setdefault(name, []).append(answer)
    if not rows:
        raise ValueError("There is no series to predict for.")
    back = torch.argsort(torch.cat(rows))  # (B,)
    return Prediction(**{name: torch.cat(answers)[back.to(answers[0].device)] for name, answers in parts.items()})


def evaluate(
    model: Model, examples: Examples, batch_size: int = 64, chunk: int | None = None, rate: float | Tensor = 1.0
) -> dict[str, float]:
    """The metrics of a model on a part of the data.

    Args:
        model: its mode is left as it was found.
        examples: with labels, or with targets and their times.
        batch_size: series in a batch; it changes speed and memory only.
        chunk: rows of a series that are in memory at a time, of a model that keeps a state; None for all.
        rate: a number, or one a series (B,), that multiplies every elapsed time.

    Returns:
        auroc, auprc, log_loss, accuracy and macro_f1 for classification and, pooled over the labels, for labelling;
        rmse and mae, pooled over the observed targets and in the units of the examples, for regression and forecasting;
        concordance and log_loss for survival.

    Raises:
        TypeError: what is no model of the contract, or no examples.
        ValueError: no series, or no labels or targets.
        FloatingPointError: predictions that are not finite.
    """
    _check_kinds("evaluate", model, examples=examples)
    _check(model, examples, "evaluated")
    return score(model.problem.kind, predict(model, examples, batch_size, chunk, rate), examples)


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


def _classification_scores(prediction: Prediction, examples: Examples) -> dict[str, float]:
    probabilities = torch.softmax(prediction.logits.double(), dim=1)  # (B, K)
    return classification_metrics(examples.labels.cpu().numpy(), probabilities.cpu().numpy())


def _regression_scores(prediction: Prediction, examples: Examples) -> dict[str, float]:
    observed = ~torch.isnan(examples.labels)  # (B, T)
    return _pooled_scores(prediction.mean, examples.labels, observed)


def _forecasting_scores(prediction: Prediction, examples: Examples) -> dict[str, float]:
    return _pooled_scores(prediction.mean, examples.targets, examples.target_observed)


def _survival_scores(prediction: Prediction, examples: Examples) -> dict[str, float]:
    return survival_metrics(examples.labels.cpu().numpy(), prediction.logits.double().cpu().numpy())


def _labelling_scores(prediction: Prediction, examples: Examples) -> dict[str, float]:
    known = examples.targets.cpu() >= 0  # (B, Q)
    probabilities = torch.softmax(prediction.logits.cpu()[known].double(), dim=1)  # (labels, K)
    return classification_metrics(examples.targets.cpu()[known].numpy(), probabilities.numpy())


def _pooled_scores(mean: Tensor, targets: Tensor, observed: Tensor) -> dict[str, float]:
    chosen = observed.cpu()
    return regression_metrics(targets.cpu()[chosen].double().numpy(), mean.cpu()[chosen].double().numpy())


_METRICS = {
    "classification": _classification_scores,
    "regression": _regression_scores,
    "forecasting": _forecasting_scores,
    "survival": _survival_scores,
    "labelling": _labelling_scores,
}


def _check_kinds(call: str, model: object, **parts: object) -> None:
    """Refuse arguments that are something else, or stand in another's place."""
    if not isinstance(getattr(model, "problem", None), Problem):
        raise TypeError(
            f"{call} takes a ctlssl.Model first, which has a problem and answers with a Prediction; found "
            f"{type(model).__name__}."
        )
    for name, part in parts.items():
        kinds = Training if name == "training" else Examples
        if isinstance(part, kinds) or (name == "valid" and part is None) or (call == "fit" and callable(part)):
            continue
        remedy = "give it as training=..." if isinstance(part, Training) else "prepare(task) and Examples make them"
        raise TypeError(f"{name} of {call} is {kinds.__name__}, found {type(part).__name__}; {remedy}.")


def _check(model: Model, examples: Examples, part: str) -> None:
    if not len(examples):
        raise ValueError(f"The {part} part has no series.")
    needs = ("query_times", "targets") if model.problem.asks_queries else ("labels",)
    missing = [name for name in needs if getattr(examples, name) is None]
    if missing:
        raise ValueError(f"The {part} part has no {' and no '.join(missing)}, which {model.problem.kind} needs.")


def _widen(answer: Tensor, width: int, filler: float) -> Tensor:
    absent = answer.new_full((answer.shape[0], width - answer.shape[1], *answer.shape[2:]), filler)
    return torch.cat([answer, absent], dim=1)  # (B, Q, ...)
