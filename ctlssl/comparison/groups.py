"""The cells of one split: what is to be done of it, in which order, and with what it is keyed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from ctlssl.comparison.bars import Bars
from ctlssl.comparison.cells import Cell, Cells, Result
from ctlssl.comparison.choices import kinds_of
from ctlssl.comparison.keys import digest_of_split, identity, surroundings
from ctlssl.comparison.plans import Plan
from ctlssl.comparison.work import attempt, fit_and_score, score_reference, try_settings, warm_up, with_settings
from ctlssl.model_names import Factory
from ctlssl.parameter_budget import width_for
from ctlssl.tasks import Split

__all__ = ["Group"]


@dataclass(eq=False)
class Group:
    """All models on one split of one task: they share it, and take turns.

    Args:
        plan: of the comparison.
        task: its name.
        turn: position of the seed in the plan; the order of the models starts there.
        split: gives the split, which may be prepared anew each time.
        widths: of the models in this task.
        cells: where results are.
        bars: to tell the progress.
        warm: (task, model) that this process has run before, shared by all groups.
    """

    plan: Plan
    task: str
    turn: int
    split: Callable[[], Split]
    widths: Mapping[str, int]
    cells: Cells
    bars: Bars
    warm: set[tuple[str, str]]
    results: dict[str, Result] = field(default_factory=dict)  # of the models that are done
    trials: dict[str, dict[int, Result]] = field(default_factory=dict)  # model -> number of the setting -> result

    def __post_init__(self) -> None:
        self.seed = self.plan.seeds[self.turn]
        kind = self.plan.tasks[self.task].kind
        self._classical = {name: item for name, item in self.plan.references.items() if kind in kinds_of(item)}

    @cached_property
    def _data(self) -> str:
        return digest_of_split(self.split())

    @property
    def missing(self) -> list[str]:
        """Models without a result."""
        return [name for name in (*self._classical, *self._turns()) if name not in self.results]

    def advance(self) -> bool:
        """Obtain all that nobody else is at; whether anything new came."""
        before = self._obtained()
        for name in self.missing:
            if name in self._classical:
                self._reference(name)
            else:
                self._model(name)
        return self._obtained() > before

    def _obtained(self) -> int:
        return len(self.results) + sum(map(len, self.trials.values()))

    def _turns(self) -> list[str]:
        names = list(self.plan.models)
        first = self.turn % len(names)
        return names[first:] + names[:first]

    def _label(self, name: str) -> str:
        return f"{self.task}, seed {self.seed}: {name}"

    def _reference(self, name: str) -> None:
        reference = self.plan.references[name]
        cell = Cell(self._label(name), self._spec("reference", name, reference))

        def compute() -> Result:
            return attempt(cell.label, lambda: score_reference(reference, self.split(), self.seed))

        self._keep(name, self.cells.obtain(cell, compute))

    def _model(self, name: str) -> None:
        """Try the settings of the grid, if there is one, then train and score with the best."""
        settings, tuned = self.plan.settings, bool(self.plan.grid)
        trials = self.trials.setdefault(name, {})
        for number, setting in enumerate(settings if tuned else []):
            if number not in trials:
                found = self._fit("trial", name, setting, try_settings)
                if found is not None:
                    trials[number] = found
                    self.bars.finished()
        if tuned and len(trials) < len(settings):
            return
        losses = {number: trial["valid_loss"] for number, trial in trials.items() if "failure" not in trial}
        if tuned and not losses:
            self._keep(name, {"failure": f"no setting of the grid could be trained; the first: {trials[0]['failure']}"})
            self.bars.finished()
            return
        best = settings[min(sorted(losses), key=losses.__getitem__)] if tuned else {}
        found = self._fit("fit", name, best, fit_and_score)
        if found is not None:
            self._keep(name, _with_tuning(found, best, trials) if tuned else found)
            self.bars.finished()

    def _fit(self, kind: str, name: str, setting: Mapping[str, Any], work: Callable[..., Result]) -> Result | None:
        factory, training = with_settings(self.plan.models[name], self.plan.training, setting)
        training, width = replace(training, seed=self.seed), self._width(name, factory)
        own = {"width": width, "training": training.to_dict(), "threads": self.plan.threads}
        label = self._label(name) + "".join(f", {key} {value}" for key, value in setting.items())
        cell = Cell(f"{kind} {label}", self._spec(kind, name, factory) | own)

        def compute() -> Result:
            split = self.split()
            if (self.task, name) not in self.warm:
                self.warm.add((self.task, name))
                warm_up(factory, split, width, training)
            return attempt(label, partial(work, factory, split, width, training, self.bars.watch(label)))

        return self.cells.obtain(cell, compute)

    def _width(self, name: str, factory: Factory) -> int:
        if self.plan.parameters is None or factory is self.plan.models[name]:
            return self.widths[name]
        return width_for(factory, self.split().problem, self.plan.parameters, name)  # its options may need parameters

    def _spec(self, kind: str, name: str, factory: Callable[..., Any]) -> dict[str, Any]:
        return {
            "work": kind,
            "task": self.task,
            "data": self._data,
            "model": name,
            "factory": identity(factory),
            "seed": self.seed,
            "surroundings": surroundings(),
        }

    def _keep(self, name: str, result: Result | None) -> None:
        if result is not None:
            self.results[name] = result


def _with_tuning(result: Result, best: Mapping[str, Any], trials: Mapping[int, Result]) -> Result:
    """A result with the settings that were chosen and what the choice took."""
    costs = result.get("costs", {}) | {"tuning_seconds": sum(trial.get("seconds", 0.0) for trial in trials.values())}
    return result | {"costs": costs, "settings": dict(best)}
