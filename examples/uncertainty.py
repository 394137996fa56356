"""How sure a forecast is: intervals that widen with the gap they bridge, and hold what they promise.

Noise that reverts to its mean is seen at irregular times. What can be known of a later value is known exactly here: its
mean, and its standard deviation s(h), which grows with the gap h. The forecaster is told none of that. It learns from
the records, and intervals are calibrated on records of their own, by the length of the gap. Run it:

    python examples/uncertainty.py

References:
    Vovk, Gammerman, Shafer (2005), Algorithmic learning in a random world.
"""

import numpy as np

import ctlssl
from ctlssl.synthetic import ornstein_uhlenbeck

RATE = 0.5  # of the reversion, in 1/s


def main(series: int = 500, epochs: int = 25) -> dict[str, float]:
    """Fit, print intervals beside the exact ones and coverage by gap; return the worst of both."""
    forecaster = ctlssl.LSSLForecaster(width=16, ahead=4.0, epochs=epochs)
    forecaster.fit(ornstein_uhlenbeck.generate(series=series, seed=0, rate=RATE))
    new = ornstein_uhlenbeck.generate(series=series, seed=1, rate=RATE)

    ahead = np.array([0.1, 0.3, 1.0, 2.0, 4.0])
    found = forecaster.predict_interval(new, ahead, coverage=0.9)
    width = (found["high"] - found["low"]).mean("series").values[:, 0]
    exact = 2 * 1.645 * np.sqrt((1 - np.exp(-2 * RATE * ahead)) / (2 * RATE))
    print("seconds ahead   width of the interval   exact")
    for row in zip(ahead, width, exact, strict=True):
        print("{:>13.1f} {:>23.2f} {:>7.2f}".format(*row))

    table = forecaster.coverage(new, coverage=0.9)
    print("\nof records that were never seen, nominal coverage 0.9:")
    print(table.round(3).to_string(index=False))
    return {
        "coverage": float((table["coverage"] - 0.9).abs().max()),
        "width": float(np.abs(width / exact - 1)[1:].max()),
        "growth": float(width[-1] / width[0]),
    }


if __name__ == "__main__":
    main()
