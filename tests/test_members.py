"""The contract that every model and baseline keeps: clock, padding, queries, missing values, edges."""

from dataclasses import replace

import pytest
import torch

from ctlssl.series import TimeSeries
from tests.members import (
    ADAPTIVE,
    CHANNELS,
    EVERY_MEMBER,
    EVERY_PROBLEM,
    FURTHER,
    MEMBERS,
    PROBLEMS,
    STATIC,
    answer,
    batch,
    close,
    gradients,
    same_bits,
)

SHAPES = {
    "classification": {"logits": (5, 3)},
    "regression": {"mean": (5, 2), "scale": (5, 2)},
    "forecasting": {"mean": (5, 4, CHANNELS), "scale": (5, 4, CHANNELS)},
    "survival": {"logits": (5, 4)},
    "labelling": {"logits": (5, 4, 3)},
    "quantiles": {"mean": (5, 4, CHANNELS), "quantiles": (5, 4, CHANNELS, 3)},
}


def rebuilt(series, **changes):
    """The series with some of its parts replaced, checked anew."""
    parts = {name: getattr(series, name) for name in ("values", "times", "observed", "lengths", "static")}
    return TimeSeries(**{**parts, **changes})


def said(prediction):
    """Logits or means."""
    return prediction.mean if prediction.logits is None else prediction.logits


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_shapes(member, kind):
    series, asked = batch()
    prediction = member.model(kind)(series, asked)
    answers = {name: getattr(prediction, name) for name in ("logits", "mean", "scale", "quantiles")}
    assert {name: part.shape for name, part in answers.items() if part is not None} == SHAPES[kind]
    assert all(part is None or part.isfinite().all() for part in answers.values())
    assert prediction.scale is None or (prediction.scale > 0).all()
    assert prediction.quantiles is None or (prediction.quantiles.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
@pytest.mark.parametrize("filler", [0.0, 1e30, float("nan"), float("inf")])
def test_content_that_was_not_observed_is_never_read(member, kind, filler):
    model, (series, asked) = member.model(kind), batch()
    outside = ~series.in_length
    hidden = ~series.observed | outside.unsqueeze(-1)
    other = rebuilt(
        series,
        values=torch.where(hidden, filler, series.values),
        times=torch.where(outside, -filler, series.times),
        observed=series.observed | outside.unsqueeze(-1),
    )
    mine, theirs = model(series, asked), model(other, asked)
    assert same_bits(answer(mine), answer(theirs))
    assert same_bits(gradients(model, answer(mine).square().sum()), gradients(model, answer(theirs).square().sum()))


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_values_get_gradients_only_where_they_were_observed(member, kind):
    model, (series, asked) = member.model(kind), batch()
    values = series.values.clone().requires_grad_()
    answer(model(rebuilt(series, values=values), asked)).square().sum().backward()
    hidden = ~series.observed | ~series.in_length.unsqueeze(-1)
    assert (values.grad[hidden] == 0).all() and values.grad.isfinite().all()
    assert (values.grad[~hidden] != 0).any()


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_a_series_does_not_depend_on_its_batch(member, kind):
    model, (series, asked) = member.model(kind), batch()
    together = answer(model(series, asked))
    for index in ([2, 0], [4], [1], [3]):
        part = answer(model(series.select(index), asked[index]))
        assert close(part, together[index], member.neighbours), index


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_more_padding_changes_nothing(member, kind):
    model, (series, asked) = member.model(kind), batch()
    room = (0, 0, 0, 3)
    longer = TimeSeries(
        torch.nn.functional.pad(series.values, room, value=torch.nan),
        torch.nn.functional.pad(series.times, (0, 3), value=torch.nan),
        torch.nn.functional.pad(series.observed, room, value=True),
        series.lengths,
        series.static,
    )
    more = torch.nn.functional.pad(asked, (0, 2), value=torch.nan)
    once, again = answer(model(series, asked)), answer(model(longer, more))
    again = again[:, :4] if PROBLEMS[kind].asks_queries else again
    assert close(again, once, 1e-5)


@pytest.mark.parametrize("member", EVERY_MEMBER)
def test_a_query_does_not_depend_on_other_queries_nor_on_their_order(member):
    model, (series, asked) = member.model("forecasting"), batch()
    all_of_them = answer(model(series, asked))
    turned = answer(model(series, asked.flip(1))).flip(1)
    assert close(turned, all_of_them, member.neighbours)
    for query in range(asked.shape[1]):
        alone = answer(model(series, asked[:, query : query + 1]))[:, 0]
        assert close(alone, all_of_them[:, query], member.neighbours)


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_rows_with_nothing_in_them_and_queries_disturb_nothing(member, kind):
    model, (series, asked) = member.model(kind), batch()
    empty = torch.full((series.batch, 1), 100.5, dtype=torch.float64)
    times = torch.cat([series.times, empty], dim=1)
    times = torch.where(torch.nn.functional.pad(series.in_length, (0, 1), value=True), times, torch.inf)
    times, order = torch.sort(times, dim=1, stable=True)  # (B, L + 1): the empty row in its place of time
    wide = order.unsqueeze(-1).expand(-1, -1, CHANNELS)
    more = TimeSeries(
        torch.nn.functional.pad(series.values, (0, 0, 0, 1), value=torch.nan).gather(1, wide),
        times,
        torch.nn.functional.pad(series.observed & series.in_length.unsqueeze(-1), (0, 0, 0, 1)).gather(1, wide),
        series.lengths + 1,
        series.static,
    )
    assert close(answer(model(more, asked)), answer(model(series, asked)), max(member.neighbours, 1e-5))
    if not PROBLEMS[kind].asks_queries:
        assert same_bits(answer(model(series, asked)), answer(model(series)))


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
@pytest.mark.parametrize("shift", [-100.0, 2.0**20])
def test_shift(member, kind, shift):
    model, (series, asked) = member.model(kind), batch()
    moved = rebuilt(series, times=series.times + shift)
    assert same_bits(answer(model(moved, asked + shift)), answer(model(series, asked)))


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
@pytest.mark.parametrize("unit", [60.0, 1 / 24])
def test_units(member, kind, unit):
    series, asked = batch()
    one = PROBLEMS[kind]
    clock = {name: getattr(one, name) * unit for name in ("time_scale", "first_gap", "horizon")}
    changed = member.model(kind, **clock)(rebuilt(series, times=series.times * unit), asked * unit)
    assert close(answer(changed), answer(member.model(kind)(series, asked)), 1e-4)


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_rate_scales_every_elapsed_time(member, kind):
    series, asked = batch()
    model = member.model(kind)
    expected = answer(model(rebuilt(series, times=2 * series.times), 2 * asked))
    assert close(answer(model(series, asked, rate=2.0)), expected, 1e-5)
    rates = torch.tensor([2.0, 1.0, 2.0, 1.0, 2.0])
    each = answer(model(series, asked, rate=rates))
    assert close(each[0::2], expected[0::2], member.neighbours)
    assert close(each[1::2], answer(model(series, asked))[1::2], member.neighbours)
    assert not close(expected, answer(model(series, asked)), 1e-3)


@pytest.mark.parametrize("member", EVERY_MEMBER)
def test_a_forecast_reads_nothing_after_its_time(member):
    model, (series, _) = member.model("forecasting"), batch(lengths=(6, 6))
    now = series.times[:, 2:3]
    asked = torch.cat([now, now + 1 / 128, torch.full_like(now, 99.0)], dim=1)
    later = series.times > now + 1 / 128  # (B, L): rows may repeat a time
    before = answer(model(series, asked))
    changed = rebuilt(
        series,
        values=torch.where(later.unsqueeze(-1), 5.0, series.values),
        times=torch.where(later, series.times + 3, series.times),
        observed=series.observed ^ later.unsqueeze(-1),
    )
    assert close(answer(model(changed, asked)), before, member.neighbours)
    shorter = rebuilt(series, lengths=(~later).sum(dim=1))
    assert close(answer(model(shorter, asked)), before, member.neighbours)


@pytest.mark.parametrize("member", EVERY_MEMBER)
def test_a_query_at_the_time_of_an_observation_sees_it(member):
    model, (series, _) = member.model("forecasting"), batch(lengths=(3,))
    series = rebuilt(series, observed=torch.ones_like(series.observed))
    asked = series.times[:, 2:]
    changed = rebuilt(series, values=series.values + torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1))
    assert not close(answer(model(changed, asked)), answer(model(series, asked)), 1e-2)


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
@pytest.mark.parametrize("lengths", [(0, 0), (1,), (), (2, 0, 1)])
def test_short_series(member, kind, lengths):
    model, (series, asked) = member.model(kind), batch(lengths)
    prediction = answer(model(series, asked))
    assert prediction.shape[0] == len(lengths) and prediction.isfinite().all()
    assert all(g is None or g.isfinite().all() for g in gradients(model, prediction.square().sum()).values())


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_nothing_observed_at_all(member, kind):
    model, (series, asked) = member.model(kind), batch()
    blank = rebuilt(series, observed=torch.zeros_like(series.observed))
    empty = rebuilt(series, lengths=torch.zeros_like(series.lengths))
    prediction = answer(model(blank, asked))
    assert prediction.isfinite().all()
    assert close(prediction, answer(model(empty, asked)), 1e-5)
    assert all(g is None or g.isfinite().all() for g in gradients(model, prediction.square().sum()).values())


