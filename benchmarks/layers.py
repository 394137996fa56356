"""The recurrence of a diagonal LSSL against torch's LSTM and GRU of the same width, and against its own torch twin.

    python -m benchmarks.layers

Prints medians of seconds(other) / seconds(LSSL) over interleaved repetitions; above 1 the LSSL is faster.
"""

import statistics
import time
from contextlib import nullcontext

import torch

from ctlssl import LSSL
from ctlssl.kernels import plain_torch


def seconds(run, u, backward):
    u = u.clone().requires_grad_(backward)
    begin = time.perf_counter()
    with torch.set_grad_enabled(backward):
        y = run(u)
        if backward:
            y.square().mean().backward()
    return time.perf_counter() - begin


def peers(layer, dt, width):
    lstm, gru = torch.nn.LSTM(width, width, batch_first=True), torch.nn.GRU(width, width, batch_first=True)

    def stepped(context):
        def run(u):
            with context():
                return layer(u, dt, view="recurrence")[0]

        return run

    return {
        "fused": stepped(nullcontext),
        "lstm": lambda u: lstm(u)[0],
        "gru": lambda u: gru(u)[0],
        "twin": stepped(plain_torch),
    }


def main(batch=32, length=1000, width=64, state_size=64, repetitions=5, threads=2, without=()):
    torch.set_num_threads(threads)
    print(f"{'layer':14}{'pass':20}{'lstm':>8}{'gru':>8}{'twin':>8}{'seconds':>10}")
    for multi_input in (False, True):
        torch.manual_seed(0)
        layer = LSSL(width, state_size, "diagonal", method="zoh", multi_input=multi_input)
        u, dt = torch.randn(batch, length, width), torch.empty(batch, length).exponential_()
        runs = {name: run for name, run in peers(layer, dt, width).items() if name not in without}
        for backward in (False, True):
            found = {name: [] for name in runs}
            for repetition in range(repetitions + 1):
                for name, run in runs.items():
                    spent = seconds(run, u, backward)
                    if repetition:  # the first warms up
                        found[name].append(spent)
            row = "".join(
                f"{statistics.median(a / b for a, b in zip(found[name], found['fused'], strict=True)):8.2f}"
                if name in found
                else " " * 8
                for name in ("lstm", "gru", "twin")
            )
            kind = "forward + backward" if backward else "forward"
            name = "multi-input" if multi_input else "bank"
            print(f"{name:14}{kind:20}{row}{statistics.median(found['fused']):10.4f}", flush=True)


if __name__ == "__main__":
    main()
