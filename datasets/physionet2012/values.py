"""Errors of models at the tasks of physionet2012 that ask for values, in the units in which they are published.

python datasets/physionet2012/values.py TASK [--model lssl] [--seeds 3] [--first 0] [--epochs 20] [--width 32]

TASK is extrapolation, interpolation, next or reconstruction; a model is named as in `ctlssl compare`, with options
after colons, or is last_value. What is printed is the mean squared error times 1000, by both published measures; see
`ctlssl.questions.physionet2012_values.mean_squared_errors`.
"""

import argparse
import time

import numpy as np
import torch

from ctlssl.baselines import REFERENCES
from ctlssl.catalogue import load_dataset
from ctlssl.comparison.work import built
from ctlssl.model_names import models_by_name
from ctlssl.questions.physionet2012_values import mean_squared_errors
from ctlssl.tasks import prepare
from ctlssl.training import Training, fit, predict


def errors(split, model, width, training):
    """Train a model on a split, or a reference, and score it once on the test part; with the seconds it took."""
    began = time.perf_counter()
    if model in REFERENCES:
        fitted = REFERENCES[model](split.problem).fit(split.train.series)
        found = fitted.predict(split.test.series, split.test.query_times)
    else:
        fitted = built(models_by_name(model)[model], split.problem, width, training.seed)
        fit(fitted, split.train, split.valid, training, _say)
        found = predict(fitted, split.test)
    scores = mean_squared_errors(found.mean, split.test.targets, split.test.target_observed)
    return scores | {"seconds": time.perf_counter() - began}


def _say(epoch, train_loss, valid_loss):
    print(f"epoch {epoch}: training loss {train_loss:.4f}, validation loss {valid_loss:.4f}", flush=True)


def main(arguments=None, ds=None):
    """Print a line for each seed and one for all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=("extrapolation", "interpolation", "next", "reconstruction"))
    parser.add_argument("--model", default="lssl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    plan = Training(
        epochs=given.epochs, batch_size=64, learning_rate=given.learning_rate, schedule="cosine", average=0.98
    )
    ds, rows = load_dataset("physionet2012") if ds is None else ds, []
    for seed in range(given.first, given.first + given.seeds):
        training = Training(**{**plan.to_dict(), "seed": seed})
        split = prepare(f"physionet2012/{given.task}", seed, ds)
        rows.append(errors(split, given.model, given.width, training))
        print(f"seed {seed}: {_told([rows[-1]])}", flush=True)
    print(f"{given.task}, {given.model}, {given.seeds} seeds: {_told(rows)}")
    return rows


def _told(rows):
    parts = []
    for name, factor in {"by_channel": 1e3, "pooled": 1e3, "seconds": 1.0}.items():
        numbers = factor * np.array([row[name] for row in rows])
        spread = f" +- {numbers.std(ddof=1):.3f}" if len(numbers) > 1 else ""
        parts.append(f"{name} {numbers.mean():.3f}{spread}")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
