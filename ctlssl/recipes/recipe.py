"""A recipe: the model and the training that the project uses for a task, and what its parts are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ctlssl.model_names import models_by_name, own_options
from ctlssl.tasks import TASKS
from ctlssl.training import Training

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Model and training for a task; every field is a plain JSON value.

    Args:
        task: a name in `ctlssl.tasks.TASKS`.
        metric: by which it is judged, as `ctlssl.evaluate` names it.
        model: a name in `ctlssl.models.MODELS` or `ctlssl.baselines.BASELINES`.
        width: of the model.
        options: of the model.
        training: fields of `ctlssl.Training` that are not its defaults.
        members: models in an ensemble, trained from weights and batch orders of their own.
        kinds: changes of the fields above, whose options and training are merged, which the members take in turn:
            models that err on different series are worth more together than as many of one kind. None: all alike.
        refit: learn from training and validation part together, for all epochs; False: from the training part, with
            early stopping on the validation part.
        seeds: splits that are reported, 0 to seeds - 1.
        ablation: name -> changes of the fields above, whose options and training are merged: what each part is worth,
            scored on validation parts.
        minutes: about how long it takes on two cores, all seeds together.

    Raises:
        ValueError: a task, model, option or field of the training that does not exist.

    Example:
        >>> recipe = Recipe("covid19/death", "auroc", training={"epochs": 5}, ablation={"wide": {"width": 64}})
        >>> recipe.changed(training={"patience": 3}).training
        {'epochs': 5, 'patience': 3}
        >>> recipe.variants()["wide"].width
        64
        >>> [recipe.changed(members=3, kinds=[{}, {"width": 64}]).member(k).width for k in range(3)]
        [32, 64, 32]
    """

    task: str
    metric: str
    model: str = "lssl"
    width: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    members: int = 1
    kinds: Sequence[Mapping[str, Any]] = ()
    refit: bool = False
    seeds: int = 3
    ablation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    minutes: float = 5.0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; choose from {', '.join(TASKS)}.")
        for name in ("width", "members", "seeds"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} is {number!r}; give a whole number from 1 on.")
        models_by_name(self.model)
        taken = own_options(self.model.split(":")[0])
        if strange := sorted(set(self.options) - set(taken)):
            raise ValueError(f"{self.model} has no option {', '.join(strange)}; it has {', '.join(taken)}.")
        self.plan(0)
        for change in self.kinds:
            if unknown := set(change) - _OF_A_MEMBER:
                raise ValueError(f"kinds change {sorted(unknown)}; members may differ in {sorted(_OF_A_MEMBER)} alone.")
            self.changed(kinds=(), **change)
        for change in self.ablation.values():
            self.changed(**change)

    def plan(self, seed: int) -> Training:
        """The training of a member.

        Args:
            seed: of its initial weights, batches and all that it draws.
        """
        try:
            return Training(**{**self.training, "seed": seed})
        except TypeError as error:
            raise ValueError(f"training of the recipe for {self.task}: {error}") from error

    def member(self, number: int) -> Recipe:
        """The recipe of a member.

        Args:
            number: from 0 on.
        """
        return self.changed(kinds=(), **self.kinds[number % len(self.kinds)]) if self.kinds else self

    def changed(self, **changes: Any) -> Recipe:
        """The recipe with other fields; options and training keep what is not named."""
        merged = {name: {**getattr(self, name), **changes.pop(name, {})} for name in ("options", "training")}
        return replace(self, **{"ablation": {}, **merged, **changes})

    def variants(self) -> dict[str, Recipe]:
        """The recipes of the ablation by name: first itself, then each of the changes."""
        return {"recipe": self} | {name: self.changed(**change) for name, change in self.ablation.items()}


_OF_A_MEMBER = {"model", "width", "options", "training"}
