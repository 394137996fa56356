"""What runs in a race: a layer of ours or a peer, built at given sizes."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ctlssl import LSSL
from ctlssl.kernels import plain_torch


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Series, rows of each, channels, and real state dimensions of each system."""

    batch: int = 32
    length: int = 1000
    channels: int = 64
    state: int = 64

    def __str__(self) -> str:
        return f"B={self.batch}, L={self.length}, {self.channels} channels, N={self.state}"


@dataclasses.dataclass(frozen=True)
class Passes:
    """A contender ready to run.

    Args:
        forward: outputs alone, no gradient recorded.
        both: forward + backward, gradients of the parameters and of the input.
        reset: forget the gradients, outside the clock.
        input_bytes: of what it reads.
        scale: what its seconds and bytes are multiplied with, where it ran fewer rows than the others.
    """

    forward: Callable[[], object]
    both: Callable[[], object]
    reset: Callable[[], object]
    input_bytes: int
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Contender:
    """A name, how it is built, the modules of [bench] it imports, and its warm-up runs."""

    name: str
    build: Callable[[Sizes], Passes]
    needs: tuple[str, ...] = ()
    warmups: int = 1


def drawn(sizes: Sizes, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (B, L, H) and gaps of mean 1, each series its own, (B, L)."""
    draw = torch.Generator().manual_seed(seed)
    u = torch.randn(sizes.batch, sizes.length, sizes.channels, generator=draw)
    return u, torch.empty(sizes.batch, sizes.length).exponential_(generator=draw)


def torch_passes(module: nn.Module, run: Callable[[Tensor], Tensor], u: Tensor, more: int = 0, scale: float = 1.0):
    """The passes of a torch module whose outputs are run(u); `more` bytes are read beside u.

    The way back starts from a gradient of the outputs that is handed in: a loss would be a handful of passes over fresh
    memory, which take as long as some of the layers.
    """
    slopes = {}

    def forward():
        with torch.no_grad():
            return run(u)

    def both():
        y = run(u.detach().requires_grad_())
        if y.shape not in slopes:
            slopes[y.shape] = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)) / y.numel()
        y.backward(slopes[y.shape])

    return Passes(forward, both, lambda: module.zero_grad(set_to_none=True), u.nbytes + more, scale)


def ours(name: str, view: object = "recurrence", plain: bool = False, regular: bool = False, **options) -> Contender:
    """An LSSL layer; `plain`: its plain torch twin; `regular`: one gap for all rows."""

    def build(sizes: Sizes) -> Passes:
        torch.manual_seed(0)
        layer = LSSL(sizes.channels, sizes.state, **options)
        u, gaps = drawn(sizes)
        dt = 1.0 if regular else gaps

        def run(u):
            with plain_torch() if plain else nullcontext():
                return layer(u, dt, view=view)[0]

        return torch_passes(layer, run, u, 0 if regular else gaps.nbytes)

    return Contender(name, build)


def recurrent(name: str, kind: type[nn.Module]) -> Contender:
    """torch's own LSTM or GRU of the same width."""

    def build(sizes: Sizes) -> Passes:
        torch.manual_seed(0)
        network = kind(sizes.channels, sizes.channels, batch_first=True)
        u, _ = drawn(sizes)
        return torch_passes(network, lambda u: network(u)[0], u)

    return Contender(name, build)


LSTM = recurrent("torch LSTM", nn.LSTM)
GRU = recurrent("torch GRU", nn.GRU)
