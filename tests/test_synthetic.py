"""Generated data against closed forms, scipy's solvers and moments that share no code with the generators."""

import inspect
import json

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
import xarray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from ctlssl import synthetic
from ctlssl.catalogue import dataset_names, describe_dataset, load_dataset
from ctlssl.files import open_dataset, save_dataset
from ctlssl.schema import channels, check_dataset
from ctlssl.synthetic import GENERATORS
from ctlssl.tasks import TASKS, prepare

TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
MADE = [task for task in TASKS if task.split("/")[0] in GENERATORS]


def truth(ds):
    """What generated a Dataset."""
    return json.loads(ds.attrs["truth"])


def records(ds, *names):
    """The named variables over obs, cut into series."""
    cuts = np.cumsum(ds["row_size"].values)[:-1]
    return list(zip(*(np.split(ds[name].values, cuts) for name in names), strict=True))


class TestEveryGenerator:
    @pytest.fixture(params=GENERATORS)
    def generate(self, request):
        return GENERATORS[request.param]

    def test_the_schema_on_disk_and_back(self, generate, tmp_path):
        ds = generate(series=7, seed=3)
        check_dataset(ds)
        assert ds.sizes["series"] == 7 and truth(ds)
        assert ds.attrs["title"] and "units" in ds["time"].attrs
        assert open_dataset(save_dataset(ds, tmp_path / "made.nc")).identical(ds)

    def test_the_seed_decides(self, generate):
        assert generate(series=5, seed=1).identical(generate(series=5, seed=1))
        assert not np.array_equal(generate(series=5, seed=1)["time"], generate(series=5, seed=2)["time"])

    def test_it_leaves_the_global_sources_alone(self, generate):
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        generate(series=2)
        assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002

    def test_what_cannot_be_is_refused(self, generate):
        for name, value in [("series", 0), ("series", 2.5), ("seed", -1), ("noise", -0.1), ("noise", np.nan)]:
            with pytest.raises(ValueError, match=f"{name} is {value}"):
                generate(**{name: value})
        options = inspect.signature(generate).parameters
        counts = [name for name in ("rows", "samples", "kicks", "doses") if isinstance(options.get(name), tuple)]
        for name in counts:
            with pytest.raises(ValueError, match="rows"):
                generate(series=2, **{name: (5, 4)})


def test_they_are_data_sets_like_the_bundled_ones():
    assert set(GENERATORS) < set(dataset_names())
    assert load_dataset("oscillators").identical(synthetic.oscillators.generate())
    card = describe_dataset("spirals")
    assert (card.channels, card.labels, card.static) == (("x", "y"), ("direction",), ())


@pytest.mark.parametrize("name", MADE)
def test_tasks(name):
    split, task = prepare(name, seed=0), TASKS[name]
    ds = load_dataset(task.dataset)
    assert split.problem.kind == task.kind and split.problem.horizon == task.window
    assert sum(len(part) for part in (split.train, split.valid, split.test)) > 0.97 * ds.sizes["series"]
    last = max(float(part.series.times.max()) for part in (split.train, split.valid, split.test))
    if name == "pendulum/angles":
        assert torch.equal(split.test.query_times, split.test.series.times)
        assert split.train.target_observed.any(dim=(0, 1)).sum() == 2
    elif name == "drug_kinetics/planned":  # doses are known in advance, concentrations are not
        late = split.test.series.times > 6.0
        seen, asked = split.test.series.observed, split.test.target_observed
        concentration = split.test.variables.index("concentration")
        assert seen[late].any() and not seen[late][:, concentration].any()
        assert asked.any(dim=(0, 1)).tolist() == [k == concentration for k in range(seen.shape[2])]
        assert float(split.test.query_times.nan_to_num(np.inf).min()) > 6.0
    elif task.kind == "forecasting":
        first = min(float(part.query_times.nan_to_num(np.inf).min()) for part in (split.train, split.test))
        assert last <= task.window < first
        assert split.train.target_observed.any(dim=(0, 1)).sum() == (2 if name == "spirals/forecast" else 1)
    else:
        assert last < 1.4 * task.window
        assert torch.isfinite(split.train.labels.double()).all()


