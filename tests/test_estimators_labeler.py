"""Labels at rows: against a leaky integral that decides them, causal to the bit that a later row could move."""

import numpy as np
import pytest

import ctlssl
from ctlssl.schema import select_rows
from ctlssl.tables import from_arrays

QUICK = {"width": 16, "epochs": 30, "learning_rate": 0.01, "patience": 30}
DECAY = 0.25


def records(series, seed, rows=(10, 25)):
    """Pulses at irregular times; the label of a row is whether their leaky integral is above zero just then.

    z' = -DECAY z + sum_i u_i delta(t - t_i), so z(t_k) = exp(-DECAY gap) z(t_{k-1}) + u_k.
    """
    draw = np.random.default_rng(seed)
    times, values, labels = [], [], []
    for length in draw.integers(*rows, series):
        t, u = np.cumsum(draw.exponential(1.0, length)), draw.normal(size=length)
        z, mine = 0.0, []
        for gap, pulse in zip(np.diff(t, prepend=t[0]), u, strict=True):
            z = np.exp(-DECAY * gap) * z + pulse
            mine.append(int(z > 0))
        times.append(t)
        values.append(u[:, None])
        labels += mine
    return from_arrays(times, values, variables=["pulse"], unit="h"), np.array(labels)


@pytest.fixture(scope="module")
def fitted():
    ds, labels = records(250, 0)
    return ctlssl.LSSLLabeler(**QUICK).fit(ds, labels)


class TestLabeler:
    def test_it_learns_the_leaky_integral(self, fitted):
        ds, labels = records(150, 1)
        last = np.mean((ds["pulse"].values > 0) == labels)  # the newest pulse alone
        assert last < 0.75 and fitted.score(ds, labels) > 0.85

    def test_probabilities(self, fitted):
        ds, labels = records(150, 1)
        found = fitted.predict_proba(ds)
        assert found.shape == (len(labels), 2)
        np.testing.assert_allclose(found.sum(1), 1.0)
        np.testing.assert_array_equal(fitted.predict(ds), found.argmax(1))
        for part in np.array_split(np.argsort(found[:, 1]), 4):  # so often as it says
            assert abs(labels[part].mean() - found[part, 1].mean()) < 0.08

    def test_an_answer_reads_nothing_after_its_row(self, fitted):
        ds, _ = records(20, 2)
        whole = fitted.predict_proba(ds)
        place = np.concatenate([np.arange(n) for n in ds["row_size"].values])
        early = place < 5
        np.testing.assert_allclose(fitted.predict_proba(select_rows(ds, early)), whole[early], atol=1e-6)
        changed = ds.assign(pulse=ds["pulse"].where(early, 100.0))
        np.testing.assert_allclose(fitted.predict_proba(changed)[early], whole[early], atol=1e-6)
        assert np.abs(fitted.predict_proba(changed)[~early] - whole[~early]).max() > 0.1

    def test_it_is_kept(self, fitted, tmp_path):
        ds, _ = records(10, 3)
        fitted.save(tmp_path / "l")
        again = ctlssl.LSSLLabeler.load(tmp_path / "l")
        np.testing.assert_array_equal(again.predict_proba(ds), fitted.predict_proba(ds))
        assert again.predict(ds).dtype == fitted.predict(ds).dtype

    def test_a_stream_answers_as_the_records_do(self, fitted):
        ds, _ = records(1, 4)
        scores = fitted.normalizer_.apply(fitted._series(ds)).values[0].numpy()  # (L, D)
        stream = fitted.model_.stream()
        found = []
        for time, row in zip(ds["time"].values, scores, strict=True):
            stream.observe(time, row)
            found.append(np.asarray(stream.predict(time).logits.softmax(-1))[0])
        np.testing.assert_allclose(np.stack(found), fitted.predict_proba(ds), atol=1e-5)


