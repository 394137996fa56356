"""The states of all streams, of which some move while the others stay."""

from __future__ import annotations

import torch
from torch import Tensor

from ctlssl.model_state import ModelState

__all__ = ["Bank"]


class Bank:
    """States, one row a stream; some are replaced in place, so that the cost is theirs and not that of all.

    Args:
        state: of B streams.
    """

    def __init__(self, state: ModelState) -> None:
        self._state, self._owned = state, False
        self.replace(state)

    @property
    def state(self) -> ModelState:
        """The state of all streams; what is written later may show in it."""
        return self._state

    def at(self, index: Tensor | None) -> ModelState:
        """The state of some streams, index (M,), as a copy; of all where it is None, as `state`."""
        return self._state if index is None else self._state.select(index)

    def replace(self, state: ModelState) -> None:
        """Take the state of all streams."""
        # a view of a large tensor, such as the last row of a long chunk, would keep all of it in memory
        self._owned = any(_part_of_more(tensor) for tensor in state.tensors().values())
        self._state = _copied(state) if self._owned else state

    def write(self, index: Tensor | None, state: ModelState) -> None:
        """Take the state of some streams, index (M,) without repetitions, or of all."""
        if index is None:
            self.replace(state)
            return
        if not self._owned:  # the tensors of a model may share memory with one another
            self._state, self._owned = _copied(self._state), True
        new = state.tensors()
        for name, tensor in self._state.tensors().items():
            tensor.index_copy_(0, index, new[name])

    def copy(self) -> Bank:
        """Another bank of the same states."""
        return Bank(_copied(self._state))


def _copied(state: ModelState) -> ModelState:
    return state.select(torch.arange(state.batch, device=state.seen.started.device))


def _part_of_more(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
