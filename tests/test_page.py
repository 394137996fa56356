"""Pages that stand alone, whatever the names in the files are."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from ctlssl import from_arrays, load_dataset
from ctlssl.inspection import inspect_dataset
from ctlssl.inspection_page import inspection_page, inspection_text
from ctlssl.page import bars, page, picture, section, table, words
from tests.pages import check_page

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></td><h1>",
    "&amp;",
    "$\\frac{",
    "温度",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_escaped_everywhere(tmp_path, name):
    figure = Figure()
    figure.subplots().plot([0, 1])
    parts = [words(name), table([name], [[name]]), bars(name, name, [(name, 0.5, name)]), picture(figure, name)]
    (tmp_path / "page.html").write_text(page(name, section(name, *parts)), encoding="utf8")
    text = check_page(tmp_path / "page.html", pictures=1)
    assert text.count(name) >= 8


def test_numbers_and_words_of_a_table():
    text = table(["n", "x", "w"], [[1, 0.123456, "a"], [2, float("nan"), "b"]]).text
    assert '<td class="number">0.1235</td>' in text and '<td class="number">nan</td>' in text and "<td>a</td>" in text


# Inspection


def test_what_is_counted(tmp_path):
    ds = from_arrays(
        [[0.0, 1.0, 1.0, 4.0], [2.0], []],
        [[[1.0, 9.0], [np.nan, 9.0], [2.0, 9.0], [3.0, np.nan]], [[np.nan, 9.0]], np.empty((0, 2))],
        variables=["<b>x</b>", "still"],
        labels=[0, 1, 1],
        unit="d",
        duplicates="first",
    )
    found = inspect_dataset(ds, ["label"], ["no", "yes"])
    assert (found.series, found.rows, found.empty, found.unit, found.ties) == (3, 4, 1, "d", 0)
    assert found.gaps[0] == 1.0 and found.gaps[-1] == 3.0 and found.spans[-1] == 4.0
    x, still = found.variables
    assert (x.values, x.missing, x.series, x.low, x.high, x.constant) == (3, 0.25, 1 / 3, 1.0, 3.0, False)
    assert still.constant and still.missing == 0.25
    assert found.labels == {"label": "no: 1, yes: 2"}
    text = inspection_text(found, "three.csv", ("a note",))
    assert "3 series, 1 of them without a row" in text and "<b>x</b>" in text and "a note" in text
    path = tmp_path / "look.html"
    path.write_text(inspection_page(found, "three.csv", ("a note",)), encoding="utf8")
    assert "<b>x</b>" in check_page(path, pictures=1)


def test_leaks_are_found_and_chance_is_not_called_one():
    """The length of a record that ends at the event; and labels that nothing tells."""
    draw = np.random.default_rng(0)
    labels = draw.integers(2, size=300)
    clocks = [np.sort(draw.uniform(0, 5 + 10 * label, size=8)) for label in labels]
    ds = from_arrays(clocks, [draw.normal(size=8) for _ in clocks], labels=labels)
    found = {leak.source: leak for leak in inspect_dataset(ds, ["label"]).leaks}
    assert found["time of the last row"].suspect and found["time of the last row"].auroc > 0.95
    assert found["all times and counts"].suspect and not found["number of rows"].suspect
    assert found["number of rows"].auroc == 0.5
    before = from_arrays([clock - 1000.0 for clock in clocks], [draw.normal(size=8) for _ in clocks], labels=labels)
    found = {leak.source: leak for leak in inspect_dataset(before, ["label"]).leaks}
    assert found["time of the last row"].suspect  # times before an event are negative
    ds = ds.assign(label=ds["label"].copy(data=draw.permutation(labels)))
    assert not any(leak.suspect for leak in inspect_dataset(ds, ["label"]).leaks)


def test_labels_of_many_classes_of_numbers_and_of_one_value():
    ds = load_dataset("covid19")
    classes = ds["outcome"].values + (ds["age"].values > 60)
    found = inspect_dataset(ds.assign(three=("series", classes), one=("series", 0 * classes)), ["three", "age", "one"])
    by_label = {name: [leak for leak in found.leaks if leak.label == name] for name in ("three", "age", "one")}
    assert [len(leaks) for leaks in by_label.values()] == [4, 4, 0]
    assert found.labels["age"].startswith("375 numbers from")
    with pytest.raises(ValueError, match="no label 'cured'"):
        inspect_dataset(ds, ["cured"])


def test_nothing_to_inspect():
    found = inspect_dataset(from_arrays([], []))
    assert (found.series, found.rows, found.variables) == (0, 0, ())
    assert "0 series, 0 rows" in inspection_text(found, "nothing") and "0 series" in inspection_page(found, "nothing")