def test_both_ways_it_knows_what_comes():
    """The label is the sign of what is still to come, the nearer the heavier: no past tells of it."""
    draw = np.random.default_rng(5)

    def coming(series):
        times, values, labels = [], [], []
        for _ in range(series):
            t, u, z, mine = np.cumsum(draw.exponential(1.0, 12)), draw.normal(size=(12, 1)), 0.0, [np.nan]
            for gap, pulse in zip(np.diff(t)[::-1], u[:0:-1, 0], strict=True):
                z = np.exp(-DECAY * gap) * (z + pulse)
                mine.append(z > 0)
            times.append(t)
            values.append(u)
            labels += mine[::-1]
        return from_arrays(times, values), np.array(labels)

    (ds, labels), (new, truth) = coming(200), coming(100)
    scores = [
        ctlssl.LSSLLabeler(model, **QUICK).fit(ds, labels).score(new, truth)
        for model in ("lssl", "lssl:bidirectional=true")
    ]
    assert scores[0] < 0.6 and scores[1] > 0.75


def test_every_form_of_the_labels_is_the_same():
    ds, labels = records(20, 6)
    known = np.random.default_rng(7).random(len(labels)) < 0.7
    numbers = np.where(known, labels, np.nan)
    cuts = np.cumsum(ds["row_size"].values)[:-1]
    named = ds.assign(alarm=("obs", numbers))
    forms = [
        (ds, numbers),
        (ds, np.where(known, labels, -1)),
        (ds, np.split(numbers, cuts)),
        (named, "alarm"),
        (ctlssl.Records(named), "alarm"),
    ]
    found = [ctlssl.LSSLLabeler(epochs=1).fit(*form) for form in forms]
    for labeler, (given, y) in zip(found, forms, strict=True):
        assert labeler.channels_ == ("pulse",) and labeler.classes_.tolist() == [0, 1]
        np.testing.assert_array_equal(labeler.predict_proba(given), found[0].predict_proba(ds))
        assert labeler.score(given, y) == found[0].score(ds, numbers)
    assert found[3].score(named) == found[0].score(ds, numbers)


@pytest.mark.parametrize("kind", [str, object])
def test_names_of_classes(kind):
    ds, labels = records(20, 8)
    names = np.array(["calm", "alarm"])[labels].astype(kind)
    names[::5] = "" if kind is str else None
    labeler = ctlssl.LSSLLabeler(epochs=1).fit(ds, names)
    assert labeler.classes_.tolist() == ["alarm", "calm"] and set(labeler.predict(ds)) <= {"alarm", "calm"}


def test_it_is_cross_validated_by_records():
    from sklearn.model_selection import cross_val_score

    ds, labels = records(30, 9)
    y = np.split(labels, np.cumsum(ds["row_size"].values)[:-1])
    assert len(cross_val_score(ctlssl.LSSLLabeler(epochs=1), ctlssl.Records(ds), y, cv=3)) == 3


@pytest.mark.parametrize("model", ["gru", "mtan", "latent_ode", "neural_ode"])
def test_baselines_label_too(model):
    ds, labels = records(12, 10)
    assert ctlssl.LSSLLabeler(model, width=8, epochs=1).fit(ds, labels).predict(ds).shape == labels.shape


def test_what_is_refused():
    ds, labels = records(10, 11)
    for y, words in {
        None: "requires y",
        "alarm": "no variable 'alarm' over obs",
        "row_size": "no variable 'row_size' over obs",
    }.items():
        with pytest.raises(ValueError, match=words):
            ctlssl.LSSLLabeler().fit(ds, y)
    for y, words in [
        (labels[:-1], "give one label a row"),
        (np.full(len(labels), np.nan), "no row has a label"),
        (np.ones(len(labels)), "needs two classes"),
        (labels + 0.5 * np.arange(len(labels)), "Unknown label type"),
        ([labels[:1]] * 10, "record 0 has"),
    ]:
        with pytest.raises(ValueError, match=words):
            ctlssl.LSSLLabeler().fit(ds, y)
    with pytest.raises(ValueError, match="requires y"):
        ctlssl.LSSLLabeler(epochs=1).fit(ds, labels).score(ds)
