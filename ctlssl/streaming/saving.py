"""What is saved of streams, and the checks before it is believed."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from itertools import zip_longest

import torch
from torch import Tensor, nn

from ctlssl.model_state import ModelState, check_like
from ctlssl.sealed import digest_of_weights, pack, read_json, structure_of, unpack
from ctlssl.streaming.kept import FEWEST_KEPT, FlatRows, KeptRows
from ctlssl.streaming.reader import Reader

__all__ = ["Saved", "restore", "store"]

_KIND = "stream 2"


@dataclass(frozen=True, eq=False)
class Saved:
    """What was saved of B streams.

    Args:
        policy: what happens to late rows, and the window.
        rates: (B,) float64.
        static: (B, S), or None.
        state: of all streams.
        base: their states before the window, or None.
        kept: the rows since, or None.
    """

    policy: tuple[str, float | None]
    rates: Tensor
    static: Tensor | None
    state: ModelState
    base: ModelState | None
    kept: KeptRows | None


def store(
    reader: Reader,
    state: ModelState,
    policy: tuple[str, float | None],
    base: ModelState | None = None,
    kept: KeptRows | None = None,
) -> bytes:
    """The streams as bytes, see `Saved`."""
    tensors = {"rate": reader.rates, **_named("state", state.tensors())}
    if reader.static is not None:
        tensors["static"] = reader.static
    about = {"late": policy[0], "window": json.dumps(policy[1]), **_identity(reader.model)}
    if kept is not None:
        rows = kept.rows
        tensors |= _named("base", base.tensors()) | _named(
            "kept", {f.name: getattr(rows, f.name) for f in fields(rows)}
        )
        about["limit"] = json.dumps(kept.limit)
    return pack(tensors, about, _KIND)


def restore(model: nn.Module, data: bytes) -> Saved:
    """What `store` wrote, on the device of the model.

    Raises:
        TypeError: no bytes.
        ValueError: damaged bytes, another model, other options or other weights, or content that no streams can have.
    """
    tensors, about = unpack(data, _KIND)
    _check_identity(model, about)
    like = model.initial_state(0)
    device = like.seen.started.device
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = tensor.to(device)
    rates = parts.pop("rate", {}).get("", torch.zeros(()))
    if rates.ndim != 1:
        raise ValueError("saved streams have a rate each; there is none in these bytes")
    state = _state("state", parts.pop("state", {}), like, len(rates))
    policy = (about.get("late", ""), _json(about, "window", type(None), int, float))
    base = kept = None
    if policy[1] is not None:
        base = _state("base", parts.pop("base", {}), like, len(rates))
        kept = KeptRows(_rows(parts.pop("kept", {}), state, base), _json(about, "limit", int))
        if not 0 < kept.limit <= max(FEWEST_KEPT, 2 * len(kept)):
            raise ValueError(f"saved streams keep {len(kept)} rows and put rows away at {kept.limit}: that cannot be")
    static = parts.pop("static", {}).get("")
    if parts:
        raise ValueError(f"saved streams do not hold {', '.join(sorted(parts)[:3])}")
    return Saved(policy, rates, static, state, base, kept)


def _named(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def _identity(model: nn.Module) -> dict[str, str]:
    """What must be the same where streams go on."""
    problem = json.dumps(model.problem.to_dict(), sort_keys=True)
    about = {"model": type(model).__name__, "problem": problem, "structure": structure_of(model)}
    return about | {"weights": digest_of_weights(model)}


def _check_identity(model: nn.Module, about: dict[str, str]) -> None:
    remedies = {
        "model": "load them with a model of that class",
        "problem": "load them with a model that was built for that problem",
        "structure": "load them with a model that was built with the same options",
        "weights": "a state means nothing to other weights: load the weights that the streams were saved with",
    }
    for name, here in _identity(model).items():
        if (found := about.get(name)) != here:
            if name == "structure":  # of many lines, the first that differs
                lines = zip_longest((found or "").split("\n"), here.split("\n"))
                found, here = next(pair for pair in lines if pair[0] != pair[1])
            raise ValueError(f"the streams were saved with the {name} {found}, this one is {here}; {remedies[name]}")


def _json(about: dict[str, str], name: str, *kinds: type) -> int | float | None:
    value = read_json(f'{{"value": {about.get(name, "null")}}}').get("value")
    if type(value) not in kinds:
        raise ValueError(f"saved streams have a {name}; found {about.get(name)!r}")
    return value


def _state(name: str, tensors: dict[str, Tensor], like: ModelState, batch: int) -> ModelState:
    """A state of B streams that is one of the model."""
    try:
        state = check_like(ModelState.from_tensors(tensors), like, batch)
    except ValueError as error:
        raise ValueError(f"the saved {name} is none of this model: {error}") from error
    for key, expected in like.tensors().items():
        if tensors[key].dtype != expected.dtype:
            raise ValueError(f"the saved {name} has {key} as {tensors[key].dtype}, this model as {expected.dtype}")
    seen = state.seen
    ages = seen.time[:, None] - seen.value_times  # (B, D)
    if bool((seen.known & (ages < 0)).any()):
        raise ValueError(f"the saved {name} has values that were seen after the last observation")
    return state


def _rows(tensors: dict[str, Tensor], state: ModelState, base: ModelState) -> FlatRows:
    """Rows that lie between two states."""
    like = FlatRows.none(state.seen.values)
    expected = {field.name: getattr(like, field.name) for field in fields(like)}
    count = len(tensors["series"]) if "series" in tensors and tensors["series"].ndim else 0
    for name, part in expected.items():
        found = tensors.get(name)
        if found is None or found.dtype != part.dtype or found.shape != (count, *part.shape[1:]):
            raise ValueError(
                f"saved streams keep rows with {name} as {part.dtype} of shape (K, ...); it is not so here"
            )
    rows = FlatRows(**{name: tensors[name] for name in expected})
    if count and not bool(((rows.series >= 0) & (rows.series < state.batch)).all()):
        raise ValueError("saved streams keep rows of a stream that does not exist")
    last = torch.where(state.seen.started, state.seen.time, -torch.inf)[rows.series]  # (K,)
    first = torch.where(base.seen.started, base.seen.time, -torch.inf)[rows.series]  # (K,)
    there = torch.bincount(rows.series, minlength=state.batch) > 0  # (B,)
    sound = (rows.times >= first) & (rows.times <= last) & torch.isfinite(rows.times) & rows.observed.any(dim=-1)
    if (
        not bool(sound.all())
        or not bool(torch.isfinite(rows.values).all())
        or not torch.equal(there, state.seen.started)
    ):
        raise ValueError("saved streams keep rows that do not lie between their states, or that nothing was seen in")
    return rows