def test_tasks_hide_what_they_ask_for():
    small = synthetic.pendulum.generate(series=20, steps=20, rows=10)
    split = prepare("pendulum/angle", 0, small)
    assert split.problem.channels == 576 and not {"sine", "cosine"} & set(split.train.variables)
    assert torch.allclose(split.test.labels.square().sum(1), torch.ones(len(split.test)), atol=1e-3)
    split = prepare("pendulum/angles", 0, small)
    shown = split.test.series.observed.any(dim=(0, 1))
    assert [name for name, seen in zip(split.test.variables, shown, strict=True) if not seen] == ["sine", "cosine"]
    made = dict(zip(small["series"].values, records(small, "sine", "cosine"), strict=True))
    for b, name in enumerate(split.test.ids):  # in the units of the data
        np.testing.assert_allclose(split.test.targets[b, :, -2:].numpy().T, made[name], rtol=0, atol=1e-7)


class TestOscillators:
    def test_the_closed_form(self):
        ds = synthetic.oscillators.generate(series=6, noise=0.0, periods=(3.0, 2.0, 1.0), damping=0.1)
        assert sorted(ds["frequency"].values.tolist()) == [0, 0, 1, 1, 2, 2]
        for b, (t, y) in enumerate(records(ds, "time", "displacement")):
            a, phase, period = (float(ds[name][b]) for name in ("amplitude", "phase", "period"))
            assert period == (3.0, 2.0, 1.0)[int(ds["frequency"][b])]
            rotated = a * np.exp(1j * phase) * np.exp((-0.1 + 2j * np.pi / period) * t)
            np.testing.assert_allclose(y, rotated.real, rtol=0, atol=1e-11)

    def test_phases_of_neighbours_are_independent(self):
        ds = synthetic.oscillators.generate(series=2000, seed=1)
        times = ds["time"].values.reshape(2000, -1)
        gaps = np.diff(times, axis=1, prepend=0.0)
        assert gaps.min() >= 0 and gaps.max() <= 6
        for period in (3.0, 2.0):
            turns = gaps / period % 1
            assert scipy.stats.kstest(turns.ravel(), "uniform").pvalue > 1e-3
            phases = times / period % 1
            counts = np.histogram2d(phases[:, :-1].ravel(), phases[:, 1:].ravel(), bins=12)[0]
            assert scipy.stats.chisquare(counts.ravel()).pvalue > 1e-3

    def test_only_the_clock_tells_the_classes_apart(self):
        """A periodogram is right; boosting on values in their order, or on gaps in theirs, is at chance."""
        ds = synthetic.oscillators.generate(series=4000, seed=5)
        y, t = (ds[name].values.reshape(4000, -1) for name in ("displacement", "time"))
        label = ds["frequency"].values
        slow, fast = (np.abs((y * np.exp(-2j * np.pi * t / period)).sum(1)) for period in (3.0, 2.0))
        assert roc_auc_score(label, fast - slow) > 0.999
        in_order = {"values": y, "products": y[:, 1:] * y[:, :-1], "gaps": np.diff(t, axis=1, prepend=0.0)}
        for name, table in in_order.items():
            model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(table[:2000], label[:2000])
            score = roc_auc_score(label[2000:], model.predict_proba(table[2000:])[:, 1])
            assert abs(score - 0.5) < 0.045, name  # 3.5 standard deviations of chance

    def test_other_gaps_are_refused(self):
        with pytest.raises(ValueError, match=r"a window of 5.0 holds \[1.66.*, 2.5\] periods"):
            synthetic.oscillators.generate(window=5.0)
        with pytest.raises(ValueError, match="two or more periods"):
            synthetic.oscillators.generate(periods=(3.0,))


