"""What a liquid layer is for: inputs that change how fast a state moves, beside inputs that drive it.

A drug at concentration u binds to receptors of which a part x is occupied already,

    x' = k_on u (1 - x) - k_off x = -(k_off + k_on u) x + k_on u,

observed at irregular times. That is the liquid equation x' = (lambda + b u) x + b u with b = -k_on, but for a sign; a
linear layer of the same size can saturate only through what is computed around it. On clinical records the same stack
is then trained with either layer. Run it:

    python examples/liquid.py
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import ctlssl
from ctlssl.layers import LiquidLSSL
from ctlssl.models import LayerModel

BINDING, RELEASE = torch.tensor([1.0, 0.3]), torch.tensor([0.05, 0.3])  # of two kinds of receptors, per hour
LAYERS = {
    "lssl": partial(ctlssl.LSSL, structure="diagonal", measure="lin", method="zoh", per_channel=True),
    "liquid, paper": partial(LiquidLSSL, measure="lin", method="zoh"),
    "liquid, exact": partial(LiquidLSSL, measure="lin", form="exact"),
}


def draw(series: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Concentrations (B, L, 1), exponential gaps (B, L), and occupied receptors at each time (B, L), solved exactly."""
    gaps = torch.empty(series, length).exponential_(1.0, generator=generator)
    given = torch.rand(series, length, generator=generator) < 0.25
    u = torch.exp(1.5 * torch.randn(series, length, generator=generator)) * given
    occupied, x = [], torch.zeros(series, 2)
    for k in range(length):
        speed = BINDING * u[:, k, None]
        rate = speed + RELEASE
        x = x - torch.expm1(-rate * gaps[:, k, None]) * (speed / rate - x)
        occupied.append(x.sum(1))
    return u[..., None], gaps, torch.stack(occupied, 1)


class Around(nn.Module):
    """A layer of 8 channels between linear maps, with or without the stack's nonlinearity behind it."""

    def __init__(self, make: partial, mixed: bool) -> None:
        super().__init__()
        self.into, self.layer = nn.Linear(1, 8), make(8, state_size=8, step_range=(0.1, 2.0))
        mix = [nn.GELU(), nn.Linear(8, 16), nn.GLU(dim=-1)] if mixed else []
        self.out = nn.Sequential(*mix, nn.Linear(8, 1))

    def forward(self, u: Tensor, gaps: Tensor) -> Tensor:
        """Occupied receptors (B, L)."""
        return self.out(self.layer(self.into(u), gaps)[0])[..., 0]


def error_of(make: partial, mixed: bool, seed: int, steps: int) -> float:
    """Mean squared error on fresh series, as a part of the variance, after some steps of Adam."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Around(make, mixed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        u, gaps, occupied = draw(32, 64, generator)
        loss = nn.functional.mse_loss(model(u, gaps), occupied)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    u, gaps, occupied = draw(256, 64, generator)
    with torch.no_grad():
        return (nn.functional.mse_loss(model(u, gaps), occupied) / occupied.var()).item()


def receptors(mixed: bool = False, seeds: Sequence[int] = range(5), steps: int = 500) -> dict[str, np.ndarray]:
    """Errors of each layer, one a seed, printed as they come."""
    found = {}
    print(
        "occupied receptors, with the nonlinearity behind the layer" if mixed else "occupied receptors, read linearly"
    )
    for name, make in LAYERS.items():
        found[name] = np.array([error_of(make, mixed, seed, steps) for seed in seeds])
        print(f"{name:14} part of the variance left: {found[name].mean():.4f} ({np.round(found[name], 4)})", flush=True)
    return found


def records(seeds: Sequence[int] = range(8), epochs: int = 40) -> dict[str, np.ndarray]:
    """Areas under the ROC curve for death in hospital from the first day, paired by seed."""
    models = {
        "lssl": partial(ctlssl.LSSLModel, multi_input=False, state_size=16),
        "liquid, paper": partial(LayerModel, layer="liquid", options={"state_size": 16, "method": "zoh"}),
        "liquid, exact": partial(LayerModel, layer="liquid", options={"state_size": 16, "form": "exact"}),
    }
    training = ctlssl.Training(epochs=epochs)
    arguments = {"references": False, "lengths": (), "progress": False, "training": training, "width": 16}
    result = ctlssl.compare("covid19", "death", models, list(seeds), **arguments)
    scores = result.auroc.isel(task=0)  # (model, seed)
    found = {name: scores.sel(model=name).values for name in models}
    for name, values in found.items():
        against = values - found["lssl"]
        error = against.std(ddof=1) / len(against) ** 0.5 if len(against) > 1 else float("nan")
        parameters, loss = (float(result[part].sel(model=name).mean()) for part in ("parameters", "log_loss"))
        print(f"{name:14} AUROC {values.mean():.3f}, log loss {loss:.3f}, against lssl {against.mean():+.3f} ", end="")
        print(f"(standard error {error:.3f}); {parameters:.0f} parameters", flush=True)
    return found


def main() -> None:
    """Both experiments."""
    receptors()
    receptors(mixed=True)
    records()


if __name__ == "__main__":
    main()
