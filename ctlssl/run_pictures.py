"""The pictures of a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_calibration", "plot_coverage", "plot_epochs", "plot_influence", "plot_observed"]

_BLUE, _RED, _GREY = "#4c72b0", "#c44e52", "0.6"


def plot_epochs(lines: Sequence[dict[str, float]]) -> Figure:
    """Losses by epoch, and the epoch whose weights were kept.

    Args:
        lines: of metrics.jsonl.
    """
    figure = _figure(6.0, 3.0)
    axes = figure.subplots()
    epochs = [line["epoch"] for line in lines]
    for name, style in {"train_loss": {"color": _GREY}, "valid_loss": {"color": _BLUE}}.items():
        axes.plot(epochs, [line[name] for line in lines], label=name.replace("_", " "), marker=".", **style)
    valid = [line["valid_loss"] for line in lines]
    if np.isfinite(valid).any():
        axes.axvline(epochs[int(np.nanargmin(valid))], color=_BLUE, linestyle=":", label="kept")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    return figure


def plot_calibration(truth: np.ndarray, shares: np.ndarray) -> Figure:
    """How often a class came true by how likely it was said to be, in groups of like size.

    Args:
        truth: (B,) bool.
        shares: (B,) probabilities.
    """
    figure = _figure(6.0, 3.4)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    groups = np.array_split(np.argsort(shares, kind="stable"), min(10, max(1, len(shares) // 8)))
    said = np.array([shares[group].mean() for group in groups])
    came = np.array([truth[group].mean() for group in groups])
    spread = np.array([np.sqrt(max(p * (1 - p), 0.25 / len(g)) / len(g)) for p, g in zip(came, groups, strict=True)])
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1)
    axes.errorbar(said, came, yerr=1.96 * spread, fmt="o-", color=_BLUE, capsize=2)
    axes.set_ylabel("came true")
    axes.set_ylim(-0.05, 1.05)
    bins = np.linspace(0, 1, 21)
    below.hist([shares[truth], shares[~truth]], bins=bins, stacked=True, color=[_RED, _GREY], label=["true", "other"])
    below.set_xlabel("probability")
    below.set_ylabel("series")
    below.legend(frameon=False, fontsize="small")
    return figure


def plot_coverage(errors: np.ndarray) -> Figure:
    """Which share of the targets lies in intervals of each nominal share.

    Args:
        errors: (T,) targets less means, over the predicted standard deviation.
    """
    figure = _figure(4.5, 3.4)
    axes = figure.subplots()
    nominal = np.linspace(0.05, 0.99, 20)
    inside = [(np.abs(errors) <= ndtri(0.5 + share / 2)).mean() for share in nominal]
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1)
    axes.plot(nominal, inside, "o-", color=_BLUE, markersize=4)
    axes.set_xlabel("interval of the model")
    axes.set_ylabel("share of the targets inside")
    return figure


def plot_observed(targets: np.ndarray, means: np.ndarray) -> Figure:
    """What was predicted, by what came.

    Args:
        targets: (T,).
        means: (T,).
    """
    figure = _figure(4.5, 3.4)
    axes = figure.subplots()
    axes.scatter(targets, means, s=6, color=_BLUE, alpha=0.5, edgecolors="none")
    ends = [float(min(targets.min(), means.min())), float(max(targets.max(), means.max()))]
    axes.plot(ends, ends, color=_GREY, linestyle="--", linewidth=1)
    axes.set_xlabel("observed")
    axes.set_ylabel("predicted")
    return figure


def plot_influence(times: np.ndarray, changes: np.ndarray) -> Figure:
    """How far each row moved the answer.

    Args:
        times: (R,) of the rows.
        changes: (R,) the answer with all rows less the answer without each.
    """
    figure = _figure(6.5, 2.4)
    axes = figure.subplots()
    axes.axhline(0, color=_GREY, linewidth=1)
    axes.vlines(times, 0, changes, color=np.where(changes > 0, _RED, _BLUE).tolist())
    axes.plot(times, changes, ".", color="0.2", markersize=4)
    axes.set_xlabel("time")
    axes.set_ylabel("change")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
