"""A step in real arithmetic, and the ONNX of it, give what the layer gives at gaps over twelve decades."""

import numpy as np
import onnxruntime
import pytest
import torch

import ctlssl
from ctlssl.onnx_step import RealStep, export_onnx_step

METHODS = ["zoh", "foh", "impulse", "bilinear", "backward_euler", "trapezoid"]


def rows(draw, count):
    """Inputs, and gaps over many decades."""
    for _ in range(count):
        yield (
            torch.randn(5, 4, generator=draw),
            10.0 ** torch.randint(-6, 6, (5,), generator=draw).double(),
        )


def distance(found, expected):
    """Largest difference over the largest number."""
    return float((torch.as_tensor(found) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("multi_input", [True, False])
def test_the_step_in_real_arithmetic(method, multi_input):
    layer = ctlssl.LSSL(
        4, 8, structure="diagonal", method=method, multi_input=multi_input, heads=1 if multi_input else 2
    )
    step, state = RealStep(layer), layer.initial_state(5)
    kept = tuple(state)
    with torch.no_grad():
        for u, dt in rows(torch.Generator().manual_seed(0), 8):
            y, *kept = step(u, dt, *kept)
            expected, state = layer.step(u, dt, state)
            assert distance(y, expected) < 2e-6
            assert distance(kept[0], state.x) < 2e-6 and torch.equal(kept[1], state.u)


@pytest.mark.parametrize(("method", "multi_input"), [("zoh", True), ("foh", False), ("bilinear", True)])
def test_onnxruntime_agrees(method, multi_input, tmp_path):
    layer = ctlssl.LSSL(4, 8, structure="diagonal", method=method, multi_input=multi_input)
    export_onnx_step(layer, tmp_path / "step.onnx")
    session, state = onnxruntime.InferenceSession(tmp_path / "step.onnx"), layer.initial_state(5)
    kept = [part.detach().numpy() for part in state]
    with torch.no_grad():
        for u, dt in rows(torch.Generator().manual_seed(1), 8):
            given = dict(zip(["u", "dt", "x", "held"], [u.numpy(), dt.numpy(), *kept], strict=True))
            y, *kept = session.run(None, given)
            expected, state = layer.step(u, dt, state)
            assert distance(y, expected) < 2e-6
    assert kept[0].dtype == np.float32


def test_what_is_refused(tmp_path):
    others = [{"structure": "dense"}, {"bidirectional": True}, {"step_size": "gated"}, {"step_size": "without_gap"}]
    for options in others:
        layer = ctlssl.LSSL(2, 4, **({"structure": "diagonal"} | options))
        with pytest.raises(ValueError, match="causal layer of structure 'diagonal' without a gate"):
            export_onnx_step(layer, tmp_path / "step.onnx")
