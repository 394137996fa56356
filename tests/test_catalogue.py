"""The bundled data: found where it lies, and what its README says of it."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctlssl import catalogue
from ctlssl.catalogue import dataset_names, describe_dataset, load_dataset
from ctlssl.files import save_dataset
from ctlssl.schema import channels, check_dataset
from ctlssl.synthetic import GENERATORS
from ctlssl.tables import from_arrays, to_long

FOLDER = Path(__file__).resolve().parent.parent / "datasets" / "covid19"


@pytest.fixture(scope="module")
def covid19():
    return load_dataset("covid19")


@pytest.fixture(scope="module")
def script():
    """The module prepare.py of the data set."""
    spec = importlib.util.spec_from_file_location("prepare_covid19", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_and_cards():
    assert "covid19" in dataset_names()
    card = describe_dataset("covid19")
    assert (card.series, card.rows, len(card.channels)) == (375, 6120, 74)
    assert card.observed == pytest.approx(55727 / (6120 * 74))
    assert "Yan" in card.references and "375" in card.title


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown data set 'covid'; choose from .*covid19.*open_dataset"):
        load_dataset("covid")
    with pytest.raises(ValueError, match="unknown data set"):
        describe_dataset("../covid19/covid19")


def test_data_of_an_installed_package_come_first(tmp_path, monkeypatch):
    ds = from_arrays([[0.0]], [[1.0]])
    for place, names in {"installed": ["covid19"], "beside": ["covid19", "mine"]}.items():
        for name in names:
            (tmp_path / place / name).mkdir(parents=True)
            save_dataset(ds.assign_attrs(title=place), tmp_path / place / name / f"{name}.nc")
    (tmp_path / "beside" / "other").mkdir()
    save_dataset(ds, tmp_path / "beside" / "other" / "notes.nc")
    monkeypatch.delenv("CTLSSL_DATA", raising=False)
    monkeypatch.setattr(catalogue, "_PLACES", (tmp_path / "installed", tmp_path / "beside", tmp_path / "absent"))
    assert [name for name in dataset_names() if name not in GENERATORS] == ["covid19", "mine"]
    assert [load_dataset(name).attrs["title"] for name in ("covid19", "mine")] == ["installed", "beside"]


def test_data_that_users_prepare(tmp_path, monkeypatch):
    (tmp_path / "beside" / "closed").mkdir(parents=True)
    (tmp_path / "beside" / "closed" / "prepare.py").write_text("")
    monkeypatch.setattr(catalogue, "_PLACES", (tmp_path / "beside",))
    with pytest.raises(ValueError, match=r"'closed' is not prepared; README.md beside .*prepare.py says how"):
        load_dataset("closed")
    monkeypatch.setenv("CTLSSL_DATA", str(tmp_path))
    save_dataset(from_arrays([[0.0]], [[1.0]]).assign_attrs(title="own"), tmp_path / "closed.nc")
    assert load_dataset("closed").attrs["title"] == "own" and "closed" in dataset_names()


def test_every_load_is_ones_own():
    load_dataset("covid19")["age"][:] = 0
    assert int(load_dataset("covid19")["age"].min()) == 18


class TestCovid19:
    def test_the_schema(self, covid19):
        check_dataset(covid19)
        assert [name for name, item in covid19.coords.items() if item.dims == ("series",)] == ["series"]
        assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in channels(covid19))
        assert all(covid19[name].attrs["long_name"].strip() for name in channels(covid19))

    def test_the_counts_of_the_readme(self, covid19, script):
        table = dict(re.findall(r"^\| ([a-z ]+) \| (\d+) \|$", (FOLDER / "README.md").read_text("utf8"), re.MULTILINE))
        counts = script.counts(covid19)
        assert {name: int(table[name]) for name in counts} == counts

    def test_the_counts_by_pandas(self, covid19, script):
        long = to_long(covid19)
        counts = script.counts(covid19)
        assert len(long) == counts["values"]
        assert long["id"].nunique() == counts["patients with a value"]
        assert len(long.drop_duplicates(["id", "time"])) == counts["rows with a value"]
        assert int((covid19["outcome"] == 1).sum()) == counts["died"]

    def test_the_other_statements_of_the_readme(self, covid19):
        text = (FOLDER / "README.md").read_text("utf8")
        sizes = covid19["row_size"].values
        assert (sizes.min(), sizes.max(), np.median(sizes)) == (1, 59, 16)
        splits = np.split(covid19["time"].values, np.cumsum(sizes)[:-1])
        gaps = np.concatenate([np.diff(part) for part in splits])
        assert np.median(gaps) * 60 == pytest.approx(37)
        assert gaps.min() * 60 == pytest.approx(1)
        assert round(gaps.max() / 24) == 9
        assert min(part.min() for part in splits) == 0
        late = covid19["time"].values > np.repeat(covid19["discharge"].values, sizes)
        late_by = (covid19["time"].values - np.repeat(covid19["discharge"].values, sizes))[late]
        patients = len(set(np.repeat(covid19["series"].values, sizes)[late].tolist()))
        assert f"{late.sum()} rows of {patients} patients" in text and f"up to {int(late_by.max())} hours" in text
        urine = covid19["white_cell_count"].notnull() & covid19["hemoglobin"].isnull()
        assert f"{int(urine.sum())} rows that have a white cell count but no hemoglobin" in text
        tests = covid19["sars_cov_2_test"].values
        assert np.unique(tests[~np.isnan(tests)]).tolist() == [-1.0]
        assert f"always -1 ({(~np.isnan(tests)).sum()} values)" in text
        assert float(covid19["platelet_count"].min()) >= 0
        assert float(covid19["hemoglobin"].min()) == 6.4

    def test_it_is_small(self):
        assert (FOLDER / "covid19.nc").stat().st_size < 1_000_000

    def test_two_rows_copied_from_the_workbook_by_hand(self, covid19):
        first = covid19.isel(obs=slice(0, 5))
        admission = pd.Timestamp("2020-01-30 22:12:47")
        stamps = pd.to_datetime([f"2020-01-31 01:{minute}" for minute in ("09", "25", "44", "45", "56")])
        np.testing.assert_array_equal(first["time"], (stamps - admission).total_seconds() / 3600)
        assert first["origin"].values[0] == "2020-01-30T22:12:47.000000"
        assert [float(first[name][k]) for k, name in enumerate(["ph", "hemoglobin", "urea"])] == [7.415, 136.0, 8.5]
        assert (int(first["age"][0]), int(first["gender"][0]), int(first["outcome"][0])) == (73, 1, 0)
        stay = pd.Timestamp("2020-02-17 12:40:09") - admission
        assert float(first["discharge"][0]) == stay / pd.Timedelta(hours=1)


class TestPreparation:
    def workbook(self, script):
        """Two patients as the workbook has them, one of them with a platelet count of -1."""
        broken = {new: old for old, new in script.REPAIRS.items()}
        columns = [
            broken.get(name, name) + (" " if name == "platelet large cell ratio" else "") for name in script.CHANNELS
        ]
        table = pd.DataFrame(np.nan, index=range(3), columns=columns)
        table.insert(0, "outcome", [1, 1, 0])
        table.insert(0, "Discharge time", pd.to_datetime(["2020-02-03 12:00:00"] * 2 + ["2020-02-05 00:00:00"]))
        table.insert(0, "Admission time", pd.to_datetime(["2020-02-01 00:00:30"] * 2 + ["2020-02-01 00:00:00"]))
        table.insert(0, "gender", [1, 1, 2])
        table.insert(0, "age", [60, 60, 70])
        table.insert(
            0, "RE_DATE", pd.to_datetime(["2020-02-01 06:00:30", "2020-02-01 02:00:30", "2020-02-02 00:00:00"])
        )
        table.insert(0, "PATIENT_ID", [1, 1, 2])
        table["Platelet count"] = [-1.0, 200.0, np.nan]
        table["Interleukin 1尾"] = [5.0, np.nan, 6.0]
        return table

    def test_a_workbook_by_hand(self, script):
        raw = self.workbook(script)
        ds = script.build(raw.rename(columns=lambda name: script.REPAIRS.get(name, name).strip()))
        check_dataset(ds)
        assert ds["time"].values.tolist() == [2.0, 6.0, 24.0]
        np.testing.assert_array_equal(ds["platelet_count"], [200.0, np.nan, np.nan])
        np.testing.assert_array_equal(ds["interleukin_1_beta"], [np.nan, 5.0, 6.0])
        assert ds["interleukin_1_beta"].attrs == {"units": "pg/mL", "long_name": "Interleukin 1β"}
        assert ds["discharge"].values.tolist() == [59.99166666666667, 96.0]
        assert (ds["outcome"].values.tolist(), ds["outcome"].attrs["role"]) == ([1, 0], "label")

    def test_the_bundled_file_has_what_the_script_writes(self, script, covid19):
        ds = script.build(self.workbook(script).rename(columns=lambda name: script.REPAIRS.get(name, name).strip()))
        assert set(ds.variables) == set(covid19.variables)
        assert channels(ds) == channels(covid19)
        for name in ds.variables:
            left, right = ds[name].attrs, covid19[name].attrs
            assert {key: np.asarray(item).tolist() for key, item in left.items()} == {
                key: np.asarray(item).tolist() for key, item in right.items()
            }
        assert ds.attrs == covid19.attrs

    def test_another_workbook_is_refused(self, script, tmp_path):
        (tmp_path / "book.xlsx").write_bytes(b"another")
        with pytest.raises(ValueError, match="SHA-256"):
            script.read_workbook(tmp_path / "book.xlsx")
        with pytest.raises(ValueError, match="laboratory columns"):
            script.build(self.workbook(script))
