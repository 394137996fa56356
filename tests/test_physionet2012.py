"""physionet2012: archives made here in the format of the challenge, and what the tasks show of them."""

import hashlib
import importlib.util
import io
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ctlssl import catalogue
from ctlssl.catalogue import dataset_names, load_dataset
from ctlssl.files import open_dataset, save_dataset
from ctlssl.questions.physionet2012 import covariates
from ctlssl.runs import RunSettings, open_run, train_run
from ctlssl.schema import channels, check_dataset, labels, static
from ctlssl.tasks import TASKS, prepare
from ctlssl.training import Training, predict

FOLDER = Path(__file__).resolve().parent.parent / "datasets" / "physionet2012"

FIRST = """Time,Parameter,Value
00:00,RecordID,{name}
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,76
00:07,HR,73
00:07,Urine,900
00:07,Urine,100
00:37,HR,77.5
00:37,Weight,76.5
47:59,pH,735
"""
# descriptors stand among the first values where these are noted at 00:00
SECOND = """Time,Parameter,Value
00:00,RecordID,{name}
00:00,GCS,15
00:00,Age,80
00:00,Gender,1
00:00,Weight,-1
00:00,ICUType,2
00:00,Height,180.3
00:00,Weight,66
"""
HEADER = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"


@pytest.fixture(scope="module")
def script():
    """The module prepare.py of the data set."""
    spec = importlib.util.spec_from_file_location("prepare_physionet2012", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def records(first, count):
    """Records in the format of the challenge, by name."""
    texts = {str(first + k): (FIRST if k % 2 else SECOND).format(name=first + k) for k in range(count)}
    return {name: text.encode() for name, text in texts.items()}


def outcomes(names):
    """Their table of outcomes: every fourth died."""
    return (HEADER + "".join(f"{name},6,1,5,-1,{int(int(name) % 4 == 0)}\n" for name in names)).encode()


def write_tar(path, content, folder, mode):
    with tarfile.open(path, mode) as archive:
        for name, text in reversed(content.items()):  # the order in an archive is of no account
            item = tarfile.TarInfo(f"{folder}/{name}.txt")
            item.size = len(text)
            archive.addfile(item, io.BytesIO(text))


def write_zip(path, content, folder):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/", "")
        for name, text in content.items():
            archive.writestr(f"{folder}/{name}.txt", text)


@pytest.fixture(scope="module")
def sets():
    """Set name -> records and outcomes."""
    chosen = {"a": records(132539, 40), "b": records(142675, 12)}
    return {which: (content, outcomes(content)) for which, content in chosen.items()}


@pytest.fixture(scope="module")
def ds(script, sets):
    return script.build(sets)


class TestArchives:
    def test_no_compression_changes_what_is_read(self, script, sets, tmp_path):
        content, found = sets["a"][0], []
        for ending in ("gz", "xz", "bz2", ""):
            path = tmp_path / f"set-a.tar.{ending}"
            write_tar(path, content, "set-a", f"w:{ending}")
            found.append(script.members(path))
        write_zip(tmp_path / "set-a.zip", content, "set-a")
        found.append(script.members(tmp_path / "set-a.zip"))
        assert all(one == content and list(one) == sorted(content) for one in found)
        assert len({script.digest_of_records(one) for one in found}) == 1

    def test_the_digest_is_of_names_and_contents(self, script):
        by_hand = hashlib.sha256(b"1 2\nab" + b"2 1\nc").hexdigest()
        assert script.digest_of_records({"1": b"ab", "2": b"c"}) == by_hand
        assert script.digest_of_records({"1": b"a", "2": b"bc"}) != by_hand

    def test_a_path_out_of_the_archive_writes_nothing(self, script, tmp_path):
        write_tar(tmp_path / "set.tar", {"1": b"x"}, "../../elsewhere", "w")
        assert script.members(tmp_path / "set.tar") == {"1": b"x"}
        assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]

    def test_what_is_no_record_is_left_out_or_refused(self, script, tmp_path):
        write_zip(tmp_path / "more.zip", {"notes": b"x", "7": b"y"}, "set-a")
        assert script.members(tmp_path / "more.zip") == {"7": b"y"}
        write_zip(tmp_path / "large.zip", {"7": bytes(script.LARGEST + 1)}, "set-a")
        with pytest.raises(ValueError, match=r"7.txt is larger than a record can be"):
            script.members(tmp_path / "large.zip")

    def test_other_contents_are_refused(self, script, sets, monkeypatch):
        content, table = sets["a"]
        with pytest.raises(ValueError, match="the records of set a have SHA-256"):
            script.verified(content, table, "a")
        monkeypatch.setitem(script.RECORDS, "a", script.digest_of_records(content))
        with pytest.raises(ValueError, match="the outcomes of set a have SHA-256"):
            script.verified(content, table, "a")
        monkeypatch.setitem(script.OUTCOMES, "a", hashlib.sha256(table).hexdigest())
        assert script.verified(content, table, "a") == (content, table)

    def test_the_whole_way(self, script, sets, tmp_path, monkeypatch, capsys):
        given = []
        for which, (content, table) in sets.items():
            write_tar(tmp_path / f"{which}.tar.gz", content, f"set-{which}", "w:gz")
            (tmp_path / f"{which}.txt").write_bytes(table)
            given += [tmp_path / f"{which}.tar.gz", tmp_path / f"{which}.txt"]
            monkeypatch.setitem(script.RECORDS, which, script.digest_of_records(content))
            monkeypatch.setitem(script.OUTCOMES, which, hashlib.sha256(table).hexdigest())
        monkeypatch.setenv("CTLSSL_DATA", str(tmp_path / "own"))
        (tmp_path / "own").mkdir()
        script.main(*given, tmp_path / "own" / "physionet2012.nc")
        assert "stays: 52" in capsys.readouterr().out
        assert open_dataset(tmp_path / "own" / "physionet2012.nc").sizes["series"] == 52
        assert "physionet2012" in dataset_names()


