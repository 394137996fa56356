"""What `import ctlssl` costs a user who wants one layer: nothing is loaded that only some need."""

import json
import subprocess
import sys

HEAVY = [
    "torchdiffeq", "torchcde", "matplotlib", "sklearn", "numba", "llvmlite", "typer", "rich", "pandas", "xarray",
    "netCDF4", "scipy", "optuna", "sqlalchemy",
]  # fmt: skip


def test_import_loads_nothing_that_only_some_need():
    code = "import sys, json, ctlssl; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert "torch" in loaded and "ctlssl" in loaded
    assert not set(HEAVY) & set(loaded)


def test_numba_comes_with_the_first_loop_and_not_before():
    """Layers are made, saved and asked for their view without a compiler; xarray comes with data sets."""
    code = (
        "import sys, torch, ctlssl\n"
        "layer, u = ctlssl.LSSL(2, 4, structure='diagonal', method='zoh'), torch.ones(1, 3, 2)\n"
        "layer.load_state_dict(layer.state_dict()), layer.chosen_view(u), ctlssl.gaps(torch.arange(3.0)[None])\n"
        "before = 'numba' in sys.modules\n"
        "layer(u)\n"
        "print(before, 'numba' in sys.modules, 'xarray' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "False True False"), done.stderr


def test_import_changes_nothing_of_the_process():
    code = (
        "import random, warnings, numpy, torch\n"
        "def state():\n"
        "    return (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),\n"
        "            torch.get_default_dtype(), torch.get_num_threads(), numpy.geterr(), torch.is_grad_enabled())\n"
        "before = state()\n"
        "import ctlssl\n"
        "print(state() == before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
