"""What estimators hold records to: covariates by name, answers by name, windows, and channels known in advance."""

import numpy as np
import pandas as pd
import pytest

import ctlssl
from ctlssl.schema import channels, select_rows
from ctlssl.tables import from_arrays

QUICK = {"width": 4, "epochs": 2, "learning_rate": 0.02}


def records(series=30, seed=0, begin=0.0):
    """Records with two covariates that matter, a number and a class."""
    print(f"seed {seed}")
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, 9, series)
    times = [begin + np.sort(draw.uniform(0, 10, length)) for length in lengths]
    values = [draw.normal(size=(length, 2)) for length in lengths]
    static = pd.DataFrame({"age": draw.normal(60, 9, series), "weight": draw.normal(80, 5, series)})
    labels = pd.DataFrame({"ill": (static["age"] > 60).astype(int), "score": static["age"] - static["weight"]})
    return from_arrays(times, values, static=static, labels=labels, unit="h")


def test_covariates_are_known_by_name():
    ds = records()
    clf = ctlssl.LSSLClassifier(**QUICK).fit(ds, "ill")
    assert clf.static_ == ("age", "weight")
    names = list(ds.data_vars)
    turned = ds[[name for name in names if name != "age"] + ["age"]]
    np.testing.assert_array_equal(clf.predict_proba(turned), clf.predict_proba(ds))
    more = ds.assign(height=("series", np.ones(30), {"role": "static"}))
    np.testing.assert_array_equal(clf.predict_proba(more), clf.predict_proba(ds))
    with pytest.raises(ValueError, match="no static covariate weight, which the training had"):
        clf.predict(ds.drop_vars("weight"))


def test_a_covariate_that_is_the_answer_is_not_read():
    ds = records()
    reg = ctlssl.LSSLRegressor(**QUICK).fit(ds, "age")
    assert reg.static_ == ("weight",)
    before = reg.predict(ds)
    np.testing.assert_array_equal(reg.predict(ds.assign(age=ds["age"] * 0.0)), before)
    with_both = ctlssl.LSSLRegressor(**QUICK).fit(ds, ["age", "weight"])
    assert with_both.static_ == () and with_both.predict(ds).shape == (30, 2)


def test_a_name_is_scored_as_its_numbers():
    ds = records()
    clf, reg = ctlssl.LSSLClassifier(**QUICK).fit(ds, "ill"), ctlssl.LSSLRegressor(**QUICK).fit(ds, "score")
    assert clf.score(ds, "ill") == clf.score(ds, ds["ill"].values)
    assert reg.score(ds, "score") == reg.score(ds, ds["score"].values)


def test_the_scale_of_the_targets_is_that_of_the_trained_part():
    ds = records()
    whole = ctlssl.LSSLRegressor(**QUICK, validation=0.0).fit(ds, "score").targets_
    assert whole.mean[0] == pytest.approx(ds["score"].values.mean(), rel=1e-12)
    part = ctlssl.LSSLRegressor(**QUICK, validation=0.5).fit(ds, "score").targets_
    assert part.mean != whole.mean


def test_class_weights_are_kept_as_they_were(tmp_path):
    ds = records()
    clf = ctlssl.LSSLClassifier(**QUICK, class_weight={0: 1.0, 1: 3.0}).fit(ds, "ill")
    clf.save(tmp_path / "clf")
    again = ctlssl.LSSLClassifier.load(tmp_path / "clf")
    assert again.class_weight == {0: 1.0, 1: 3.0} and again.static_ == clf.static_
    np.testing.assert_array_equal(again.fit(ds, "ill").predict_proba(ds), clf.predict_proba(ds))


def test_a_regressor_that_was_saved_has_its_scale(tmp_path):
    ds = records()
    reg = ctlssl.LSSLRegressor(**QUICK).fit(ds, "score")
    reg.save(tmp_path / "reg")
    np.testing.assert_array_equal(ctlssl.LSSLRegressor.load(tmp_path / "reg").predict(ds), reg.predict(ds))


@pytest.mark.parametrize("begin", [-100.0, 0.0, 1e5])
def test_the_horizon_is_a_span_wherever_the_clock_begins(begin):
    ds = records(begin=begin)
    clf = ctlssl.LSSLClassifier(**QUICK, window=begin + 8.0).fit(ds, "ill")
    assert clf.problem_.horizon == pytest.approx(8.0, abs=1.0)
    longer = ctlssl.LSSLClassifier(**QUICK).fit(ds, "ill")
    assert longer.problem_.horizon == pytest.approx(10.0, abs=2.0)


