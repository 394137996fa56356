"""What a model hands from one chunk of a series to the next: layers, clock, last seen values and what is pooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ctlssl.series import series_index
from ctlssl.views import State

__all__ = ["Hidden", "ModelState", "Pooled", "Seen", "Summed"]


class Seen(NamedTuple):
    """What was observed so far.

    Attributes:
        started: (B,) bool, whether anything was.
        start: (B,) float64, time of the first observation; 0 before it.
        time: (B,) float64, time of the last observation; 0 before the first.
        known: (B, D) bool, the channels seen at least once.
        values: (B, D) their last values; 0 where never seen.
        value_times: (B, D) float64, the times of these values; 0 where never seen.
    """

    started: Tensor
    start: Tensor
    time: Tensor
    known: Tensor
    values: Tensor
    value_times: Tensor

    @classmethod
    def nothing(cls, batch: int, channels: int, like: Tensor) -> Seen:
        """Before the first observation of any series; values have the dtype and device of `like`."""
        flags = torch.zeros(batch, channels, dtype=torch.bool, device=like.device)
        times = torch.zeros(batch, channels, dtype=torch.float64, device=like.device)
        started, start = flags.new_zeros(batch), times.new_zeros(batch)
        return cls(started, start, start.clone(), flags, like.new_zeros(batch, channels), times)


class Pooled(NamedTuple):
    """Features of the observations so far, as far as an answer for the whole series needs them.

    Attributes:
        count: (B,) int64 observations.
        total: (B, W) float64, their sum: a million small terms would lose digits in float32.
        most: (B, W) their maximum; 0 before the first.
        last: (B, W) those of the last; 0 before the first.
    """

    count: Tensor
    total: Tensor
    most: Tensor
    last: Tensor

    @classmethod
    def nothing(cls, batch: int, width: int, like: Tensor) -> Pooled:
        """Before the first observation; features have the dtype and device of `like`."""
        count = torch.zeros(batch, dtype=torch.int64, device=like.device)
        total = torch.zeros(batch, width, dtype=torch.float64, device=like.device)
        return cls(count, total, like.new_zeros(batch, width), like.new_zeros(batch, width))


class Summed(NamedTuple):
    """Statistics of each channel so far, in S spans of time; 0 where nothing was observed.

    Attributes:
        count: (B, S, D) float64 observations.
        total: (B, S, D) float64, their sum.
        least: (B, S, D).
        most: (B, S, D).
        square: (B, D) float64, the sum of squares in the first span.
        late: (B, 3, D) float64, fading sums of 1, values and squares; 0 where none are kept.
        until: (B,) float64, the time of these, since the first observation, in horizons.
    """

    count: Tensor
    total: Tensor
    least: Tensor
    most: Tensor
    square: Tensor
    late: Tensor
    until: Tensor


class Hidden(NamedTuple):
    """The state of a recurrent unit.

    Attributes:
        h: (B, W).
    """

    h: Tensor


@dataclass(frozen=True, eq=False)
class ModelState:
    """The state of a model after the last observation of B series.

    A later chunk goes on from it as if the chunks had been one series: its first gap, the ages of the channels, the
    time since the series began and the pooled features all go on. It is made of tensors alone, each with one row a
    series.

    Args:
        seen: what was observed.
        layers: of each layer its own state.
        pooled: for one answer a series; None where a model forecasts.
        summed: for a head that reads summaries of the channels; None of any other.

    Example:
        >>> like = torch.zeros(())
        >>> layer = State(torch.zeros(2, 1, 4), torch.ones(2, 3))
        >>> state = ModelState(Seen.nothing(2, 1, like), (layer,), Pooled.nothing(2, 3, like))
        >>> state.batch, list(state.tensors())[6:9]
        (2, ['layers.0.x', 'layers.0.u', 'pooled.count'])
        >>> again = ModelState.from_tensors(state.tensors())
        >>> again.select([1]).layers[0].u
        tensor([[1., 1., 1.]])
    """

    seen: Seen
    layers: tuple[State | Hidden, ...]
    pooled: Pooled | None = None
    summed: Summed | None = None

    @property
    def batch(self) -> int:
        """The number of series B."""
        return self.seen.started.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, each with the series as its first axis."""
        parts = {"seen": self.seen, **{f"layers.{i}": layer for i, layer in enumerate(self.layers)}}
        parts |= {name: held for name in _OPTIONAL if (held := getattr(self, name)) is not None}
        return {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held._asdict().items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ModelState:
        """The state whose `tensors` these are.

        Raises:
            ValueError: names that no state has, or that are missing; other than one row a series; dtypes, counts and
                times that cannot be. Whether it is a state of a certain model, that model says.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, key = str(name).rpartition(".")
            parts.setdefault(part, {})[key] = tensor
        optional = {name: _part(kind, parts.pop(name), name) for name, kind in _OPTIONAL.items() if name in parts}
        seen = _part(Seen, parts.pop("seen", {}), "seen")
        layers = tuple(_layer(parts.pop(f"layers.{i}", None), i) for i in range(len(parts)))
        state = cls(seen, layers, **optional)
        _check(state)
        return state

    def each(self, change: Callable[[str, Tensor], Tensor]) -> ModelState:
        """The state of what a function makes of every name and tensor."""

        def part(name: str, held: NamedTuple) -> NamedTuple:
            return type(held)(*(change(f"{name}.{key}", tensor) for key, tensor in held._asdict().items()))

        return ModelState(
            part("seen", self.seen),
            tuple(part(f"layers.{i}", layer) for i, layer in enumerate(self.layers)),
            **{name: part(name, held) for name in _OPTIONAL if (held := getattr(self, name)) is not None},
        )

    def detach(self) -> ModelState:
        """The same state without history: gradients of later chunks stop here."""
        return self.each(lambda name, tensor: tensor.detach())

    def to(self, device: torch.device | str) -> ModelState:
        """The same state on another device."""
        return self.each(lambda name, tensor: tensor.to(device))

    def select(self, index: Tensor | Sequence[int] | slice) -> ModelState:
        """The states of some of the series.

        Args:
            index: positions, a boolean flag a series, or a slice.
        """
        index = series_index(index, self.seen.started.device)
        return self.each(lambda name, tensor: tensor[index])

    def put(self, index: Tensor | Sequence[int] | slice, other: ModelState) -> ModelState:
        """This state with the rows of some series replaced by those of another; this one stays as it was.

        Args:
            index: positions, a boolean flag a series, or a slice.
            other: one row for each series of the index.

        Raises:
            ValueError: a state of another model, or of another number of series than the index has.
        """
        rows = torch.arange(self.batch, device=self.seen.started.device)[series_index(index, self.seen.started.device)]
        theirs = other.tensors()
        check_like(other, self, rows.shape[0])
        return self.each(lambda name, tensor: tensor.index_copy(0, rows, theirs[name].to(tensor.dtype)))


def check_like(state: object, model: ModelState, batch: int) -> ModelState:
    """Refuse what is no state of a model for a number of series.

    Args:
        state: what was handed in.
        model: a state of the model, of any number of series.
        batch: B.

    Raises:
        ValueError: naming the tensor, what was found and what was expected.
    """
    if not isinstance(state, ModelState):
        raise ValueError(f"state needs what an earlier prediction holds as its state; found {type(state).__name__}")
    found, expected = state.tensors(), model.tensors()
    if differ := sorted(found.keys() ^ expected.keys()):
        raise ValueError(f"state belongs to another model: {', '.join(differ[:3])} is in one of the two alone")
    for name, tensor in expected.items():
        shape = (batch, *tensor.shape[1:])
        if found[name].shape != shape:
            raise ValueError(f"state needs {name} of shape {shape}; found {tuple(found[name].shape)}")
        if found[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"state needs {name} as {tensor.dtype}; found {found[name].dtype}")
        if found[name].device != tensor.device:
            raise ValueError(f"state has {name} on {found[name].device}, the model is on {tensor.device}; use state.to")
    return state


_OPTIONAL: dict[str, type[NamedTuple]] = {"pooled": Pooled, "summed": Summed}


def _part(kind: type[NamedTuple], tensors: dict[str, Tensor], name: str) -> NamedTuple:
    if set(tensors) != set(kind._fields):
        raise ValueError(f"a state has {name}.{{{', '.join(kind._fields)}}}; found {sorted(map(str, tensors))}")
    return kind(**tensors)


def _layer(tensors: dict[str, Tensor] | None, i: int) -> State | Hidden:
    for kind in (State, Hidden):
        if tensors is not None and set(tensors) == set(kind._fields):
            return kind(**tensors)
    found = "nothing" if tensors is None else sorted(map(str, tensors))
    raise ValueError(f"a state has layers.{i}.{{x, u}} or layers.{i}.h; found {found}")


def _check(state: ModelState) -> None:
    kinds = {"seen.started": torch.bool, "seen.known": torch.bool, "pooled.count": torch.int64}
    kinds |= dict.fromkeys(("seen.start", "seen.time", "seen.value_times", "pooled.total"), torch.float64)
    sums = ("count", "total", "square", "late", "until")
    kinds |= dict.fromkeys((f"summed.{name}" for name in sums), torch.float64)
    batch = None
    for name, tensor in state.tensors().items():
        if not isinstance(tensor, Tensor) or tensor.ndim < 1:
            raise ValueError(f"a state has one row a series in {name}; found {type(tensor).__name__} without one")
        batch = tensor.shape[0] if batch is None else batch
        if tensor.shape[0] != batch:
            raise ValueError(f"a state has one row a series: {name} has {tensor.shape[0]}, seen.started {batch}")
        if tensor.dtype != kinds.get(name, tensor.dtype) or (name not in kinds and not tensor.is_floating_point()):
            raise ValueError(f"a state has {name} as {kinds.get(name, 'floating point')}; found {tensor.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"a state is finite; {name} is not")
    seen = state.seen
    if bool((seen.started & (seen.time < seen.start)).any()):
        raise ValueError("a series cannot have ended before it began: seen.time is before seen.start")
    if state.pooled is not None and bool((state.pooled.count < 0).any()):
        raise ValueError("observations cannot be fewer than none: pooled.count is negative")
