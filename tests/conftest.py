"""What every test starts from: one thread, the same draws, and the seed in the report of a failure."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy and torch are loaded, here and in subprocesses

import random  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

SEED = 20211013


def pytest_configure(config: pytest.Config) -> None:
    """The tensors of the tests are small: more threads would wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers alone and in the suite; pytest shows the line where a test fails."""
    print(f"seed {SEED} (random, numpy, torch)")
    random.seed(SEED)
    np.random.seed(SEED)
    torch.default_generator.manual_seed(SEED)


def pytest_report_header(config: pytest.Config) -> str:
    """The numbers that a failure can depend on."""
    return f"seed {SEED}, torch {torch.__version__} on {torch.get_num_threads()} thread"
