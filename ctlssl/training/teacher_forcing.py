"""Sparse teacher forcing: a free-running system is trained on chaotic data without gradients that explode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctlssl.dynamics import AlmostLinearDynamics

__all__ = ["TeacherForcing", "fit_dynamics"]


@dataclass(frozen=True)
class TeacherForcing:
    """How a system is trained on a trajectory; every field is a plain JSON value.

    Args:
        interval: rows between two times at which the observed states are overwritten by the data. In chaotic systems
            gradients grow over time as errors do; the interval is about the time over which they stay small.
        length: rows of a piece of the trajectory.
        batch_size: pieces in a batch, drawn at random.
        batches: steps of RAdam.
        learning_rate: at the first step.
        last_rate: at the last step; in between it falls exponentially.
        clip: largest norm of the gradient; beyond it the gradient is scaled down.
        seed: of the pieces drawn.

    Raises:
        ValueError: a number that cannot be, by name.

    References:
        Mikhaeil, Monfared, Durstewitz (2022), On the difficulty of learning chaotic dynamics with RNNs,
        arXiv:2110.07238; Brenner et al. (2022), Tractable dendritic RNNs for reconstructing nonlinear dynamical
        systems, arXiv:2207.02542.
    """

    interval: int = 16
    length: int = 200
    batch_size: int = 16
    batches: int = 20_000
    learning_rate: float = 5e-3
    last_rate: float = 1e-4
    clip: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"interval": 1, "length": 2, "batch_size": 1, "batches": 1, "seed": 0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} on.")
        for name in ("learning_rate", "last_rate", "clip"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{name} is {value!r}; it must be a finite number > 0.")


def fit_dynamics(
    system: AlmostLinearDynamics,
    trajectory: Tensor,
    dt: Tensor | float | None = None,
    training: TeacherForcing = TeacherForcing(),
) -> np.ndarray:
    r"""Train a system, in place, to run as a trajectory does; the mean squared error of every batch, (batches,).

        loss = mean over pieces, rows and observed numbers of (s_k - (z_k)_{1..D})^2

    Args:
        system: what is trained.
        trajectory: observations, (T, D), each number of a spread near 1.
        dt: time since the row before, in units in which the step sizes of the system are near 1 or below: None (= 1),
            a number, or (T,) for rows at irregular times.
        training: how.

    Raises:
        ValueError: a trajectory shorter than a piece, not finite, or of other numbers than the system's.
        FloatingPointError: the loss is no longer finite.

    References:
        See `TeacherForcing`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> turns = torch.arange(300) * 0.2
        >>> circle = torch.stack([turns.sin(), turns.cos()], dim=1)
        >>> system = AlmostLinearDynamics(observed=2, state_size=2, relus=0, step_range=(0.5, 0.5))
        >>> training = TeacherForcing(interval=4, length=30, batches=100, learning_rate=0.1, last_rate=0.01)
        >>> losses = fit_dynamics(system, circle, training=training)
        >>> bool(losses[-1] < 0.1 * losses[0])
        True
    """
    trajectory = torch.as_tensor(trajectory).to(system.lift)
    if trajectory.ndim != 2 or trajectory.shape[1] != system.observed or len(trajectory) < training.length:
        raise ValueError(
            f"a trajectory needs shape (rows, {system.observed}) with at least {training.length} rows, the length of a "
            f"piece; found {tuple(trajectory.shape)}"
        )
    if not trajectory.isfinite().all():
        raise ValueError("the trajectory holds a value that is not finite")
    irregular = isinstance(dt, Tensor) and dt.ndim > 0
    if irregular and dt.shape != trajectory.shape[:1]:
        raise ValueError(f"dt needs one gap a row, ({len(trajectory)},); found {tuple(dt.shape)}")
    learned = [parameter for parameter in system.parameters() if parameter.requires_grad]
    optimizer = torch.optim.RAdam(learned, lr=training.learning_rate)
    decay = (training.last_rate / training.learning_rate) ** (1 / training.batches)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    draw, losses = torch.Generator().manual_seed(training.seed), np.empty(training.batches)
    for step in range(training.batches):
        first = torch.randint(len(trajectory) - training.length + 1, (training.batch_size, 1), generator=draw)
        rows = first + torch.arange(training.length)  # (batch_size, length)
        pieces = trajectory[rows]  # (batch_size, length, D)
        predicted = system.forced(pieces, dt[rows] if irregular else dt, training.interval)
        loss = (predicted - pieces[:, 1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, training.clip)
        optimizer.step()
        schedule.step()
        losses[step] = loss.item()
        if not math.isfinite(losses[step]):
            raise FloatingPointError(f"the loss of batch {step} is {losses[step]}; train with a smaller learning_rate.")
    return losses