def test_an_imputer_gives_every_row_back():
    ds = records()
    name = channels(ds)[0]
    ds[name][::4] = np.nan
    imputer = ctlssl.LSSLImputer(**QUICK, window=5.0).fit(ds)
    found = imputer.transform(ds)
    assert found.sizes == ds.sizes and not found[name].isnull().any()
    shown = ds["time"].values <= 5.0
    early = imputer.transform(select_rows(ds, shown))
    np.testing.assert_allclose(early[name].values, found[name].values[shown], rtol=1e-5, atol=1e-6)
    other = ds.copy(deep=True)
    other[name][~shown & ds[name].notnull().values] += 100.0  # not read
    np.testing.assert_allclose(imputer.transform(other)[name].values[::4], found[name].values[::4], rtol=1e-6)


def test_what_is_known_in_advance_is_not_forecast():
    ds = records(series=40)
    first, second = channels(ds)
    one, same = (ctlssl.LSSLForecaster(**QUICK, known=known, bins=1).fit(ds) for known in (second, [second]))
    found = one.predict_interval(ds, at=[1.0])
    assert found["variable"].values.tolist() == [first] and found["low"].shape == (40, 1, 1)
    np.testing.assert_array_equal(same.predict(ds, at=[1.0]), one.predict(ds, at=[1.0]))


def test_intervals_end_where_calibration_does():
    forecaster = ctlssl.LSSLForecaster(**QUICK, ahead=2.0, bins=1).fit(records(series=40))
    assert forecaster.predict(records(), at=[50.0]).shape == (30, 1, 2)
    with pytest.raises(ValueError, match="calibrated up to ahead = 2"):
        forecaster.predict_interval(records(), at=[1.0, 2.5])


def test_labels_of_rows_keep_their_kind():
    ds = records()
    y = np.array([None if k % 5 == 0 else k % 2 for k in range(ds.sizes["obs"])], dtype=object)
    labeler = ctlssl.LSSLLabeler(**QUICK).fit(ds, y)
    assert labeler.classes_.dtype.kind == "i" and labeler.classes_.tolist() == [0, 1]
    assert 0.0 <= labeler.score(ds, y) <= 1.0


def test_records_whose_times_go_back_are_refused():
    with pytest.raises(ValueError, match="record 1, position 2: the time goes back; sort its rows"):
        ctlssl.LSSLLabeler(**QUICK).fit(
            [([0.0, 1.0], [1.0, 2.0]), ([0.0, 2.0, 1.0], [1.0, 2.0, 3.0])], [[0, 1], [0, 1, 1]]
        )


@pytest.mark.parametrize("estimator", [ctlssl.LSSLClassifier, ctlssl.LSSLRegressor])
def test_records_with_nothing_in_the_window_are_refused(estimator):
    with pytest.raises(ValueError, match="no observed value up to window = -1"):
        estimator(**QUICK, window=-1.0).fit(records(), "ill")


def test_answers_with_names_go_to_the_series_of_these_names():
    ds = records().assign_coords(series=[f"p{k}" for k in np.random.default_rng(3).permutation(30)])
    ill = pd.Series(ds["ill"].values, ds["series"].values)
    expected = ctlssl.LSSLClassifier(**QUICK).fit(ds, ill.values).predict_proba(ds)
    for given in (ill, ill.sort_index(), ill.sample(frac=1.0, random_state=0).to_frame("ill")["ill"]):
        clf = ctlssl.LSSLClassifier(**QUICK).fit(ctlssl.Records(ds), given)
        np.testing.assert_array_equal(clf.predict_proba(ds), expected)
        assert clf.score(ds, given) == clf.score(ds, "ill")
    by_position = ill.reset_index(drop=True).iloc[::-1]  # numbers are no names of these series
    np.testing.assert_array_equal(
        ctlssl.LSSLClassifier(**QUICK).fit(ds, by_position).predict_proba(ds),
        ctlssl.LSSLClassifier(**QUICK).fit(ds, ill.values[::-1]).predict_proba(ds),
    )
    with pytest.raises(ValueError, match="indexed by 30 names, such as 'q0'"):
        ctlssl.LSSLClassifier(**QUICK).fit(ds, pd.Series(ill.values, [f"q{k}" for k in range(30)]))


def test_answers_of_records_without_names_are_taken_by_position():
    grid = np.random.default_rng(0).normal(size=(12, 5, 2))
    y = pd.Series(grid[:, -1, 0]).sample(frac=1.0, random_state=0)
    one, two = (ctlssl.LSSLRegressor(**QUICK).fit(grid, answers) for answers in (y, y.values))
    np.testing.assert_array_equal(one.predict(grid), two.predict(grid))


def test_times_in_another_unit_are_told_of(recwarn):
    ds = records()
    clf = ctlssl.LSSLClassifier(**QUICK).fit(ds, "ill")
    clf.predict(ds)
    assert not [one for one in recwarn if "another unit" in str(one.message)]
    with pytest.warns(UserWarning, match="if their times are in another unit, convert them"):
        clf.predict(ds.assign_coords(time=ds["time"] * 60.0))