class TestDataset:
    def test_the_schema(self, ds, script):
        check_dataset(ds)
        # a channel is there where a value is
        assert set(channels(ds)) == {"heart_rate", "urine", "arterial_ph", "glasgow_coma_score", "weight"}
        assert static(ds) == ("age", "gender", "height", "icu_type", "admission_weight")
        assert labels(ds) == ("in_hospital_death",)
        assert len({channel for channel, *_ in script.CHANNELS.values()}) == 37
        assert [name for name, item in ds.coords.items() if item.dims == ("series",)] == ["series"]

    def test_a_record(self, ds):
        k = ds["series"].values.tolist().index(132540)
        rows = slice(ds["row_size"].values[:k].sum(), ds["row_size"].values[: k + 1].sum())
        assert ds["time"].values[rows].tolist() == [7 / 60, 37 / 60, 47 + 59 / 60]
        assert np.array_equal(ds["heart_rate"].values[rows], [73, 77.5, np.nan], equal_nan=True)
        assert np.array_equal(ds["urine"].values[rows], [500, np.nan, np.nan], equal_nan=True)
        assert np.array_equal(ds["weight"].values[rows], [np.nan, 76.5, np.nan], equal_nan=True)
        assert ds["arterial_ph"].values[rows][2] == 735
        assert [ds[name].values[k] for name in static(ds)] == [54, 0, -1, 4, 76]
        assert ds["in_hospital_death"].values[k] == 1
        assert ds["saps_1"].values[k] == 6 and ds["set"].values[k] == "a"

    def test_descriptors_among_values(self, ds):
        k = ds["series"].values.tolist().index(132539)
        assert [ds[name].values[k] for name in static(ds)] == [80, 1, 180.3, 2, -1]
        row = ds["row_size"].values[:k].sum()
        assert (ds["row_size"].values[k], ds["time"].values[row]) == (1, 0)
        assert (ds["glasgow_coma_score"].values[row], ds["weight"].values[row]) == (15, 66)

    def test_a_stay_without_a_value_stays(self, script, sets):
        content, _ = sets["a"]
        empty = {"5": FIRST.format(name="5").split("00:07")[0].encode()}
        ds = script.build({"a": (content | empty, outcomes([*content, "5"]))})
        assert ds["row_size"].values[ds["series"].values == 5].tolist() == [0]
        assert prepare("physionet2012/death", 0, ds).problem.channels == 5

    @pytest.mark.parametrize(
        "text, message",
        [
            (FIRST.format(name="6"), "record 5 does not begin"),
            (FIRST.format(name="5").replace("HR", "Pulse"), "record 5 has a parameter 'Pulse' at 00:07"),
        ],
    )
    def test_records_that_are_none(self, script, text, message):
        with pytest.raises(ValueError, match=message):
            script.read_record("5", text.encode())

    def test_outcomes_of_others_are_refused(self, script, sets):
        content, _ = sets["a"]
        with pytest.raises(ValueError, match="not of the same stays"):
            script.build({"a": (content, outcomes(["1"]))})

    def test_the_readme_names_what_is_verified(self, script):
        text = (FOLDER / "README.md").read_text("utf8")
        assert all(digest in text for digest in [*script.RECORDS.values(), *script.OUTCOMES.values()])
        for variable, *_ in [*script.DESCRIPTORS.values(), *script.CONTEXT.values(), *script.LABELS.values()]:
            assert f"`{variable}`" in text

    def test_the_counts_of_the_readme(self, script, sets, ds):
        table = dict(re.findall(r"^\| ([a-z ]+) \| (\d+) \|$", (FOLDER / "README.md").read_text("utf8"), re.MULTILINE))
        assert set(table) == set(script.counts(ds))
        # of the data themselves where they were prepared here, of the small archives otherwise
        if "physionet2012" in dataset_names():
            counts = script.counts(load_dataset("physionet2012"))
            assert {name: int(number) for name, number in table.items()} == counts
        assert script.counts(ds) == {
            "stays": 52,
            "stays of set a": 40,
            "died of set a": 10,
            "died of set b": 3,
            "stays without a value": 0,
            "rows": 26 * 3 + 26,
            "values": 26 * 5 + 26 * 2,
            "channels": 5,
        }


