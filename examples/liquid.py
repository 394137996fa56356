"""What a liquid layer is for: inputs that change how fast a state is forgotten, beside inputs that drive it.

One drug is given at rate u_1 and another, u_2, speeds up or slows down its elimination: with x the amount,

    x' = -a (1 + u_2) x + u_1,

observed at irregular times. A linear layer of the same size, with the same maps and the same nonlinearity around it,
cannot multiply a state by an input. On clinical records the same stack is then trained with either layer. Run it:

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

RATE = 0.3
LAYERS = {
    "lssl": partial(ctlssl.LSSL, structure="diagonal", method="zoh", per_channel=True),
    "liquid": partial(LiquidLSSL, method="zoh"),
    "liquid, exact": partial(LiquidLSSL, form="exact"),
}


def draw(series: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (B, L, 2), exponential gaps (B, L), and the amount at each time (B, L), solved exactly."""
    gaps = torch.empty(series, length).exponential_(1.0, generator=generator)
    given = torch.rand(series, length, generator=generator)
    given = given * 4 * (torch.rand(series, length, generator=generator) < 0.3)
    fresh = torch.rand(series, length, generator=generator) < 0.2  # the second drug changes now and then
    level = 4 * torch.rand(series, length, generator=generator) - 0.9
    place = torch.where(fresh, torch.arange(length), 0).cummax(1).values
    other = level.gather(1, place)
    amount, x = [], torch.zeros(series)
    for k in range(length):
        rate = RATE * (1 + other[:, k])
        x = torch.exp(-rate * gaps[:, k]) * x - torch.expm1(-rate * gaps[:, k]) / rate * given[:, k]
        amount.append(x)
    return torch.stack([given, other], -1), gaps, torch.stack(amount, 1)


class Around(nn.Module):
    """A layer of 8 channels between linear maps, with the stack's nonlinearity after it."""

    def __init__(self, make: partial) -> None:
        super().__init__()
        self.into, self.layer = nn.Linear(2, 8), make(8, state_size=8, step_range=(0.1, 2.0))
        self.out = nn.Sequential(nn.GELU(), nn.Linear(8, 16), nn.GLU(dim=-1), nn.Linear(8, 1))

    def forward(self, u: Tensor, gaps: Tensor) -> Tensor:
        """Amounts (B, L)."""
        return self.out(self.layer(self.into(u), gaps)[0])[..., 0]


def error_of(make: partial, seed: int, steps: int) -> float:
    """Mean squared error on fresh series, as a part of the variance, after some steps of Adam."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Around(make)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        u, gaps, amount = draw(32, 64, generator)
        loss = nn.functional.mse_loss(model(u, gaps), amount)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    u, gaps, amount = draw(256, 64, generator)
    with torch.no_grad():
        return (nn.functional.mse_loss(model(u, gaps), amount) / amount.var()).item()


def interaction(seeds: Sequence[int] = range(5), steps: int = 500) -> dict[str, np.ndarray]:
    """Errors of each layer, one a seed, printed as they come."""
    found = {}
    for name, make in LAYERS.items():
        found[name] = np.array([error_of(make, seed, steps) for seed in seeds])
        print(f"{name:14} part of the variance left: {found[name].mean():.4f} ({np.round(found[name], 4)})", flush=True)
    return found


def records(seeds: Sequence[int] = range(8), epochs: int = 60) -> dict[str, np.ndarray]:
    """Areas under the ROC curve for death in hospital from the first day, paired by seed."""
    models = {
        "lssl": partial(ctlssl.LSSLModel, multi_input=False, state_size=16),
        "liquid": partial(LayerModel, layer="liquid", options={"state_size": 16, "method": "zoh"}),
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
    interaction()
    records()


if __name__ == "__main__":
    main()
