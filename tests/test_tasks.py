"""The tasks: windows as pandas counts them, statistics from the training part alone, parts that share nothing."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from ctlssl.catalogue import load_dataset
from ctlssl.schema import channels, select_rows, select_series, static
from ctlssl.series import TimeSeries
from ctlssl.tables import from_arrays, to_long, to_series
from ctlssl.tasks import TASKS, Examples, Task, prepare

NAN = math.nan


@pytest.fixture(scope="module")
def covid19():
    return load_dataset("covid19")


@pytest.fixture(scope="module", params=[name for name in TASKS if name.startswith("covid19/")])
def name(request):
    return request.param


def cells(series, ids, variables):
    """What a batch shows, as a set of (id, time, variable, value)."""
    rows = torch.nonzero(series.observed & series.in_length.unsqueeze(-1))
    return {
        (ids[b], series.times[b, k].item(), variables[d], series.values[b, k, d].item()) for b, k, d in rows.tolist()
    }


def in_window(ds, ids, after, until):
    """The same by pandas, out of the table."""
    table = to_long(ds)
    table = table[table["id"].isin(ids) & (table["time"] > after) & (table["time"] <= until)]
    return set(table.itertuples(index=False, name=None))


def stays(ds):
    """The table of the series."""
    return ds[["discharge", "outcome", "age", "gender"]].to_dataframe()


class TestWindows:
    def test_death_sees_the_first_day_of_those_still_there(self, covid19):
        examples = TASKS["covid19/death"].build(covid19)
        table, stay = to_long(covid19), stays(covid19)
        measured = set(table.loc[table["time"] <= 24, "id"])
        expected = [k for k in stay.index if stay.loc[k, "discharge"] > 24 and k in measured]
        assert examples.ids.tolist() == expected
        assert examples.labels.tolist() == stay.loc[expected, "outcome"].tolist()
        assert cells(examples.series, examples.ids, channels(covid19)) == in_window(covid19, expected, -1, 24)
        assert examples.series.static.tolist() == stay.loc[expected, ["age", "gender"]].to_numpy(float).tolist()
        assert (len(expected), int(examples.labels.sum())) == (326, 150)

    def test_forecast_sees_three_days_and_is_asked_of_the_next_two(self, covid19):
        examples = TASKS["covid19/forecast"].build(covid19)
        table, stay = to_long(covid19), stays(covid19)
        before = set(table.loc[table["time"] <= 72, "id"])
        after = set(table.loc[(table["time"] > 72) & (table["time"] <= 120), "id"])
        expected = [k for k in stay.index if stay.loc[k, "discharge"] > 72 and k in before & after]
        assert examples.ids.tolist() == expected
        assert cells(examples.series, examples.ids, channels(covid19)) == in_window(covid19, expected, -1, 72)
        asked = (~examples.query_times.isnan()).sum(dim=1)
        targets = TimeSeries(examples.targets, examples.query_times, examples.target_observed, asked)
        wanted = {cell for cell in in_window(covid19, expected, 72, 120) if cell[1] <= stay.loc[cell[0], "discharge"]}
        assert cells(targets, examples.ids, channels(covid19)) == wanted
        assert len(expected) == 155

    def test_every_row_shows_something(self, name, covid19):
        series = TASKS[name].build(covid19).series
        assert (series.observed.any(dim=2) == series.in_length).all()

    def test_what_lies_after_the_window_changes_nothing_that_is_seen(self, name, covid19):
        late = {"covid19/death": 24.0, "covid19/forecast": 120.0}[name]
        changed = covid19.copy(deep=True)
        for channel in channels(changed):
            changed[channel][covid19["time"].values > late] = 1e6
        same(TASKS[name].build(changed), TASKS[name].build(covid19))

    def test_the_length_of_the_stay_is_no_input(self, name, covid19):
        stay = covid19["discharge"]
        longer = covid19.assign(discharge=stay.where(stay <= TASKS[name].window, 3 * stay))
        for part, other in zip(parts(prepare(name, 1, longer)), parts(prepare(name, 1, covid19)), strict=True):
            same(replace(part, **_NO_ANSWERS), replace(other, **_NO_ANSWERS))


_NO_ANSWERS = {"query_times": None, "targets": None, "target_observed": None}


def parts(split):
    return split.train, split.valid, split.test


def same(left, right):
    """Two sets of examples are the same to the last bit."""
    assert left.ids.tolist() == right.ids.tolist()
    pairs = [
        (getattr(left.series, key), getattr(right.series, key)) for key in ("values", "times", "observed", "static")
    ]
    pairs += [(getattr(left, key), getattr(right, key)) for key in ("labels", "query_times", "targets")]
    for one, two in pairs:
        assert (one is None) == (two is None)
        assert one is None or torch.equal(one.nan_to_num(-7.0), two.nan_to_num(-7.0))


class TestSplit:
    @pytest.mark.parametrize("seed", [0, 1, 7])
    def test_parts_are_disjoint_and_complete(self, name, covid19, seed):
        raw, split = TASKS[name].build(covid19), prepare(name, seed, covid19)
        ids = [part.ids.tolist() for part in parts(split)]
        assert sorted(sum(ids, [])) == raw.ids.tolist()
        shares = [len(part) / len(raw) for part in ids]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.01)

    def test_classes_have_equal_shares(self, covid19):
        for seed in range(5):
            rates = [part.labels.double().mean().item() for part in parts(prepare("covid19/death", seed, covid19))]
            assert rates == pytest.approx([150 / 326] * 3, abs=0.01)

    def test_a_seed_is_a_split(self, name, covid19):
        first, again, other = (prepare(name, seed, covid19) for seed in (3, 3, 4))
        for one, two in zip(parts(first), parts(again), strict=True):
            same(one, two)
        assert first.problem == again.problem
        assert first.test.ids.tolist() != other.test.ids.tolist()

    def test_the_global_random_state_is_left_alone(self, name, covid19):
        before = np.random.get_state()[1].tolist(), torch.get_rng_state()
        prepare(name, 0, covid19)
        assert np.random.get_state()[1].tolist() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])

    def test_labels_and_targets_go_with_their_series(self, name, covid19):
        raw, split = TASKS[name].build(covid19), prepare(name, 2, covid19)
        for part in parts(split):
            index = np.flatnonzero(np.isin(raw.ids, part.ids))
            own = raw.select(index)
            assert own.ids.tolist() == part.ids.tolist()
            assert torch.equal(own.series.lengths, part.series.lengths)
            assert torch.equal(own.series.times, part.series.times)
            assert own.labels is None or torch.equal(own.labels, part.labels)
            if own.targets is not None:
                back = split.normalizer.inverse(part.targets.double())[part.target_observed]
                clipped = part.targets[part.target_observed].abs() == 5.0
                expected = own.targets[part.target_observed]
                torch.testing.assert_close(back[~clipped], expected[~clipped], rtol=1e-3, atol=1e-3)

    def test_the_problem(self, name, covid19):
        split = prepare(name, 0, covid19)
        problem = split.problem
        assert (problem.channels, problem.static, problem.horizon) == (74, 2, TASKS[name].window)
        assert problem.outputs == (2 if problem.kind == "classification" else 74)
        gaps = split.train.series.times.diff(dim=1)[split.train.series.in_length[:, 1:]]
        assert problem.time_scale == problem.first_gap == np.median(gaps.numpy())
        assert split.train.variables == channels(covid19)

    def test_unknown_tasks_and_too_few_series(self, covid19):
        with pytest.raises(
            ValueError, match="unknown task 'covid19/dead'; choose from .*covid19/death, covid19/forecast"
        ):
            prepare("covid19/dead")
        with pytest.raises(ValueError, match="1 series are too few"):
            prepare(toy_task(), 0, toy_data(1))


class TestLeakage:
    @pytest.mark.parametrize("leaked", ["valid", "test"])
    def test_held_out_values_change_nothing_of_the_training_part(self, name, covid19, leaked):
        before = prepare(name, 0, covid19)
        held_out = getattr(before, leaked).ids
        changed = covid19.copy(deep=True)
        rows = np.isin(np.repeat(covid19["series"].values, covid19["row_size"].values), held_out)
        for channel in channels(changed):
            changed[channel][rows] = changed[channel][rows] * -3.0 + 1e4
        changed["age"][np.isin(covid19["series"].values, held_out)] = 1000
        after = prepare(name, 0, changed)
        for key, tensor in before.normalizer.tensors().items():
            assert torch.equal(tensor.nan_to_num(-7.0), after.normalizer.tensors()[key].nan_to_num(-7.0)), key
        assert after.problem == before.problem
        same(after.train, before.train)
        other = getattr(after, leaked).series
        assert not torch.equal(other.values.nan_to_num(), getattr(before, leaked).series.values.nan_to_num())

    def test_training_values_do_change_it(self, name, covid19):
        before = prepare(name, 0, covid19)
        changed = covid19.copy(deep=True)
        rows = np.isin(np.repeat(covid19["series"].values, covid19["row_size"].values), before.train.ids[:1])
        for channel in channels(changed):
            changed[channel][rows] = changed[channel][rows] + 1e4
        assert not torch.equal(
            prepare(name, 0, changed).normalizer.knots.nan_to_num(), before.normalizer.knots.nan_to_num()
        )

    @pytest.mark.parametrize("filler", [0.0, 1e30, NAN, math.inf])
    def test_content_at_unobserved_places_is_irrelevant(self, name, covid19, filler):
        task = TASKS[name]

        def filled(ds):
            examples = task.build(ds)
            values = torch.where(examples.series.observed, examples.series.values, filler)
            series = TimeSeries(
                values, examples.series.times, examples.series.observed, examples.series.lengths, examples.series.static
            )
            if examples.targets is None:
                return replace(examples, series=series)
            targets = torch.where(examples.target_observed, examples.targets, filler)
            return replace(examples, series=series, targets=targets)

        for one, two in zip(
            parts(prepare(replace(task, build=filled), 0, covid19)), parts(prepare(task, 0, covid19)), strict=True
        ):
            same(one, two)


# Tasks of one's own


def toy_data(batch_size, channel=lambda k: [float(k), float(k) + 1]):
    """Series of two rows, of which nothing else is known."""
    return from_arrays([[0.0, 0.0]] * 0 + [[0.0, 2.0]] * batch_size, [channel(k) for k in range(batch_size)])


def toy_task(build=None):
    """A task that asks for a number per series."""

    def regress(ds):
        series = to_series(ds)
        return Examples(series, ds["series"].values, labels=series.values[:, 0].double())

    return Task("toy/number", "toy", "regression", "a number", 2.0, regress if build is None else build)


def test_a_task_of_ones_own():
    split = prepare(toy_task(), 0, toy_data(10))
    assert [len(part) for part in parts(split)] == [6, 2, 2]
    assert (split.problem.kind, split.problem.outputs, split.problem.time_scale) == ("regression", 1, 2.0)


PREPARED = ("asas", "pendulum_cru", "physionet2012", "plaid", "sepsis2019")  # not passed on, or large


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.dataset not in PREPARED])
def test_what_is_shown_as_recorded_is_the_record_until_the_landmark(name):
    task = TASKS[name]
    ds = load_dataset(task.dataset)
    examples = task.build(ds)
    filled = np.logical_or.reduce([ds[channel].notnull().values for channel in channels(ds)])
    shown = select_rows(ds, filled & (ds["time"].values <= (np.inf if task.landmark is None else task.landmark)))
    place = {series: k for k, series in enumerate(ds["series"].values.tolist())}
    shown = select_series(shown, [place[series] for series in examples.ids.tolist()])
    whole = to_series(shown, static=(), dtype=torch.float64)
    series = examples.series
    same = examples.variables == channels(ds) and series.values.shape == whole.values.shape
    same = same and torch.equal(series.times, whole.times) and torch.equal(series.observed, whole.observed)
    cells = whole.observed
    same = same and torch.equal(series.values[cells], whole.values[cells])
    told = [shown[covariate].values for covariate in static(shown)]
    same = same and np.array_equal([] if series.static is None else series.static.T, told)
    assert same == task.as_recorded


def test_a_single_observation_each_leaves_the_clock_at_one():
    ds = from_arrays([[5.0]] * 10, [[float(k)] for k in range(10)])
    assert prepare(toy_task(), 0, ds).problem.time_scale == 1.0


def test_constant_and_unseen_channels_are_no_targets():
    def forecast(ds):
        series = to_series(ds)
        targets = torch.ones(series.batch, 1, 3)
        times = torch.full((series.batch, 1), 9.0, dtype=torch.float64)
        return Examples(series, ds["series"].values, None, times, targets, torch.ones_like(targets, dtype=torch.bool))

    ds = from_arrays([[0.0, 1.0]] * 10, [np.array([[k, 7.0, NAN], [k + 1, 7.0, NAN]]) for k in range(10)])
    task = Task("toy/forecast", "toy", "forecasting", "three channels", 1.0, forecast)
    train = prepare(task, 0, ds).train
    assert train.target_observed[:, 0].all(dim=0).tolist() == [True, False, False]
    assert train.targets[:, 0, 0].isfinite().all() and not train.target_observed[:, 0, 1:].any()


class TestExamples:
    def examples(self):
        times = torch.tensor([[1.0, 2.0, 3.0], [1.0, NAN, NAN], [NAN, NAN, NAN]], dtype=torch.float64)
        clock = torch.arange(4.0).expand(3, 4)
        values = torch.arange(12.0).reshape(3, 4, 1)
        series = TimeSeries(values, clock, torch.ones_like(values, dtype=torch.bool), torch.tensor([4, 2, 1]))
        targets = torch.arange(9.0).reshape(3, 3, 1)
        return Examples(series, np.array(["a", "b", "c"]), torch.tensor([0, 1, 1]), times, targets, targets >= 0)

    def test_select_trims_series_and_queries(self):
        part = self.examples().select([2, 1])
        assert (len(part), part.ids.tolist(), part.labels.tolist()) == (2, ["c", "b"], [1, 1])
        assert (part.series.length, part.query_times.shape, part.targets.shape) == (2, (2, 1), (2, 1, 1))
        assert part.targets[:, 0, 0].tolist() == [6.0, 3.0]
        assert self.examples().select([2]).query_times.shape == (1, 0)
        assert self.examples().select(slice(0, 2)).query_times.shape == (2, 3)
        assert self.examples().select(np.array([False, True, False])).ids.tolist() == ["b"]
        assert len(self.examples().select([])) == 0

    def test_parts_of_other_sizes_are_refused(self):
        with pytest.raises(ValueError, match="labels has 2 entries for 3 series"):
            replace(self.examples(), labels=torch.tensor([0, 1]))


def test_a_table_of_pandas_has_the_class_balance(covid19):
    table = pd.DataFrame({"died": covid19["outcome"].values, "stay": covid19["discharge"].values})
    assert table.loc[table["stay"] <= 24, "died"].value_counts().to_dict() == {1: 12, 0: 4}
