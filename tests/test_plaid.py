"""plaid: files made here in the format of the archive, and what the task shows of them."""

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ctlssl.catalogue import load_dataset
from ctlssl.schema import check_dataset
from ctlssl.tasks import TASKS, prepare

FOLDER = Path(__file__).resolve().parent.parent / "datasets" / "plaid"
HEADER = "# a description with 1,2,3:4 in it\n@problemName PLAID\n@classLabel true 0 1\n@data\n"


@pytest.fixture(scope="module")
def script():
    """The module prepare.py of the data set."""
    spec = importlib.util.spec_from_file_location("prepare_plaid", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(series):
    """A file of the archive from pairs of values and class."""
    return HEADER + "".join(f"{','.join(map(str, values))}:{label}\n" for values, label in series)


TRAIN = [([0.5, -1e-05, 2.0], 1), ([3.0], 0), *[([float(k), 1.0], k % 2) for k in range(20)]]
TEST = [([7.0, 8.0], 0), ([9.0, 1.5, 2.5, 3.5], 1)]


def test_files_by_hand(script):
    ds = script.build([text(TRAIN), text(TEST)])
    check_dataset(ds)
    assert ds["row_size"].values.tolist() == [3, 1, *[2] * 20, 2, 4]
    np.testing.assert_allclose(ds["load"].values[:4], [0.5, -1e-5, 2.0, 3.0], rtol=1e-6)
    assert ds["time"].values[:4].tolist() == [0, 1, 2, 0] and ds["time"].values[-4:].tolist() == [0, 1, 2, 3]
    assert ds["appliance"].values[:2].tolist() == [1, 0] and ds["appliance"].values[-2:].tolist() == [0, 1]
    assert ds["part"].values.tolist() == [0] * 22 + [1] * 2
    assert len(ds["appliance"].attrs["flag_meanings"].split()) == 11


def test_the_published_parts(script):
    ds = script.build([text(TRAIN), text(TEST)])
    split = prepare("plaid/appliance", 3, ds)
    assert split.test.ids.tolist() == [22, 23]
    assert len(split.train) == 18 and sorted([*split.train.ids, *split.valid.ids]) == list(range(22))
    assert split.problem.time_scale == 1.0 and TASKS["plaid/appliance"].window == 1344.0


def test_checksums(script, tmp_path, monkeypatch):
    contents = {name: text(part).encode() for name, part in zip(script.SHA256, (TRAIN, TEST), strict=True)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "sktime.whl", "w") as wheel:
        for name, content in contents.items():
            wheel.writestr(f"{script.FOLDER}/{name}", content)
    for place in (tmp_path, tmp_path / "sktime.whl"):
        with pytest.raises(ValueError, match="PLAID_TRAIN.ts has SHA-256 .*; use sktime 1.2.0"):
            script.read_files(place)
    monkeypatch.setattr(
        script, "SHA256", {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    )
    assert script.read_files(tmp_path) == script.read_files(tmp_path / "sktime.whl") == [text(TRAIN), text(TEST)]
    script.main(tmp_path / "sktime.whl", tmp_path / "plaid.nc")
    monkeypatch.setenv("CTLSSL_DATA", str(tmp_path))
    assert load_dataset("plaid").sizes["series"] in (24, 1074)  # the true one, where it was prepared
