"""HiPPO as a memory: the past of a signal, drawn again from a few numbers.

A state-space model with the matrices of HiPPO keeps in its state the coefficients of polynomials: of all its history
(LegS) or of a window that slides along (LegT). Samples may come at any times. Run it, for numbers and a picture:

    python examples/hippo_memory.py hippo_memory.png
"""

import sys

import torch

import ctlssl


def signal(t: torch.Tensor) -> torch.Tensor:
    """A decaying oscillation with a slower one under it."""
    return torch.exp(-0.4 * t) * torch.cos(3.5 * t) + 0.5 * torch.sin(1.5 * t)


def main(picture: str | None = None, samples: int = 1000) -> dict[str, float]:
    """Print how much is forgotten, save a picture where a path is given, and return the errors."""
    torch.manual_seed(0)

    # Gaps spread over two decades: some parts of the signal are seen often, others hardly at all.
    gaps = 10 ** torch.empty(samples, dtype=torch.float64).uniform_(-1, 1)
    times = 5 * gaps.cumsum(0) / gaps.sum()  # until t = 5
    values = signal(times)

    # All of the past in N numbers. LegS has the measure 1 / t: on the clock ln t it is x' = A x + B u.
    past = torch.linspace(0, 5, 501, dtype=torch.float64)
    found: dict[str, float] = {}
    print(f"{samples} irregular samples; root mean square error over that of the signal")
    for method in ("zoh", "foh"):
        for size in (4, 8, 16, 32):
            memory = ctlssl.remember_history(values, times, size, method)
            off = memory.reconstruct(past) - signal(past)
            found[f"{method}-{size}"] = (off.square().mean() / signal(past).square().mean()).sqrt().item()
        print(f"  history, {method}: " + "  ".join(f"N={n} {found[f'{method}-{n}']:.1e}" for n in (4, 8, 16, 32)))

    # Only the last two units of time, with a quarter of the numbers.
    window = ctlssl.remember_window(values, times, window=2.0, state_size=8)
    recent = torch.linspace(3, 5, 201, dtype=torch.float64)
    off = window.reconstruct(recent) - signal(recent)
    found["window"] = (off.square().mean() / signal(recent).square().mean()).sqrt().item()
    print(f"  window of 2, foh: N=8 {found['window']:.1e}")

    # A memory knows what it knew before: after any earlier sample, with nothing of what came later.
    row = int((times < 2.5).sum()) - 1
    early = torch.linspace(0, times[row].item(), 200, dtype=torch.float64)
    memory = ctlssl.remember_history(values, times, 16)
    found["halfway"] = (memory.reconstruct(early, row) - signal(early)).abs().max().item()
    if picture is not None:
        draw(times, values, past, picture)
    return found


def draw(times: torch.Tensor, values: torch.Tensor, past: torch.Tensor, path: str) -> None:
    """The signal and what is drawn again: histories of three sizes above, windows at three times below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes in (above, below):
        axes.plot(past, signal(past), color="0.7", linewidth=4, label="the signal")
        axes.plot(times, torch.full_like(times, -1.0), "|", color="0.3", alpha=0.4, label="samples")
        axes.set_ylim(-1.1, 1.9)
    for size in (4, 8, 16):
        memory = ctlssl.remember_history(values, times, size)
        above.plot(past, memory.reconstruct(past), label=f"all of it from {size} numbers")
    window = ctlssl.remember_window(values, times, window=1.5, state_size=6)
    for number, end in enumerate((1.6, 3.2, 5.0)):
        row = int((times <= end).sum()) - 1
        begin, now = (time.item() for time in window.span(row))
        recent = torch.linspace(begin, now, 100, dtype=torch.float64)
        below.plot(recent, window.reconstruct(recent, row), color=f"C{number}", label=f"from 6 numbers at {now:.1f}")
        below.axvspan(begin, now, color=f"C{number}", alpha=0.1)
    above.set_title("LegS: the history, every part of it with the same weight", fontsize="medium")
    below.set_title("LegT: a window of 1.5 units of time", fontsize="medium")
    below.set_xlabel("time")
    for axes in (above, below):
        axes.legend(fontsize="small", ncols=3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:2])
