"""The checker of the clock contract: it finds each line broken, and only what is there."""

import copy
import math

import pytest
import torch
from torch import nn

import ctlssl
from ctlssl.testing import ClockError, LayerCase, ModelCase, check_clock
from ctlssl.testing.comparing import bits, difference, directional, gradients_of, rows_of, seen_change, tensors_of
from ctlssl.testing.report import LINES
from tests import broken_layers
from tests.contracts import make_layer
from tests.members import MEMBERS

OPTIONS = {"state_size": 6, "structure": "diagonal", "step_range": (0.1, 1.0)}


def broken(build):
    options = OPTIONS if build is broken_layers.GapIgnoredByInput else {**OPTIONS, "method": "foh"}
    return build(3, **options)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        pytest.param(broken_layers.GapIgnoredByInput, 2, id="gap ignored in Bbar"),
        pytest.param(broken_layers.QueryCommits, 3, id="a query commits"),
        pytest.param(broken_layers.PaddingLeaks, 4, id="padding leaks"),
        pytest.param(broken_layers.SharedStep, 4, id="step shared by the batch"),
        pytest.param(broken_layers.ClampedGaps, 2, id="gaps clamped"),
        pytest.param(broken_layers.RateForgotten, 5, id="rate forgotten"),
        pytest.param(broken_layers.EmptyResets, 4, id="empty series reset"),
        pytest.param(broken_layers.OtherConvolution, 6, id="views disagree"),
        pytest.param(broken_layers.Float32Gaps, 8, id="float32 clock"),
        pytest.param(broken_layers.DetachedGaps, 9, id="gaps without gradient"),
    ],
)
@pytest.mark.parametrize("seed", [0, pytest.param(7, marks=pytest.mark.slow)])
def test_a_broken_line_is_named_and_no_other(build, line, seed):
    layer = broken(build)
    assert check_clock(layer, seed=seed, cases=1, raise_on_failure=False).failed == (line,)
    with pytest.raises(ClockError) as caught:
        check_clock(layer, seed=seed, cases=1, lines=(line,))
    said = str(caught.value)
    assert f"line {line} of the clock contract" in said and f"case 0 of seed {seed}" in said
    assert LINES[line].remedy in said and caught.value.report.failed == (line,)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        pytest.param(broken_layers.Float32Times, 8, id="float32 times"),
        pytest.param(broken_layers.LooksAhead, 7, id="looks ahead"),
        pytest.param(broken_layers.ForgetsLastInput, 5, id="forgets the last input"),
    ],
)
def test_a_fault_that_breaks_several_lines(build, line):
    assert line in check_clock(broken(build), cases=1, raise_on_failure=False).failed


@pytest.mark.parametrize(
    ("build", "line"),
    [
        pytest.param(broken_layers.Float32Clock, 1, id="float32 clock"),
        pytest.param(broken_layers.ZeroForMissing, 3, id="zero for missing"),
        pytest.param(broken_layers.BatchCentred, 4, id="batch statistics"),
        pytest.param(broken_layers.MissingIsRead, 10, id="missing is read"),
    ],
)
@pytest.mark.parametrize("kind", ["classification", pytest.param("forecasting", marks=pytest.mark.slow)])
def test_a_broken_model(build, line, kind):
    model, lines = MEMBERS["lssl"].model(kind), {line, 1, 8, 10}
    assert check_clock(broken_layers.Wrapped(model), cases=1, lines=lines).held
    assert check_clock(build(model), cases=1, lines=lines, raise_on_failure=False).failed == (line,)


def test_the_same_layer_unbroken():
    report = check_clock(ctlssl.LSSL(3, method="foh", **OPTIONS))
    assert report.held and not report.failed and report.not_applicable == (10,)
    assert [row.number for row in report.rows] == list(LINES)
    for row in report.rows[:-1]:
        assert row.status == "held" and row.checks and row.error <= row.limit and row.name in str(report)


def test_what_a_layer_lacks_is_not_held():
    """A layer of somebody else, without lengths, rate, queries, views, steps."""
    layer = broken_layers.Relaxation(2)
    report = check_clock(layer, channels=2)
    assert report.held and report.not_applicable == (2, 3, 6, 10)
    assert "no rate= is taken" in str(report[2]) and report[2].error is None and report[2].limit is None
    assert "not compared: no step" in str(report[5]) and "no lengths= is taken" in str(report[4])

    def slower(copied, factor):
        with torch.no_grad():
            copied.rate -= math.log(factor)
        return copied

    assert check_clock(layer, channels=2, lines=(2,), rescale=slower)[2].status == "held"
    with pytest.raises(ClockError, match="line 2"):
        check_clock(layer, channels=2, lines=(2,), rescale=lambda copied, factor: copied)
    with pytest.raises(ValueError, match="channels="):
        check_clock(layer)


def test_a_growing_rule_has_no_line_8():
    report = check_clock(make_layer("quasiseparable", "forward_euler"), cases=1)
    assert report.held and 8 in report.not_applicable and "gbt" in str(report[8])


