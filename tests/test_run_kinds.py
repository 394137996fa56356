"""What a trained run says of survival curves and of labels at times, of whole records and line by line."""

import json

import numpy as np
import pytest
import torch

from ctlssl.contract import Problem
from ctlssl.models import LSSLModel
from ctlssl.normalization import Normalizer
from ctlssl.runs.intervals import bootstrap_intervals
from ctlssl.runs.live import LiveRun
from ctlssl.runs.settings import RunSettings
from ctlssl.runs.trained import TrainedRun
from ctlssl.schema import to_series
from ctlssl.tables import from_arrays
from ctlssl.tasks import Examples
from ctlssl.training import evaluate, predict
from tests.contracts import generator


def run_of(kind, outputs):
    """A run of an untrained model, and two records."""
    rng = generator("run", kind)
    ds = from_arrays([np.arange(4.0), np.array([1.0, 5.0])], [rng.normal(size=(4, 2)), rng.normal(size=(2, 2))])
    torch.manual_seed(0)
    model = LSSLModel(Problem(kind, channels=2, outputs=outputs, horizon=8.0), width=8).eval()
    normalizer = Normalizer.fit(to_series(ds, dtype=torch.float64))
    return TrainedRun(model, RunSettings("covid19/death"), normalizer, ("channel_0", "channel_1"), (), ""), ds


def renamed(ds):
    """The records with the names of the run's channels."""
    names = [name for name in ds.data_vars if name != "row_size"]
    return ds.rename({name: f"channel_{k}" for k, name in enumerate(names)})


def lines(ds, b):
    """The rows of a record as `LiveRun` reads them."""
    ends = np.cumsum(ds["row_size"].values)
    for k in range(ends[b] - ds["row_size"].values[b], ends[b]):
        values = {name: float(ds[name].values[k]) for name in ("channel_0", "channel_1")}
        yield json.dumps({"series": b, "time": float(ds["time"].values[k]), "values": values})


def test_survival():
    run, ds = run_of("survival", 3)
    ds = renamed(ds)
    table = run.predict(ds)
    assert table.columns.tolist() == ["series", "survival_0", "survival_1", "survival_2"]
    series = run.normalizer.apply(to_series(ds, dtype=torch.float64), torch.float32)
    hazards = torch.sigmoid(run.model(series).logits.double()).detach().numpy()
    np.testing.assert_allclose(table.iloc[:, 1:], np.cumprod(1 - hazards, axis=1), rtol=1e-6)
    live = LiveRun(run)
    told = [live.answer(line) for line in lines(ds, 0)][-1]
    np.testing.assert_allclose([told[f"survival_{k}"] for k in range(3)], table.iloc[0, 1:].astype(float), rtol=1e-5)


def test_labels():
    run, ds = run_of("labelling", 2)
    ds = renamed(ds)
    table = run.predict(ds, at=[0.0, 2.5])
    assert table.columns.tolist() == ["series", "time", "class_0", "class_1"]
    assert table["time"].tolist() == [3.0, 5.5, 5.0, 7.5]
    np.testing.assert_allclose(table["class_0"] + table["class_1"], 1.0)
    live = LiveRun(run, at=[0.0, 2.5])
    told = [live.answer(line) for line in lines(ds, 1)][-1]["labels"]
    assert [one["time"] for one in told] == [5.0, 7.5]
    np.testing.assert_allclose([one["class_1"] for one in told], table["class_1"][2:], rtol=1e-5)
    with pytest.raises(ValueError, match="at"):
        run.predict(ds)


def test_labels_are_scored_with_intervals():
    rng = generator("intervals of labels")
    run, _ = run_of("labelling", 2)
    times = [np.sort(rng.uniform(0, 9, 4)) for _ in range(12)]
    ds = renamed(from_arrays(times, [rng.normal(size=(4, 2)) for _ in times]))
    series = run.normalizer.apply(to_series(ds, dtype=torch.float64), torch.float32)
    targets = torch.from_numpy(rng.integers(-1, 2, (12, 4)))
    targets[:6] = -1
    examples = Examples(series, np.arange(12), query_times=series.times, targets=targets)
    scores = evaluate(run.model, examples)
    found = bootstrap_intervals("labelling", predict(run.model, examples), examples, draws=50)
    assert found.keys() == scores.keys() == {"auroc", "auprc", "log_loss", "accuracy", "macro_f1"}
    assert all(found[name][0] <= scores[name] <= found[name][1] for name in scores)
