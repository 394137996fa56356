"""The data sets that are told by a clock: what their READMEs say of them, how they are made, what is asked of them."""

import importlib.util
import io
import re
import runpy
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ctlssl.catalogue import describe_dataset, load_dataset
from ctlssl.preparation import place_for
from ctlssl.schema import channels, check_dataset
from ctlssl.tasks import TASKS, prepare

DATASETS = Path(__file__).resolve().parent.parent / "datasets"
BUNDLED = ("japanese_vowels", "pbc", "pharmacokinetics")
EVERY = (*BUNDLED, "asas")


def script_of(name):
    """The module prepare.py of a data set."""
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", DATASETS / name / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stated(name):
    """The counts that a README states."""
    text = (DATASETS / name / "README.md").read_text("utf8")
    return {key: int(number) for key, number in re.findall(r"^\| ([a-z0-9 ]+) \| (\d+) \|$", text, re.MULTILINE)}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_set_is_small_and_what_its_readme_says(name):
    ds = load_dataset(name)
    check_dataset(ds)
    assert (DATASETS / name / f"{name}.nc").stat().st_size < 1_000_000
    assert script_of(name).counts(ds) == stated(name)
    card = describe_dataset(name)
    assert card.licence and card.references and card.title
    assert all(re.fullmatch("[a-z][a-z0-9_]*", channel) for channel in channels(ds))
    assert all(ds[channel].attrs["long_name"] for channel in channels(ds))


@pytest.mark.parametrize("name", EVERY)
def test_a_readme_has_what_a_user_must_know(name):
    text = (DATASETS / name / "README.md").read_text("utf8")
    for heading in ("| source |", "| licence |", "| citation |", "## Counts", "## Variables", "## Tasks", "## Making"):
        assert heading in text
    for task in TASKS.values():
        assert task.dataset != name or task.name.split("/")[1] in text


def test_the_counts_by_hand():
    vowels, pbc, drugs = (load_dataset(name) for name in BUNDLED)
    np.testing.assert_array_equal(np.bincount(vowels["speaker"].values[vowels["part"].values == "train"]), 30)
    np.testing.assert_allclose(np.diff(vowels["time"].values[:20]), 6.4)
    assert float(vowels["cepstrum_1"][0]) == pytest.approx(1.860936, abs=1e-6)
    patient = pbc.isel(obs=slice(0, 2))  # two visits of patient 1, who died on day 400
    assert patient["time"].values.tolist() == [0.0, 192.0] and float(pbc["followed"][0]) == 400.0
    assert patient["bilirubin"].values.tolist() == [14.5, 21.3] and np.isnan(patient["cholesterol"].values[1])
    late = pbc["time"].values > np.repeat(pbc["followed"].values, pbc["row_size"].values)
    assert int(pbc["end"][0]) == 2 and not late.any()
    infant = drugs.isel(obs=slice(0, 2))
    assert infant["phenobarbital_dose"].values[0] == 25.0 and infant["phenobarbital"].values[1] == 17.3
    assert drugs["theophylline_dose"].notnull().sum() == 12 and "long_name" in drugs["weight"].attrs


