"""Carry a recipe out: train, score once on the test part; or score its variants on validation parts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctlssl.baselines import PERIOD_REFERENCES, REFERENCES
from ctlssl.catalogue import load_dataset
from ctlssl.comparison.cells import Cell, Cells, Result, cells_in, finite_or_none
from ctlssl.comparison.keys import digest_of_split, surroundings
from ctlssl.comparison.threads import held_to_threads
from ctlssl.comparison.work import built
from ctlssl.contract import Model, Prediction
from ctlssl.model_names import models_by_name
from ctlssl.models import Ensemble
from ctlssl.recipes.recipe import Recipe
from ctlssl.tasks import TASKS, Examples, Split, prepare
from ctlssl.training import Checkpoints, fit, predict, score

__all__ = ["Scores", "ablate", "reproduce", "reproduce_reference"]

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Scores:
    """What came out, one number a seed.

    Args:
        name: of the recipe, or of a variant of it.
        metrics: name -> one number a seed.
        seconds: that the training of each took.
        parameters: of the first member.
    """

    name: str
    metrics: dict[str, tuple[float, ...]]
    seconds: tuple[float, ...]
    parameters: int

    def spread(self, metric: str) -> tuple[float, float]:
        """Mean and standard deviation over the seeds; the latter is NaN for one."""
        numbers = np.array(self.metrics[metric])
        return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan")


def reproduce(
    recipe: Recipe,
    seeds: int | None = None,
    out: str | os.PathLike | None = None,
    tell: Tell | None = None,
    threads: int = 1,
) -> Scores:
    """Train what a recipe says on each split, and score it once on the test part.

    With `out`, what is done is kept there and not done again: fits go on from their last epoch, and the result of a
    seed is a file. The files are found by a digest of all that decides the result, the sources of the package included.

    Args:
        recipe: what to do.
        seeds: splits 0 to seeds - 1; None as many as the recipe says.
        out: a folder, made where it is missing.
        tell: is given a line after every epoch.
        threads: of torch.

    Raises:
        ValueError: data that were not prepared, or options that the model does not have.
        OSError: the folder cannot be written.
    """
    return _scores(recipe.task, recipe, seeds, out, tell, threads, part="test")


def ablate(
    recipe: Recipe,
    seeds: int | None = None,
    out: str | os.PathLike | None = None,
    tell: Tell | None = None,
    threads: int = 1,
    only: Sequence[str] | None = None,
) -> dict[str, Scores]:
    """Score the recipe and each of its variants on the validation parts; no test part is read.

    What learns from both parts is trained on the training part alone here, for as many epochs.

    Args:
        recipe: what to do.
        seeds: splits 0 to seeds - 1; None as many as the recipe says.
        out: as in `reproduce`.
        tell: is given a line after every epoch.
        threads: of torch.
        only: names of variants; None all.

    Raises:
        ValueError: a variant that the recipe does not have.
    """
    variants = recipe.variants()
    chosen = list(variants) if only is None else list(only)
    if unknown := [name for name in chosen if name not in variants]:
        raise ValueError(f"the recipe for {recipe.task} has no variant {unknown[0]!r}; it has {', '.join(variants)}.")
    return {name: _scores(name, variants[name], seeds, out, tell, threads, part="valid") for name in chosen}


def reproduce_reference(recipe: Recipe, name: str, seeds: int | None = None) -> Scores:
    """A classical model of `ctlssl.baselines` on the same splits, learned from the same series as the recipe.

    Args:
        recipe: whose task, seeds and parts count.
        name: in `REFERENCES` or `PERIOD_REFERENCES` of `ctlssl.baselines`.
        seeds: as in `reproduce`.
    """
    results, known = [], {**REFERENCES, **PERIOD_REFERENCES}
    if name not in known:
        raise ValueError(f"unknown reference {name!r}; choose from {', '.join(known)}.")
    for seed in range(recipe.seeds if seeds is None else seeds):
        split, started = prepare(recipe.task, seed, refit=recipe.refit), time.perf_counter()
        fitted = known[name](split.problem, seed=seed).fit(split.train.series, split.train.labels)
        seconds = time.perf_counter() - started
        prediction = fitted.predict(split.test.series, split.test.query_times)
        results.append({"metrics": _metrics(recipe.task, prediction, split.test), "seconds": seconds})
    return Scores(name, _by_metric(results), tuple(result["seconds"] for result in results), 0)


def _scores(
    name: str,
    recipe: Recipe,
    seeds: int | None,
    out: str | os.PathLike | None,
    tell: Tell | None,
    threads: int,
    part: str,
) -> Scores:
    folder, ds = None if out is None else Path(out), load_dataset(TASKS[recipe.task].dataset)
    results = []
    with held_to_threads(threads), cells_in(folder) as cells:
        for seed in range(recipe.seeds if seeds is None else seeds):
            split = prepare(recipe.task, seed, ds, refit=recipe.refit and part == "test")
            results.append(_obtained(name, recipe, seed, split, part, cells, folder, tell))
    return Scores(name, _by_metric(results), tuple(result["seconds"] for result in results), results[0]["parameters"])


def _by_metric(results: Sequence[Result]) -> dict[str, tuple[float, ...]]:
    """The numbers of all splits by metric; what a split could not tell is NaN."""
    return {
        key: tuple(math.nan if result["metrics"][key] is None else result["metrics"][key] for result in results)
        for key in results[0]["metrics"]
    }


def _metrics(task: str, prediction: Prediction, examples: Examples) -> dict[str, float | None]:
    """The metrics of all examples, and "metric, subgroup" of those of each subgroup of the task."""
    asked = TASKS[task]
    metrics = score(asked.kind, prediction, examples)
    answers = {name: getattr(prediction, name) for name in ("logits", "mean", "scale")}
    for name, members in asked.subgroups.items():
        chosen = torch.from_numpy(members(examples))  # (B,)
        part = Prediction(**{key: None if answer is None else answer[chosen] for key, answer in answers.items()})
        found = score(asked.kind, part, examples.select(chosen))
        metrics |= {f"{key}, {name}": value for key, value in found.items()}
    return {key: finite_or_none(value) for key, value in metrics.items()}


def _obtained(
    name: str, recipe: Recipe, seed: int, split: Split, part: str, cells: Cells, folder: Path | None, tell: Tell | None
) -> Result:
    """The result of one split, computed here, found, or waited for."""
    settings: Mapping[str, Any] = {key: value for key, value in asdict(recipe).items() if key not in _NO_SETTINGS}
    spec = {"work": f"recipe, {part}", "settings": settings, "seed": seed, "surroundings": surroundings()}
    cell = Cell(f"{recipe.task}, seed {seed}, {part}: {name}", spec | {"data": digest_of_split(split)})
    own = None if folder is None else folder / "fits" / cell.name
    compute = partial(_trained_and_scored, recipe, seed, split, getattr(split, part), part, own, tell, cell.label)
    while (found := cells.obtain(cell, compute)) is None:
        cells.wait()
    return found


def _trained_and_scored(
    recipe: Recipe,
    seed: int,
    split: Split,
    scored: Examples,
    part: str,
    folder: Path | None,
    tell: Tell | None,
    label: str,
) -> Result:
    models, started, seconds = [], time.perf_counter(), 0.0
    for member in range(recipe.members):
        own, place = recipe.member(member), f"{label}, member {member + 1}"
        model, spent = _member(own, 1000 * member + seed, split, folder, tell, place)
        models.append(model)
        seconds += spent
    prediction = predict(models[0] if len(models) == 1 else Ensemble(models), scored)
    return {
        "metrics": _metrics(recipe.task, prediction, scored),
        "seconds": seconds,
        "wall_seconds": time.perf_counter() - started,
        "parameters": sum(parameter.numel() for parameter in models[0].parameters() if parameter.requires_grad),
    }


def _member(
    recipe: Recipe, seed: int, split: Split, folder: Path | None, tell: Tell | None, label: str
) -> tuple[Model, float]:
    """One trained model, and the seconds of its epochs."""
    factory = partial(models_by_name(recipe.model)[recipe.model], **recipe.options)
    try:
        model = built(factory, split.problem, recipe.width, seed)
    except TypeError as error:
        raise ValueError(f"options of {recipe.model}: {error}") from error

    def progress(epoch: int, train_loss: float, valid_loss: float) -> None:
        if tell is not None:
            tell(f"{label}, epoch {epoch}: training loss {train_loss:.4f}, validation loss {valid_loss:.4f}")

    checkpoints = None if folder is None else Checkpoints(folder / f"{seed}")
    # a fit of both parts has nothing to stop by, and its variants on the training part must not have either
    valid = None if recipe.refit else split.valid
    history = fit(model, split.train, valid, recipe.plan(seed), progress, checkpoints)
    return model, sum(history.seconds)


_NO_SETTINGS = ("ablation", "seeds", "minutes", "metric")  # fields of a recipe that decide no result
