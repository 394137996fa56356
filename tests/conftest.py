"""What every test starts from: two threads, the same draws, and the seed in the report of a failure."""

import random

import numpy as np
import pytest
import torch

SEED = 20211013


def pytest_configure(config: pytest.Config) -> None:
    """One thread a core of a small machine, set before any tensor is made."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers alone and in the suite; pytest shows the line where a test fails."""
    print(f"seed {SEED} (random, numpy, torch)")
    random.seed(SEED)
    np.random.seed(SEED)
    torch.default_generator.manual_seed(SEED)


def pytest_report_header(config: pytest.Config) -> str:
    """The numbers that a failure can depend on."""
    return f"seed {SEED}, torch {torch.__version__} on {torch.get_num_threads()} threads"