class TestOrnsteinUhlenbeck:
    def test_moments(self):
        rate, mean, volatility = 0.7, -2.0, 0.4
        ds = synthetic.ornstein_uhlenbeck.generate(
            series=4000, rate=rate, mean=mean, volatility=volatility, rows=(9, 9)
        )
        t, x = (ds[name].values.reshape(4000, 9) for name in ("time", "value"))
        variance = volatility**2 / (2 * rate)
        assert scipy.stats.kstest((x[:, 0] - mean) / np.sqrt(variance), "norm").pvalue > 1e-3
        assert scipy.stats.kstest((x[:, -1] - mean) / np.sqrt(variance), "norm").pvalue > 1e-3
        left, right = (x[:, 2] - mean) / np.sqrt(variance), (x[:, 6] - mean) / np.sqrt(variance)
        expected = np.exp(-rate * (t[:, 6] - t[:, 2]))
        error = (left * right - expected).mean() / (np.std(left * right - expected) / np.sqrt(4000))
        assert abs(error) < 3.5  # autocovariance e^{-rate |h|}

    def test_innovations_are_white(self):
        ds = synthetic.ornstein_uhlenbeck.generate(series=300)
        found = []
        for t, x in records(ds, "time", "value"):
            carried = 1 + (x[:-1] - 1) * np.exp(-0.5 * np.diff(t))
            found.append(
                (x[1:] - carried) / np.sqrt(1 - np.exp(-np.diff(t)))
            )  # variance (1 - e^{-2 rate h}) / (2 rate)
        every = np.concatenate(found)
        assert scipy.stats.kstest(every, "norm").pvalue > 1e-3
        products = np.concatenate([part[1:] * part[:-1] for part in found])
        assert abs(products.mean()) < 3.5 / np.sqrt(len(products))


def test_spirals():
    ds = synthetic.spirals.generate(series=20, noise=0.0)
    for b, (t, x, y) in enumerate(records(ds, "time", "x", "y")):
        inwards, growth = bool(ds["direction"][b]), float(ds["growth"][b])
        radius = np.hypot(x, y)
        np.testing.assert_allclose(np.polyfit(t, radius, 1)[0], -growth if inwards else growth, rtol=1e-9)
        np.testing.assert_allclose(radius[0] + growth * ((t[0] - 12) if inwards else -t[0]), 1.0, rtol=1e-9)
        unwound = np.exp(1j * t) if inwards else np.exp(-1j * t)
        np.testing.assert_allclose((x + 1j * y) / radius * unwound, np.exp(1j * float(ds["start"][b])), atol=1e-9)


def test_drug_kinetics():
    """Against scipy's solver from dose to dose, in concentrations and with half-lives written otherwise."""
    ds = synthetic.drug_kinetics.generate(series=8, noise=0.0)
    for b, (t, found, dose) in enumerate(records(ds, "time", "concentration", "dose")):
        cl, v1, q, v2 = (float(ds[name][b]) for name in synthetic.drug_kinetics.TYPICAL)
        assert t[0] == 0 and np.isfinite(dose[0]) and (np.isnan(dose) != np.isnan(found)).all()
        assert set(dose[~np.isnan(dose)]) <= {100.0, 200.0, 300.0, 400.0, 500.0} and t[~np.isnan(dose)].max() <= 48

        def flow(_, c, cl=cl, v1=v1, q=q, v2=v2):
            return [(q * (c[1] - c[0]) - cl * c[0]) / v1, q * (c[0] - c[1]) / v2]

        now, c = 0.0, np.zeros(2)
        for time, value, given in zip(t, found, dose, strict=True):
            if time > now:
                c = scipy.integrate.solve_ivp(flow, (now, time), c, method="DOP853", **TOLERANCE).y[:, -1]
            now = time
            c = c + [0.0 if np.isnan(given) else given / v1, 0.0]
            if np.isnan(given):
                assert value == pytest.approx(c[0], rel=1e-7)


def test_drug_kinetics_varies_as_stated():
    ds = synthetic.drug_kinetics.generate(series=3000, samples=(1, 1), doses=(1, 1), variability=0.3)
    for name, typical in synthetic.drug_kinetics.TYPICAL.items():
        assert scipy.stats.kstest(np.log(ds[name] / typical) / 0.3, "norm").pvalue > 1e-3, name


