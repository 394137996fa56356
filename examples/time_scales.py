"""What a model remembers, and for how long: half-lives in the unit of the data, before and after training.

Step sizes start where the gaps of the training part say that something happens. Run it, for numbers and a picture:

    python examples/time_scales.py time_scales.png
"""

import sys

import torch

import ctlssl
from ctlssl.plots import plot_timescales


def main(picture: str | None = None, epochs: int = 20) -> dict[str, float]:
    """Train on the bundled records, print quantiles of the half-lives, return medians and the loss before and after."""
    torch.manual_seed(0)
    split = ctlssl.prepare("covid19/death", seed=0)
    hours = split.problem.time_scale
    steps = ctlssl.step_range_from_gaps(split.train.series, time_scale=hours)
    print(f"one unit of the layers' clock is {hours:.3g} in the data's time; step sizes start in {steps}")

    model = ctlssl.LSSLModel(split.problem, width=16, layers=1, multi_input=False, step_range=steps)
    before, worse = model.timescales(), ctlssl.evaluate(model, split.valid)["log_loss"]
    ctlssl.fit(model, split.train, split.valid, ctlssl.Training(epochs=epochs, dynamics_rate=2.0))
    after, better = model.timescales(), ctlssl.evaluate(model, split.valid)["log_loss"]

    found = {"log_loss before": float(worse), "log_loss after": float(better)}
    for name, times in (("before", before), ("after", after)):
        low, middle, high = times.half_life.quantile([0.1, 0.5, 0.9]).values
        print(f"half-lives {name}: {low:.3g} (10 %), {middle:.3g} (median), {high:.3g} (90 %)")
        found[name] = float(middle)
    if picture is not None:
        plot_timescales(before, after).savefig(picture, dpi=120)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:2])
