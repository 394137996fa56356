"""The doors of the layer: names, options, dtypes, and inputs that are refused."""

import inspect

import pytest
import torch

import ctlssl
from ctlssl.discretization import Discretization, exact, gbt
from ctlssl.holds import PREVIOUS
from ctlssl.layers.lssl import LSSL
from tests.contracts import KIND_PARAMS, STRUCTURE_PARAMS, STRUCTURES, generator, layer_batch, make_layer, same_bits
from tests.problems import relative_error


def test_names_and_defaults():
    parameters = inspect.signature(ctlssl.LSSL.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert defaults == {
        "state_size": 64,
        "structure": "quasiseparable",
        "measure": "legs",
        "method": "bilinear",
        "heads": 1,
        "step_range": (1e-3, 1e-1),
        "learn": ("A", "B", "step"),
        "multi_input": False,
        "bidirectional": False,
        "step_size": "plain",
        "per_channel": False,
        "blocks": 1,
    }
    assert ctlssl.exact is exact and ctlssl.gbt(0.3) == gbt(0.3)
    layer = LSSL(2, 4, method=Discretization(exact, PREVIOUS), structure=STRUCTURES["dplr"].build)
    assert layer.structure == "dplr" and layer.method.name == "exact+previous"
    assert LSSL(2, 4, method=ctlssl.gbt(0.3)).method.rule == gbt(0.3)
    steps = LSSL(100, 4, step_range=(1e-3, 1e-1)).log_step.exp()
    assert steps.min().item() == pytest.approx(1e-3, rel=1e-5) and steps.max().item() == pytest.approx(0.1, rel=1e-5)


def test_bad_options_are_refused():
    for options, message in (
        (dict(structure="banded"), "dense, diagonal, dplr, quasiseparable"),
        (dict(method="leapfrog"), "zoh"),
        (dict(measure="chebyshev"), "legs, legt, lagt"),
        (dict(structure="quasiseparable", measure="fourier"), "rank"),
        (dict(structure="dense", measure="lin"), "legs, legt, lagt"),
        (dict(structure="diagonal", state_size=5), "even"),
        (dict(structure="dplr", state_size=7), "even"),
        (dict(state_size=0), "positive"),
        (dict(channels=0), "channels"),
        (dict(heads=0), "heads"),
        (dict(heads=2, multi_input=True), "one head"),
        (dict(learn=("A", "C")), "learn"),
        (dict(learn="A"), "learn"),
        (dict(step_range=(0.0, 1.0)), "step_range"),
        (dict(step_range=(1.0, 0.1)), "step_range"),
    ):
        with pytest.raises(ValueError, match=message):
            LSSL(**({"channels": 2} | options))


def test_bad_inputs_are_refused():
    layer = make_layer("diagonal")
    u, dt = layer_batch(generator("bad"), 2, 4)
    _, state = layer(u, dt)

    def spoiled(value):
        gaps = dt.clone()
        gaps[1, 2] = value
        return gaps

    for call, message in (
        (lambda: layer(u[..., :2], dt), r"3\); found shape \(2, 4, 2\)"),
        (lambda: layer(u[0], dt[0]), "batch, length"),
        (lambda: layer(u.numpy(), dt), "ndarray"),
        (lambda: layer(u, spoiled(-0.5)), "series 1, position 2.*-0.5"),
        (lambda: layer(u, spoiled(float("nan"))), "series 1, position 2"),
        (lambda: layer(u, spoiled(float("inf"))), "series 1, position 2"),
        (lambda: layer(u, dt[:, :3]), r"\(2, 3\)"),
        (lambda: layer(u, dt, torch.tensor([4, 5])), "series 1: length 5"),
        (lambda: layer(u, dt, torch.tensor([4, -1])), "series 1: length -1"),
        (lambda: layer(u, dt, torch.tensor([4.0, 2.0])), "integers"),
        (lambda: layer(u, dt, torch.tensor([4])), "2 integers"),
        (lambda: layer(u, dt, rate=0.0), "rate"),
        (lambda: layer(u, dt, rate=torch.tensor([1.0, -1.0])), "rate"),
        (lambda: layer(u, dt, rate=torch.ones(3)), "rate"),
        (lambda: layer(u, dt, is_query=torch.zeros(2, 4)), "is_query"),
        (lambda: layer(u, dt, is_query=torch.zeros(2, 3, dtype=torch.bool)), "is_query"),
        (lambda: layer(u[:1], dt[:1], state=state), "state"),
        (lambda: layer(u, dt, state=torch.zeros(2, 3, 6)), "state"),
        (lambda: layer(u, dt, view="fourier"), "recurrence"),
        (lambda: layer.step(u, 1.0, state), r"one observation, u \(2, 3\)"),
        (lambda: layer.step(u[:, 0], 1.0, None), "initial_state"),
        (lambda: layer.step(u[:, 0], 1.0, (None, None)), "state needs"),
        (lambda: layer.peek(None, 1.0), "initial_state"),
        (lambda: layer(u, "a"), "real numbers"),
        (lambda: layer(u, 1e300, rate=1e300), "not finite"),
        (lambda: layer(u, dt, lengths=torch.ones(2, dtype=torch.bool)), "integers"),
        (lambda: layer(u * torch.nan, dt, view="integration"), "gave up"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_dtypes_are_promoted():
    layer = make_layer("diagonal", dtype=torch.float32)
    u = torch.arange(12).reshape(1, 4, 3)
    expected, _ = layer(u.float())
    for dtype in (torch.int64, torch.int32, torch.float16, torch.bfloat16):
        found, _ = layer(u.to(dtype))
        assert found.dtype == torch.float32 and same_bits(found, expected)
    assert layer(u.double())[0].dtype == torch.float64
    assert layer(u.bool())[0].dtype == torch.float32
    with pytest.raises(TypeError, match="real"):
        layer(u.to(torch.complex64))
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match=f"parameters in {half} are not supported"):
            make_layer("diagonal", dtype=torch.float32).to(half)(u.to(half))


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KIND_PARAMS)
def test_autocast_changes_nothing(structure, multi_input):
    """Half precision would lose the phases: the layer computes in float32 whatever is around it."""
    rng = generator("autocast", structure.name, multi_input)
    for method, bidirectional in (("bilinear", False), ("zoh", True)):
        layer = make_layer(structure.name, method, multi_input, torch.float32, bidirectional=bidirectional)
        u, dt = layer_batch(rng, 2, 3, dtype=torch.float32)
        for gaps, view in ((dt, "recurrence"), (0.3, "convolution"), (dt, "integration")):
            expected, _ = layer(u, gaps, view=view)
            with torch.autocast("cpu", torch.bfloat16):
                found, _ = layer(u, gaps, view=view)
            assert same_bits(found, expected)
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = layer(u.bfloat16(), dt)
        assert found.dtype == torch.float32


def test_strides_do_not_matter():
    rng = generator("strides")
    for structure in STRUCTURES:
        layer = make_layer(structure)
        u, dt = layer_batch(rng, 3, 5)
        expected, _ = layer(u, dt)
        turned = u.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        gaps = torch.stack([dt, dt], -1)[..., 0]
        assert relative_error(layer(turned, gaps)[0].detach(), expected.detach()) < 1e-14
        shared, _ = layer(u[:1].expand(3, -1, -1), dt[:1].expand(3, -1))
        assert relative_error(shared[2].detach(), layer(u[:1], dt[:1])[0][0].detach()) < 1e-14


def test_nothing_outside_is_touched():
    layer = make_layer("quasiseparable", "bilinear")
    u, dt = layer_batch(generator("side effects"), 2, 5)
    before = u.clone(), dt.clone(), torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    y, state = layer(u, dt)
    layer.peek(state, 1.0)
    layer.step(u[:, 0], 1.0, state)
    assert torch.equal(u, before[0]) and torch.equal(dt, before[1]) and torch.equal(torch.get_rng_state(), before[2])
    assert (torch.get_default_dtype(), torch.get_num_threads()) == before[3:]
    assert same_bits(layer(u, dt)[0], y)


@pytest.mark.parametrize("rate", [1.0, torch.tensor(2.0, dtype=torch.float64)])
def test_one_learned_gap_may_be_convolved_but_not_one_a_row(rate):
    torch.manual_seed(4)
    layer, u = LSSL(2, 4).double(), torch.randn(2, 20, 2, dtype=torch.float64)
    slopes = []
    for view in ("recurrence", "convolution"):
        dt = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        y, _ = layer(u, dt, rate=rate, view=view)
        (slope,) = torch.autograd.grad(y.square().sum(), dt)
        slopes.append(slope)
    assert torch.allclose(*slopes, rtol=1e-9)
    for shape in ((20,), (2, 20)):
        rows = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)
        with pytest.raises(ValueError, match="view='recurrence'"):
            layer(u, rows, rate=rate, view="convolution")
        layer(u, rows, rate=rate, view="recurrence")[0].sum().backward()
        assert rows.grad.any()
