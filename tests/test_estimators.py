"""Estimators: scikit-learn's own checks, its tools, honest splits, files without pickle, and what is refused."""

import json
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

import ctlssl
from ctlssl.estimators.leaks import area_by_length
from ctlssl.schema import channels, select_series
from ctlssl.sealed import format_of
from ctlssl.tables import from_arrays

QUICK = {"width": 8, "epochs": 30, "learning_rate": 0.02, "patience": 30}
NOT_HELD = {
    "check_sample_weight_equivalence_on_dense_data": "a weight of 2 is not a second copy: which records are held out, "
    "and in which batch they are, is drawn record by record",
    "check_array_api_input": "arrays of other libraries are not read",
}


FEW = QUICK | {"epochs": 2}  # enough where a check does not ask how well it learns
SLOW = {
    "check_classifiers_train",
    "check_classifiers_classes",
    "check_sample_weights_list",
    "check_regressors_train",
    "check_regressor_data_not_an_array",
    "check_classifier_data_not_an_array",
    "check_class_weight_classifiers",
}


def checks(estimator):
    """Every check of scikit-learn that applies, under its name."""
    for tested, check in estimator_checks_generator(estimator):
        name = check.func.__name__
        if name not in NOT_HELD:
            tested = clone(tested).set_params(**(QUICK if name in SLOW else FEW))
            yield pytest.param(
                tested, check, id=f"{type(tested).__name__}-{name}", marks=[pytest.mark.slow] * (name in SLOW)
            )


@pytest.mark.parametrize(
    ("estimator", "check"), [*checks(ctlssl.LSSLClassifier(**QUICK)), *checks(ctlssl.LSSLRegressor(**QUICK))]
)
def test_the_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(clone(estimator))


