"""Write pendulum_cru.nc, the 4000 series of pendulum images of the published protocol.

python datasets/pendulum_cru/prepare.py [pendulum_cru.nc]
"""

import sys
from pathlib import Path

import numpy as np

from ctlssl.files import save_dataset
from ctlssl.schema import channels
from ctlssl.synthetic import pendulum

SERIES, SEED = 4000, 42
LEVELS = 255  # the published images have 8 bits


def build():
    """The images in 256 levels, sine and cosine, in the one schema."""
    ds = pendulum.generate(series=SERIES, seed=SEED)
    for name in channels(ds):
        if name.startswith("pixel"):
            ds[name].values[:] = np.floor(ds[name].values * LEVELS) / np.float32(LEVELS)
    return ds


def main(target=None):
    """Draw, write, and say what is in the file."""
    ds = build()
    path = save_dataset(ds, target or Path(__file__).with_name("pendulum_cru.nc"))
    print(f"{path}: {path.stat().st_size} bytes")
    print(f"  series: {ds.sizes['series']}\n  images: {ds.sizes['obs']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
