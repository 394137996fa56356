"""One wrong reading in a clinical record: how far it moves what a memory says later, and what that costs.

A comma in the wrong place, a sample of another patient: one reading is off by 1,000 times the range of the values.
Models of one robust memory are trained on clean records of the bundled data to forecast, with Huber's loss, l_p
(p = 1.5) and the squared loss inside the memory. Then one reading of each test record is struck, and the forecasts of
the days after are looked at. Memories last from one to ten days, so that they reach that far.

1. The memory alone, on the inputs that it has in the trained model, of which one number is struck by 10 to 1e6 times
   its range. Huber's loss keeps later outputs within a proven bound, l_p lets them move as a power, and the squared
   loss in proportion.
2. The model without any LayerNorm: with the squared loss one reading spoils the forecasts of a record, with Huber's it
   is hardly seen.
3. The model with a LayerNorm behind the memory, before the head: it keeps forecasts of a sane size, but what it scales
   is a memory that holds little beside the wrong reading.
4. The model as it is built, with a LayerNorm before the memory too: every row comes in at one length, and the squared
   loss is as safe as Huber's. What bounds a reading there is the norm; Huber's loss is for memories without it.

A struck channel is read again before the forecast. Until then the encoder carries the wrong reading forward and shows
it to the memory in every row: the bound holds of each such row. Were it not read again, the head would carry it
forward too, as the forecast of its own channel, and no memory can mend that: the last line.

What is shown is what a reading can spoil, not skill: on these short records forecasts are about as good when the memory
is silenced.

    python examples/outliers.py
"""

import dataclasses

import torch
from torch import nn

import ctlssl
from ctlssl.models import LayerModel

LOSSES = ("huber", "lp", "squared")
SIZES = (1e1, 1e3, 1e6)
NORMS = {"without norms": (), "norm behind": ("behind",), "as built": ("before", "behind")}


def main(epochs: int = 30, seeds: int = 3) -> dict[str, float]:
    """Train on clean records, strike one reading of each test record, print and return what moved."""
    split = ctlssl.prepare("covid19/forecast", seed=0)
    found = {}
    for loss in LOSSES:
        for kind in NORMS:
            runs = [measure(train(split, loss, kind, seed, epochs), split) for seed in range(seeds)]
            found |= {f"{loss}, {kind}, {name}": sum(run[name] for run in runs) / seeds for name in runs[0]}
    show(found)
    return found


def train(split, loss: str, kind: str, seed: int, epochs: int) -> LayerModel:
    """A model of one robust memory, fitted to clean records."""
    torch.manual_seed(seed)
    hours = split.problem.time_scale
    options = {"loss": loss, "state_size": 8, "heads": 2}
    steps = (hours / 240, hours / 24)  # rates per unit of the clock
    model = LayerModel(split.problem, width=16, layer="robust", options=options, dropout=0.1, step_range=steps)
    if "before" not in NORMS[kind]:
        model.blocks[0].norm = nn.Identity()
    if "behind" not in NORMS[kind]:
        model.norm = nn.Identity()
    ctlssl.fit(model, split.train, split.valid, ctlssl.Training(epochs=epochs, dynamics_rate=1.0, seed=seed))
    return model.eval()


def measure(model: LayerModel, split) -> dict[str, float]:
    """What moves in a trained model: outputs of its memory, its forecasts, and their error."""
    result = moved_by_layer(model, split.test.series)
    for size in SIZES:
        clean, struck = strike(split.test, size, read_again=True)
        result |= {f"forecasts {size:g}": moved(model, clean, struck)}
        result |= {"clean": rmse(model, clean), f"error {size:g}": rmse(model, struck)}
    return result | {"not read again": moved(model, *strike(split.test, 1e3, read_again=False))}