def two_classes(series=60, seed=0, rows=(3, 9)):
    """Records at irregular times whose class is the sign of their level."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, series)
    lengths = draw.integers(*rows, series)
    times = [np.sort(draw.uniform(0, 10, length)) for length in lengths]
    values = [
        np.stack([draw.normal(2.0 * label - 1.0, 0.7, len(t)), draw.normal(size=len(t))], 1)
        for label, t in zip(labels, times, strict=True)
    ]
    for value in values:
        value[draw.random(value.shape) < 0.2] = np.nan
    return from_arrays(times, values, labels=labels, unit="h"), labels


@pytest.fixture(scope="module")
def fitted():
    ds, labels = two_classes()
    return ctlssl.LSSLClassifier(**QUICK).fit(ds, "label"), ds, labels


class TestClassifier:
    def test_it_learns(self, fitted):
        clf, _, _ = fitted
        ds, labels = two_classes(seed=1)
        assert roc_auc_score(labels, clf.predict_proba(ds)[:, 1]) > 0.9
        assert clf.score(ds, labels) > 0.8
        np.testing.assert_allclose(clf.predict_proba(ds).sum(1), 1, atol=1e-12)

    def test_the_label_is_not_read_as_a_covariate(self, fitted):
        clf, ds, labels = fitted
        assert clf.problem_.static == 0
        same = clf.predict_proba(ds.drop_vars("label"))
        np.testing.assert_array_equal(same, clf.predict_proba(ds))
        by_array = ctlssl.LSSLClassifier(**QUICK).fit(ds.drop_vars("label"), labels)
        np.testing.assert_array_equal(by_array.predict_proba(ds.drop_vars("label")), same)

    def test_forms_of_the_same_records(self, fitted):
        clf, ds, _ = fitted
        ends = np.cumsum(ds["row_size"].values)
        rows = np.stack([ds[name].values for name in channels(ds)], 1)
        pairs = [
            (ds["time"].values[end - size : end], rows[end - size : end])
            for end, size in zip(ends, ds["row_size"].values, strict=True)
        ]
        clf = clone(clf).fit(pairs, ds["label"].values)
        np.testing.assert_array_equal(clf.predict_proba(pairs), fitted[0].predict_proba(ds))
        grid = np.random.default_rng(0).normal(size=(12, 5, 2))
        regular = ctlssl.LSSLRegressor(**QUICK | {"epochs": 2}).fit(grid, grid[:, -1, 0])
        assert regular.predict(grid).shape == (12,)
        assert regular.predict(grid[:3]) == pytest.approx(regular.predict(grid)[:3], abs=1e-6)

    def test_tools_of_scikit_learn(self, fitted):
        _, ds, labels = fitted
        records = ctlssl.Records(ds.drop_vars("label"))
        clf = ctlssl.LSSLClassifier(**QUICK | {"epochs": 10})
        scores = cross_val_score(clf, records, labels, cv=StratifiedKFold(3), scoring="roc_auc")
        assert scores.mean() > 0.85
        search = GridSearchCV(clf, {"width": [4, 8], "model": ["lssl", "gru"]}, cv=2).fit(records, labels)
        assert set(search.best_params_) == {"width", "model"}
        names = [str(name) for name in np.where(labels, "ill", "well")]
        piped = make_pipeline(FunctionTransformer(), clf).fit(records, names)
        assert set(piped.predict(records)) <= {"ill", "well"}

    @pytest.mark.slow
    def test_shuffled_labels_say_nothing(self):
        ds, labels = two_classes(series=400, seed=3)
        shuffled = np.random.default_rng(4).permutation(labels)
        records = ctlssl.Records(ds.drop_vars("label"))
        clf = ctlssl.LSSLClassifier(width=16, epochs=10)
        found = cross_val_predict(clf, records, shuffled, cv=5, method="predict_proba")[:, 1]
        spread = np.sqrt(1 / (12 * shuffled.sum() * (1 - shuffled).sum() / len(labels)))
        assert abs(roc_auc_score(shuffled, found) - 0.5) < 3 * spread

    def test_rare_classes_count_as_much_when_balanced(self):
        draw = np.random.default_rng(5)
        X = np.concatenate([draw.normal(-0.5, 1, (180, 1)), draw.normal(0.5, 1, (20, 1))])
        y = np.repeat([0, 1], [180, 20])
        plain, balanced = (
            ctlssl.LSSLClassifier(**QUICK | {"class_weight": weight}).fit(X, y) for weight in (None, "balanced")
        )
        assert balanced.predict(X)[y == 1].mean() > plain.predict(X)[y == 1].mean() + 0.2
        by_hand = ctlssl.LSSLClassifier(**QUICK).fit(X, y, sample_weight=np.where(y, 180, 20))
        np.testing.assert_allclose(by_hand.predict_proba(X), balanced.predict_proba(X), atol=1e-6)

    def test_records_that_tell_by_their_length(self):
        draw = np.random.default_rng(6)
        labels = np.repeat([0, 1], 30)
        times = [np.arange(3 + 6 * label + draw.integers(3), dtype=float) for label in labels]
        ds = from_arrays(times, [draw.normal(size=len(t)) for t in times])
        assert area_by_length(ds, labels) == 1.0
        with pytest.warns(UserWarning, match=r"rows alone predicts the label \(AUROC 1.00\).*Give window="):
            ctlssl.LSSLClassifier(**QUICK | {"epochs": 1}).fit(ds, labels)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ctlssl.LSSLClassifier(**QUICK | {"epochs": 1}, window=2.0).fit(ds, labels)


class TestWhatIsLearnedOfTheData:
    def test_the_held_out_records_teach_no_statistic(self, fitted):
        clf, ds, labels = fitted
        moved = ds.copy(deep=True)
        _, held = held_out(clf, ds, labels)
        rows = np.isin(np.repeat(np.arange(ds.sizes["series"]), ds["row_size"].values), held)
        for name in channels(moved):
            moved[name][rows] = moved[name][rows] + 100.0
        moved["time"].values[rows] *= 3.0
        other = clone(clf).set_params(epochs=1).fit(moved, "label")
        assert other.problem_ == clf.problem_
        for name, tensor in clf.normalizer_.tensors().items():
            np.testing.assert_array_equal(tensor, other.normalizer_.tensors()[name])

    def test_no_row_after_the_window_is_read(self, fitted):
        _, ds, _ = fitted
        clf = ctlssl.LSSLClassifier(**QUICK | {"epochs": 2}, window=5.0)
        before = clf.fit(ds, "label").predict_proba(ds)
        late = ds.copy(deep=True)
        for name in channels(late):
            late[name][late["time"].values > 5.0] = 1e6
        np.testing.assert_array_equal(clone(clf).fit(late, "label").predict_proba(late), before)


def held_out(clf, ds, labels):
    """The records that a fit with these settings holds out."""
    from sklearn.utils import check_random_state

    from ctlssl.estimators.base import _held_out

    return _held_out(np.arange(ds.sizes["series"]), labels, clf.validation, check_random_state(clf.random_state))


class TestFiles:
    def test_what_was_saved_answers_the_same(self, fitted, tmp_path):
        clf, ds, _ = fitted
        clf.save(tmp_path / "clf")
        again = ctlssl.LSSLClassifier.load(tmp_path / "clf")
        np.testing.assert_array_equal(again.predict_proba(ds), clf.predict_proba(ds))
        assert again.get_params() == clf.get_params()
        assert (again.history_, again.channels_, again.unit_) == (clf.history_, clf.channels_, "h")
        assert again.classes_.tolist() == [0, 1]

    def test_every_change_is_noticed(self, fitted, tmp_path):
        clf, _, _ = fitted
        clf.save(tmp_path / "clf")
        whole = (tmp_path / "clf").read_bytes()
        for place in np.random.default_rng(7).integers(0, len(whole), 40):
            (tmp_path / "bad").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ValueError):
                ctlssl.LSSLClassifier.load(tmp_path / "bad")
        for cut in (0, 10, len(whole) // 2, len(whole) - 1):
            (tmp_path / "bad").write_bytes(whole[:cut])
            with pytest.raises(ValueError):
                ctlssl.LSSLClassifier.load(tmp_path / "bad")
        with pytest.raises(ValueError, match=r"holds a LSSLClassifier, not a LSSLRegressor; call LSSLClassifier.load"):
            ctlssl.LSSLRegressor.load(tmp_path / "clf")

    def test_texts_as_classes_and_several_targets(self, tmp_path):
        draw = np.random.default_rng(8)
        X = draw.normal(size=(30, 2))
        clf = ctlssl.LSSLClassifier(**QUICK | {"epochs": 2}).fit(X, np.where(X[:, 0] > 0, "up", "down"))
        clf.save(tmp_path / "a")
        assert ctlssl.LSSLClassifier.load(tmp_path / "a").predict(X).tolist() == clf.predict(X).tolist()
        two = ctlssl.LSSLRegressor(**QUICK | {"epochs": 2}).fit(X, 100 + 10 * X)
        two.save(tmp_path / "b")
        np.testing.assert_array_equal(ctlssl.LSSLRegressor.load(tmp_path / "b").predict(X), two.predict(X))
        with pytest.raises(ValueError, match="no plain value"):
            ctlssl.LSSLRegressor(**QUICK | {"epochs": 1}, random_state=np.random.RandomState(0)).fit(X, X).save("c")

    def test_nothing_else_is_replaced_and_nothing_else_is_read(self, fitted, tmp_path):
        clf, ds, _ = fitted
        table, folder = tmp_path / "table.csv", tmp_path / "run"
        table.write_text("id,time,variable,value\n")
        (tmp_path / "empty").touch()
        folder.mkdir()
        for path in (table, folder, tmp_path / "empty"):
            with pytest.raises(ValueError, match=f"{path.name} is there, and is no saved estimator"):
                clf.save(path)
        assert table.read_text() == "id,time,variable,value\n"
        clf.save(tmp_path / "clf")
        whole = (tmp_path / "clf").read_bytes()
        clf.save(tmp_path / "clf")
        assert (tmp_path / "clf").read_bytes() == whole
        assert format_of(tmp_path / "clf") == "ctlssl estimator 1" and format_of(table) is None
        with pytest.raises(ValueError, match=r"run is a folder, no saved estimator; .* ctlssl.open_run"):
            ctlssl.LSSLClassifier.load(folder)
        with pytest.raises(FileNotFoundError, match="absent: there is no such file"):
            ctlssl.LSSLClassifier.load(tmp_path / "absent")

    def test_settings_are_plain_values(self):
        for name in ("LSSLClassifier", "LSSLRegressor", "LSSLForecaster", "LSSLImputer"):
            json.dumps(getattr(ctlssl, name)().get_params())


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"validation": 1.0}, "validation is 1.0"),
            ({"model": "lstm"}, "model 'lstm' is unknown"),
            ({"epochs": 0}, "epochs is 0"),
        ],
    )
    def test_settings(self, fitted, change, message):
        _, ds, _ = fitted
        with pytest.raises(ValueError, match=message):
            ctlssl.LSSLClassifier(**QUICK | change).fit(ds, "label")

    def test_records_and_answers(self, fitted):
        clf, ds, labels = fitted
        for X, y, message in [
            (ds, "death", "no label 'death'"),
            (ds, labels[:5], "inconsistent numbers of samples"),
            (ds, np.zeros(60), "needs two classes"),
            (ds, "x0", "no variable over series"),
            (select_series(ds, []), [], "0 sample|two classes|minimum"),
        ]:
            with pytest.raises(ValueError, match=message):
                ctlssl.LSSLClassifier(**QUICK).fit(X, y)
        with pytest.raises(ValueError, match=r"column 'id' holds no numbers, .*ctlssl.from_long"):
            ctlssl.LSSLClassifier(**QUICK).fit(ctlssl.to_long(ds).astype({"id": str}), labels)
        with pytest.raises(ValueError, match="the training had no channel extra"):
            clf.predict(ds.assign(extra=("obs", ds["x0"].values)))
        other = ds.assign_coords(time=ds["time"].assign_attrs(units="d"))
        with pytest.raises(ValueError, match="the times are in 'd', those of the training in 'h'"):
            clf.predict(other)
        assert clf.predict_proba(ds.drop_vars("x1")).shape == (60, 2)