@pytest.mark.parametrize("member", EVERY_MEMBER)
def test_no_query_and_absent_queries(member):
    model, (series, asked) = member.model("forecasting"), batch()
    assert model(series, asked[:, :0]).mean.shape == (5, 0, CHANNELS)
    absent = model(series, torch.full_like(asked, torch.nan))
    assert (absent.mean == 0).all() and (absent.scale == 1).all()
    loss = (absent.mean + absent.scale).sum()
    assert all(g is None or (g == 0).all() for g in gradients(model, loss).values())


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_gradients_reach_every_parameter(member, kind):
    model, (series, asked) = member.model(kind), batch(lengths=(7, 5, 6, 3))
    prediction = model.train()(series, asked)
    loss = answer(prediction).square().sum()
    found = gradients(model, loss if prediction.penalty is None else loss + prediction.penalty.sum())
    assert not [name for name, gradient in found.items() if gradient is None or not gradient.any()]


@pytest.mark.parametrize(("member", "kind"), EVERY_PROBLEM)
def test_gaps_over_eighteen_decades(member, kind):
    if "dopri5" in str(member.options):
        member = replace(member, options={**member.options, "rtol": 1e-1, "atol": 1e-1})
    model = member.model(kind)
    times = torch.tensor([[0.0, 1e-9, 1e-9, 1e-3, 1.0, 1e3, 1e3, 1e9]], dtype=torch.float64)
    seen = torch.ones(1, 8, CHANNELS, dtype=torch.bool)
    series = TimeSeries(torch.ones(1, 8, CHANNELS), times, seen, torch.tensor([8]), torch.zeros(1, STATIC))
    prediction = answer(model(series, torch.tensor([[1e-9, 2e9]], dtype=torch.float64)))
    assert prediction.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(model, prediction.square().sum()).values() if g is not None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[pytest.mark.slow] * (kind in FURTHER and name not in ("lssl", "gru")))
        for name in MEMBERS
        if name not in ADAPTIVE
        for kind in PROBLEMS
    ],
)
def test_learns(name, kind):
    member = replace(MEMBERS[name], options={"dropout": 0.0})
    model, (series, asked) = member.model(kind, torch.float64).train(), batch(lengths=(4, 5, 3, 6), dtype=torch.float64)
    wanted = torch.randn_like(said(model(series, asked)))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(40):
        prediction = model(series, asked)
        loss = (said(prediction) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.6 * losses[0]


@pytest.mark.parametrize("member", EVERY_MEMBER)
def test_series_and_random_state_are_left_alone(member):
    model, (series, asked) = member.model("forecasting"), batch()
    copies = {name: getattr(series, name).clone() for name in ("values", "times", "observed", "lengths", "static")}
    queries, random_state = asked.clone(), torch.random.get_rng_state()
    once = answer(model(series, asked))
    assert same_bits(once, answer(model(series, asked)))
    assert all(same_bits(getattr(series, name), copy) for name, copy in copies.items())
    assert torch.equal(queries.nan_to_num(), asked.nan_to_num())
    assert torch.equal(random_state, torch.random.get_rng_state())


@pytest.mark.parametrize("member", EVERY_MEMBER)
def test_a_model_in_float64_reads_values_in_float32(member):
    model, (series, asked) = member.model("forecasting", torch.float64), batch()
    assert close(answer(model(series, asked)), answer(model(series.to(dtype=torch.float64), asked)), 1e-12)


@pytest.mark.parametrize("member", EVERY_MEMBER)
def test_refusals(member):
    model, (series, asked) = member.model("forecasting"), batch()
    requests = {
        "2 channels": lambda: model(
            rebuilt(series, values=series.values[..., :2], observed=series.observed[..., :2]), asked
        ),
        "0 static": lambda: model(rebuilt(series, static=None), asked),
        "query_times": lambda: model(series),
        "state": lambda: model(series, asked, state=object()),
        "float64": lambda: model(series, asked.float()),
        "infinite": lambda: model(series, asked + torch.inf),
        "shape": lambda: model(series, asked[:2]),
        "rate": lambda: model(series, asked, rate=-1.0),
        r"\(2,\)": lambda: model(series, asked, rate=torch.ones(2)),
    }
    for words, request in requests.items():
        with pytest.raises(ValueError, match=words):
            request()
