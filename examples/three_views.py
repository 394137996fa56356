"""Three views of one layer: a recurrence, a convolution, an ordinary differential equation.

A linear state-space layer is x' = A x + B u, y = C x + D u. The same parameters can be stepped from observation to
observation, convolved where the grid is regular, or handed to an ODE solver. Run it:

    python examples/three_views.py
"""

import torch

import ctlssl


def main(channels: int = 4, length: int = 40) -> dict[str, float]:
    """Print how far the views are apart, and return the largest differences."""
    torch.manual_seed(0)

    # An exact rule (zero-order hold) solves the differential equation of a piecewise constant input without error,
    # whatever the gaps. S4D-LegS poles: a diagonal A.
    layer = ctlssl.LSSL(channels, state_size=16, structure="diagonal", method="zoh").double()
    u = torch.randn(2, length, channels, dtype=torch.float64)  # (B, L, H)

    # On a regular grid (dt is one number) all three views serve.
    regular = ctlssl.views_agree(layer, u, 0.5, solvers=[ctlssl.Integration(rtol=1e-6, atol=1e-8)], repeats=1)
    print(regular.to_dataframe().to_string(float_format="{:.2e}".format), "\n")

    # Records of patients are not regular: every series has its own clock, here with gaps over two decades.
    dt = 10 ** torch.empty(2, length, dtype=torch.float64).uniform_(-2, 0)  # (B, L)
    irregular = ctlssl.views_agree(layer, u, dt, solvers=[ctlssl.Integration(rtol=1e-6, atol=1e-8)], repeats=1)
    print(irregular.to_dataframe().to_string(float_format="{:.2e}".format))  # the convolution declines: NaN

    # The state can be handed over, and asked between observations without being disturbed.
    whole, _ = layer(u, dt)
    half = length // 2
    first, state = layer(u[:, :half], dt[:, :half])
    between = layer.peek(state, 0.3)  # 0.3 units after the last of them
    rest, _ = layer(u[:, half:], dt[:, half:], state=state)
    chunks = (torch.cat([first, rest], dim=1) - whole).abs().max().item()
    print(f"\nin two chunks, with a look between them of shape {tuple(between.shape)}: difference {chunks:.1e}")
    return {
        "convolution": regular.error.sel(view="convolution").item(),
        "solver": irregular.error.values[-1].item(),
        "chunks": chunks,
    }


if __name__ == "__main__":
    main()
