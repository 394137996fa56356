"""Counting for ever: parity, sums modulo 3 and products of permutations, learned from short series.

A linear recurrence whose eigenvalues are all positive forgets or grows; it cannot turn round and round. Events that
change a sign count modulo 2, one reflection an event does the same for a memory, two reflections an event are a
rotation or any permutation of three things. All are trained on at most 40 events and asked at up to 160. Run it:

    python examples/state_tracking.py
"""

import itertools
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctlssl.layers import FAMILY

TRAINED, BATCH = 40, 64


def cyclic(n: int) -> Tensor:
    """The table of sums modulo n, (n, n)."""
    return (torch.arange(n)[:, None] + torch.arange(n)) % n


def symmetric(n: int) -> Tensor:
    """The table of products of the permutations of n things, (n!, n!): first the row's, then the column's."""
    every = list(itertools.permutations(range(n)))
    return torch.tensor([[every.index(tuple(then[first[i]] for i in range(n))) for then in every] for first in every])


GROUPS = {"parity": cyclic(2), "modulo 3": cyclic(3), "S3": symmetric(3)}


def draw(table: Tensor, batch: int, length: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random elements of a group and their running products, both (B, L)."""
    elements = torch.randint(len(table), (batch, length), generator=draws)
    product, products = torch.zeros(batch, dtype=torch.long), []  # element 0 changes nothing
    for k in range(length):
        product = table[product, elements[:, k]]  # (B,)
        products.append(product)
    return elements, torch.stack(products, dim=1)


def draw_gaps(batch: int, length: int, draws: torch.Generator) -> Tensor:
    """Gaps from a tenth of the unit to ten units, (B, 1 + L)."""
    return 10 ** torch.empty(batch, 1 + length, dtype=torch.float64).uniform_(-1, 1, generator=draws)


class Tracker(nn.Module):
    """A vector for each element, one layer, and logits linear in its outputs: what counts is the layer's state.

    Args:
        elements: of the group; a further vector stands for the start of a series.
        layer: name of the layer.
        width: of the vectors.
        options: of the layer.
    """

    def __init__(self, elements: int, layer: str, width: int = 16, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(elements + 1, width)
        self.layer = FAMILY[layer](width, **options)
        self.readout = nn.Linear(width, elements)

    def forward(self, elements: Tensor, dt: Tensor | None = None) -> Tensor:
        """Logits of the running product after each element, (B, L, elements)."""
        start = torch.full_like(elements[:, :1], self.embedding.num_embeddings - 1)
        u = self.embedding(torch.cat([start, elements], dim=1))  # (B, 1 + L, W)
        y, _ = self.layer(u, dt)
        return self.readout(y[:, 1:])


@dataclass(frozen=True)
class Trial:
    """A group, a layer, and whether the series are irregular."""

    group: str
    layer: str
    options: dict = field(default_factory=dict)
    irregular: bool = False

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.group:8}  {self.layer}({options})" + ", irregular gaps" * self.irregular

    def build(self) -> Tracker:
        """The untrained model."""
        size = {"state_size": 16} if self.layer == "signed" else {"state_size": 4, "heads": 2}
        clock = {"decays": self.irregular, "step_range": (1e-4, 1e-3)}
        return Tracker(len(GROUPS[self.group]), self.layer, **size, **clock, **self.options)

    def draw(self, batch: int, length: int, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Elements, products, and gaps where they are irregular."""
        gaps = draw_gaps(batch, length, draws) if self.irregular else None
        return *draw(GROUPS[self.group], batch, length, draws), gaps


TRIALS = {
    "solved": [
        Trial("parity", "signed"),
        Trial("parity", "householder"),
        Trial("modulo 3", "householder", {"reflections": 2}),
        Trial("S3", "householder", {"reflections": 2}),
        Trial("S3", "householder", {"reflections": 2}, irregular=True),
    ],
    "beyond them": [
        Trial("parity", "signed", {"signed": False}),
        Trial("parity", "householder", {"signed": False}),
        Trial("modulo 3", "householder", {"reflections": 2, "signed": False}),
        Trial("S3", "householder", {"reflections": 2, "signed": False}),
        Trial("modulo 3", "householder", {"reflections": 1}),
        Trial("S3", "householder", {"reflections": 1}),
    ],
}


def train(trial: Trial, seed: int, steps: int) -> Tracker:
    """A model trained on series that grow as it masters them, and are `TRAINED` long from the middle of the training.

    The labels are smoothed: a model that is right then still loses where its state fades on the way, so the last
    steps make its reflections exact.
    """
    torch.manual_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    model, mastered = trial.build(), 3
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps, pct_start=0.1)
    for i in range(steps):
        length = TRAINED if i >= steps // 2 else mastered
        elements, products, gaps = trial.draw(BATCH, length, draws)
        logits = model(elements, gaps)  # (B, L, elements)
        loss = F.cross_entropy(logits.flatten(0, 1), products.flatten(), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (logits.argmax(-1) == products).double().mean() > 0.99:
            mastered = min(mastered + 1, TRAINED)
    return model


@torch.no_grad()
def accuracy(model: Tracker, trial: Trial, length: int) -> float:
    """Share of right products, over all positions of new series of a length."""
    elements, products, gaps = trial.draw(256, length, torch.Generator().manual_seed(length))
    return (model(elements, gaps).argmax(-1) == products).double().mean().item()


def main(
    seeds: tuple[int, ...] = (0, 1, 2), steps: int = 1000, trials: dict[str, list[Trial]] = TRIALS
) -> dict[str, dict[str, list[float]]]:
    """Train every trial, print its accuracies by length, and return those at four times the trained length."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, group in trials.items():
        print(f"{name}: accuracy at length {TRAINED}, {2 * TRAINED} and {4 * TRAINED}, trained up to {TRAINED}")
        found[name] = {str(trial): [] for trial in group}
        for trial, seed in itertools.product(group, seeds):
            began = time.perf_counter()
            model = train(trial, seed, steps)
            scores = [accuracy(model, trial, times * TRAINED) for times in (1, 2, 4)]
            shown = "  ".join(f"{score:.4f}" for score in scores)
            print(f"  {shown}  {trial}, seed {seed}, {time.perf_counter() - began:.0f} s", flush=True)
            found[name][str(trial)].append(scores[-1])
    return found


if __name__ == "__main__":
    main()
