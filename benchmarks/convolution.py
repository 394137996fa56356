"""The convolution view of long regular records against the bare transforms that it cannot do without."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.contenders import Contender, Passes, Sizes, drawn, ours, torch_passes
from benchmarks.measures import at_most
from benchmarks.race import race
from benchmarks.row import Row

LAYERS = {
    "LSSL diagonal zoh": {"structure": "diagonal", "method": "zoh"},
    "LSSL dplr bilinear": {"structure": "dplr", "method": "bilinear"},
    "LSSL quasiseparable bilinear": {"structure": "quasiseparable", "method": "bilinear"},
}


class BareTransforms(nn.Module):
    """irfft(rfft(u) rfft(kernel)) of a kernel that is already there; nothing else. Rows of u are dimension `dim`."""

    def __init__(self, channels: int, length: int, dim: int) -> None:
        super().__init__()
        self.kernel, self.dim = nn.Parameter(torch.randn(channels, length)), dim

    def forward(self, u: Tensor) -> Tensor:
        rows = {"n": 2 * u.shape[self.dim], "dim": self.dim}
        response = torch.fft.rfft(self.kernel, n=rows["n"])  # (H, F)
        product = torch.fft.rfft(u, **rows) * (response.T if self.dim == 1 else response)
        return torch.fft.irfft(product, **rows).narrow(self.dim, 0, u.shape[self.dim])


def _bare(dim: int) -> Callable[[Sizes], Passes]:
    def build(sizes: Sizes) -> Passes:
        torch.manual_seed(0)
        transforms = BareTransforms(sizes.channels, sizes.length, dim)
        u, _ = drawn(sizes)
        return torch_passes(transforms, transforms, u if dim == 1 else u.transpose(1, 2).contiguous())

    return build


CONVOLVED = tuple(ours(name, view="convolution", regular=True, **options) for name, options in LAYERS.items())

ROW = Row(
    name="convolution",
    title="Convolution at L = 16384 against the bare FFTs",
    run=race,
    contenders=(Contender("bare FFTs", _bare(1)), Contender("bare FFTs, rows last", _bare(2)), *CONVOLVED),
    sizes=Sizes(batch=8, length=16384),
    growing=tuple(LAYERS),
    growth={"length": (2048, 4096, 8192, 16384)},
    base=Sizes(batch=2),
    repetitions=3,
    targets={f"{name}, forward": at_most(2) for name in LAYERS},
    notes=(
        "The whole layer: kernel of the system, transforms, product, feed-through, final state; against rfft of the "
        "input (B, L, H) and of a kernel (H, L) padded to 2 L, product and irfft in the same dtype and layout.",
        "Rows last: the transforms alone would be faster on an input (B, H, L) that lies as they like it; bringing (B, "
        "L, H) into that order and back costs the difference.",
    ),
)
