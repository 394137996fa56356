"""Values of physionet2012 that are asked for: what is shown and hidden, and the units and measures of the protocol."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from ctlssl.catalogue import dataset_names, load_dataset
from ctlssl.questions.physionet2012_values import LARGEST, SCALE, mean_squared_errors
from ctlssl.schema import make_dataset
from ctlssl.tasks import TASKS, prepare

FOLDER = Path(__file__).resolve().parent.parent / "datasets" / "physionet2012"
STAYS = 30


@pytest.fixture(scope="module")
def ds():
    """Stays of the channels of the data set, with values at whole minutes of 48 hours."""
    print("seed 0")
    draw = np.random.default_rng(0)
    row_size = draw.integers(6, 20, STAYS)
    row_size[0] = 1
    time = np.concatenate([np.sort(draw.choice(2880, size, replace=False)) / 60 for size in row_size])
    values = {}
    for name, largest in LARGEST.items():
        values[name] = largest * np.where(draw.random(len(time)) < 0.3, draw.random(len(time)), np.nan)
    values["heart_rate"] = np.where(
        np.isnan(values["heart_rate"]), 80.0, values["heart_rate"]
    )  # no row without a value
    covariates = {
        name: ("static", np.full(STAYS, value))
        for name, value in {
            "age": 60.0,
            "gender": 1.0,
            "height": 170.0,
            "icu_type": 2.0,
            "admission_weight": 80.0,
        }.items()
    }
    return make_dataset(np.arange(STAYS), row_size, time, "h", values, covariates, {})


def cells(examples, row):
    """The values asked for at a series as a set of (minute, channel, value)."""
    found = set()
    for q, c in examples.target_observed[row].nonzero().tolist():
        minute = round(60 * float(examples.query_times[row, q]), 2)
        found.add((minute, c, float(examples.targets[row, q, c])))
    return found


def shown(examples, row):
    """Those that a model sees."""
    series, found = examples.series, set()
    for k, c in series.observed[row, : series.lengths[row]].nonzero().tolist():
        found.add((round(60 * float(series.times[row, k]), 2), c, float(series.values[row, k, c])))
    return found


def truth(ds, stay):
    """All that there is."""
    begin = int(ds["row_size"].values[:stay].sum())
    rows, found = range(begin, begin + int(ds["row_size"].values[stay])), set()
    for c, name in enumerate(LARGEST):
        values = ds[name].values
        found |= {(round(60 * ds["time"].values[k], 2), c, float(values[k])) for k in rows if not np.isnan(values[k])}
    return found


def test_extrapolation(ds):
    examples = TASKS["physionet2012/extrapolation"].build(ds)
    for row, stay in enumerate(examples.ids):
        whole = truth(ds, stay)
        assert shown(examples, row) == {cell for cell in whole if cell[0] <= 1440}
        assert cells(examples, row) == {cell for cell in whole if cell[0] > 1440}
    assert examples.series.static.shape == (len(examples), 10)


def test_interpolation(ds):
    """Half of the times of each stay are hidden with all their values, and always the same ones."""
    examples = TASKS["physionet2012/interpolation"].build(ds)
    assert 0 not in examples.ids  # one time cannot be halved
    for row, stay in enumerate(examples.ids):
        whole, hidden, seen = truth(ds, stay), cells(examples, row), shown(examples, row)
        assert hidden | seen == whole and not hidden & seen
        times = {cell[0] for cell in seen}
        assert not times & {cell[0] for cell in hidden}
        assert len(times) == len({cell[0] for cell in whole}) // 2
    again = TASKS["physionet2012/interpolation"].build(ds)
    assert torch.equal(again.series.times, examples.series.times)
    others = [len({round(float(t), 6) for t in examples.query_times[row]}) for row in range(3)]
    assert min(others) > 1


def test_reconstruction_shows_what_it_asks(ds):
    examples = TASKS["physionet2012/reconstruction"].build(ds)
    for row, stay in enumerate(examples.ids):
        assert cells(examples, row) == shown(examples, row) == truth(ds, stay)


def test_next_values(ds):
    """Every value but those of the first row, asked before its row and after the row before it."""
    examples = TASKS["physionet2012/next"].build(ds)
    for row, stay in enumerate(examples.ids):
        whole = truth(ds, stay)
        first = min(cell[0] for cell in whole)
        moved = {(cell[0] + 0.25, *cell[1:]) for cell in cells(examples, row)}
        assert moved == {cell for cell in whole if cell[0] > first}


def test_the_units(ds):
    """Scores are values over the largest of the channel, times SCALE, less the mean of the training part."""
    split = prepare("physionet2012/extrapolation", 0, ds)
    raw = TASKS["physionet2012/extrapolation"].build(ds)
    place = raw.ids.tolist().index(split.test.ids[0])
    count = split.test.target_observed.shape[1]
    seen = split.test.target_observed[0]
    values = raw.targets[place, :count] * SCALE / torch.tensor(list(LARGEST.values()))
    shift = (values - split.test.targets[0])[seen]
    for c in range(len(LARGEST)):
        of_channel = (values - split.test.targets[0])[:, c][seen[:, c]]
        assert len(of_channel) == 0 or of_channel.max() - of_channel.min() < 1e-4
    assert torch.isfinite(shift).all()
    back = split.normalizer.inverse(split.test.targets[0])[seen]
    torch.testing.assert_close(back.double(), raw.targets[place, :count][seen], rtol=1e-4, atol=1e-3)


def test_the_measures():
    """Against loops."""
    print("seed 1")
    draw = torch.Generator().manual_seed(1)
    mean, targets = (torch.randn(3, 4, 5, generator=draw) for _ in range(2))
    observed = torch.rand(3, 4, 5, generator=draw) < 0.4
    observed[:, :, 0] = False
    targets[~observed] = torch.nan
    parts, pooled = [], []
    for b in range(3):
        for d in range(5):
            errors = [float((mean[b, q, d] - targets[b, q, d]) / SCALE) ** 2 for q in range(4) if observed[b, q, d]]
            parts.append(sum(errors) / len(errors) if errors else 0.0)
            pooled += errors
    found = mean_squared_errors(mean, targets, observed)
    assert found["by_channel"] == pytest.approx(sum(parts) / len(parts), rel=1e-6)
    assert found["pooled"] == pytest.approx(sum(pooled) / len(pooled), rel=1e-6)


def test_the_script(ds, capsys):
    """It trains, scores, and knows that a copy reconstructs."""
    spec = importlib.util.spec_from_file_location("values_of_physionet2012", FOLDER / "values.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = script.main(["reconstruction", "--model", "last_value", "--seeds", "2"], ds)
    assert [row["by_channel"] for row in rows] == [0.0, 0.0]
    rows = script.main(["extrapolation", "--model", "gru", "--seeds", "1", "--epochs", "1", "--width", "4"], ds)
    assert rows[0]["pooled"] > 0 and "extrapolation, gru, 1 seeds: by_channel" in capsys.readouterr().out


def test_the_largest_values():
    """Of the data themselves where they were prepared here."""
    assert len(LARGEST) == 37 and list(LARGEST) == sorted(LARGEST)
    if "physionet2012" in dataset_names():
        whole = load_dataset("physionet2012")
        for name, largest in LARGEST.items():
            found = [np.nanmax(whole[name].values)]
            found += [whole["admission_weight"].values.max()] if name == "weight" else []
            assert largest == pytest.approx(max(found), abs=1e-6), name
