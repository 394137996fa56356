"""pendulum_cru: what its script writes, and that its README says how it is made."""

import importlib.util
from pathlib import Path

import numpy as np

from ctlssl.files import open_dataset
from ctlssl.schema import channels, check_dataset
from ctlssl.synthetic import pendulum
from ctlssl.tasks import TASKS, prepare

FOLDER = Path(__file__).resolve().parent.parent / "datasets" / "pendulum_cru"


def test_the_whole_way(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("prepare_pendulum_cru", FOLDER / "prepare.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (script.SERIES, script.SEED) == (4000, 42)
    monkeypatch.setattr(script, "SERIES", 8)
    script.main(tmp_path / "pendulum_cru.nc")
    assert "series: 8\n  images: 400" in capsys.readouterr().out
    ds, drawn = open_dataset(tmp_path / "pendulum_cru.nc"), pendulum.generate(series=8, seed=42)
    check_dataset(ds)
    for name in channels(drawn):
        levels = ds[name].values * 255
        if name.startswith("pixel"):
            assert np.abs(levels - np.rint(levels)).max() < 1e-4
            assert 0 <= (drawn[name].values - ds[name].values).max() < 1 / 255 + 1e-6
        else:
            np.testing.assert_array_equal(ds[name].values, drawn[name].values)
    split = prepare("pendulum_cru/angles", 0, ds)
    assert [len(part) for part in (split.train, split.valid, split.test)] == [4, 2, 2]


def test_the_readme():
    text = (FOLDER / "README.md").read_text("utf8")
    assert "python datasets/pendulum_cru/prepare.py" in text and "`pendulum_cru/angles`" in text
    assert TASKS["pendulum_cru/angles"].shares == (0.5, 0.25, 0.25)