def test_a_layer_that_does_not_read_its_gaps():
    class Counts(nn.Module):
        def forward(self, u, dt):
            return u.cumsum(1), None

    report = check_clock(Counts(), channels=2)
    assert report.held and "do not depend on the gaps" in str(report[8]) and 5 in report.not_applicable


def test_what_a_call_raises_fails_the_line():
    class Refuses(broken_layers.Relaxation):
        def forward(self, u, dt, state=None):
            if dt.numel() and dt.max() > 1e8:
                raise ValueError("too long")
            return super().forward(u, dt, state)

    report = check_clock(Refuses(2), channels=2, raise_on_failure=False)
    assert report.failed == (8,)
    with pytest.raises(ClockError, match="too long") as caught:
        check_clock(Refuses(2), channels=2)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("subject", ["layer", "model"])
def test_the_subject_is_left_as_it_was(subject):
    module = make_layer("diagonal") if subject == "layer" else MEMBERS["gru"].model("forecasting").train()
    before, random_state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    first, again = (str(check_clock(module, cases=1, seed=3, lines=(1, 4, 5, 9))) for _ in range(2))
    assert first == again and module.training and torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_limits_of_ones_own():
    layer = make_layer("diagonal")
    report = check_clock(layer, lines=(5,), cases=1, limits={5: 0.0}, raise_on_failure=False)
    assert {check.limit for check in report[5].checks} == {0.0}
    assert check_clock(layer, lines=(5,), cases=1, limits={5: 1.0})[5].limit == 1.0
    queries = broken(broken_layers.QueryCommits)  # what is compared bit for bit stays so
    assert check_clock(queries, lines=(3,), cases=1, limits={3: 10.0}, raise_on_failure=False).failed == (3,)


def test_doors():
    layer = make_layer("diagonal")
    with pytest.raises(ValueError, match=r"lines 1 to 10; found \[11\]"):
        check_clock(layer, lines=(1, 11))
    with pytest.raises(ValueError, match="length 1"):
        check_clock(layer, length=1)
    with pytest.raises(KeyError):
        check_clock(layer, lines=(1,))[2]


def test_cases_of_ones_own():
    case = LayerCase(
        "mine", torch.ones(1, 3, 3).double(), torch.ones(1, 3).double(), torch.tensor([3]), places=((0, 3),)
    )
    assert check_clock(make_layer("diagonal"), cases=[case]).held
    with pytest.raises(ClockError, match=r"mine \(batch 1, lengths \[3\], queries before rows \[\(0, 3\)\]\)"):
        check_clock(broken(broken_layers.QueryCommits), cases=[case])
    seen = torch.ones(1, 3, 3, dtype=torch.bool)
    times = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)
    series = ctlssl.TimeSeries(seen.double(), times, seen, torch.tensor([3]), torch.zeros(1, 2).double())
    mine = ModelCase("mine", series, torch.tensor([[0.5, 3.0]], dtype=torch.float64))
    assert check_clock(MEMBERS["gru"].model("forecasting"), cases=[mine]).held


def test_comparing():
    one, nan = torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])
    assert bits(nan, nan.clone()) == 0.0 and bits(one, one + 2**-22) > 0 and bits(one, nan) == torch.inf
    assert bits(one, one[:1]) == torch.inf and bits(one[:0], one[:0]) == 0.0
    assert difference(one, 2 * one) == 0.5 and difference(nan, one) == torch.inf
    state = {"b": (one, None), "a": [torch.tensor(3), nan]}
    assert [len(part) for part in tensors_of(state)] == [2, 2] and tensors_of(state)[0] is nan
    assert torch.equal(rows_of((one, torch.ones(3)), 2, 1)[0], one[1:]) and len(rows_of(torch.ones(3), 2, 1)) == 0
    leaf = one.clone().requires_grad_()
    assert gradients_of(one.sum(), [leaf])[0].eq(0).all()


class Halved(torch.autograd.Function):
    """x^2 with half of its gradient in the last place."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        weight = torch.ones_like(x)
        weight[-1] = 0.5
        return 2 * x * slope * weight


def test_a_wrong_gradient_is_seen():
    draw, x = torch.Generator().manual_seed(0), {"x": torch.linspace(1, 2, 50, dtype=torch.float64)}
    assert directional(lambda given: given["x"].exp(), x, draw)["x"] < 1e-9
    assert directional(lambda given: Halved.apply(given["x"]), x, draw)["x"] > 1e-3
    assert directional(lambda given: given["x"].detach().sin(), x, draw)["x"] > 0.1
    assert directional(lambda given: torch.ones(3).double(), x, draw)["x"] == 0
    folded = {"x": torch.tensor([1e-5], dtype=torch.float64)}
    assert directional(lambda given: given["x"].abs(), folded, draw, {"x": 1.0})["x"] < 1e-8


def test_rounded_gaps_are_seen():
    draw, dt = torch.Generator().manual_seed(0), torch.rand(3, 4).double()
    assert seen_change(lambda gaps: torch.exp(-gaps), dt, draw) < 1e-3
    assert seen_change(lambda gaps: torch.exp(-gaps.float()).double(), dt, draw) > 0.2
    assert seen_change(lambda gaps: torch.ones(2).double(), dt, draw) is None
