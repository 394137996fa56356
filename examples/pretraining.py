"""Few labels on real records: pre-training without labels against training from scratch, paired by seed.

Every seed is a split of the bundled records, first weights, and a tenth of the training labels. Both models see the
same labels with the same budget and stop early on the same validation part; the test part is read once, at the end. The
pre-trained one has learned before, from all training records without their labels, to forecast, to fill gaps, to copy
and to say when the next row comes, in a mixture that follows what is still being learned. Run it:

    python examples/pretraining.py

References:
    Blouir, Smith, Anastasopoulos, Shehu (2024), Birdie, arXiv:2411.01030.
"""

from dataclasses import replace

import numpy as np
import torch

import ctlssl
from ctlssl.pretraining import OBJECTIVES, PretrainingReport


def few(labels: torch.Tensor, share: float, seed: int) -> np.ndarray:
    """Positions of a share of each class, two of each at least."""
    draw, chosen = np.random.default_rng(seed), []
    for label in labels.unique():
        members = draw.permutation(np.flatnonzero((labels == label).numpy()))
        chosen.append(members[: max(2, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def one_seed(seed: int, objectives: tuple[str, ...], epochs: int, share: float) -> dict[str, float]:
    """AUROC on the test part of both models, from the same first weights."""
    split = ctlssl.prepare("covid19/death", seed=seed)
    labelled = split.train.select(few(split.train.labels, share, seed))
    budget = ctlssl.Training(epochs=40, learning_rate=3e-3, batch_size=8, patience=10, seed=seed)

    torch.manual_seed(seed)
    scratch, tuned = (ctlssl.LSSLModel(split.problem) for _ in range(2))
    tuned.load_state_dict(scratch.state_dict())

    question = replace(split.problem, kind="forecasting", outputs=split.problem.channels)
    pretrained = ctlssl.LSSLModel(question, dropout=0.1)
    training = ctlssl.Training(epochs=epochs, learning_rate=5e-3, patience=epochs, seed=seed)
    settings = ctlssl.PretrainingSettings(objectives, training)
    report = ctlssl.pretrain(pretrained, split.train.series, split.valid.series, settings)
    if seed == 0:
        describe(report)
    ctlssl.transfer(pretrained, tuned)

    for model in (scratch, tuned):
        ctlssl.fit(model, labelled, split.valid, budget)
    return {
        "scratch": ctlssl.evaluate(scratch, split.test)["auroc"],
        "pretrained": ctlssl.evaluate(tuned, split.test)["auroc"],
    }


def describe(report: PretrainingReport) -> None:
    """Held-out losses (1 = no better than a constant) and weights, at the start and in quarters of the way."""
    rows = np.linspace(0, len(report.weights) - 1, 5).round().astype(int)
    for k, name in enumerate(report.objectives):
        losses = " ".join(f"{report.losses[row][k]:.3f}" for row in [*rows, -1])
        weights = " ".join(f"{report.weights[row][k]:.2f}" for row in rows)
        print(f"{name:14s} loss {losses}   weight {weights}")


def main(
    seeds: int = 5, epochs: int = 120, share: float = 0.1, objectives: tuple[str, ...] = tuple(OBJECTIVES)
) -> dict[str, float]:
    """Print what every seed gave, and return the means and the spread of the paired difference."""
    runs = [one_seed(seed, objectives, epochs, share) for seed in range(seeds)]
    for seed, run in enumerate(runs):
        print(f"seed {seed}: from scratch {run['scratch']:.3f}, pre-trained {run['pretrained']:.3f}")
    scratch, pretrained = (np.array([run[name] for run in runs]) for name in ("scratch", "pretrained"))
    gain = pretrained - scratch
    spread = float(gain.std(ddof=1)) if seeds > 1 else float("nan")
    print(f"mean AUROC {scratch.mean():.3f} from scratch, {pretrained.mean():.3f} pre-trained")
    print(f"paired difference {gain.mean():+.3f}, standard deviation over seeds {spread:.3f}")
    return {
        "scratch": float(scratch.mean()),
        "pretrained": float(pretrained.mean()),
        "gain": float(gain.mean()),
        "spread": spread,
    }


if __name__ == "__main__":
    main()
