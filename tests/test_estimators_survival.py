"""Times to an event: against the exponential law that made them, and what is refused."""

import numpy as np
import pytest

import ctlssl
from ctlssl.estimators.survival import _edges, _labels
from ctlssl.schema import select_series
from ctlssl.tables import from_arrays
from ctlssl.training.metrics import concordance

QUICK = {"width": 12, "epochs": 25, "learning_rate": 0.01, "patience": 8, "intervals": 10}


def records(series, seed):
    """Noisy readings of a level v at irregular times; the time to the event is exponential of rate exp(v)."""
    draw = np.random.default_rng(seed)
    level = draw.normal(size=series)
    lengths = draw.integers(3, 9, series)
    times = [np.sort(draw.uniform(0, 10, length)) for length in lengths]
    values = [v + 0.3 * draw.normal(size=(len(t), 1)) for v, t in zip(level, times, strict=True)]
    until, ended = draw.exponential(np.exp(-level)), draw.exponential(1.5, series)
    return from_arrays(times, values, unit="h"), level, np.minimum(until, ended), until <= ended


@pytest.fixture(scope="module")
def fitted():
    ds, _, times, events = records(600, 10)
    return ctlssl.LSSLSurvival(**QUICK).fit(ds, np.stack([times, events], axis=1))


class TestSurvival:
    def test_it_orders_events_nearly_as_the_law_does(self, fitted):
        ds, level, times, events = records(600, 1)
        best = concordance(times, events, level)
        found = fitted.score(ds, np.stack([times, events], axis=1))
        assert 0.65 < best and found > best - 0.02

    def test_its_curves_are_those_of_the_law(self, fitted):
        ds, level, _, _ = records(600, 2)
        asked = np.array([0.1, 0.5, 1.0])
        found = fitted.predict_survival(ds, asked)
        exact = np.exp(-np.exp(level)[:, None] * asked)
        assert np.abs(found - exact).mean() < 0.07
        assert (np.abs((found - exact).mean(axis=0)) < 0.05).all()  # all together

    def test_its_curves_are_calibrated(self, fitted):
        """In each fifth of the predicted probabilities to outlive 0.7 so many do, whatever their censoring."""
        ds, level, _, _ = records(1500, 3)
        outlived = np.random.default_rng(4).exponential(np.exp(-level)) > 0.7
        found = fitted.predict_survival(ds, [0.7])[:, 0]
        for part in np.array_split(np.argsort(found), 5):
            share = found[part].mean()
            assert abs(outlived[part].mean() - share) < 0.05 + 3 * np.sqrt(share * (1 - share) / len(part))

    def test_curves_fall_from_one(self, fitted):
        ds, *_ = records(20, 5)
        grid = np.linspace(0, fitted.edges_[-1], 50)
        found = fitted.predict_survival(ds, grid)
        assert (found[:, 0] == 1).all() and (np.diff(found, axis=1) <= 0).all() and (found > 0).all()
        assert np.isnan(fitted.predict_survival(ds, [fitted.edges_[-1] + 1])).all()

    def test_a_hazard_is_constant_between_edges(self, fitted):
        ds, *_ = records(20, 5)
        low, high = fitted.edges_[3:5]
        logs = np.log(fitted.predict_survival(ds, np.linspace(low, high, 7)))
        np.testing.assert_allclose(np.diff(logs, 2, axis=1), 0, atol=1e-12)

    def test_the_risk_is_minus_the_area_under_the_curve(self, fitted):
        ds, *_ = records(20, 5)
        grid = np.linspace(0, fitted.edges_[-1], 200_001)
        area = np.trapezoid(fitted.predict_survival(ds, grid), grid, axis=1)
        np.testing.assert_allclose(fitted.predict(ds), -area, rtol=1e-6)

    def test_it_is_kept(self, fitted, tmp_path):
        ds, *_ = records(20, 5)
        fitted.save(tmp_path / "s")
        again = ctlssl.LSSLSurvival.load(tmp_path / "s")
        np.testing.assert_array_equal(again.predict(ds), fitted.predict(ds))
        np.testing.assert_array_equal(again.predict_survival(ds, [0.5]), fitted.predict_survival(ds, [0.5]))


