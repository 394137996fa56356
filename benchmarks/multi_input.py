"""One diagonal system that reads all channels, gaps of each series its own: against LSTM, GRU and the S5 scans."""

import torch

from benchmarks.contenders import GRU, LSTM, Contender, Passes, Sizes, drawn, ours, torch_passes
from benchmarks.jax_scan import SCAN
from benchmarks.measures import at_least
from benchmarks.race import race
from benchmarks.row import Row

NAME = "LSSL multi-input"


def _s5_pytorch(sizes: Sizes) -> Passes:
    from s5 import S5

    torch.manual_seed(0)
    u, gaps = drawn(sizes)
    # Its states are complex and not paired: half as many hold the same real numbers.
    network = S5(sizes.channels, sizes.state // 2, bcInit="dense")
    return torch_passes(network, lambda u: network(u, gaps), u, gaps.nbytes)


LAYER = {"structure": "diagonal", "method": "zoh", "multi_input": True}
S5_PYTORCH = Contender("s5-pytorch", _s5_pytorch, needs=("s5",), warmups=2)

ROW = Row(
    name="multi_input",
    title="Multi-input diagonal layer, zoh, irregular gaps",
    run=race,
    contenders=(ours(NAME, **LAYER), LSTM, GRU, SCAN, S5_PYTORCH, ours("plain torch twin", plain=True, **LAYER)),
    growing=(NAME,),
    growth={"length": (500, 1000, 2000, 4000), "state": (16, 32, 64, 128), "channels": (16, 32, 64, 128)},
    base=Sizes(batch=16),
    targets={
        "torch LSTM, forward + backward": at_least(4.5, aim=6),
        "JAX associative scan, forward + backward": at_least(4.5, aim=6),
    },
    notes=(
        "The layer whole: input map, discretization, scan, output map, feed-through; gradients of all parameters and "
        "of the input.",
        "JAX: S5 from the paper's formulas, `jax.lax.associative_scan` under `vmap` over the batch, `vjp`, "
        "compiled before the clock starts, complex64. XLA takes a thread for each core that the process may use.",
        "s5-pytorch 0.2.1 takes a step factor for each row, and then forms a matrix for each row. 32 unpaired complex "
        "states stand against 64 real ones.",
        "The twin is the same layer in plain torch, the reference of the tests.",
    ),
)
