"""How many threads torch computes with while something is compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["held_to_threads"]


@contextmanager
def held_to_threads(number: int) -> Iterator[None]:
    """Torch computes with so many threads in the block, and with as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
