"""sepsis2019: records made here in the format of the challenge, and what the tasks show of them."""

import importlib.util
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ctlssl import catalogue, tasks
from ctlssl.catalogue import dataset_names, load_dataset
from ctlssl.files import open_dataset, save_dataset
from ctlssl.packed_series import PackedSeries
from ctlssl.questions import sepsis2019
from ctlssl.runs import RunSettings, open_run, train_run
from ctlssl.schema import channels, check_dataset, labels, select_series, static
from ctlssl.tasks import TASKS, prepare
from ctlssl.training import Training, predict

FOLDER = Path(__file__).resolve().parent.parent / "datasets" / "sepsis2019"


@pytest.fixture(scope="module")
def script():
    """The module prepare.py of the data set."""
    spec = importlib.util.spec_from_file_location("prepare_sepsis2019", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def psv(script, rows):
    """A record: (hour, label, values by column) a row."""
    fixed = {"Age": "83.14", "Gender": "0", "Unit1": "NaN", "Unit2": "NaN", "HospAdmTime": "-0.03"}
    lines = ["|".join(script.HEADER)]
    for hour, label, values in rows:
        cells = {**dict.fromkeys(script.CHANNELS, "NaN"), **fixed, **values, "ICULOS": hour, "SepsisLabel": label}
        lines.append("|".join(str(cells[name]) for name in script.HEADER))
    return ("\n".join(lines) + "\n").encode()


def hours(script, first, last, onset=1000, **values):
    """A record of rows from the first to the last hour, with the same values in each."""
    return psv(script, [(hour, int(hour >= onset), values) for hour in range(first, last + 1)])


@pytest.fixture(scope="module")
def found(script):
    """Numbers and contents: 40 plain records, every fourth with sepsis, and some whose length matters."""
    plain = {k: hours(script, 1, 20 + k, onset=9 if k % 4 == 0 else 1000, HR=60 + k, Age=50 + k) for k in range(1, 41)}
    special = {
        100001: psv(
            script,
            [(2, 0, {"HR": "70", "Unit1": 1, "Unit2": 0}), (3, 0, {"Unit1": 1, "Unit2": 0})]
            + [(5, 0, {"HR": 90, "Temp": "37.25", "Unit1": 1, "Unit2": 0})],
        ),
        100002: hours(script, 1, 2, HR=80),  # too short
        100003: hours(script, 60, 100, onset=73, HR=81),  # sepsis after what is shown
        100004: hours(script, 80, 90, HR=82),  # begins after what is shown
        100005: hours(script, 1, 100, onset=72, HR=83),
    }
    return plain | special


@pytest.fixture(scope="module")
def ds(script, found):
    return script.build(found)


def position(ds, number):
    return ds["series"].values.tolist().index(number)


class TestSources:
    def test_archives_and_folders_give_the_same(self, script, found, tmp_path):
        with zipfile.ZipFile(tmp_path / "training_setA.zip", "w") as archive:
            archive.writestr("training/index.html", "no record")
            for number, content in reversed(found.items()):
                archive.writestr(f"training/p{number:06d}.psv", content)
        (tmp_path / "set_A" / "deep").mkdir(parents=True)
        for number, content in found.items():
            (tmp_path / "set_A" / "deep" / f"p{number:06d}.psv").write_bytes(content)
        assert script.records([tmp_path / "training_setA.zip"]) == found
        assert list(script.records([tmp_path / "set_A"])) == sorted(found)

    def test_what_is_no_source_is_refused(self, script, found, tmp_path):
        (tmp_path / "a").mkdir()
        with pytest.raises(ValueError, match="there is no record"):
            script.records([tmp_path / "a"])
        (tmp_path / "a" / "p000001.psv").write_bytes(found[1])
        with pytest.raises(ValueError, match="is there twice"):
            script.records([tmp_path / "a", tmp_path / "a"])
        with pytest.raises(ValueError, match="p000005.psv has not the columns"):
            script.build({5: found[1].replace(b"HR|", b"Pulse|")})
        with pytest.raises(ValueError, match=r"p000007.psv: Age is not the same in every row"):
            script.build({1: found[1], 7: found[1].replace(b"|51|", b"|52|", 1)})

    def test_the_digest_is_of_the_numbers(self, script, found, ds):
        spelled = {number: content.replace(b"|0.03|", b"|0.030|") for number, content in found.items()}
        spelled[100001] = found[100001].replace(b"37.25", b"37.250").replace(b"\n", b"\r\n")
        assert script.digest(script.build(spelled)) == script.digest(ds)
        assert script.digest(script.build(found | {107242: found[1]})) == script.digest(ds)  # not in the wheel
        changed = found | {100001: found[100001].replace(b"37.25", b"37.26")}
        assert script.digest(script.build(changed)) != script.digest(ds)

    def test_the_whole_way(self, script, found, ds, tmp_path, monkeypatch, capsys):
        for number, content in found.items():
            (tmp_path / f"p{number:06d}.psv").write_bytes(content)
        target = tmp_path / "own" / "sepsis2019.nc"
        target.parent.mkdir()
        with pytest.raises(ValueError, match="the records have SHA-256"):
            script.main(str(tmp_path), str(target))
        monkeypatch.setattr(script, "SHA256", script.digest(ds))
        script.main(str(tmp_path), str(target))
        assert "records: 45" in capsys.readouterr().out
        assert open_dataset(target).identical(ds)


class TestDataset:
    def test_the_schema(self, script, ds):
        check_dataset(ds)
        assert channels(ds) == tuple(name for name, *_ in script.CHANNELS.values())
        assert set(channels(ds)) == set(sepsis2019.HEALTHY) and len(channels(ds)) == 34
        assert static(ds) == ("age", "gender", "unit_1", "unit_2", "hospital_admission")
        assert labels(ds) == ("sepsis",)
        assert all(ds[name].dtype == np.float32 for name in channels(ds))

    def test_a_record(self, ds):
        k = position(ds, 100001)
        rows = slice(ds["row_size"].values[:k].sum(), ds["row_size"].values[: k + 1].sum())
        assert ds["time"].values[rows].tolist() == [2, 3, 5]
        assert np.array_equal(ds["heart_rate"].values[rows], [70, np.nan, 90], equal_nan=True)
        assert np.array_equal(ds["temperature"].values[rows], [np.nan, np.nan, 37.25], equal_nan=True)
        found = [ds[name].values[k] for name in static(ds)]
        assert found == pytest.approx([83.14, 0, 1, 0, -0.03], rel=1e-6)
        assert ds["hospital"].values[k] == "B" and ds["hospital"].values[0] == "A"

    def test_the_label_is_of_the_first_72_hours(self, ds):
        answers = {number: int(ds["sepsis"].values[position(ds, number)]) for number in (4, 5, 100003, 100005)}
        assert answers == {4: 1, 5: 0, 100003: 0, 100005: 1}
        assert ds["first_positive"].values[position(ds, 100003)] == 73
        assert np.isnan(ds["first_positive"].values[position(ds, 5)])

    def test_the_readme_and_its_counts(self, script, ds):
        text = (FOLDER / "README.md").read_text("utf8")
        assert script.SHA256 in text and all(str(number) in text for number in script.NOT_IN_WHEEL)
        for name in (*static(ds), *labels(ds), "first_positive", "last_hour", "hospital"):
            assert f"`{name}`" in text
        pattern = r"^\| ([0-9A-Za-z ]+) \| (\d+) \|$"
        table = dict(re.findall(pattern, text.split("## Counts")[1].split("## ")[0], re.MULTILINE))
        assert set(table) == set(script.counts(ds))
        # of the data themselves where they were prepared here
        if "sepsis2019" in dataset_names():
            known = load_dataset("sepsis2019")
            assert {name: int(number) for name, number in table.items()} == script.counts(known)
            assert script.digest(known) == script.SHA256
        counts = script.counts(ds)
        assert (counts["records"], counts["records that the tasks ask for"], counts["of these with sepsis"]) == (
            45,
            43,
            11,
        )
        assert (counts["records of 16 to 59 h"], counts["records of set A"]) == (39, 40)


class TestTasks:
    def test_who_is_asked_for_and_what_is_shown(self, ds):
        for name in ("sepsis", "sepsis_values", "length"):
            raw = TASKS[f"sepsis2019/{name}"].build(ds)
            assert set(ds["series"].values) - set(raw.ids) == {100002, 100004}
            ends = raw.series.times[raw.series.lengths.cumsum(0) - 1]
            assert dict(zip(raw.ids.tolist(), ends.tolist(), strict=True))[100005] == 72
            assert (raw.labels.numpy() == ds["sepsis"].values[np.isin(ds["series"].values, raw.ids)]).all()

    def test_what_was_measured_and_when(self, ds):
        raw = sepsis2019.sepsis(select_series(ds, [position(ds, 100001)]))
        assert isinstance(raw.series, PackedSeries) and raw.series.values.dtype == torch.float32
        assert raw.series.times.tolist() == [2, 3, 5]
        assert raw.series.observed[:, :3].tolist() == [[True, False, False], [False] * 3, [True, False, True]]
        assert raw.series.static.tolist()[0] == pytest.approx([83.14, 0, 1, 0, -0.0299955, 1, 1], rel=1e-6)

    def test_values_alone(self, ds):
        raw = sepsis2019.sepsis_values(select_series(ds, [position(ds, number) for number in (7, 100001, 8)]))
        rows = slice(27, 32)  # between the 27 rows of record 7 and the 28 of record 8
        assert raw.series.lengths.tolist() == [27, 5, 28]
        assert raw.series.times[rows].tolist() == [1, 2, 3, 4, 5]
        assert raw.series.observed.all()
        assert raw.series.values[rows, 0].tolist() == [70, 70, 70, 70, 90]
        assert raw.series.values[rows, 2].tolist() == [37.25] * 5
        assert (raw.series.values[:27, 0] == 67).all() and (raw.series.values[32:, 0] == 68).all()
        lactate = raw.variables.index("lactate")
        assert (raw.series.values[:, lactate] == sepsis2019.HEALTHY["lactate"]).all()
        assert raw.series.static[1].tolist() == pytest.approx([83.14, 0, 1, 0, -0.0299955], rel=1e-6)
        assert raw.series.static[0].tolist() == pytest.approx([57, 0, 0, 0, -0.0299955], rel=1e-6)

    def test_values_are_carried_as_a_loop_would(self):
        draw = np.random.default_rng(3)
        for _ in range(30):
            lengths = draw.integers(1, 7, size=5)
            known = draw.random(lengths.sum()) < draw.choice([0.0, 0.1, 0.5])
            values = draw.normal(size=lengths.sum()).astype(np.float32)
            expected = []
            for start, end in zip(np.cumsum(lengths) - lengths, np.cumsum(lengths), strict=True):
                own = [values[k] for k in range(start, end) if known[k]]
                last = own[0] if own else np.float32(7.5)
                for k in range(start, end):
                    last = values[k] if known[k] else last
                    expected.append(last)
            found = sepsis2019._carried(np.flatnonzero(known), values[known], lengths, 7.5)
            assert found.tolist() == expected and found.dtype == np.float32

    def test_values_as_a_dataset(self, ds):
        whole = sepsis2019.hourly(ds)
        check_dataset(whole)
        assert whole["row_size"].values[position(ds, 100003)] == 100
        assert whole["heart_rate"].attrs == ds["heart_rate"].attrs and whole["sepsis"].identical(ds["sepsis"])
        assert sepsis2019.hourly(whole).identical(whole)

    def test_length_alone(self, ds):
        raw = sepsis2019.length(ds)
        assert raw.series.channels == 1 and raw.series.static is None
        assert (raw.series.values == 1).all() and raw.series.observed.all()

    def test_the_band(self, ds):
        raw = sepsis2019.sepsis(ds)
        inside = set(raw.ids[sepsis2019.in_band(raw)].tolist())
        assert inside == set(range(1, 40))
        assert (sepsis2019.in_band(sepsis2019.sepsis_values(ds)) == sepsis2019.in_band(raw)).all()

    def test_the_split_is_of_packed_series_in_normal_scores(self, ds, tmp_path):
        split = prepare("sepsis2019/sepsis", 1, ds)
        assert [len(part) for part in (split.train, split.valid, split.test)] == [30, 6, 7]
        assert isinstance(split.train.series, PackedSeries)
        assert (split.problem.channels, split.problem.static, split.problem.time_scale) == (34, 7, 1.0)
        padded = split.normalizer.apply(sepsis2019.sepsis(ds).select([3, 5]).series.to_series())
        packed = split.normalizer.apply(sepsis2019.sepsis(ds).select([3, 5]).series)
        assert torch.equal(packed.to_series().values.nan_to_num(9), padded.values.nan_to_num(9))
        again = save_dataset(ds, tmp_path / "small.nc")
        assert prepare("sepsis2019/sepsis", 1, open_dataset(again)).test.ids.tolist() == split.test.ids.tolist()

    def test_a_run_predicts_for_records_as_they_are(self, ds, tmp_path, monkeypatch):
        monkeypatch.setenv("CTLSSL_DATA", str(tmp_path))
        monkeypatch.setattr(catalogue, "_PLACES", ())
        save_dataset(ds, tmp_path / "sepsis2019.nc")
        for task in ("sepsis", "sepsis_values"):
            settings = RunSettings(f"sepsis2019/{task}", width=4, training=Training(epochs=1))
            train_run(settings, tmp_path / task)
            run, split = open_run(tmp_path / task), prepare(f"sepsis2019/{task}", 0, ds)
            short = np.isin(ds["series"].values, split.test.ids)
            table = run.predict(select_series(ds, short)).set_index("series")
            expected = torch.softmax(predict(run.model, split.test).logits.double(), dim=1)[:, 1].numpy()
            known = dict(zip(split.test.ids.tolist(), expected.tolist(), strict=True))
            assert len(table) > 3
            assert table["class_1"].tolist() == pytest.approx([known[number] for number in table.index], abs=1e-6)
            with pytest.raises(ValueError, match="no 'age' over series"):
                run.predict(select_series(ds, short).drop_vars("age"))


class TestPackedSplits:
    def test_gaps_and_spans_are_those_of_padded_series(self):
        times = torch.tensor([0.0, 0.5, 4.0, 100.0, 7.0, 7.0, 9.0], dtype=torch.float64)
        packed = PackedSeries(torch.ones(7, 1), times, torch.ones(7, 1, dtype=torch.bool), torch.tensor([3, 0, 1, 3]))
        for measure in (tasks.median_gap, tasks._longest_span):
            assert measure(packed) == measure(packed.to_series())
        assert (tasks.median_gap(packed), tasks._longest_span(packed)) == (2.0, 4.0)
