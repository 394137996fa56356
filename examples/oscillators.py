"""Swinging on through a silence: forecasts of noisy oscillations that were seen at irregular times.

Every record is one damped string with three known tones, started anyhow, heard through noise at 60 random times, and
asked for later: soon, and after many periods. What a model keeps of the phase shows late. The best forecast there is,
that of someone who knows the tones, is a linear one and printed beside.

The exact oscillators carry the phase through the silence, the implicit ones have lost it by then, and the
implicit-explicit step is none for such a clock: it grows where a gap is beyond 2 / frequency, and says so. A diagonal
LSSL of the same size does better still: it reads both parts of each rotation, LinOSS the position alone. Run it for a
table:

    python examples/oscillators.py
"""

import math

import torch
from torch import Tensor

import ctlssl
from ctlssl.baselines import GRU

TONES, DECAY, NOISE = torch.tensor([0.9, 1.6, 2.7]).double(), 0.02, 0.5
ROWS, GAP, SOON, LATE = 60, 0.4, 2.0, 12.0
"""Rows of a record, their mean gap, and the times after the last one until which a forecast is soon, and late."""

PROBLEM = ctlssl.Problem("forecasting", 1, 1, time_scale=GAP, first_gap=GAP, horizon=ROWS * GAP)


def _layer(method: str, damped: bool):  # noqa: ANN202
    options = {"method": method, "damped": damped, "state_size": 32}
    return lambda: ctlssl.LayerModel(PROBLEM, 32, layer="linoss", options=options, dropout=0.0)


MODELS = {
    "LinOSS implicit": _layer("implicit", False),
    "LinOSS implicit-explicit": _layer("implicit_explicit", False),
    "LinOSS exact": _layer("exact", False),
    "LinOSS implicit, damped": _layer("implicit", True),
    "LinOSS exact, damped": _layer("exact", True),
    "LSSL diagonal": lambda: ctlssl.LSSLModel(PROBLEM, 32, state_size=32, dropout=0.0),
    "GRU with gaps": lambda: GRU(PROBLEM, 26, dropout=0.0),
}


def tones(times: Tensor) -> Tensor:
    """What the six parts of a string's motion are at some times, (..., 6)."""
    swung = TONES * times[..., None]
    return torch.cat([swung.cos(), swung.sin()], -1) * torch.exp(-DECAY * times[..., None])


def drawn(batch: int, draw: torch.Generator) -> tuple[ctlssl.TimeSeries, Tensor, Tensor, Tensor]:
    """Records, times of queries, half of them soon and half late, (B, 16), what will be, and its best forecast."""
    gaps = -(1 - torch.rand(batch, ROWS, generator=draw, dtype=torch.float64)).log() * GAP
    times = gaps.cumsum(1)  # (B, L)
    ahead = torch.rand(batch, 16, generator=draw, dtype=torch.float64)
    ahead = torch.cat([SOON * ahead[:, :8], SOON + (LATE - SOON) * ahead[:, 8:]], 1)
    asked = times[:, -1:] + ahead
    start = torch.randn(batch, 6, 1, generator=draw, dtype=torch.float64) / math.sqrt(3)
    seen, truth = tones(times), (tones(asked) @ start)[..., 0]  # (B, L, 6), (B, 16)
    heard = seen @ start + NOISE * torch.randn(batch, ROWS, 1, generator=draw, dtype=torch.float64)
    precision = seen.mT @ seen / NOISE**2 + 3 * torch.eye(6, dtype=torch.float64)
    best = (tones(asked) @ torch.linalg.solve(precision, seen.mT @ heard / NOISE**2))[..., 0]
    flags, lengths = torch.ones(batch, ROWS, 1, dtype=torch.bool), torch.full((batch,), ROWS)
    return ctlssl.TimeSeries(heard.float(), times, flags, lengths), asked, truth, best


def unexplained(forecast: Tensor, truth: Tensor) -> tuple[float, float]:
    """Share of the variance of what will be that a forecast leaves, soon and late."""
    left = (forecast - truth).square() / truth.square().mean(0)
    return left[:, :8].mean().item(), left[:, 8:].mean().item()


def train(name: str, seed: int, steps: int, batch: int = 64) -> torch.nn.Module:
    """Least squares on new records at every step."""
    torch.manual_seed(seed)
    model, draw = MODELS[name](), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        series, asked, truth, _ = drawn(batch, draw)
        loss = (model(series, asked).mean[..., 0] - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def main(
    steps: int = 500, seeds: int = 3, names: tuple[str, ...] = tuple(MODELS)
) -> dict[str, list[tuple[float, float]]]:
    """The variance left unexplained, soon and late, by model, one a seed (none where a step is refused); printed."""
    series, asked, truth, best = drawn(1000, torch.Generator().manual_seed(10**6))
    found = {"best": [unexplained(best, truth)]}
    print(f"{'the best there is':26s} {'':22s} left soon {found['best'][0][0]:.3f}, late {found['best'][0][1]:.3f}")
    for name in names:
        found[name] = []
        for seed in range(seeds):
            try:
                model = train(name, seed, steps)
            except ValueError as refusal:
                print(f"{name:26s} refused: {refusal}")
                break
            with torch.no_grad():
                found[name].append(unexplained(model(series, asked).mean[..., 0], truth))
            size = sum(p.numel() for p in model.parameters())
            soon, late = found[name][-1]
            print(f"{name:26s} {size:6d} numbers, seed {seed}: left soon {soon:.3f}, late {late:.3f}", flush=True)
    return found


if __name__ == "__main__":
    main()
