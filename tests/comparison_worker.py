"""A comparison of toys as a process of its own, which notes what it trains and can end itself with SIGKILL.

`main(FOLDER, LOG, MOMENT, COUNT)`: with a moment, the process kills itself when that was called for the COUNT-th time
(before it does anything, or after it where the name begins with "after:").
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import xarray

from ctlssl.comparison import compare, work
from ctlssl.tasks import Task
from ctlssl.training import Training
from tests import toys

MOMENTS = {"link": (os, "link"), "fsync": (os, "fsync"), "replace": (os, "replace"), "fit": (work, "fit")}


class Slow(toys.Affine):
    """A toy with dropout that takes a moment."""

    def __init__(self, problem, width=1, dropout=0.5):
        super().__init__(problem, width, dropout)

    def forward(self, series, query_times=None, state=None, rate=1.0):
        time.sleep(0.002)
        return super().forward(series, query_times, state, rate)


def task():
    """Labels of made-up series, split as any data set is."""
    return Task("toy/label", "toy", "classification", "made up", 1.0, lambda ds: toys.classification(0)[1])


def comparison(folder, **changes):
    """Two toys with a grid of two, on two splits: 12 fits in 8 trials and 4 scores."""
    settings = {
        "dataset": xarray.Dataset(),
        "task": task(),
        "models": {"plain": toys.Affine, "slow": Slow},
        "seeds": 2,
        "training": Training(epochs=2, batch_size=16),
        "tune": {"learning_rate": (1e-3, 1e-1)},
        "reference": "plain",
        "lengths": (),
        "progress": False,
        "references": False,
        "out": folder,
    }
    return compare(**settings | changes)


def metrics(results):
    """What must not depend on interruptions or company: all but seconds and memory."""
    timed = [name for name in results.data_vars if "seconds" in name and name != "paired_seeds"]
    return results.drop_vars([*timed, "peak_bytes"])


def noted(path, owner, name):
    """Let a function of a module write its name to a log before it runs."""
    function = getattr(owner, name)

    def noting(*arguments, **keywords):
        with open(path, "a", encoding="utf8") as log:
            log.write(f"{os.getpid()} {name} {keywords.get('label', '')}\n")
        return function(*arguments, **keywords)

    setattr(owner, name, noting)


def killing(owner, name, count, after):
    """Let the COUNT-th call of a function of a module be the last thing that the process does."""
    function, calls = getattr(owner, name), []

    def last(*arguments, **keywords):
        calls.append(name)
        result = function(*arguments, **keywords) if after or len(calls) < count else None
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, last)


def main(folder, log, moment="", count="1"):
    for name in ("try_settings", "fit_and_score"):
        noted(log, sys.modules["ctlssl.comparison.groups"], name)
    if moment:
        killing(*MOMENTS[moment.removeprefix("after:")], int(count), moment.startswith("after:"))
    results = metrics(comparison(folder))
    Path(log).with_suffix(f".{os.getpid()}").write_text(json.dumps(results.to_dict()), encoding="utf8")