def test_jumps():
    """Each kick is answered by v e^{-damping s} sin(frequency s) / frequency, and answers add up."""
    ds = synthetic.jumps.generate(series=10, noise=0.0)
    np.testing.assert_allclose(np.sort_complex(np.linalg.eigvals(truth(ds)["A"])), [-0.1 - 1.5j, -0.1 + 1.5j])
    for t, found, kick in records(ds, "time", "position", "kick"):
        kicked = ~np.isnan(kick)
        since = t[:, None] - t[kicked]
        answers = np.where(since >= 0, np.exp(-0.1 * since) * np.sin(1.5 * since) / 1.5, 0) @ kick[kicked]
        np.testing.assert_allclose(found[~kicked], answers[~kicked], rtol=0, atol=1e-12)
        assert t[kicked].max() <= 10


@pytest.mark.parametrize("hold", ["next", "linear"])
def test_linear_system(hold):
    """Against scipy's solver along the held or straight inputs."""
    ds = synthetic.linear_system.generate(series=3, rows=15, hold=hold, driven_until=2.0)
    A, B, C = (np.array(truth(ds)[name]) for name in "ABC")
    pairs = np.array(truth(ds)["eigenvalues"]) @ [1, 1j]
    np.testing.assert_allclose(np.sort_complex(np.linalg.eigvals(A)), np.sort_complex(pairs))
    for t, u, y in records(ds, "time", "input", "output"):
        assert (u[t > 2] == 0).all() and (u[t <= 2] != 0).all()
        now, before, x = 0.0, 0.0, np.zeros(4)
        for time, value, found in zip(t, u, y, strict=True):

            def flow(s, x, now=now, time=time, before=before, value=value):
                part = 1.0 if hold == "next" else (s - now) / (time - now)
                return A @ x + B * (before + part * (value - before))

            x = scipy.integrate.solve_ivp(flow, (now, time), x, method="DOP853", **TOLERANCE).y[:, -1]
            now, before = time, value
            assert found == pytest.approx(C @ x, abs=1e-8)


class TestPendulum:
    def test_the_motion(self):
        """Without noise in the motion, against scipy's solver, from rest."""
        ds = synthetic.pendulum.generate(series=4, rows=100, transition_noise=0.0, noise=0.0, dt=0.02)
        for t, sine, cosine in records(ds, "time", "sine", "cosine"):
            angle = np.unwrap(np.arctan2(sine, cosine))

            def flow(_, state):
                return [state[1], -3 * 9.81 * np.sin(state[0]) - 0.1 * state[1]]

            start = [angle[0], 0.0]
            run = scipy.integrate.solve_ivp(flow, t[[0, -1]], start, t_eval=t, method="DOP853", **TOLERANCE)
            np.testing.assert_allclose(run.y[0], angle, atol=1e-5)

    def test_the_images_show_the_angle(self):
        """Of an unspoiled image the centre of its light lies on the side of the weight."""
        ds = synthetic.pendulum.generate(series=60, rows=5, steps=5)
        names = [name for name in channels(ds) if name.startswith("pixel")]
        images = np.stack([ds[name].values for name in names], axis=1).reshape(-1, 24, 24)
        assert images.min() >= 0 and images.max() <= 1
        row, column = np.meshgrid(np.arange(24) - 11.5, np.arange(24) - 11.5, indexing="ij")
        weight = images.sum((1, 2))
        right, down = (images * column).sum((1, 2)) / weight, (images * row).sum((1, 2)) / weight
        reach = np.hypot(right, down)
        assert reach.min() > 3.5
        np.testing.assert_allclose(right / reach, ds["sine"], atol=0.05)
        np.testing.assert_allclose(down / reach, ds["cosine"], atol=0.05)

    def test_some_images_are_noise(self):
        ds = synthetic.pendulum.generate(series=100)
        corner = ds["pixel_0_0"].values  # never on the line: 0 where the image is clear, uniform where it is noise
        assert 0.15 < (corner == 0).mean() < 0.6
        assert corner.max() > 0.95
        assert (ds["row_size"] == 50).all() and ds["time"].max() < 1
        last = np.cumsum(ds["row_size"].values) - 1
        np.testing.assert_array_equal(ds["last_sine"], ds["sine"].values[last])


def test_the_truth_is_no_channel():
    for name in GENERATORS:
        ds = load_dataset(name)
        assert isinstance(ds, xarray.Dataset) and "truth" not in ds.variables