@torch.no_grad()
def moved_by_layer(model: LayerModel, series: ctlssl.TimeSeries) -> dict[str, float]:
    """The farthest that a later output of the memory moves when one number of the second row is struck.

    In units of a typical output; beside it what is proved for Huber's loss, 2 c sqrt(heads) |C|.
    """
    layer, encoded = model.blocks[0].layer, model.encoder(series, None, 1.0)
    u, clock = model.blocks[0].norm(encoded.features), {"dt": encoded.gaps, "lengths": encoded.rows.lengths}
    inside = torch.arange(u.shape[1]) < clock["lengths"][:, None]  # (B, R)
    y, _ = layer(u, **clock)
    typical = y[inside].norm(dim=-1).square().mean().sqrt()
    spread = u[..., 0][inside].max() - u[..., 0][inside].min()
    bound = 2 * layer.log_threshold.exp().max() * layer.heads**0.5 * torch.linalg.matrix_norm(layer.C, 2)
    result = {"bound": (bound / typical).item()}
    for size in SIZES:
        struck = u.clone()
        struck[:, 1, 0] += size * spread
        later = (layer(struck, **clock)[0] - y).norm(dim=-1)[:, 2:][inside[:, 2:]]
        result[f"outputs {size:g}"] = (later.max() / typical).item()
    return result


def strike(examples, size: float, read_again: bool):
    """The records that have a reading to strike, and the same with one reading of each, drawn by lot, struck.

    Args:
        examples: clean records.
        size: how far the reading is off, in ranges of the values.
        read_again: whether a reading is struck whose channel is read again later, or one that is the channel's last.
    """
    draw, series = torch.Generator().manual_seed(0), examples.series
    seen = series.observed & series.in_length[..., None]  # (B, L, D)
    later = seen.flip(1).cumsum(1).flip(1) - seen.long()  # (B, L, D): readings of the channel still to come
    choices, values = seen & ((later > 0) == read_again), series.values.clone()
    spread = (values[seen].max() - values[seen].min()).item()
    for b in choices.flatten(1).any(1).nonzero().flatten().tolist():
        places = choices[b].nonzero()
        row, channel = places[torch.randint(len(places), (), generator=draw)].tolist()
        values[b, row, channel] += size * spread
    chosen = choices.flatten(1).any(1)
    struck = dataclasses.replace(examples, series=dataclasses.replace(series, values=values))
    return examples.select(chosen), struck.select(chosen)


def moved(model: LayerModel, clean, struck) -> float:
    """How far forecasts move, root mean square."""
    change = ctlssl.predict(model, struck).mean - ctlssl.predict(model, clean).mean  # (B, Q, D)
    return change[clean.target_observed].square().mean().sqrt().item()


def rmse(model: LayerModel, examples) -> float:
    """The error of the forecasts; the spread of a value is 1."""
    return ctlssl.evaluate(model, examples)["rmse"]


def show(found: dict[str, float]) -> None:
    """A table of each place."""
    sizes = "".join(f"{f'{size:g} ranges':>20}" for size in SIZES)
    print(f"1. the memory alone: how far later outputs move, in typical outputs\n{'loss':10}{sizes}{'bound':>10}")
    for loss in LOSSES:
        moves = "".join(f"{found[f'{loss}, without norms, outputs {size:g}']:20.3g}" for size in SIZES)
        bound = f"{found[f'{loss}, without norms, bound']:.3g}" if loss == "huber" else "none"
        print(f"{loss:10}{moves}{bound:>10}")
    for number, kind in enumerate(NORMS, start=2):
        print(f"\n{number}. the model {kind}: error of forecasts, and how far they move")
        print(f"{'loss':10}{'clean':>10}{sizes}")
        for loss in LOSSES:
            own = f"{loss}, {kind}"
            cells = [
                f"{found[f'{own}, error {size:g}']:.3f} ({found[f'{own}, forecasts {size:g}']:.3g})" for size in SIZES
            ]
            print(f"{loss:10}{found[f'{own}, clean']:10.3f}" + "".join(f"{cell:>20}" for cell in cells))
    kept = found["huber, as built, not read again"]
    print(f"\nstruck by 1000 ranges and not read again (huber, as built): forecasts move by {kept:.3g}")


if __name__ == "__main__":
    main()
