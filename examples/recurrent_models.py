"""Recurrent models as state-space models: a gate is a step size, and depth is a fixed-point iteration.

Gated recurrent networks step x' = -x + f(x, u) by backward Euler, with a step size that they compute from the input;
a deep stack of linear layers x' = -x + u solves the same nonlinear equation by Picard's iteration. Run it:

    python examples/recurrent_models.py

References:
    Gu et al. (2021), LSSL, arXiv:2110.13985, section 3.2: lemma 3.1 (gates) and theorem 4 (depth).
"""

import torch

import ctlssl


def gated(length: int) -> float:
    """The largest difference between torch's GRU and the same numbers put through a linear state-space layer."""
    # A GRU has h_k = z h_{k-1} + (1 - z) n with the gate z = sigma(a). With 1 - z = sigma(-a), that is backward Euler
    # for h' = -h + n with the step size e^{-a}: x_k = (x_{k-1} + step n) / (1 + step).
    cell = torch.nn.GRUCell(3, 5).double()
    u, h = torch.randn(length, 3, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.float64)
    hidden, candidates, steps = [], [], []
    for row in u:
        given = torch.nn.functional.linear(row, cell.weight_ih, cell.bias_ih).chunk(3)
        back = torch.nn.functional.linear(h[0], cell.weight_hh, cell.bias_hh).chunk(3)
        candidates.append(torch.tanh(given[2] + torch.sigmoid(given[0] + back[0]) * back[2]))  # n
        steps.append(torch.exp(-(given[1] + back[1])))  # e^{-a}
        h = cell(row[None], h)
        hidden.append(h[0])
    # Every unit is a system x' = -x + u of its own with its own clock, so units are a batch of series here.
    one = torch.ones(1, dtype=torch.float64)
    leak = ctlssl.StateSpace(ctlssl.Dense(-one[None]), one[None], one[None, None], 0 * one[None])
    inputs, gaps = torch.stack(candidates).mT[..., None], torch.stack(steps).mT  # (5, L, 1), (5, L)
    stepped = ctlssl.recurrence(leak, ctlssl.METHODS["backward_euler"], inputs, gaps)
    return (stepped.y[..., 0].mT - torch.stack(hidden)).abs().max().item()


def deep(layers: int, horizon: float = 2.0) -> list[float]:
    """How far x' = -x + f(x) is from the output of each of so many linear layers with f between them."""

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(2 * x) + 0.5  # Lipschitz constant 2

    layer = ctlssl.LSSL(1, 1, structure="dense", method="foh", step_range=(1.0, 1.0)).double()  # A = -1, B = 1
    torch.nn.init.ones_(layer.C)
    torch.nn.init.zeros_(layer.D)
    times = (torch.rand(600, dtype=torch.float64) * horizon).sort().values  # an irregular grid
    start = torch.full((1, 1), 0.3, dtype=torch.float64)
    state = ctlssl.State(start[None], f(start))  # x and the input at time 0
    x, outputs = start.expand(1, 600)[..., None], []  # (1, L, 1)
    with torch.no_grad():
        for _ in range(layers + 25):
            x, _ = layer(f(x), ctlssl.gaps(times, first=times[0]), state=state)
            outputs.append(x)
    return [(y - outputs[-1]).abs().max().item() for y in outputs[:layers]]


def main(length: int = 50, layers: int = 16) -> dict[str, float]:
    """Print both relations, and return how well they hold."""
    torch.manual_seed(0)
    gate = gated(length)
    print(f"a GRU of {length} steps, and backward Euler with the step size of its gate: difference {gate:.1e}")
    errors = deep(layers)
    print("distance of layer 1, 2, ... to the solution of x' = -x + sin 2x + 1/2:")
    print("  " + " ".join(f"{error:.0e}" for error in errors))
    # Faster than geometric: (K T)^l / l! with K the Lipschitz constant and T the horizon.
    return {"gate": gate, "first": errors[0], "last": errors[-1]}


if __name__ == "__main__":
    main()
