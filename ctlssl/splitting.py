"""How the series of a task are dealt out to training, validation and test: by shares, by folds, or as published."""

from __future__ import annotations

import numpy as np

from ctlssl.examples import Examples

__all__ = ["deal"]


def deal(
    examples: Examples, seed: int, shares: tuple[float, float, float] = (0.6, 0.2, 0.2), folds: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the training, validation and test part; classes are dealt out in equal shares.

    Args:
        examples: what is dealt. Series whose `part` is "test" or "valid" go there; only the others are dealt out.
        seed: of the dealing.
        shares: of the three parts. With folds, or published tests, the first two divide what is not tested.
        folds: the number of test parts that together are everything; seed modulo folds says which one it is.

    Raises:
        ValueError: a part that would be empty, or folds of series whose test part is published.

    Example:
        >>> import torch
        >>> from ctlssl.series import TimeSeries
        >>> seen = torch.ones(10, 1, 1, dtype=torch.bool)
        >>> times, lengths = torch.zeros(10, 1, dtype=torch.float64), torch.ones(10, dtype=torch.int64)
        >>> series = TimeSeries(torch.zeros(10, 1, 1), times, seen, lengths)
        >>> examples = Examples(series, ids=np.arange(10), labels=torch.arange(10) % 2)
        >>> [part.tolist() for part in deal(examples, seed=0)]
        [[3, 4, 5, 6, 8, 9], [0, 1], [2, 7]]
        >>> sorted(np.concatenate([deal(examples, seed, folds=5)[2] for seed in range(5)]).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    labels = examples.labels
    classes = np.zeros(len(examples)) if labels is None or labels.ndim > 1 else labels.numpy()
    published = np.full(len(examples), "train") if examples.part is None else np.asarray(examples.part)
    given = [published == name for name in ("train", "valid", "test")]
    if folds is not None and not given[0].all():
        raise ValueError("the test part of these series is published: folds cannot choose another.")
    draw = np.random.default_rng(seed if folds is None else seed // folds)
    parts = [[np.flatnonzero(chosen)] for chosen in (np.zeros_like(given[0]), *given[1:])]
    for label in np.unique(classes[given[0]]):
        members = draw.permutation(np.flatnonzero(given[0] & (classes == label)))
        if folds is not None:
            rest, tested = np.delete(members, slice(seed % folds, None, folds)), members[seed % folds :: folds]
        elif given[2].any():
            rest, tested = members, members[:0]
        else:
            rest, tested = np.split(members, [round((1.0 - shares[2]) * len(members))])
        whole = len(members) if len(tested) and folds is None else len(rest) / (shares[0] + shares[1])
        cut = len(rest) if given[1].any() else round(shares[0] * whole)
        for part, chosen in zip(parts, (rest[:cut], rest[cut:], tested), strict=True):
            part.append(chosen)
    dealt = tuple(np.sort(np.concatenate(part)) for part in parts)
    if not all(len(part) for part in dealt):
        raise ValueError(f"{len(examples)} series are too few for a training, a validation and a test part.")
    return dealt
