"""Differential equations as layers: known dynamics, other sampling rates, and time constants learned from gaps.

A layer is a differential equation, so what is known of a system goes in as matrices, the solution does not depend on
when it is looked at, and what is learned has units of time. Run it:

    python examples/differential_equations.py

References:
    Gu et al. (2021), LSSL, arXiv:2110.13985, sections 3.1 (differential equations) and 4.3 (change of sampling rate).
"""

import math

import torch

import ctlssl


def oscillator(length: int) -> dict[str, float]:
    """A damped, driven pendulum x'' + 0.2 x' + 4 x = u: solver, layer, and another sampling of the same hours."""
    A = ctlssl.Dense(torch.tensor([[0.0, 1.0], [-4.0, -0.2]], dtype=torch.float64))
    B, C, D = (torch.tensor(m, dtype=torch.float64) for m in ([[0.0, 1.0]], [[[1.0, 0.0]]], [[0.0]]))
    system, foh = ctlssl.StateSpace(A, B, C, D), ctlssl.METHODS["foh"]
    times = (torch.rand(1, length, dtype=torch.float64) * 10).sort(dim=1).values  # (1, L)
    u = torch.cos(1.3 * times)[..., None]  # (1, L, 1)
    gaps = ctlssl.gaps(times, first=0.0)
    stepped = ctlssl.recurrence(system, foh, u, gaps).y
    tight = ctlssl.Integration(rtol=1e-9, atol=1e-11)
    solved = ctlssl.integration(system, foh, u, gaps, solver=tight)
    # Twice as many samples of the same signal: nothing is retrained, and the values at the old times
    # stay, up to what straight lines between fewer samples had missed.
    twice = torch.cat([times, (times[:, 1:] + times[:, :-1]) / 2], dim=1)
    order = twice.argsort(dim=1)
    dense = twice.gather(1, order)
    again = ctlssl.recurrence(system, foh, torch.cos(1.3 * dense)[..., None], ctlssl.gaps(dense, first=0.0)).y
    at_old = again[0, order.argsort(dim=1)[0, :length], 0]
    return {
        "solver": (solved.y - stepped).abs().max().item(),
        "evaluations": float(solved.evaluations),
        "resampled": (at_old - stepped[0, :, 0]).abs().max().item(),
    }


def decay(half_life: float, steps: int) -> float:
    """The half-life that a layer learns from irregular samples of u filtered by an exponential of unknown rate."""
    torch.manual_seed(1)
    gaps = torch.empty(8, 40, dtype=torch.float64).exponential_(1.0)  # (B, L), in hours, say
    u = torch.randn(8, 40, 1, dtype=torch.float64)
    layer = ctlssl.LSSL(1, 1, structure="dense", method="zoh", step_range=(1.0, 1.0), learn=("step",)).double()
    torch.nn.init.ones_(layer.C)
    torch.nn.init.zeros_(layer.D)
    with torch.no_grad():
        layer.log_step.fill_(math.log(math.log(2) / half_life))  # x' = step (u - x)
        truth, _ = layer(u, gaps)
        layer.log_step.fill_(0.0)
    optimizer = torch.optim.Adam([layer.log_step], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(u, gaps)[0] - truth).square().mean()
        loss.backward()
        optimizer.step()
    return math.log(2) / layer.log_step.exp().item()


def main(length: int = 40, steps: int = 120) -> dict[str, float]:
    """Print what layers and solvers say, and return how far they are apart."""
    torch.manual_seed(0)
    found = oscillator(length)
    print(f"a driven pendulum on {length} irregular samples: layer and solver differ by {found['solver']:.1e}")
    print(f"  (the solver needed {found['evaluations']:.0f} evaluations); twice the samples: {found['resampled']:.1e}")
    found["half_life"] = decay(5.0, steps)
    print(f"a half-life of 5 learned from gaps of about 1: {found['half_life']:.3f}")
    return found


if __name__ == "__main__":
    main()
