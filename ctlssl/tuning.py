"""A search over the settings of a run, on the validation part alone, in a folder that it can be resumed from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np

from ctlssl.durable import write_whole
from ctlssl.model_names import parameters_of
from ctlssl.runs import RunFolder, RunSettings, train_run
from ctlssl.runs.toml import toml_text

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

__all__ = ["Found", "SearchSpace", "Tried", "tune"]


@dataclass(frozen=True)
class SearchSpace:
    """What is tried. Choices are drawn with equal odds at first; ranges evenly, that of the rate by its logarithm.

    Args:
        width: choices.
        state_size: choices; not tried for a model that has no such option, as with the next two.
        layers: choices.
        dropout: range (low, high) in [0, 1).
        learning_rate: range (low, high).

    Raises:
        ValueError: no choice, one below 1, or a range that cannot be.

    Example:
        >>> SearchSpace(width=(8, 16)).names("gru")
        ('width', 'layers', 'dropout', 'learning_rate')
    """

    width: tuple[int, ...] = (16, 32, 64)
    state_size: tuple[int, ...] = (8, 16, 32, 64)
    layers: tuple[int, ...] = (1, 2, 3)
    dropout: tuple[float, float] = (0.0, 0.6)
    learning_rate: tuple[float, float] = (3e-4, 3e-2)

    def __post_init__(self) -> None:
        for name in ("width", "state_size", "layers"):
            choices = getattr(self, name)
            if not choices or not all(type(choice) is int and choice >= 1 for choice in choices):
                raise ValueError(f"{name} is {choices!r}; give whole numbers from 1 on.")
        low, high = self.dropout
        if not 0 <= low <= high < 1:
            raise ValueError(f"dropout is {self.dropout!r}; give a range 0 <= low <= high < 1.")
        low, high = self.learning_rate
        if not 0 < low <= high < np.inf:
            raise ValueError(f"learning_rate is {self.learning_rate!r}; give a range 0 < low <= high.")

    def names(self, model: str) -> tuple[str, ...]:
        """Which of these a model has."""
        options, always = parameters_of(model), ("width", "learning_rate")
        return tuple(name for name in asdict(self) if name in always or name in options)

    def distributions(self, model: str) -> dict[str, BaseDistribution]:
        """What Optuna draws from."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        drawn: dict[str, BaseDistribution] = {}
        for name in self.names(model):
            parts = getattr(self, name)
            ranged = name in ("dropout", "learning_rate")
            drawn[name] = (
                FloatDistribution(*parts, log=name == "learning_rate") if ranged else CategoricalDistribution(parts)
            )
        return drawn

    def start(self, settings: RunSettings) -> dict[str, Any] | None:
        """The settings as a point of the space, or None where they are outside."""
        options = parameters_of(settings.model)
        point: dict[str, Any] = {"width": settings.width, "learning_rate": settings.training.learning_rate}
        for name in self.names(settings.model):
            if name not in point:
                point[name] = settings.options.get(name, options[name].default)
            inside, value = getattr(self, name), point[name]
            ranged = name in ("dropout", "learning_rate")
            if not (inside[0] <= value <= inside[1] if ranged else value in inside):
                return None
        return point


@dataclass(frozen=True)
class Tried:
    """A trial that ended.

    Args:
        number: of the trial.
        values: what was drawn.
        valid_loss: of its best epoch; None where the training diverged.
    """

    number: int
    values: Mapping[str, Any]
    valid_loss: float | None


@dataclass(frozen=True)
class Found:
    """The best of a search.

    Args:
        settings: of the run with the least validation loss; also in best.toml.
        best: its trial.
        trials: all that have ended, in their order.
    """

    settings: RunSettings
    best: Tried
    trials: tuple[Tried, ...]


def tune(
    settings: RunSettings,
    out: str | os.PathLike,
    space: SearchSpace | None = None,
    trials: int = 20,
    progress: Callable[[Tried], None] | None = None,
) -> Found:
    """Search for the settings whose best epoch has the least loss on the validation part; no test part is read.

    The first trial is the settings themselves, where they are in the space; the next are drawn at random, and those
    after the tenth by a tree-structured Parzen estimator. Every trial is a run in a folder of its own, and what is
    known of all of them is in a SQLite file. A search that ended early goes on when it is started again: the trial that
    was cut off goes on from its checkpoint, and the draws are those of a search that was never cut off, since each is
    seeded by the count of those before it. Several processes may search in one folder; each takes other trials.

    The loss of the best of many trials flatters: what it is worth is told by the test part, read once, by
    ``ctlssl train --config best.toml``.

    Args:
        settings: the task, the model, and all that is not searched.
        out: folder of the search: search.json, search.db, trials/ and best.toml.
        space: what is tried; None is `SearchSpace()`.
        trials: in the whole search, those that are done or under way in the folder included.
        progress: called after every trial of this process.

    Raises:
        ValueError: the folder holds another search, every training diverged, or this process was started by torchrun.
        ImportError: no Optuna.
        OSError: the folder cannot be written.
        Interrupted: a signal came; the search goes on when it is started again.

    References:
        Bergstra et al. (2011), Algorithms for Hyper-Parameter Optimization, NeurIPS 24. Akiba et al. (2019), Optuna: A
        Next-generation Hyperparameter Optimization Framework, arXiv:1907.10902.
    """
    if trials < 1:
        raise ValueError(f"trials is {trials}; give a number from 1 on.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a search is not started by torchrun; start it several times, with the same folder.")
    search = _Search(settings, Path(out), SearchSpace() if space is None else space)
    while (number := search.take(trials)) is not None:
        tried = search.run(number)
        if progress is not None:
            progress(tried)
    return search.write_best()