class TestPreparation:
    def test_asas(self, tmp_path):
        script, archive = script_of("asas"), io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as members:
            for star, text in {"7": "1.5,10.0,0.1\n2.5,11.0,0.2\n", "12": "3.0,9.0,0.1\n", "99": "1,2,3\n"}.items():
                member = tarfile.TarInfo(f"set/{star}.dat")
                member.size = len(text)
                members.addfile(member, io.BytesIO(text.encode()))
        curves = script.read_curves(archive.getvalue())
        ds = script.build(curves, script.read_classes(b"filename,class\n12,Mira\n7,Algol\n"))
        check_dataset(ds)
        assert ds["series"].values.tolist() == [12, 7] and ds["star_class"].values.tolist() == [1, 0]
        assert ds["magnitude"].values.tolist() == [9.0, 10.0, 11.0] and ds["time"].values.tolist() == [3.0, 1.5, 2.5]
        assert ds["star_class"].attrs["flag_meanings"] == "Algol Mira"
        with pytest.raises(ValueError, match="no light curve"):
            script.build(curves, {5: "Mira"})
        (tmp_path / "set.tar.gz").write_bytes(archive.getvalue())
        with pytest.raises(ValueError, match="light curves have SHA-256"):
            script.verified(tmp_path / "set.tar.gz", "light curves")

    def test_japanese_vowels(self, tmp_path):
        script = script_of("japanese_vowels")
        line = ":".join(["1.0,2.0"] * 12)
        ds = script.build(f"# about\n@data\n{line}:3\n", f"@data\n{line.replace('2.0', '5.0')}:9\n{line}:1\n")
        check_dataset(ds)
        assert ds["part"].values.tolist() == ["train", "test", "test"] and ds["speaker"].values.tolist() == [2, 8, 0]
        assert ds["cepstrum_12"].values.tolist() == [1.0, 2.0, 1.0, 5.0, 1.0, 2.0]
        assert ds["time"].values.tolist() == [0.0, 6.4] * 3
        with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
            for name in script.SHA256:
                wheel.writestr(script.FOLDER + name, "@data")
        with pytest.raises(ValueError, match=r"use aeon 1\.6\.0"):
            script.read_parts(tmp_path / "other.whl")

    def test_pbc(self, tmp_path):
        script = script_of("pbc")
        table = pd.DataFrame({column: [1.0, np.nan, 3.0] for column in script.CHANNELS})
        table = table.assign(
            id=[4, 4, 2], day=[0, 190, 0], futime=[400, 400, 900], status=[2, 2, 0], trt=[1, 1, 0], age=50.5
        ).assign(sex=["f", "f", "m"])
        ds = script.build(table)
        check_dataset(ds)
        assert sorted(ds["series"].values.tolist()) == [2, 4]
        place = ds["series"].values.tolist().index(4)
        facts = [int(ds[name][place]) for name in ("end", "sex", "treatment", "followed")]
        assert facts == [2, 1, 1, 400]
        with pytest.raises(ValueError, match=r"no column day, stage"):
            script.build(table.drop(columns=["day", "stage"]))
        (tmp_path / "pbcseq.csv").write_text("id\n1\n")
        with pytest.raises(ValueError, match="SHA-256"):
            script.read_table(tmp_path / "pbcseq.csv")

    def test_pharmacokinetics(self, tmp_path):
        script = script_of("pharmacokinetics")
        infants = pd.DataFrame(
            {"Subject": [1, 1], "time": [0.0, 2.0], "dose": [25, np.nan], "conc": [np.nan, 17.3], "Wt": 1.4, "Apgar": 7}
        )
        men = pd.DataFrame({"Subject": [3, 3], "time": [0.0, 8.0], "dose": [249, np.nan], "conc": [np.nan, 2.0]})
        men = men.assign(interval=np.nan, Age=60, Height=69, Weight=106, Smoke="yes", Heart="Severe", glyco=0.41)
        volunteers = pd.DataFrame({"Subject": [9, 9], "Time": [0.0, 1.0], "Dose": 4.0, "conc": [0.1, 5.0], "Wt": 79.6})
        tables = dict(zip(script.DRUGS, (infants, men.assign(Creatinine="< 50"), volunteers), strict=True))
        ds = script.build(tables)
        check_dataset(ds)
        assert ds["drug"].values.tolist() == list(script.DRUGS)
        np.testing.assert_array_equal(ds["quinidine"].values, [np.nan] * 3 + [2.0] + [np.nan] * 2)
        np.testing.assert_array_equal(ds["glycoprotein"].values[2:4], [0.41, np.nan])
        np.testing.assert_array_equal(ds["theophylline_dose"].values[4:], [4.0, np.nan])
        assert float(ds["heart_failure"][1]) == 2.0 and float(ds["smokes"][1]) == 1.0
        assert float(ds["low_creatinine_clearance"][1]) == 1.0 and np.isnan(ds["age"].values[[0, 2]]).all()
        (tmp_path / "Phenobarb.csv").write_text("Subject\n1\n")
        with pytest.raises(ValueError, match="SHA-256"):
            script.read_table(tmp_path / "Phenobarb.csv", "phenobarbital")


