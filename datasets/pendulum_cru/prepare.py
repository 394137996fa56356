"""Write pendulum_cru.nc, the 4000 series of pendulum images of the published protocol.

python datasets/pendulum_cru/prepare.py [pendulum_cru.nc]
"""

import numpy as np

from ctlssl.preparation import place_for, run_script, write_prepared
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
    path = place_for(target, __file__)
    ds = build()
    write_prepared(ds, path, {"series": ds.sizes["series"], "images": ds.sizes["obs"]})


if __name__ == "__main__":
    run_script(main, __doc__)
