"""The files of a comparison: all of them, or what was there before."""

import pytest
import xarray

from ctlssl import saving
from ctlssl.saving import save_comparison
from tests.pages import check_page
from tests.toys import comparison


def test_all_files(tmp_path):
    results = comparison()
    paths = save_comparison(results, tmp_path)
    assert sorted(path.name for path in paths) == [
        "learning.png",
        "quality.png",
        "report.html",
        "results.nc",
        "table.md",
    ]
    assert sorted(paths) == sorted(tmp_path.iterdir())
    xarray.testing.assert_identical(xarray.load_dataset(tmp_path / "results.nc"), results)
    assert "gru" in check_page(tmp_path / "report.html", pictures=2)


def test_nothing_was_trained(tmp_path):
    results = comparison().isel(epoch=[])
    for name in ("auroc", "rmse"):
        results[name][:] = float("nan")
    save_comparison(results, tmp_path)
    assert "no neural model finished" in (tmp_path / "table.md").read_text(encoding="utf8")
    xarray.testing.assert_identical(xarray.load_dataset(tmp_path / "results.nc"), results)


def test_interrupted_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    save_comparison(comparison(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(results, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(saving.WRITERS, "quality.png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_comparison(comparison(seeds=2), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