SOURCES = {
    "asas": 2, "covid19": 1, "japanese_vowels": 1, "pbc": 1, "pendulum_cru": 0, "pharmacokinetics": 3,
    "physionet2012": 4, "plaid": 1, "sepsis2019": 1,
}  # fmt: skip


class TestCommandLine:
    @pytest.fixture(params=SOURCES)
    def script(self, request):
        return request.param

    @pytest.fixture
    def run(self, script, monkeypatch, capsys):
        """Runs the script with arguments; its exit code, and what it said."""

        def call(*arguments):
            monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(DATASETS / script / "prepare.py"), run_name="__main__")
            return ended.value.code, "".join(capsys.readouterr())

        return call

    def test_every_script_is_here(self):
        assert {path.parent.name for path in DATASETS.glob("*/prepare.py")} == set(SOURCES)

    def test_help_and_no_arguments(self, script, run):
        code, said = run("--help")
        assert code == 0 and said.startswith("usage:") and f"Write {script}.nc" in said
        if SOURCES[script]:
            code, said = run()
            assert code == 2 and "the following arguments are required" in said

    def test_sources_that_are_none(self, script, run, tmp_path):
        (tmp_path / "notes.txt").write_text("nothing of the kind")
        if not SOURCES[script]:
            return
        for source in (tmp_path / "notes.txt", tmp_path, tmp_path / "absent.whl"):
            code, said = run(*[source] * SOURCES[script], tmp_path / "x.nc")
            assert code == 2 and said.startswith("prepare.py: error: ") and said.count("\n") == 1
            assert str(tmp_path) in said
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_target_is_refused_before_the_work(self, script, run, tmp_path):
        (tmp_path / "notes.txt").write_text("nothing of the kind")
        targets = {"absent/x.nc": "is no folder that can be written"} | (
            {} if script == "sepsis2019" else {"notes.txt": "no file that ends in .nc", "absent": "is no folder"}
        )
        for target, told in targets.items():
            code, said = run(*[tmp_path / "notes.txt"] * SOURCES[script], tmp_path / target)
            assert code == 2 and told in said and said.count("\n") == 1


def test_where_a_prepared_file_goes(tmp_path):
    script = tmp_path / "asas" / "prepare.py"
    script.parent.mkdir()
    assert place_for(None, script) == script.resolve().parent / "asas.nc"
    assert place_for(tmp_path, script) == tmp_path / "asas.nc"
    assert place_for(tmp_path / "my.nc", script) == tmp_path / "my.nc"


