"""One observation at a time through a stack of four layers."""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.contenders import Contender, Passes, Sizes
from benchmarks.measures import at_most
from benchmarks.race import race
from benchmarks.row import Row
from ctlssl import LSSL

LAYERS, STEPS = 4, 100


def _streamed(start: Callable, step: Callable, sizes: Sizes) -> Passes:
    """STEPS observations of `sizes.batch` series, reported as the time of one."""
    u = torch.randn(STEPS, sizes.batch, sizes.channels)
    dt = torch.empty(STEPS, sizes.batch).exponential_()

    @torch.no_grad()
    def forward() -> None:
        state = start()
        for k in range(STEPS):
            _, state = step(u[k], dt[k], state)

    return Passes(forward, forward, lambda: None, u.nbytes, scale=1 / STEPS)


def _lssl(multi_input: bool) -> Callable[[Sizes], Passes]:
    def build(sizes: Sizes) -> Passes:
        torch.manual_seed(0)
        options = {"structure": "diagonal", "method": "zoh", "multi_input": multi_input}
        layers = [LSSL(sizes.channels, sizes.state, **options) for _ in range(LAYERS)]

        def step(u, dt, states):
            after = []
            for layer, state in zip(layers, states, strict=True):
                u, state = layer.step(u, dt, state)
                after.append(state)
            return u, after

        return _streamed(lambda: [layer.initial_state(sizes.batch) for layer in layers], step, sizes)

    return build


def _lstm(sizes: Sizes) -> Passes:
    torch.manual_seed(0)
    network = nn.LSTM(sizes.channels, sizes.channels, num_layers=LAYERS)
    return _streamed(lambda: None, lambda u, dt, state: network(u[None], state), sizes)


BANK, MULTI = "4 LSSL banks, one step", "4 LSSL multi-input, one step"
ROW = Row(
    name="streaming",
    title="Streaming: one observation of one series through four layers",
    run=race,
    contenders=(
        Contender(BANK, _lssl(False)),
        Contender(MULTI, _lssl(True)),
        Contender("torch LSTM of 4 layers, one step", _lstm),
    ),
    sizes=Sizes(batch=1, length=1),
    quick=Sizes(1, 1, 4, 4),
    both=False,
    peaks=False,
    targets={f"{BANK}, forward": at_most(1)},
    notes=(f"`layer.step` under `torch.no_grad()`, irregular gaps; the mean of {STEPS} steps, {LAYERS} layers each.",),
)
