"""Pre-training on unlabelled series: a mixture of objectives, re-weighted by what is still being learned from each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ctlssl.contract import Model
from ctlssl.pretraining.mixture import Mixture
from ctlssl.pretraining.objectives import OBJECTIVES, Objective, ask
from ctlssl.pretraining.waiting import answering_waits
from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples
from ctlssl.training import History, Progress, Training, fit, predict
from ctlssl.training.batches import own_randomness, shuffled

__all__ = ["PretrainingReport", "PretrainingSettings", "pretrain"]


@dataclass(frozen=True)
class PretrainingSettings:
    """How to pre-train.

    Args:
        objectives: names in `OBJECTIVES`, or objectives of your own.
        training: epochs, batches and rates, and the seed of all that is drawn; an epoch is a pass over all series, each
            batch with an objective of its own. Its patience counts epochs in which the held-out loss did not fall.
        floor: least weight of an objective; 1 / K keeps the K weights equal. See `Mixture`.
        memory: of the progress; see `Mixture`.

    Raises:
        ValueError: an unknown objective, or a number that a mixture cannot have.

    Example:
        >>> PretrainingSettings(("forecasting", "copying"), floor=0.2).mixture().weights
        (0.5, 0.5)
    """

    objectives: tuple[str | Objective, ...] = tuple(OBJECTIVES)
    training: Training = field(default_factory=Training)
    floor: float = 0.05
    memory: float = 0.7

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        self.mixture()

    def mixture(self) -> Mixture:
        """The mixture before anything was measured."""
        return Mixture(tuple(objective.name for objective in self.chosen()), self.floor, self.memory)

    def chosen(self) -> tuple[Objective, ...]:
        """The objectives themselves."""
        for objective in self.objectives:
            if not isinstance(objective, Objective) and objective not in OBJECTIVES:
                raise ValueError(f"objective {objective!r} is unknown; choose from {', '.join(OBJECTIVES)}")
        return tuple(part if isinstance(part, Objective) else OBJECTIVES[part] for part in self.objectives)


@dataclass(frozen=True)
class PretrainingReport:
    """What happened in a pre-training of n epochs with K objectives.

    Args:
        objectives: their names, in the order of the columns below.
        losses: (n + 1, K) held-out losses, before the first epoch and after each: the mean squared error relative to
            that of the best constant answer to the same questions. 1 is nothing known, 0 is all.
        weights: (n, K) the mixture of each epoch.
        targets: (n, K) how many targets were learned from in each epoch.
        history: of the fit. Its validation loss is the mean of the held-out losses, and the model holds the weights
            after ``history.best_epoch``, whose losses are ``losses[history.best_epoch + 1]``.
    """

    objectives: tuple[str, ...]
    losses: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    history: History


def pretrain(
    model: Model,
    series: TimeSeries,
    valid: TimeSeries,
    settings: PretrainingSettings | None = None,
    progress: Progress | None = None,
) -> PretrainingReport:
    """Train a forecasting model in place on what series can be asked about themselves.

    Every batch gets an objective drawn from the mixture, and questions drawn anew; the loss is that of forecasting. The
    same questions are held out from first to last: after every epoch they say what was gained by which objective, which
    re-weights the mixture, and which weights to keep. A series too short for an objective is left out of its batches.
    The head for the time to the next event is made for the pre-training and discarded with it.

    Args:
        model: of a problem of kind "forecasting"; its device decides where the batches go.
        series: B series to learn from, in the units that the model is to read later.
        valid: series that are held out.
        settings: how; None is ``PretrainingSettings()``.
        progress: as in `ctlssl.fit`.

    Raises:
        TypeError: series that are not a `TimeSeries`.
        ValueError: a model that does not forecast, one that cannot be asked for waits, or an objective for which all
            series are too short.
        FloatingPointError: as in `ctlssl.fit`.

    References:
        Blouir, Smith, Anastasopoulos, Shehu (2024), Birdie, arXiv:2411.01030.

    Example:
        >>> from ctlssl import LSSLModel, Problem
        >>> times = torch.arange(8.0).expand(4, 8)
        >>> values = torch.sin(times).unsqueeze(-1)
        >>> series = TimeSeries(values, times, torch.ones(4, 8, 1, dtype=torch.bool), torch.full((4,), 8))
        >>> model = LSSLModel(Problem("forecasting", channels=1, outputs=1), width=4)
        >>> report = pretrain(model, series, series, PretrainingSettings(training=Training(epochs=2)))
        >>> report.objectives, len(report.losses), len(report.weights)
        (('forecasting', 'interpolation', 'infilling', 'copying', 'next_event'), 3, 2)
    """
    settings = PretrainingSettings() if settings is None else settings
    if model.problem.kind != "forecasting" or model.problem.quantiles:
        raise ValueError(
            f"pre-training asks for values at times; build the model for a problem of kind 'forecasting', found "
            f"{model.problem.kind!r}, and give its weights to another with transfer()"
        )
    training, like = settings.training, next(model.parameters())
    waits = any(objective.waits for objective in settings.chosen())
    # the state of the global generators, from which a new head draws its weights, is left as found
    with own_randomness(like.device, training.seed), answering_waits(model) if waits else nullcontext():
        course = _Course(model, series, valid, settings, waits)
        course.measure()
        history = fit(model, course.batches, lambda epoch: course.measure(), training, progress)
    names = course.mixture.names
    return PretrainingReport(names, tuple(course.losses), tuple(course.weights), tuple(course.targets), history)


class _Course:
    """A pre-training under way: its mixture, the questions that are held out, and what was measured."""

    def __init__(
        self, model: Model, series: TimeSeries, valid: TimeSeries, settings: PretrainingSettings, waits: bool
    ) -> None:
        self.model, self.series, self.training, self.waits = model, series, settings.training, waits
        self.objectives = {objective.name: objective for objective in settings.chosen()}
        self.mixture = settings.mixture()
        # two streams of draws, so that what is held out does not depend on what is learned
        self.draw, apart = (torch.Generator().manual_seed(2 * self.training.seed + i) for i in range(2))
        probe = torch.Generator().manual_seed(0)
        self.held_out = {name: self.questions(valid, name, apart) for name in self.objectives}
        learned = {name: self.questions(series, name, probe) for name in self.objectives}
        for part, questions in {"training": learned, "validation": self.held_out}.items():
            for name, examples in questions.items():
                if not len(examples):
                    raise ValueError(
                        f"no series of the {part} part is long enough for {name!r}; leave that objective out"
                    )
        self.losses: list[tuple[float, ...]] = []
        self.weights: list[tuple[float, ...]] = []
        self.targets: list[tuple[int, ...]] = []

    def batches(self, epoch: int) -> Iterator[Examples]:
        """The batches of an epoch, one objective each; one in which nothing can be asked is left out."""
        learned = dict.fromkeys(self.objectives, 0)
        for index in shuffled(self.series.lengths.cpu(), self.training.batch_size, self.draw):
            name = self.mixture.draw(self.draw)
            batch = self.questions(self.series.select(index), name, self.draw)
            learned[name] += int(batch.target_observed.sum())
            if len(batch):
                yield replace(batch, ids=index.numpy()[batch.ids])  # as an error is to name them
        self.weights.append(self.mixture.weights)
        self.targets.append(tuple(learned.values()))

    def measure(self) -> float:
        """Measure the held-out losses, re-weight the mixture, and answer their mean."""
        losses = tuple(self.loss(examples) for examples in self.held_out.values())
        self.losses.append(losses)
        self.mixture = self.mixture.after(losses)
        return sum(losses) / len(losses)

    def loss(self, examples: Examples) -> float:
        """The mean squared error relative to that of the best constant: of one measure for values and for waits."""
        found = predict(self.model, examples, self.training.batch_size, self.training.chunk)
        wanted = examples.target_observed.to(found.mean.device)  # (B, Q, D)
        targets = examples.targets.to(found.mean.device)[wanted].double()
        error = float((found.mean[wanted].double() - targets).square().mean())
        spread = float((targets - targets.mean()).square().mean())
        return error / spread if spread > 0 else error

    def questions(self, series: TimeSeries, name: str, draw: torch.Generator) -> Examples:
        """The examples of an objective, without the series that are too short for it."""
        examples = ask(self.objectives[name], series, draw)
        examples = examples.select(examples.target_observed.flatten(1).any(dim=1).cpu().nonzero().squeeze(1))
        if not self.waits:
            return examples
        columns = (0, 1) if not self.objectives[name].waits else (series.channels, 0)
        return replace(
            examples,
            targets=_widened(examples.targets, columns, torch.nan),
            target_observed=_widened(examples.target_observed, columns, False),
        )


def _widened(part: Tensor, columns: tuple[int, int], filler: float) -> Tensor:
    """(B, Q, n) with columns more before and after."""
    before, after = (part.new_full((*part.shape[:2], count), filler) for count in columns)
    return torch.cat([before, part, after], dim=-1)
