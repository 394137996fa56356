"""Training on series that are longer than memory: a chunk of rows at a time, the state handed from one to the next."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ctlssl.contract import Model, Prediction
from ctlssl.model_state import ModelState
from ctlssl.packed_calls import ABSENT
from ctlssl.series import TimeSeries
from ctlssl.tasks import Examples
from ctlssl.training.losses import Terms, loss_of, penalised, weighted

__all__ = ["GRADIENTS", "Pieces", "backward_in_chunks", "chunks", "predict_in_chunks", "terms_in_chunks"]

GRADIENTS = ("full", "truncated")
"""Whether the gradient goes back through all chunks of a series, or stops where a chunk begins."""


def chunks(series: TimeSeries, rows: int) -> Iterator[TimeSeries]:
    """The rows of series in pieces, in their order; a series that has ended is in later pieces with length 0.

    Args:
        series: B series of L rows.
        rows: of a piece; the last may have fewer.

    Raises:
        ValueError: rows that are not a whole number from 1 on.

    Example:
        >>> seen = torch.ones(2, 5, 1, dtype=torch.bool)
        >>> series = TimeSeries(torch.zeros(2, 5, 1), torch.arange(5.0).expand(2, 5), seen, torch.tensor([5, 3]))
        >>> [piece.lengths.tolist() for piece in chunks(series, 2)]
        [[2, 2], [2, 1], [1, 0]]
    """
    rows = _whole(rows)
    return (_rows_of(series, start, start + rows) for start in range(0, max(series.length, 1), rows))


@dataclass(frozen=True, eq=False)
class Pieces(Sequence[Examples]):
    """Examples in pieces of their rows, in order, each made when it is asked for.

    A query is asked in the piece of the last row at or before its time, so that its answer is that of the whole
    series. Labels, one answer for all rows, are in the last piece alone.

    Args:
        examples: B series with their answers.
        rows: of a piece; the last may have fewer.

    Raises:
        ValueError: rows that are not a whole number from 1 on, or series that are not padded.

    Example:
        >>> seen = torch.ones(1, 4, 1, dtype=torch.bool)
        >>> series = TimeSeries(torch.zeros(1, 4, 1), torch.arange(4.0).expand(1, 4), seen, torch.tensor([4]))
        >>> asked = torch.tensor([[9.0, 1.5, -1.0]], dtype=torch.float64)
        >>> [piece.query_times.tolist() for piece in Pieces(Examples(series, ["a"], query_times=asked), rows=2)]
        [[[1.5, -1.0]], [[9.0]]]
    """

    examples: Examples
    rows: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", _whole(self.rows))
        if not isinstance(self.examples.series, TimeSeries):
            raise ValueError(
                f"pieces are made of a TimeSeries, found {type(self.examples.series).__name__}; pass its to_series()."
            )

    def __len__(self) -> int:
        return max(1, -(-self.examples.series.length // self.rows))

    def __getitem__(self, index: int) -> Examples:
        number = operator.index(index)
        number = number + len(self) if number < 0 else number
        if not 0 <= number < len(self):
            raise IndexError(f"piece {index} of {len(self)}")
        examples = self.examples
        series = _rows_of(examples.series, number * self.rows, (number + 1) * self.rows)
        labels = examples.labels if number == len(self) - 1 else None
        if examples.query_times is None:
            return replace(examples, series=series, labels=labels)
        chosen, place = self.queries(number)  # (B, q)

        def at(part: Tensor | None, filler: float) -> Tensor | None:
            if part is None:
                return None
            wide = place.view(*place.shape, *[1] * (part.ndim - 2)).expand(*place.shape, *part.shape[2:])
            flags = chosen.view(*chosen.shape, *[1] * (part.ndim - 2))
            return torch.where(flags, part.gather(1, wide), part.new_full((), filler))

        return replace(
            examples,
            series=series,
            labels=labels,
            query_times=at(examples.query_times, torch.nan),
            targets=at(examples.targets, -1 if _classes(examples.targets) else torch.nan),
            target_observed=at(examples.target_observed, False),
        )

    def queries(self, number: int) -> tuple[Tensor, Tensor]:
        """The queries of a piece, moved together: whether there is one (B, q) bool, and its place among all (B, q)."""
        series, asked = self.examples.series, self.examples.query_times
        times = torch.where(series.in_length, series.times, torch.inf).contiguous()  # (B, L)
        last = torch.searchsorted(times, asked.contiguous(), right=True) - 1  # (B, Q): the last row at or before
        last = torch.minimum(last, (series.lengths - 1).unsqueeze(1)).clamp(min=0)
        here = (last // self.rows == number) & ~torch.isnan(asked)  # (B, Q)
        width = int(here.sum(dim=1).max()) if here.numel() else 0
        place = torch.argsort((~here).byte(), dim=1, stable=True)[:, :width]  # (B, q)
        return here.gather(1, place), place


def predict_in_chunks(model: Model, pieces: Pieces, rate: float | Tensor = 1.0) -> Prediction:
    """What a model answers for whole series, without gradients and with no more than one piece in memory.

    Args:
        model: one that keeps a state; its mode decides about dropout.
        pieces: of examples with query times (B, Q) where the problem is forecasting.
        rate: a number, or (B,), that multiplies every elapsed time.

    Returns:
        the prediction after the last row; at every query, in the order of the examples, where it is a forecast.

    Raises:
        ValueError: a model that keeps no state.
    """
    _check(model, pieces, "full")
    state, parts = None, {}
    with torch.no_grad():
        for number, piece in enumerate(pieces):
            prediction = model(piece.series, query_times=piece.query_times, state=state, rate=rate)
            state = prediction.state
            if model.problem.asks_queries:
                chosen, place = pieces.queries(number)  # (B, q)
                b, q = chosen.nonzero(as_tuple=True)
                for name, filler in ABSENT.items():
                    answer = getattr(prediction, name)  # (B, q, ...)
                    if answer is not None:
                        size = (*pieces.examples.query_times.shape, *answer.shape[2:])
                        parts.setdefault(name, answer.new_full(size, filler))[b, place[b, q]] = answer[b, q]
    return replace(prediction, **parts)


def terms_in_chunks(model: Model, pieces: Sequence[Examples], rate: float | Tensor = 1.0) -> Terms:
    """The loss of a model over series in pieces, without gradients; no more than one piece is in memory.

    Args:
        model: one that keeps a state.
        pieces: as of `backward_in_chunks`.
        rate: a number, or (B,), that multiplies every elapsed time.

    Raises:
        ValueError: no piece, or a model that keeps no state.
    """
    _check(model, pieces, "full")
    with torch.no_grad():
        return _sum([terms for _, terms in _walk(model, pieces, len(pieces), rate)])


def backward_in_chunks(
    model: Model, pieces: Sequence[Examples], gradient: str = "full", rate: float | Tensor = 1.0
) -> Terms:
    """Add the gradient of the mean loss over all pieces to the parameters, with one piece in memory at a time.

    "full" is the gradient of the whole series, to rounding: the states between the pieces are kept on the way forward,
    and on the way back each piece is computed once more from its state, with the same random draws (dropout). So it
    takes one forward pass more. "truncated" stops at the beginning of each piece: what a piece leaves in the state
    for later ones is then not learned, and one answer a series is learned from its last piece alone.

    Args:
        model: one that keeps a state; its mode decides about dropout.
        pieces: `Pieces`, or any sequence of examples of the same B series that go on from one another in time, such
            as one that reads them from a disk. It is read twice, the second time backwards. Labels, where the problem
            has them, are in the last alone.
        gradient: "full" or "truncated".
        rate: a number, or (B,), that multiplies every elapsed time.

    Returns:
        the terms of the loss, without history.

    Raises:
        ValueError: no piece, an unknown gradient, or a model that keeps no state.

    References:
        Chen, Xu, Zhang, Guestrin (2016), Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
        Williams, Peng (1990), An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
        Trajectories (truncation).

    Example:
        >>> from ctlssl import LSSLModel, Problem
        >>> seen = torch.ones(1, 4, 1, dtype=torch.bool)
        >>> series = TimeSeries(torch.zeros(1, 4, 1), torch.arange(4.0).expand(1, 4), seen, torch.tensor([4]))
        >>> examples = Examples(series, ids=["a"], labels=torch.tensor([1]))
        >>> model = LSSLModel(Problem("classification", channels=1, outputs=2), width=4)
        >>> terms = backward_in_chunks(model, Pieces(examples, rows=2))
        >>> terms.count, all(parameter.grad is not None for parameter in model.parameters())
        (tensor([1.]), True)
    """
    _check(model, pieces, gradient)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:  # those alone: what a frozen one holds is its owner's
        parameter.grad = None
    try:
        terms = _sum(_PASSES[gradient](model, pieces, rate))
    finally:
        found = [parameter.grad for parameter in parameters]
        for parameter, earlier in zip(parameters, before, strict=True):
            parameter.grad = earlier
    # how many targets there are is known only after the last piece
    targets = terms.count.sum().clamp(min=1)
    for parameter, earlier, gained in zip(parameters, before, found, strict=True):
        if gained is not None:
            gained = gained / targets.to(gained.dtype)
            parameter.grad = gained if earlier is None else earlier + gained
    return terms


def _full(model: Model, pieces: Sequence[Examples], rate: float | Tensor) -> list[Terms]:
    """The gradient of the sum of all terms, by keeping the states between the pieces."""
    starts: list[tuple[ModelState | None, list[Tensor]]] = [(None, _random_states(model))]
    gathered: list[Terms] = []
    with torch.no_grad():
        for state, terms in _walk(model, pieces, len(pieces) - 1, rate):
            starts.append((state, _random_states(model)))
            gathered.append(terms)
    wanted: dict[str, Tensor] = {}
    for number in reversed(range(len(pieces))):
        state, draws = starts.pop()
        start, leaves = _leaves(state)
        with _drawing(model, draws, again=number < len(pieces) - 1):
            prediction, terms = _answer(model, pieces[number], start, rate)
        _backward(terms, prediction.state, wanted)
        wanted = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        if number == len(pieces) - 1:
            gathered.append(_without_history(terms))
    return gathered


def _truncated(model: Model, pieces: Sequence[Examples], rate: float | Tensor) -> list[Terms]:
    """The gradient of the sum of all terms, each within its own piece."""
    state, gathered = None, []
    for number in range(len(pieces)):
        prediction, terms = _answer(model, pieces[number], state, rate)
        _backward(terms, None, {})
        state = prediction.state.detach()
        gathered.append(_without_history(terms))
    return gathered


_PASSES: dict[str, Callable[[Model, Sequence[Examples], float | Tensor], list[Terms]]] = {
    "full": _full,
    "truncated": _truncated,
}


def _walk(
    model: Model, pieces: Sequence[Examples], number: int, rate: float | Tensor
) -> Iterator[tuple[ModelState, Terms]]:
    """The state after each of the first pieces, and its terms."""
    state = None
    for i in range(number):
        prediction, terms = _answer(model, pieces[i], state, rate)
        state = prediction.state
        yield state, terms


def _answer(model: Model, piece: Examples, state: ModelState | None, rate: float | Tensor) -> tuple[Prediction, Terms]:
    prediction = model(piece.series, query_times=piece.query_times, state=state, rate=rate)
    if not model.problem.asks_queries and piece.labels is None:
        nothing = torch.zeros(len(piece), device=piece.series.times.device)
        return prediction, weighted(penalised(Terms(nothing, nothing), prediction), piece.weights)
    return prediction, loss_of(model.problem)(prediction, piece)


def _backward(terms: Terms, state: ModelState | None, wanted: dict[str, Tensor]) -> None:
    """Backpropagate the terms of a piece, and what later pieces want of the state it ends with."""
    ends = {} if state is None else state.tensors()
    roots = [(ends[name], gradient) for name, gradient in wanted.items() if ends[name].requires_grad]
    if terms.total.requires_grad:
        roots.append((terms.total, torch.ones_like(terms.total)))
    if roots:
        torch.autograd.backward(*zip(*roots, strict=True))


def _leaves(state: ModelState | None) -> tuple[ModelState | None, dict[str, Tensor]]:
    """The state as the start of a graph of its own, and what of it the parameters had a part in."""
    if state is None:
        return None, {}
    leaves: dict[str, Tensor] = {}

    def leaf(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if tensor.is_floating_point() and not name.startswith("seen."):  # what was seen is data
            leaves[name] = tensor = tensor.clone().requires_grad_()
        return tensor

    return state.each(leaf), leaves


def _sum(parts: list[Terms]) -> Terms:
    return Terms(sum(part.total for part in parts), sum(part.count for part in parts))


def _without_history(terms: Terms) -> Terms:
    return Terms(terms.total.detach(), terms.count.detach())


def _random_states(model: Model) -> list[Tensor]:
    """What the generators that dropout draws from would draw next: the CPU's, and that of the model's GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _gpus(model))]


