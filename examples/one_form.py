"""Every layer of the family, LSSL, linear attention and S6 as one recurrence, side by side.

    h_i = L_i h_{i-1} + B_i u_i        y_i = C_i h_i + D_i u_i

On the same irregular series each layer is written in this form, run in it, and looked at: how many numbers its state
has, the largest |eigenvalue| of L_i (the median over the rows), and how far an input reaches, that is the norm of
C_i L_i ... L_{j+1} B_j in the lag i - j, divided by that of lag 0, all with the matrices of this series: what an input
changes in the matrices of later rows is not in it. Layers are as they start, with 4 channels and N = 4; step sizes of
the family lie between 0.1 and 1, and gaps are about 1. (LSSL has N states a channel, and holds the last input.)

Linear attention forgets nothing: its eigenvalues are 1, and only the normaliser thins an input out as others come.
Given a rate, it fades with the clock as the others do. The robust memory is attention that corrects: what it writes is
what its memory did not yet say of a key, and a later input of the same key writes over it.

    python examples/one_form.py
"""

import torch

from ctlssl.layers import FAMILY, LSSL, LinearForm, as_recurrence, linear_attention_form, s6_form

LAGS = (0, 1, 4, 16)
CHANNELS, STATES = 4, 4


def main(rows: int = 40) -> dict[str, dict[str, float]]:
    """Print one line a layer, and return the numbers."""
    torch.manual_seed(0)
    u = torch.randn(1, rows, CHANNELS, dtype=torch.float64)
    dt = torch.empty(1, rows, dtype=torch.float64).exponential_(1.0)
    print(f"{'layer':24}{'state':>6}{'radius':>8}" + "".join(f"{f'lag {lag}':>10}" for lag in LAGS) + f"{'error':>10}")
    found = {}
    for name, (form, expected) in (layers(u, dt) | attention(u, dt) | {"S6": (selective(u, dt), None)}).items():
        reach = [form.influence(lag).mean().item() for lag in LAGS]
        found[name] = {"state": form.size, "radius": form.spectral_radius().median().item()}
        found[name] |= {f"lag {lag}": value / reach[0] for lag, value in zip(LAGS, reach, strict=True)}
        if expected is not None:  # the layer's own output
            found[name]["error"] = (form.run(u) - expected).abs().max().item()
        cells = "".join(f"{found[name][f'lag {lag}']:10.2g}" for lag in LAGS)
        error = f"{found[name]['error']:10.1g}" if expected is not None else ""
        print(f"{name:24}{form.size:6}{found[name]['radius']:8.3f}{cells}{error}")
    return found


def layers(u: torch.Tensor, dt: torch.Tensor) -> dict[str, tuple[LinearForm, torch.Tensor]]:
    """The layers that the library has, each with the form and the output of the layer itself."""
    options = {"state_size": STATES, "step_range": (0.1, 1.0)}
    made = {"LSSL": LSSL(CHANNELS, structure="diagonal", method="zoh", **options)}
    made |= {name: build(CHANNELS, **options) for name, build in FAMILY.items()}
    found = {}
    with torch.no_grad():
        for name, layer in made.items():
            layer.double()
            found[name] = as_recurrence(layer, u, dt), layer(u, dt)[0]
    return found


def attention(u: torch.Tensor, dt: torch.Tensor) -> dict[str, tuple[LinearForm, torch.Tensor]]:
    """Linear attention in three forms, each with the output of its matrix of weights."""
    query, key, value = torch.randn(3, CHANNELS, CHANNELS, dtype=torch.float64) / CHANNELS**0.5
    times, found = dt.cumsum(1), {}
    features = [torch.nn.functional.elu(u @ weight.mT) + 1 for weight in (query, key)]
    for name, decay, normalised in (
        ("linear attention", 0.0, True),
        ("  unnormalised", 0.0, False),
        ("  with a rate of 0.3", 0.3, True),
    ):
        weights = features[0] @ features[1].mT * torch.exp(-decay * (times[:, :, None] - times[:, None]).abs())
        weights = weights.tril()  # (1, L, L)
        weights = weights / weights.sum(-1, keepdim=True) if normalised else weights
        form = linear_attention_form(u, query, key, value, dt, decay, normalised)
        found[name] = form, weights @ (u @ value.mT)
    return found


def selective(u: torch.Tensor, dt: torch.Tensor) -> LinearForm:
    """S6 with the gap as a factor of its step, rates -1 to -N as it starts."""
    A = -torch.arange(1.0, STATES + 1, dtype=torch.float64).expand(CHANNELS, STATES)
    B, C = torch.randn(2, STATES, CHANNELS, dtype=torch.float64) / CHANNELS**0.5
    step, bias = 0.3 * torch.randn(CHANNELS, CHANNELS, dtype=torch.float64), torch.full((CHANNELS,), -1.5).double()
    return s6_form(u, A, B, C, step, bias, torch.ones(CHANNELS, dtype=torch.float64), dt)


if __name__ == "__main__":
    main()
