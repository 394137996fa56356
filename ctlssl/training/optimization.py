"""How a model is trained: the numbers that can be set, and which parameters they apply to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch import nn

from ctlssl.layers import LSSL, RecurrentLayer
from ctlssl.training.chunks import GRADIENTS

__all__ = ["SCHEDULES", "Training", "parameter_groups"]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
"""Factors on the learning rate by the share of the epochs that is done, 0 to 1."""


@dataclass(frozen=True)
class Training:
    """How to train; every field is a plain JSON value.

    Args:
        epochs: most passes over the training part.
        batch_size: series in a batch; series of like length are batched together.
        learning_rate: of AdamW.
        dynamics_rate: factor on the learning rate of A, B and the step size of state spaces, whose small changes
            change the model much.
        weight_decay: of AdamW, on the other parameters of two dimensions and more.
        patience: epochs without a better validation loss after which training stops.
        clip: largest norm of the gradient; beyond it the gradient is scaled down.
        seed: of the order of the batches and of all that the model draws while it trains.
        chunk: rows of a series that are in memory at a time, for records longer than memory; None for all. The model
            must be one that keeps a state. See `ctlssl.training.backward_in_chunks`.
        chunk_gradient: "full", the gradient of whole series, or "truncated", which stops at the border of a chunk.
        schedule: of the learning rate, "constant" or "cosine", which falls to 0 at the last epoch.
        average: decay of a running mean of the weights over the steps, which is then what is validated and kept; 0 for
            none. See `ctlssl.training.averaging.WeightAverage`.
        thin: largest share of the rows of a series that a batch leaves out, drawn anew for each series in each batch;
            0 for none. See `ctlssl.training.thinning.thinned`.

    Raises:
        ValueError: a number that cannot be, by name.

    Example:
        >>> Training(epochs=5).to_dict()["epochs"]
        5
    """

    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 3e-3
    dynamics_rate: float = 0.2
    weight_decay: float = 1e-2
    patience: int = 8
    clip: float = 1.0
    seed: int = 0
    chunk: int | None = None
    chunk_gradient: str = "full"
    schedule: str = "constant"
    average: float = 0.0
    thin: float = 0.0

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "patience": 1, "seed": 0}
        least |= {} if self.chunk is None else {"chunk": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from {lowest} on.")
        zero_allowed = {"learning_rate": False, "dynamics_rate": True, "weight_decay": True, "clip": False}
        for name, zero in zero_allowed.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and not zero):
                raise ValueError(f"{name} is {value!r}; it must be a finite number {'>=' if zero else '>'} 0.")
        for name in ("average", "thin"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a number from 0 to below 1.")
        for name, known in {"chunk_gradient": GRADIENTS, "schedule": SCHEDULES}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}.")

    def to_dict(self) -> dict[str, int | float | str | None]:
        """The fields as a dictionary of JSON values."""
        return asdict(self)


def parameter_groups(model: nn.Module, training: Training) -> list[dict]:
    """The parameters of a model in the groups that the optimizer treats alike.

    What makes the dynamics of a state space (A, B and the step size of every `LSSL`, the `dynamics` of the layers of
    its family, and any parameter marked ``_no_weight_decay``) is not decayed and learns at ``dynamics_rate`` times the
    learning rate; others of dimension 0 or 1 (biases, norms) are not decayed; the rest is.

    Args:
        model: any module; parameters that need no gradient are left out.
        training: the rates.

    Example:
        >>> [group["weight_decay"] for group in parameter_groups(nn.Linear(2, 1), Training(weight_decay=0.1))]
        [0.1, 0.0]
    """
    rate, decay = training.learning_rate, training.weight_decay
    settings = {"decayed": (rate, decay), "plain": (rate, 0.0), "dynamics": (rate * training.dynamics_rate, 0.0)}
    members: dict[str, list[nn.Parameter]] = {name: [] for name in settings}
    dynamics = _dynamics(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            group = "dynamics" if id(parameter) in dynamics else "plain" if parameter.dim() <= 1 else "decayed"
            members[group].append(parameter)
    return [
        {"params": members[name], "lr": rate, "weight_decay": decay}
        for name, (rate, decay) in settings.items()
        if members[name]
    ]


def _dynamics(model: nn.Module) -> set[int]:
    """The identities of the parameters that make x' = A x + B u."""
    marked = {id(parameter) for parameter in model.parameters() if getattr(parameter, "_no_weight_decay", False)}
    for module in model.modules():
        if isinstance(module, LSSL):
            own = dict(module.named_parameters(recurse=False))
            marked |= {id(parameter) for name, parameter in own.items() if name not in _READOUT}
        if isinstance(module, RecurrentLayer):
            own = dict(module.named_parameters(recurse=False))
            marked |= {id(parameter) for name, parameter in own.items() if name in module.dynamics}
    return marked


_READOUT = {"C", "C_reverse", "D"}  # of y = C x + D u: linear in what they multiply, like any other weight