@contextmanager
def _drawing(model: Model, states: list[Tensor], again: bool) -> Iterator[None]:
    """Draw once more what was drawn from these states on, and leave the generators as they are now."""
    if not again:
        yield
        return
    with torch.random.fork_rng(devices=_gpus(model)):
        torch.set_rng_state(states[0])
        for device, state in zip(_gpus(model), states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
        yield


def _gpus(model: Model) -> list[torch.device]:
    parameter = next(model.parameters(), None)
    return [parameter.device] if parameter is not None and parameter.device.type == "cuda" else []


def _classes(targets: Tensor | None) -> bool:
    return targets is not None and not targets.is_floating_point()


def _rows_of(series: TimeSeries, start: int, stop: int) -> TimeSeries:
    lengths = (series.lengths - start).clamp(0, stop - start)
    parts = (part[:, start:stop] for part in (series.values, series.times, series.observed))
    return TimeSeries(*parts, lengths, series.static)


def _whole(rows: int) -> int:
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows is {rows!r}; it must be a whole number from 1 on.")
    return rows


def _check(model: Model, pieces: Sequence[Examples], gradient: str) -> None:
    if gradient not in _PASSES:
        raise ValueError(f"gradient is {gradient!r}; it is one of {', '.join(GRADIENTS)}.")
    if not len(pieces):
        raise ValueError("there is no piece to learn from.")
    model.initial_state(0)  # a model that keeps no state says so
