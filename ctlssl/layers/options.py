"""The options of a layer that exclude one another, and what is said of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ctlssl.state_matrices import STRUCTURES, Diagonal, StateMatrix
from ctlssl.step_size import StepSize

__all__ = ["check_options", "described", "structure_name"]


def structure_name(structure: str | type[StateMatrix]) -> str:
    """The name of a structure given by name or class.

    Raises:
        ValueError: a class that is none of them.
    """
    if isinstance(structure, str):
        return structure
    for name, member in STRUCTURES.items():
        if member is structure:
            return name
    raise ValueError(f"unknown structure {structure!r}; choose one of {', '.join(STRUCTURES)}")


def check_options(
    channels: int,
    heads: int,
    learn: Collection[str],
    multi_input: bool,
    per_channel: bool,
    step_size: StepSize,
    blocks: int,
) -> None:
    """Refuse options that no layer can have together.

    Raises:
        ValueError: naming what was found.
    """
    if channels < 1 or heads < 1:
        raise ValueError(f"channels and heads must be at least 1; found {channels} and {heads}")
    unknown = [name for name in learn if name not in ("A", "B", "step")]
    if unknown or isinstance(learn, str):
        raise ValueError(f"learn takes any of 'A', 'B', 'step' as a tuple; found {learn!r}")
    if multi_input and heads != 1:
        raise ValueError(f"a multi-input layer has one head; found heads={heads}")
    if multi_input and per_channel:
        raise ValueError("per_channel=True gives each system of a bank its own A; a multi-input layer has one system")
    if blocks != 1 and not multi_input:
        raise ValueError(
            f"two equal poles that read one input are one mode; found blocks={blocks}: set multi_input=True, or leave 1"
        )
    if step_size.gate and "step" not in learn:
        raise ValueError(f"a gate is a part of the step size that is learned; found learn={tuple(learn)!r}: add 'step'")


def described(layer: Any) -> str:
    """The options that differ from layer to layer, as the arguments that they are."""
    shown = (
        f"{layer.channels}, state_size={layer.state_size}, structure={layer.structure!r}, measure={layer.measure!r}, "
        f"method={layer.method.name!r}, heads={layer.heads}, learn={layer.learn}, multi_input={layer.multi_input}, "
        f"bidirectional={layer.bidirectional}"
    )
    if layer.step_size != StepSize().resolved(layer.multi_input, STRUCTURES[layer.structure] is Diagonal):
        shown += f", step_size={layer.step_size}"
    return shown + ", per_channel=True" * layer.per_channel + f", blocks={layer.blocks}" * (layer.blocks != 1)
