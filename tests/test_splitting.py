"""Parts of a task: shares, folds and published parts, each counted by hand."""

import numpy as np
import pytest
import torch

from ctlssl.examples import Examples
from ctlssl.questions import Task
from ctlssl.series import TimeSeries
from ctlssl.splitting import deal


def examples(labels, part=None):
    """Series of one row, with these classes."""
    count = len(labels)
    seen, times = torch.ones(count, 1, 1, dtype=torch.bool), torch.zeros(count, 1, dtype=torch.float64)
    series = TimeSeries(torch.zeros(count, 1, 1), times, seen, torch.ones(count, dtype=torch.int64))
    part = None if part is None else np.asarray(part)
    return Examples(series, np.arange(count), labels=torch.tensor(labels), part=part)


LABELS = [0] * 60 + [1] * 40


def counts(parts):
    """How many of each class are in each part."""
    return [np.bincount(np.asarray(LABELS)[part], minlength=2).tolist() for part in parts]


def whole(parts):
    """Whether every series is in one part, and in one only."""
    return sorted(np.concatenate(parts).tolist()) == list(range(len(LABELS)))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.6, 0.2, 0.2), [[36, 24], [12, 8], [12, 8]]), ((0.7, 0.15, 0.15), [[42, 28], [9, 6], [9, 6]])],
)
def test_shares_of_each_class(shares, expected):
    parts = deal(examples(LABELS), 3, shares)
    assert whole(parts) and counts(parts) == expected
    assert not all(np.array_equal(one, two) for one, two in zip(parts, deal(examples(LABELS), 4, shares), strict=True))


def test_folds_test_every_series_once():
    parts = [deal(examples(LABELS), seed, (0.8, 0.1, 0.1), folds=5) for seed in range(10)]
    for first in (0, 5):
        tested = np.concatenate([part[2] for part in parts[first : first + 5]])
        assert sorted(tested.tolist()) == list(range(100))
    assert all(whole(part) and counts(part) == [[43, 28], [5, 4], [12, 8]] for part in parts)
    assert parts[0][2].tolist() != parts[5][2].tolist()


def test_published_parts_stay():
    published = ["test" if k % 4 == 0 else "train" for k in range(100)]
    parts = [deal(examples(LABELS, published), seed, (0.6, 0.2, 0.2)) for seed in (0, 1)]
    assert all(part[2].tolist() == list(range(0, 100, 4)) and whole(part) for part in parts)
    assert all(counts(part) == [[34, 22], [11, 8], [15, 10]] for part in parts)
    assert parts[0][0].tolist() != parts[1][0].tolist()
    given = ["valid" if k % 4 == 1 else name for k, name in enumerate(published)]
    train, valid, test = deal(examples(LABELS, given), 0)
    assert (len(train), valid.tolist(), len(test)) == (50, list(range(1, 100, 4)), 25)


def test_what_is_refused():
    with pytest.raises(ValueError, match="folds cannot choose"):
        deal(examples(LABELS, ["test"] + ["train"] * 99), 0, folds=5)
    with pytest.raises(ValueError, match="2 series are too few"):
        deal(examples([0, 1]), 0)
    with pytest.raises(ValueError, match="part has 3 entries"):
        examples([0, 1], ["train"] * 3)
    for wrong in ({"shares": (0.5, 0.2, 0.2)}, {"shares": (1.0, 0.0, 0.0)}, {"folds": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Task("a/b", "a", "classification", "", 1.0, lambda ds: ds, **wrong)
