"""From which length the convolution view beats the recurrence, forward and backward, on a regular grid.

    python -m benchmarks.crossover

Layers that learn A, B and the step, and fixed ones, which learn only C and D.
Prints the median over interleaved repetitions of seconds(recurrence) / seconds(convolution); above 1 the
convolution wins.
"""

import itertools
import statistics
import time

import torch

from ctlssl import LSSL

LENGTHS = (16, 128, 1024, 2048, 4096)
MEMBERS = [("diagonal", "zoh"), ("dplr", "bilinear"), ("quasiseparable", "bilinear"), ("dense", "zoh")]


def seconds(layer, u, view):
    begin = time.perf_counter()
    y, _ = layer(u, view=view)
    y.square().sum().backward()
    return time.perf_counter() - begin


def ratio(layer, length, repetitions):
    u = torch.randn(8, length, layer.channels)
    ratios = []
    for repetition in range(repetitions + 1):
        pair = [seconds(layer, u, view) for view in ("recurrence", "convolution")]
        if repetition:  # the first warms up
            ratios.append(pair[0] / pair[1])
    return statistics.median(ratios)


def main(lengths=LENGTHS, repetitions=3, channels=16, state_size=32):
    print(f"{'structure':16}{'multi-input':13}{'fixed':7}" + "".join(f"{length:>8}" for length in lengths))
    for structure, method in MEMBERS:
        for multi_input, fixed in itertools.product((False, True), (False, True)):
            torch.manual_seed(0)
            learn = () if fixed else ("A", "B", "step")
            layer = LSSL(channels, state_size, structure, method=method, multi_input=multi_input, learn=learn)
            row = [ratio(layer, length, repetitions) for length in lengths]
            print(
                f"{structure:16}{multi_input!s:13}{fixed!s:7}" + "".join(f"{value:8.2f}" for value in row), flush=True
            )


if __name__ == "__main__":
    main()
