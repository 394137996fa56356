"""A training that survives the end of its process at any moment."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from ctlssl.contract import Model
from ctlssl.runs.folder import RunFolder
from ctlssl.runs.from_disk import split_on_disk
from ctlssl.runs.settings import RunSettings
from ctlssl.runs.table_task import Loaded, TableTask
from ctlssl.schema import static
from ctlssl.target_scale import TargetScale
from ctlssl.tasks import Split, prepare
from ctlssl.training import Checkpoints, Interrupted, Progress, evaluate, fit, predict, score
from ctlssl.training.processes import Processes, joined

__all__ = ["split_of", "train_run"]


def train_run(
    settings: RunSettings,
    out: str | os.PathLike,
    resume: bool = False,
    progress: Progress | None = None,
    checkpoint_seconds: float = 300.0,
    scored: bool = True,
) -> dict[str, float]:
    """Train a model on a task in a folder, and score it once on the test part.

    A run that ended early, by whatever cause, goes on where its last checkpoint is, and ends in the same weights and
    metrics, bit for bit, as one that was never interrupted. On SIGTERM and SIGINT it finishes its step, writes a
    checkpoint and raises `ctlssl.training.Interrupted`. Started by ``torchrun`` in several processes, each takes its
    part of every batch, and the result is that of one process but for rounding; the first of them writes.

    Args:
        settings: what to train.
        out: the folder of the run; see `ctlssl.runs.RunFolder`.
        resume: go on with the run that the folder holds, if it holds one.
        progress: as in `ctlssl.fit`.
        checkpoint_seconds: time between checkpoints within an epoch; one is written after every epoch as well.
        scored: False: the test part is left alone, and there is no report.json; the run can be scored later by going on
            with it.

    Returns:
        the metrics of the test part, which are also in report.json; none where it is not scored.

    Raises:
        ValueError: the folder holds another run, or one that is not to be resumed, or another process trains in it.
        OSError: the folder cannot be written.
        Interrupted: a signal came.
        FloatingPointError: a loss that is not finite; the checkpoints before it stay.

    Example:
        >>> import tempfile
        >>> from ctlssl.training import Training
        >>> settings = RunSettings("covid19/death", training=Training(epochs=1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(train_run(settings, folder))
        ['accuracy', 'auprc', 'auroc', 'log_loss', 'macro_f1']
    """
    with joined() as processes:
        if processes.rank:
            return _help(settings, RunFolder(out), processes, scored)
        folder = RunFolder(out)
        with folder.held():
            folder.claim(settings, resume)
            done = (folder.path / "report.json").exists() and not _goes_on(folder.read_json("report.json"), settings)
            processes.added(float(done))
            if done:
                return folder.read_json("report.json")["test"]
            return _train(settings, folder, progress, checkpoint_seconds, scored)


def _train(
    settings: RunSettings, folder: RunFolder, progress: Progress | None, checkpoint_seconds: float, scored: bool
) -> dict[str, float]:
    """Train and score in a folder that is held."""
    prepared = _prepared(settings, folder.path / "series")
    split = prepared.split
    model = settings.build(split.problem)
    folder.write_json("data.json", dict(prepared.about))
    folder.write_tensors("data.safetensors", split.normalizer.tensors())
    checkpoints = Checkpoints(folder.checkpoints, checkpoint_seconds)
    watch = _Watch(folder, model, progress)
    with _signals_to(checkpoints):
        history = fit(model, split.train, split.valid, settings.training, watch, checkpoints)
    folder.write_tensors("model.safetensors", model.state_dict())
    seconds = enumerate(history.seconds, start=1)
    folder.write_lines("seconds.jsonl", [{"epoch": epoch, "seconds": spent} for epoch, spent in seconds])
    scores = _scores(model, split, prepared.targets) if scored else {}
    if scored:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        about = {"epochs": len(history.train_loss), "best_epoch": history.best_epoch + 1, "parameters": parameters}
        folder.write_json("report.json", {"test": scores, **about})
    shutil.rmtree(folder.path / "series", ignore_errors=True)
    return scores


def _help(settings: RunSettings, folder: RunFolder, processes: Processes, scored: bool) -> dict[str, float]:
    """The part of a process that is not the first: it trains on its rows of every batch, and writes nothing."""
    (done,) = processes.added(0.0)
    if done:
        return folder.read_json("report.json")["test"]
    place = folder.path / f"series-{processes.rank}"
    prepared = _prepared(settings, place)
    split = prepared.split
    model = settings.build(split.problem)
    checkpoints = Checkpoints(folder.checkpoints, writes=False)
    with _signals_to(checkpoints):
        fit(model, split.train, split.valid, settings.training, checkpoints=checkpoints)
    scores = _scores(model, split, prepared.targets) if scored else {}
    shutil.rmtree(place, ignore_errors=True)
    return scores


def _goes_on(report: Mapping[str, Any], settings: RunSettings) -> bool:
    """Whether a finished run has more to do under these settings."""
    waited = report["epochs"] - report["best_epoch"]
    return report["epochs"] < settings.training.epochs and waited < settings.training.patience


@dataclass(frozen=True, eq=False)
class _Prepared:
    """The parts of a task, the scale of its targets where they have one, and what is to be known of the data."""

    split: Split
    targets: TargetScale | None
    about: Mapping[str, Any]


def _prepared(settings: RunSettings, place: Path) -> _Prepared:
    """The parts of the task, and what was learned of the data; series that are trained from disk go to a place.

    Numbers to be predicted from a table of one's own are put on the scale of the training part, but for those of the
    test part, which are scored as they are.
    """
    split, loaded = split_of(settings, place)
    scaled = isinstance(settings.task, TableTask) and split.problem.kind == "regression"
    targets = TargetScale.fit(split.train.labels) if scaled else None
    if targets is not None:
        split = replace(split, train=targets.apply(split.train), valid=targets.apply(split.valid))
    about: Mapping[str, Any] = {
        "problem": split.problem.to_dict(),
        "variables": list(split.train.variables),
        "static": list(static(loaded.ds)) if split.problem.static else [],
        "unit": loaded.ds["time"].attrs.get("units", ""),
        "asked": _asked(split),
        "window": loaded.task.window,
        "classes": list(loaded.classes),
        "categories": {name: list(words) for name, words in loaded.categories.items()},
        "targets": None if targets is None else asdict(targets),
        "notes": list(loaded.notes),
    }
    return _Prepared(split, targets, about)


def _asked(split: Split) -> list[str]:
    """The channels of which training has a target, where forecasts are asked."""
    wanted = split.train.target_observed if split.problem.kind == "forecasting" else None
    if wanted is None:
        return []
    flags = wanted.flatten(0, 1).any(dim=0).tolist()  # D
    return [name for name, flag in zip(split.train.variables, flags, strict=True) if flag]


def split_of(settings: RunSettings, place: Path) -> tuple[Split, Loaded]:
    """The parts of the task, and what its data said of themselves.

    Args:
        settings: of the run.
        place: a folder for series that are trained from disk; it is made where there are such.

    Raises:
        FileNotFoundError: as `RunSettings.load`.
        TypeError: as there.
        ValueError: as there, and too few series.
    """
    if isinstance(settings.task, TableTask) and settings.task.from_disk:
        return split_on_disk(settings.task, place, settings.training.seed)
    loaded = settings.load()
    return prepare(loaded.task, settings.training.seed, loaded.ds), loaded


def _scores(model: Model, split: Split, targets: TargetScale | None) -> dict[str, float]:
    """The metrics of the test part."""
    if targets is None:
        return evaluate(model, split.test)
    return score(split.problem.kind, targets.inverse(predict(model, split.test)), split.test)


class _Watch:
    """Writes the line and the weights of every epoch, before its checkpoint says that it is done."""

    def __init__(self, folder: RunFolder, model: Model, progress: Progress | None) -> None:
        self.folder, self.model, self.progress = folder, model, progress

    def __call__(self, epoch: int, train_loss: float, valid_loss: float) -> None:
        before = [line["valid_loss"] for line in self.folder.read_lines("metrics.jsonl") if line["epoch"] < epoch]
        self.folder.write_line("metrics.jsonl", epoch, {"train_loss": train_loss, "valid_loss": valid_loss})
        if not before or valid_loss < min(before):
            self.folder.write_tensors("model.safetensors", self.model.state_dict())
        if self.progress is not None:
            self.progress(epoch, train_loss, valid_loss)


@contextmanager
def _signals_to(checkpoints: Checkpoints) -> Iterator[None]:
    """SIGTERM and SIGINT ask the fit to stop; a second one has its usual effect."""
    before: dict[int, Any] = {}
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        checkpoints.stop()
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, stop)
    except ValueError:  # not in the main thread, which alone hears signals
        pass
    try:
        yield
    except Interrupted as stopped:
        stopped.signal = came[-1] if came else None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
