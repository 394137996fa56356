"""Counting that lasts: parity, remainders of 3, products of permutations, at four times the length of training.

A state with positive eigenvalues forgets or keeps, but cannot turn. A sign at an event makes parity countable, two
reflections a rotation by 120 degrees and the six permutations of three things. Run it for a table of accuracies:

    python examples/state_tracking.py
"""

import itertools

import torch
from torch import Tensor, nn

from ctlssl.layers import HouseholderLSSL, SignedLSSL

PERMUTATIONS = torch.tensor(list(itertools.permutations(range(3))))
PRODUCTS = torch.tensor(
    [[(PERMUTATIONS == PERMUTATIONS[g][PERMUTATIONS[h]]).all(1).nonzero().item() for h in range(6)] for g in range(6)]
)
TABLES = {
    "parity": torch.tensor([[0, 1], [1, 0]]),
    "modulo 3": (torch.arange(3)[:, None] + torch.arange(3)) % 3,
    "S3": PRODUCTS,
}
"""Of a group by its multiplication: what follows, given the next element (row) and the product so far (column)."""

LAYERS = {
    "parity": ("signed", lambda width, signed: SignedLSSL(width, 16, signed=signed, decays=False)),
    "modulo 3": ("householder", lambda width, signed: _householder(width, signed)),
    "S3": ("householder", lambda width, signed: _householder(width, signed)),
}


def _householder(width: int, signed: bool) -> HouseholderLSSL:
    return HouseholderLSSL(width, 4, heads=4, reflections=2, signed=signed, decays=False)


class Tracker(nn.Module):
    """A token a row, the layer, and the product so far as an answer at every row; the first row only says start."""

    def __init__(self, layer: nn.Module, elements: int, width: int) -> None:
        super().__init__()
        self.tokens, self.layer = nn.Embedding(elements + 1, width), layer
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, elements)

    def forward(self, tokens: Tensor, dt: Tensor | float = 1.0) -> Tensor:
        y, _ = self.layer(self.tokens(tokens), dt)
        return self.out(self.norm(y))[:, 1:]


def drawn(table: Tensor, batch: int, length: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (batch, 1 + length), the start first, and the products of all before and at each (batch, length)."""
    elements = torch.randint(0, len(table), (batch, length), generator=draw)
    products, so_far = torch.empty_like(elements), torch.zeros(batch, dtype=torch.int64)
    for k in range(length):
        so_far = table[elements[:, k], so_far]
        products[:, k] = so_far
    return torch.cat([torch.full((batch, 1), len(table)), elements], 1), products


def accuracy(model: nn.Module, table: Tensor, length: int, gaps: bool = False) -> float:
    """Of the answers in the second half of series of a length; with `gaps` on an irregular clock."""
    draw = torch.Generator().manual_seed(10**6 + length)
    tokens, products = drawn(table, 256, length, draw)
    dt = torch.rand(tokens.shape, generator=draw) * 2 if gaps else 1.0
    with torch.no_grad():
        right = model(tokens, dt).argmax(-1) == products
    return right[:, length // 2 :].double().mean().item()


def train(task: str, signed: bool, seed: int, steps: int, length: int = 40, width: int = 32) -> Tracker:
    """Train on series of up to `length`, which grow; stops when series of the full length are right."""
    torch.manual_seed(seed)
    table, draw = TABLES[task], torch.Generator().manual_seed(seed)
    model = Tracker(LAYERS[task][1](width, signed), len(table), width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rows = min(length, 4 + step * 2 * length // steps)
        tokens, products = drawn(table, 128, rows, draw)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), products.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def main(steps: int = 500, seeds: int = 3, tasks: tuple[str, ...] = tuple(TABLES)) -> dict[str, list[float]]:
    """Accuracy at 4 times the length of training, by task and sign, one a seed; printed beside that at the length."""
    found: dict[str, list[float]] = {}
    for task in tasks:
        for signed in (True, False):
            name = f"{task}, {'signed' if signed else 'positive'}"
            found[name] = []
            for seed in range(seeds):
                model = train(task, signed, seed, steps).eval()
                short, long, odd = (accuracy(model, TABLES[task], *a) for a in ((40,), (160,), (160, True)))
                found[name].append(long)
                print(f"{name:20s} {LAYERS[task][0]:12s} seed {seed}: {short:.3f} at 40, {long:.4f} at 160 rows, "
                      f"{odd:.4f} with gaps of 0 to 2")  # fmt: skip
    return found


if __name__ == "__main__":
    main()