class TestQuestions:
    def test_frames_that_stay_keep_their_times_and_are_the_same_in_every_call(self):
        ds = load_dataset("japanese_vowels")
        whole = TASKS["japanese_vowels/speaker"].build(ds)
        for name, share in {"speaker30": 0.3, "speaker50": 0.5, "speaker70": 0.7}.items():
            dropped, again = (TASKS[f"japanese_vowels/{name}"].build(ds) for _ in range(2))
            assert torch.equal(dropped.series.times, again.series.times)
            lengths = whole.series.lengths
            expected = lengths - torch.tensor([min(round(share * n), n - 1) for n in lengths.tolist()])
            assert torch.equal(dropped.series.lengths, expected)
            for b in range(0, 640, 97):
                times = dropped.series.times[b, : int(dropped.series.lengths[b])]
                places = torch.searchsorted(whole.series.times[b, : int(lengths[b])].contiguous(), times)
                kept = dropped.series.values[b, : len(times)]
                assert torch.equal(whole.series.times[b, places], times)
                assert torch.equal(whole.series.values[b, places], kept)

    def test_the_published_parts_of_japanese_vowels(self):
        split = prepare("japanese_vowels/speaker50", seed=1)
        assert [len(part) for part in (split.train, split.valid, split.test)] == [198, 72, 370]
        assert set(split.test.ids.tolist()) == set(range(270, 640))

    def test_pbc_shows_nothing_after_the_landmark_and_asks_those_who_reach_it(self):
        ds = load_dataset("pbc")
        examples = TASKS["pbc/end"].build(ds)
        assert (len(examples), int(examples.labels.sum())) == (289, 64)
        assert float(examples.series.times[examples.series.in_length].max()) <= 365.25
        place = {series: k for k, series in enumerate(ds["series"].values.tolist())}
        for series, label in zip(examples.ids.tolist(), examples.labels.tolist(), strict=True):
            followed, end = float(ds["followed"][place[series]]), int(ds["end"][place[series]])
            assert followed > 365.25
            assert label == (end > 0 and followed <= 1461) and (label or followed > 1461)
        later = TASKS["pbc/forecast"].build(ds)
        assert len(later) == 252 and float(later.series.times[later.series.in_length].max()) <= 365.25
        asked = later.query_times[~torch.isnan(later.query_times)]
        assert 365.25 < float(asked.min()) and float(asked.max()) <= 1461

    @pytest.mark.parametrize(
        ("drug", "subjects", "asked"), [("phenobarbital", 50, 96), ("quinidine", 90, 225), ("theophylline", 12, 81)]
    )
    def test_no_concentration_that_is_asked_for_is_shown(self, drug, subjects, asked):
        ds = load_dataset("pharmacokinetics")
        examples = TASKS[f"pharmacokinetics/{drug}"].build(ds)
        column = examples.variables.index(drug)
        assert len(examples) == subjects and int(examples.target_observed.sum()) == asked
        assert not examples.target_observed[..., [k for k in range(examples.series.channels) if k != column]].any()
        starts = np.cumsum(ds["row_size"].values) - ds["row_size"].values
        for b, series in enumerate(examples.ids.tolist()):
            k = ds["series"].values.tolist().index(series)
            rows = slice(int(starts[k]), int(starts[k] + ds["row_size"].values[k]))
            measured = np.flatnonzero(ds[drug].values[rows] == ds[drug].values[rows])
            shown = examples.series.observed[b, : int(examples.series.lengths[b]), column]
            times = ds["time"].values[rows][measured]
            first = times <= 2.0 if drug == "theophylline" else np.arange(len(times)) == 0
            length = int(examples.series.lengths[b])
            assert examples.series.times[b, :length][shown].tolist() == times[first].tolist()
            queries = examples.query_times[b][examples.target_observed[b, :, column]]
            assert queries.tolist() == times[~first].tolist()
            doses = examples.series.observed[b, :length, examples.variables.index(f"{drug}_dose")].sum()
            assert int(doses) == int(ds[f"{drug}_dose"][rows].notnull().sum())  # later ones too: they were planned

    def test_the_folds_test_on_everybody_once(self):
        tested = [name for seed in range(4) for name in prepare("pharmacokinetics/quinidine", seed).test.ids.tolist()]
        assert len(tested) == len(set(tested)) == 90

    def test_asas_stars_are_standardised_one_by_one(self):
        script = script_of("asas")
        draw = np.random.default_rng(0)
        curves = {
            star: np.stack([np.arange(9.0), 10 + star + star * draw.standard_normal(9), np.full(9, 0.1 * star)], axis=1)
            for star in range(1, 60)
        }
        curves[3][:, 1] = 12.0  # one that does not vary
        classes = {star: "Mira" if star % 2 else "Algol" for star in curves} | {57: "Rare"}
        examples = TASKS["asas/class"].build(script.build(curves, classes))
        assert len(examples) == 58 and sorted(set(examples.labels.tolist())) == [0, 1]
        k = examples.ids.tolist().index(8)
        values, spread = curves[8][:, 1], curves[8][:, 1].std()
        expected = np.stack([(values - values.mean()) / spread, 0.8 / spread * np.ones(9)], axis=1)
        np.testing.assert_allclose(examples.series.values[k].numpy(), expected, rtol=1e-9)
        np.testing.assert_allclose(examples.series.static[k].numpy(), [values.mean(), np.log10(spread)], rtol=1e-9)
        assert examples.series.values[examples.ids.tolist().index(3)].isfinite().all()
