"""Convolutional models as state-space models: filters of any width, on any grid.

The response of x' = A x + B u, y = C x is a convolution with C e^{tA} B. Every rational filter of order N is one of
N states, and any filter is approached by them; its width is the step size, which is learned. Run it:

    python examples/convolutional_models.py

References:
    Gu et al. (2021), LSSL, arXiv:2110.13985, section 3.2, convolutions. Voelker, Kajic, Eliasmith (2019), LMU.
"""

import numpy as np
import scipy.signal
import torch

import ctlssl


def filtered(length: int) -> dict[str, float]:
    """A Butterworth low-pass filter of scipy as a layer: by convolution, by steps, and on an irregular grid."""
    design = scipy.signal.lti(*scipy.signal.butter(4, 2.0, analog=True))
    system, zoh = ctlssl.StateSpace.from_scipy(design), ctlssl.METHODS["zoh"]
    times = torch.linspace(0, 20, length, dtype=torch.float64)
    u = (torch.sin(times) + torch.sin(9 * times))[None, :, None]  # (1, L, 1): slow, and too fast for the filter
    gaps = torch.full((1, length), times[1].item(), dtype=torch.float64)
    convolved, stepped = (view(system, zoh, u, gaps).y[0, :, 0] for view in (ctlssl.convolution, ctlssl.recurrence))
    # scipy's own response holds the input after the sample, ours before it: shift by one.
    _, own, _ = scipy.signal.lsim(design, np.append(u[0, 1:, 0], 0), times, interp=False)
    # What a convolution cannot do: the same filter where samples come at any times.
    irregular = (torch.rand(length, dtype=torch.float64) * 20).sort().values
    wild = (torch.sin(irregular) + torch.sin(9 * irregular))[None, :, None]
    found = ctlssl.recurrence(system, ctlssl.METHODS["foh"], wild, ctlssl.gaps(irregular[None], first=0.0)).y[0, :, 0]
    smooth = np.interp(irregular, times, stepped)
    return {
        "convolution": (convolved - stepped).abs().max().item(),
        "scipy": np.abs(own[1:] - stepped[1:].numpy()).max(),
        "irregular": np.abs(found.numpy() - smooth)[irregular > 5].max(),
    }


def boxcar(state_size: int, width: float) -> tuple[float, float]:
    """How far a layer started at LegT is from a moving average and from a delay, of a smooth signal.

    The state of LegT holds a window of the input: its first coefficient is the mean over the window, and the sum with
    signs (-1)^n sqrt(2n+1) is the value that leaves it. Its width is 1 / step size.
    """
    layer = ctlssl.LSSL(
        1, state_size, measure="legt", method="foh", heads=2, step_range=(1 / width, 1 / width)
    ).double()
    n = torch.arange(state_size, dtype=torch.float64)
    with torch.no_grad():
        layer.C[0, 0], layer.C[0, 1] = (n == 0).double(), (-1.0) ** n * torch.sqrt(2 * n + 1)
        layer.D.zero_()
        times = torch.linspace(0, 12, 1201, dtype=torch.float64)
        y, _ = layer(torch.sin(2 * times)[None, :, None], times[1].item())  # (1, L, 2)
    inside = times > 6
    mean = (torch.cos(2 * (times - width)) - torch.cos(2 * times)) / (2 * width)
    late = torch.sin(2 * (times - width))
    return tuple((y[0, inside, m] - truth[inside]).abs().max().item() for m, truth in enumerate((mean, late)))


def main(length: int = 2000) -> dict[str, float]:
    """Print what the filters do, and return how far apart things are that should be the same."""
    found = filtered(length)
    print("a Butterworth filter: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    for size in (4, 8, 12):
        errors = {width: boxcar(size, width) for width in (0.5, 2.0)}
        words = "; ".join(f"width {width}: average {a:.1e}, delay {d:.1e}" for width, (a, d) in errors.items())
        print(f"LegT with {size} states, {words}")
    found["average"], found["delay"] = errors[2.0]
    return found


if __name__ == "__main__":
    main()