class _Search:
    """The folder of a search, and the part of one process in it."""

    def __init__(self, settings: RunSettings, out: Path, space: SearchSpace) -> None:
        self.settings, self.out, self.space = settings, out, space
        (out / "trials").mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(out / ".lock")
        self.trial_lock = ExitStack()
        with self.lock:
            self._claim()
            self.study = _study(out / "search.db")

    def take(self, trials: int) -> int | None:
        """The number of a trial for this process: one whose process has died, or a new one, or None.

        A trial belongs to the process that holds its lock, which the system takes from a process that ends.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        names = set(self.space.names(self.settings.model))
        with self.lock:
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if not self._held(trial.number):
                    continue
                if set(trial.params) == names:
                    return trial.number
                self.study.tell(trial.number, state=TrialState.FAIL)  # it died before all its values were drawn
            counted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
            count = len(self.study.get_trials(deepcopy=False, states=counted))
            if count >= trials:
                return None
            start = None if count else self.space.start(self.settings)
            if start is not None and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.study.enqueue_trial(start)
            seed = np.random.SeedSequence([self.settings.training.seed, count]).generate_state(1)
            self.study.sampler = TPESampler(seed=int(seed[0]))
            number = self.study.ask(self.space.distributions(self.settings.model)).number
            self._held(number)
            return number

    def run(self, number: int) -> Tried:
        """Train a trial, and write what came of it."""
        from optuna.trial import TrialState

        values = self.study.get_trials(deepcopy=False)[number].params
        with self.trial_lock:
            try:
                train_run(self._with(values), self._folder(number), resume=True, scored=False)
                lines = RunFolder(self._folder(number)).read_lines("metrics.jsonl")
                loss = min(float(line["valid_loss"]) for line in lines)
                self.study.tell(number, loss)
            except FloatingPointError:
                loss = None
                self.study.tell(number, state=TrialState.PRUNED)  # the sampler then keeps away from there
            except ValueError:
                self.study.tell(number, state=TrialState.FAIL)
                raise
        if any(trial.valid_loss is not None for trial in self.tried()):
            self.write_best()
        return Tried(number, values, loss)

    def tried(self) -> tuple[Tried, ...]:
        """All trials that have ended, whoever ran them."""
        from optuna.trial import TrialState

        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return tuple(Tried(trial.number, trial.params, trial.value) for trial in ended)

    def found(self) -> Found:
        """The best so far; of equals the first."""
        tried = self.tried()
        sound = [trial for trial in tried if trial.valid_loss is not None]
        if not sound:
            raise ValueError(f"no trial in {self.out} has ended well so far; where they diverge, lower learning_rate.")
        best = min(sound, key=lambda trial: trial.valid_loss)
        return Found(self._with(best.values), best, tried)

    def write_best(self) -> Found:
        """Write best.toml."""
        with self.lock:
            found = self.found()
            about = f"# Trial {found.best.number} of {len(found.trials)}: validation loss {found.best.valid_loss!r}.\n"
            write_whole(self.out / "best.toml", about + toml_text(found.settings.to_dict()))
        return found

    def _claim(self) -> None:
        """Write what is searched, or see that it is what the folder holds.

        Raises:
            ValueError: another search is there.
        """
        folder = RunFolder(self.out)
        here = json.loads(json.dumps({"settings": self.settings.to_dict(), "space": asdict(self.space)}))
        if not (self.out / "search.json").exists():
            folder.write_json("search.json", here)
            return
        before = folder.read_json("search.json")
        for part, values in here.items():
            for name, value in values.items():
                if (found := before.get(part, {}).get(name)) != value:
                    raise ValueError(
                        f"{self.out} holds a search with {name} = {found!r}, and {value!r} is asked for; "
                        "choose another folder"
                    )

    def _with(self, values: Mapping[str, Any]) -> RunSettings:
        """The settings of a trial."""
        options = {name: value for name, value in values.items() if name not in ("width", "learning_rate")}
        return replace(
            self.settings,
            width=values["width"],
            options=self.settings.options | options,
            training=replace(self.settings.training, learning_rate=values["learning_rate"]),
        )

    def _folder(self, number: int) -> Path:
        return self.out / "trials" / f"{number:04d}"

    def _held(self, number: int) -> bool:
        """Whether this process now holds a trial that no living process does."""
        lock = filelock.FileLock(self._folder(number).with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        self.trial_lock.callback(lock.release)
        return True


def _study(path: Path) -> Study:
    """The Optuna study in a SQLite file, which a process that ends cannot leave half written."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError("a search needs Optuna: pip install 'ctlssl[tune]', or pip install optuna.") from error
    if "?" in str(path):
        raise ValueError(f"{path}: the folder of a search cannot have a question mark in its name.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    waiting = {"connect_args": {"timeout": 60}}  # seconds for another process to finish its writing
    storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}", engine_kwargs=waiting)
    return optuna.create_study(storage=storage, study_name="ctlssl", direction="minimize", load_if_exists=True)
