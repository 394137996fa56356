"""The report of a run: one page that stands alone, for a screen, a phone and paper."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctlssl.clocks import CLOCKS, with_clock
from ctlssl.contract import Prediction
from ctlssl.durable import write_whole
from ctlssl.half_lives import timescales
from ctlssl.influence import influence
from ctlssl.page import Markup, page, picture, section, table, words
from ctlssl.plots import plot_timescales
from ctlssl.run_pictures import plot_calibration, plot_coverage, plot_epochs, plot_influence, plot_observed
from ctlssl.runs import RunFolder, TableTask, TrainedRun, open_run
from ctlssl.runs.intervals import bootstrap_intervals
from ctlssl.runs.train import split_of
from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples, Split, Task
from ctlssl.training import evaluate, score

__all__ = ["write_report"]

_CHOSEN = 3  # series whose observations are looked at one by one
_TOP = 8  # values that are named for each of them


@dataclass(frozen=True, eq=False)
class _Told:
    """What the sections tell of."""

    folder: RunFolder
    run: TrainedRun
    task: Task
    split: Split
    raw: Examples | None
    found: Prediction
    notes: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self.run.model.problem.kind


def write_report(path: str | os.PathLike) -> Path:
    """Write report.html into the folder of a finished run.

    It has the scores of the test part with bootstrap intervals, calibration, the losses by epoch, half-lives in the
    unit of the data, what each observation of some series did to the answer, and what the model loses when the clock
    says less. All of it is computed anew from the folder and the data that the settings name.

    Args:
        path: the folder.

    Returns:
        the page.

    Raises:
        OSError: the folder cannot be written, or the data are no longer there.
        ValueError: no finished run, or data other than those of the training.

    Example:
        >>> import tempfile
        >>> from ctlssl.runs import RunSettings, train_run
        >>> from ctlssl.training import Training
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train_run(RunSettings("covid19/death", width=8, training=Training(epochs=1)), folder)
        ...     write_report(folder).stat().st_size > 50_000
        True
    """
    folder, run = RunFolder(path), open_run(path)
    report = folder.read_json("report.json")
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".series.") as place:
        split, loaded = split_of(run.settings, Path(place))
        if split.problem != run.model.problem or split.train.variables != run.variables:
            raise ValueError(f"{path}: the data are not those that the run was trained on")
        stored = not isinstance(split.test.series, TimeSeries)
        raw = None if stored else loaded.task.build(run.aligned(loaded.ds))
        told = _Told(folder, run, loaded.task, split, raw, run.answer(split.test), loaded.notes)
        parts = [_summary(told, report), _scores(told), _calibration(told), _learning(told)]
        parts += [_half_lives(told), _influences(told), *([] if stored else [_clocks(told)])]
    write_whole(folder.path / "report.html", page(f"{loaded.task.name}: {run.settings.model}", *parts))
    return folder.path / "report.html"


def _summary(told: _Told, report: dict) -> Markup:
    parts = {name: len(getattr(told.split, name)) for name in ("train", "valid", "test")}
    rows = [
        ["asked", told.task.description],
        ["model", f"{told.run.settings.model}, width {told.run.settings.width}, {report['parameters']} parameters"],
        ["options", ", ".join(f"{k} = {v}" for k, v in told.run.settings.options.items()) or "the defaults"],
        ["series", "{train} to learn from, {valid} to stop by, {test} to be scored".format(**parts)],
        ["variables", f"{len(told.run.variables)}, and {len(told.run.static)} static covariates"],
        ["epochs", f"{report['epochs']}, the weights are those of epoch {report['best_epoch']}"],
        ["seed", str(told.run.settings.training.seed)],
    ]
    return Markup(table(["", ""], rows).text + "".join(words(note).text for note in told.notes))


def _scores(told: _Told) -> Markup:
    values = score(told.kind, told.found, told.split.test)
    intervals = bootstrap_intervals(told.kind, told.found, told.split.test)
    rows = [[name.replace("_", " "), value, *intervals[name]] for name, value in values.items()]
    said = (
        f"{len(told.split.test)} series that the training did not see. The intervals are of 200 bootstrap samples of "
    )
    said += "these series: what other series of the kind would give this one model, not what other trainings would."
    if told.kind == "forecasting":
        said += " Errors are in normal scores, 1 being a standard deviation of the variable."
    return section("Scores of the test part", table(["metric", "value", "95 % from", "to"], rows), words(said))


def _calibration(told: _Told) -> Markup:
    test, found = told.split.test, told.found
    if told.kind == "classification":
        labels, shares = test.labels.numpy(), torch.softmax(found.logits.double(), 1).numpy()
        shown = [1] if shares.shape[1] == 2 else range(min(shares.shape[1], 6))
        caption = "How often it came true by how likely it was said to be; bars are 95 % of a group"
        names = [name.removeprefix("class_") for name in told.run.answers]
        pictures = [picture(plot_calibration(labels == k, shares[:, k]), f"{names[k]}: {caption}") for k in shown]
        return section("Calibration", *pictures)
    wanted = ~test.labels.isnan() if told.kind == "regression" else test.target_observed
    targets = test.labels if told.kind == "regression" else test.targets
    truth, mean = targets[wanted].double().numpy(), found.mean[wanted].double().numpy()
    unit = "normal scores" if told.kind == "forecasting" else ", ".join(told.run.answers)
    parts = [picture(plot_observed(truth, mean), f"Predicted by observed, on the test part: {unit}")]
    if found.scale is not None:
        errors = (truth - mean) / found.scale[wanted].double().numpy()
        parts.append(picture(plot_coverage(errors), "Targets inside the intervals that the model gives"))
    return section("Calibration", *parts)


def _learning(told: _Told) -> Markup:
    return section("Learning", picture(plot_epochs(told.folder.read_lines("metrics.jsonl")), "Loss by epoch"))


def _half_lives(told: _Told) -> Markup:
    unit = told.run.unit or "the unit of time"
    try:
        after = timescales(told.run.model)
    except ValueError:
        return section("Time scales", words(f"{told.run.settings.model} has no linear state-space layer."))
    values = after.half_life.values[np.isfinite(after.half_life.values)]
    if not len(values):
        return section("Time scales", words("No mode of its layers decays."))
    before = timescales(told.run.settings.build(told.run.model.problem))
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    rows = table(
        ["half-lives", "shortest", "a quarter below", "middle", "three quarters", "longest"], [[unit, *quantiles]]
    )
    caption = f"How long the layers remember: half-lives of their modes, in {unit}, before and after training"
    return section("Time scales", rows, picture(plot_timescales(before, after), caption))


def _influences(told: _Told) -> Markup:
    what, chosen = _asked(told), _chosen(told)
    said = f"Each line is {what} with all observations, less what it is without those of that time. The model is run "
    said += "again for every time and value that is left out; nothing is approximated."
    parts = [words(said)]
    for b, why in chosen:
        parts += _influence_of(told, b, why, what)
    return section("What the observations did", *parts)


def _asked(told: _Told) -> str:
    if told.kind == "classification":
        return f"the log-odds of {_class(told, _looked_at(told))}"
    return told.run.answers[0] if told.kind == "regression" else "the first forecast"


def _looked_at(told: _Told) -> int:
    """The class whose log-odds are looked at."""
    return 1 if told.run.model.problem.outputs == 2 else 0


def _class(told: _Told, k: int) -> str:
    """What a class is called: died = 1."""
    task = told.run.settings.task
    label = task.label[0] if isinstance(task, TableTask) else "class"
    return f"{label} = {told.run.answers[k].removeprefix('class_')}"


def _chosen(told: _Told) -> list[tuple[int, str]]:
    """Positions of test series that are worth a look, and why."""
    lengths = told.split.test.series.lengths.numpy()
    enough = np.flatnonzero(lengths >= min(3, lengths.max(initial=0)))
    if told.kind != "classification":
        order = enough[np.argsort(-lengths[enough], kind="stable")]
        return [(int(b), f"{lengths[b]} rows") for b in order[:_CHOSEN]]
    k = _looked_at(told)
    shares = torch.softmax(told.found.logits.double(), 1)[:, k].numpy()[enough]
    truth = told.split.test.labels.numpy()[enough] == k
    name = _class(told, k)
    picks = {
        int(enough[np.argmax(shares)]): f"where {name} was likeliest",
        int(enough[np.argmin(shares)]): f"where {name} was least likely",
    }
    wrong = np.abs(truth - shares)
    picks.setdefault(int(enough[np.argmax(wrong)]), "furthest from what came")
    return list(picks.items())[:_CHOSEN]


def _influence_of(told: _Told, b: int, why: str, what: str) -> list[Markup]:
    test = told.split.test
    one = test.select([b])
    queries, place = None, 0
    if told.kind == "forecasting":
        asked = one.target_observed[0].nonzero()  # (T, 2)
        q, place = (int(asked[0, 0]), int(asked[0, 1])) if len(asked) else (0, 0)
        queries = one.query_times[:, q : q + 1]
        what = f"the forecast of {told.run.variables[place]} at {float(queries[0, 0]):g}, in normal scores"
    series = one.series if isinstance(one.series, TimeSeries) else one.series.to_series()
    found = influence(told.run.model, series, queries)
    whole, rows, cells = (_scalar(told, part, place) for part in (found.answer, found.without_row, found.without_cell))
    times = series.times[0]
    changes = (whole - rows).numpy()
    name = str(test.ids[b])
    drawn = plot_influence(times[found.rows].numpy(), changes)
    caption = f"Series {name}, {why}: {what} is {float(whole):.3g}; what the observations of each time did to it"
    caption += f" (time in {told.run.unit})" if told.run.unit else ""
    order = (whole - cells).abs().argsort(descending=True)[:_TOP]
    if told.raw is None:  # back from normal scores, which are cut at their limit
        raw = told.run.normalizer.inverse(series.values[0].double())  # (L, D)
    else:
        raw = told.raw.select(np.flatnonzero(np.asarray(told.raw.ids) == test.ids[b])).series.values[0]
    lines = []
    for v in order.tolist():
        row, channel = found.cells[v].tolist()
        value, change = float(raw[row, channel]), float(whole - cells[v])
        lines.append([float(times[row]), told.run.variables[channel], value, change])
    return [picture(drawn, caption), table(["time", "variable", "value", "did to it"], lines)]


def _scalar(told: _Told, answers: Tensor, place: int) -> Tensor:
    """The one number that is looked at, of answers (..., K)."""
    if told.kind == "classification":
        k = _looked_at(told)
        others = torch.cat([answers[..., :k], answers[..., k + 1 :]], dim=-1)
        return answers[..., k] - others.logsumexp(-1)
    found = answers[..., place]
    if told.run.targets is not None:
        found = found * told.run.targets.scale[0] + told.run.targets.mean[0]
    return found


def _clocks(told: _Told) -> Markup:
    rows: list[list[object]] = []
    names: list[str] = []
    for clock in CLOCKS:
        part = with_clock(told.split, clock, told.run.settings.training.seed).test
        if told.run.targets is None:
            scores = evaluate(told.run.model, part)
        else:
            scores = score(told.kind, told.run.answer(part), part)
        names = list(scores)
        rows.append([_CLOCK_NAMES.get(clock, clock), *scores.values()])
    said = "The trained model tested on the same series with other times. What it loses shows that it reads the clock; "
    said += "what times are worth is told by training anew with each clock: ctlssl clock."
    return section(
        "Who reads the clock", table(["times", *(name.replace("_", " ") for name in names)], rows), words(said)
    )


_CLOCK_NAMES = {"true": "true times", "shuffled": "gaps shuffled", "equal": "equal gaps", "none": "no time"}
