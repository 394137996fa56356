"""A trained model meets records in another unit of time: the factor is found from what the records themselves show.

A model learns to forecast spirals whose times are in seconds. Then come records whose times are in a unit that nobody
wrote down. One number, the rate at which the model reads all gaps, is looked for: with a few known answers, and without
any, by forecasting the last third of each record from what came before. Run it:

    python examples/unknown_clock.py
"""

import torch

import ctlssl
from ctlssl.sampling import stretch


def main(epochs: int = 60, factor: float = 60.0) -> dict[str, float]:
    """Train, change the unit, find the factor in both ways; print and return errors and factors."""
    torch.manual_seed(0)
    split = ctlssl.prepare("spirals/forecast", seed=0)
    model = ctlssl.LSSLModel(split.problem, width=16, dropout=0.1)
    ctlssl.fit(model, split.train, split.valid, ctlssl.Training(epochs=epochs, learning_rate=1e-2))

    told = stretch(split.test, factor)  # what a clock says that runs `factor` times as fast
    few = stretch(split.valid.select(range(16)), factor)
    labelled = ctlssl.fit_timescale(model, few)
    alone = ctlssl.fit_timescale(model, told, criterion="self")

    found = {
        "seconds": ctlssl.evaluate(model, split.test)["rmse"],
        "wrong unit": ctlssl.evaluate(model, told)["rmse"],
        "16 answers": ctlssl.evaluate(model, told, rate=labelled.rate)["rmse"],
        "no answer": ctlssl.evaluate(model, told, rate=alone.rate)["rmse"],
    }
    for name, error in found.items():
        print(f"rmse, {name}: {error:.3f}")
    for name, scale in (("16 answers", labelled), ("no answer", alone)):
        low, high = (1 / rate for rate in reversed(scale.interval))
        print(f"with {name} the unit is {1 / scale.rate:.1f} times too small (between {low:.1f} and {high:.1f})")
    return found | {"factor": 1 / labelled.rate, "factor without answers": 1 / alone.rate}


if __name__ == "__main__":
    main()