class TestTasks:
    def test_set_a_is_divided_80_to_20(self, ds):
        split = prepare("physionet2012/death", 0, ds)
        assert [len(part) for part in (split.train, split.valid, split.test)] == [25, 7, 8]
        ids = np.concatenate([part.ids for part in (split.train, split.valid, split.test)])
        assert sorted(ids.tolist()) == list(range(132539, 132579))
        raw = TASKS["physionet2012/death"].build(ds)
        assert (raw.labels.numpy() == (raw.ids % 4 == 0)).all()
        assert raw.series.times.max() == 47 + 59 / 60

    def test_set_b_is_tested_and_never_learned_from(self, ds, tmp_path):
        split = prepare("physionet2012/death_b", 3, ds)
        assert sorted(split.test.ids.tolist()) == list(range(142675, 142687))
        assert len(split.train) + len(split.valid) == 40
        save_dataset(ds, tmp_path / "small.nc")
        again = prepare("physionet2012/death_b", 3, open_dataset(tmp_path / "small.nc"))
        assert again.train.ids.tolist() == split.train.ids.tolist()

    def test_covariates(self, ds):
        found = covariates(ds)[:2].tolist()
        assert found[0] == [80, 180.3, 1, 80, 0, 1, 0, 1, 0, 0]
        assert found[1] == [54, 170, 0, 76, 1, -1, 0, 0, 0, 1]

    def test_what_cannot_be_true_is_unknown(self, ds):
        wrong = ds.assign(height=ds["height"] * 0 + 1.8, gender=ds["gender"] * 0 - 1)
        assert covariates(wrong)[0].tolist() == [80, 170, 0, 80, 0, 0, 0, 1, 0, 0]

    def test_a_run_predicts_for_records_as_they_are(self, ds, tmp_path, monkeypatch):
        monkeypatch.setenv("CTLSSL_DATA", str(tmp_path))
        monkeypatch.setattr(catalogue, "_PLACES", ())
        save_dataset(ds, tmp_path / "physionet2012.nc")
        settings = RunSettings("physionet2012/death", width=4, training=Training(epochs=1))
        train_run(settings, tmp_path / "run")
        split = prepare("physionet2012/death", 0, ds)
        table = open_run(tmp_path / "run").predict(ds).set_index("series")
        expected = torch.softmax(predict(open_run(tmp_path / "run").model, split.test).logits.double(), dim=1)
        assert table.loc[split.test.ids, "class_1"].to_numpy() == pytest.approx(expected[:, 1].numpy(), abs=1e-6)