def test_every_form_of_the_answers_is_the_same():
    ds, _, times, events = records(40, 6)
    ds = ds.assign(t=("series", times, {"role": "label"}), e=("series", events.astype(int), {"role": "label"}))
    fields = np.array(list(zip(events, times, strict=True)), dtype=[("event", bool), ("time", float)])
    found = [
        ctlssl.LSSLSurvival(epochs=1).fit(ds, y).predict(ds)
        for y in (np.stack([times, events], 1), fields, fields[["time", "event"]], ["t", "e"], ("t", "e"))
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_the_intervals_by_hand():
    times, events = np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.array([True, True, True, True, False])
    edges = _edges(times, events, 4)
    np.testing.assert_allclose(edges, [0, 1.75, 2.5, 3.25, 4])
    asked = np.array([0.0, 1.75, 1.8, 4.0, 5.0, 0.5, 1.0, 2.2, 9.0])
    happened = np.array([True, True, True, True, True, False, False, False, False])
    expected = [[0, 1], [0, 1], [1, 1], [3, 1], [3, 0], [-1, 0], [0, 0], [1, 0], [3, 0]]
    assert _labels(asked, happened, edges).tolist() == expected


def test_few_events_make_few_intervals():
    ds, _, times, _ = records(12, 7)
    events = np.arange(12) == 3
    model = ctlssl.LSSLSurvival(epochs=1).fit(ds, np.stack([times, events], 1))
    assert model.edges_.tolist() == [0.0, times[3]] and model.problem_.outputs == 1


def test_it_is_cross_validated():
    from sklearn.model_selection import cross_val_score

    ds, _, times, events = records(60, 8)
    y = np.stack([times, events], 1)
    assert len(cross_val_score(ctlssl.LSSLSurvival(epochs=1), ctlssl.Records(ds), y, cv=2)) == 2


def test_records_that_end_at_the_event_are_told_of():
    draw = np.random.default_rng(9)
    until = draw.exponential(8.0, 80) + 1
    times = [np.arange(0, t, 0.5) for t in until]
    ds = from_arrays(times, [draw.normal(size=(len(t), 1)) for t in times])
    y = np.stack([until, np.ones(80)], 1)
    with pytest.warns(UserWarning, match="the number of rows alone puts events in order"):
        ctlssl.LSSLSurvival(epochs=1).fit(ds, y)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y[:, 0], r"give \(n, 2\)"),
        (lambda y: np.where([[True, False]], -1.0, y), "the time is -1.0"),
        (lambda y: np.where([[True, False]], np.nan, y), "the time is nan"),
        (lambda y: np.where([[False, True]], 2.0, y), "the event is 2.0"),
        (lambda y: np.where([[False, True]], 0.0, y), "no event happened"),
        (lambda y: y[:5], "inconsistent numbers"),
        (lambda y: None, "requires y"),
        (lambda y: ["t", "e"], "no variables over series of these names"),
        (lambda y: np.zeros(20, dtype=[("a", float), ("b", float)]), "the event as bool"),
    ],
)
def test_what_is_refused(change, words):
    ds, _, times, events = records(20, 10)
    with pytest.raises(ValueError, match=words):
        ctlssl.LSSLSurvival(epochs=1).fit(ds, change(np.stack([times, events], 1)))


def test_times_that_cannot_be_are_refused(fitted):
    ds, *_ = records(5, 11)
    for asked in (1.0, [-1.0], [np.nan]):
        with pytest.raises(ValueError, match="times that are finite"):
            fitted.predict_survival(ds, asked)
    with pytest.raises(ValueError, match="intervals is 0"):
        ctlssl.LSSLSurvival(intervals=0).fit(select_series(ds, [0]), [[1.0, 1.0]])
