"""Exported programs give what the models give, for any number of series, and contain nothing of this library."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import ctlssl
from ctlssl.exporting import export_model, export_step

PROBLEMS = {
    "classification": ctlssl.Problem("classification", channels=3, outputs=2, static=1, horizon=10.0),
    "regression": ctlssl.Problem("regression", channels=3, outputs=2, horizon=10.0),
    "forecasting": ctlssl.Problem("forecasting", channels=3, outputs=3, horizon=10.0),
}
MODELS = {
    "lssl": ctlssl.LSSLModel,
    "bank": lambda problem, width: ctlssl.LSSLModel(problem, width, multi_input=False, method="foh", layers=2),
    "summaries": lambda problem, width: ctlssl.LSSLModel(problem, width, summaries=not problem.asks_queries),
    "bidirectional": lambda problem, width: ctlssl.LSSLModel(problem, width, bidirectional=True),
}


def batch(problem, series, draw, rows=6):
    """The tensors of a batch of ragged series."""
    times = torch.rand(series, rows, generator=draw, dtype=torch.float64).cumsum(1)
    parts = [torch.randn(series, rows, 3, generator=draw), times, torch.rand(series, rows, 3, generator=draw) > 0.4]
    parts.append(torch.randint(1, rows + 1, (series,), generator=draw))
    parts += [torch.randn(series, problem.static, generator=draw)] if problem.static else []
    queries = 7 * torch.rand(series, 2, generator=draw, dtype=torch.float64)
    return parts + ([queries] if problem.kind == "forecasting" else [])


def eager(model, problem, parts):
    """What the model says of them."""
    static = parts[4] if problem.static else None
    asked = parts[-1] if problem.kind == "forecasting" else None
    found = model(ctlssl.TimeSeries(*parts[:4], static), asked)
    return [part for part in (found.logits, found.mean, found.scale) if part is not None]


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_and_its_program(name, kind):
    draw, problem = torch.Generator().manual_seed(0), PROBLEMS[kind]
    model = MODELS[name](problem, width=8)
    program = export_model(model, rows=6, queries=2)
    assert not any("ctlssl" in str(node.target) for node in program.graph.nodes)
    model.eval()
    for series in (1, 5, 8):
        parts = batch(problem, series, draw)
        with torch.no_grad():
            found, expected = program.module()(*parts), eager(model, problem, parts)
        for one, two in zip([found] if isinstance(found, torch.Tensor) else found, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["zoh", "foh", "bilinear", "impulse"])
@pytest.mark.parametrize("multi_input", [True, False])
def test_a_step_and_its_program(method, multi_input):
    draw = torch.Generator().manual_seed(1)
    layer = ctlssl.LSSL(4, 8, structure="diagonal", method=method, multi_input=multi_input)
    step, state = export_step(layer).module(), layer.initial_state(5)
    with torch.no_grad():
        kept = tuple(state)
        for _ in range(4):
            u, dt = torch.randn(5, 4, generator=draw), 3 * torch.rand(5, generator=draw, dtype=torch.float64)
            y, *kept = step(u, dt, *kept)
            expected, state = layer.step(u, dt, state)
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


def test_a_program_runs_where_the_library_is_not(tmp_path):
    problem = PROBLEMS["classification"]
    model = ctlssl.LSSLModel(problem, width=8).eval()
    torch.export.save(export_model(model, rows=6), tmp_path / "model.pt2")
    parts = batch(problem, 4, torch.Generator().manual_seed(2))
    save_file({str(k): part for k, part in enumerate(parts)}, tmp_path / "parts.safetensors")
    script = (
        "import sys, torch; from safetensors.torch import load_file, save_file; sys.modules['ctlssl'] = None\n"
        "parts = load_file('parts.safetensors'); parts = [parts[str(k)] for k in range(len(parts))]\n"
        "found = torch.export.load('model.pt2').module()(*parts).detach()\n"
        "save_file({'found': found}, 'found.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    found = load_file(tmp_path / "found.safetensors")["found"]
    torch.testing.assert_close(found, eager(model, problem, parts)[0].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_what_torch_cannot_export_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="torch cannot export this model .*; steps that look at the data"):
        export_model(ctlssl.LSSLModel(PROBLEMS["classification"], width=4, structure="dense"), rows=3)


def test_what_is_refused():
    with pytest.raises(ValueError, match="one row at least"):
        export_model(ctlssl.LSSLModel(PROBLEMS["forecasting"], width=4), rows=3)
    for layer in (ctlssl.LSSL(2, 4, structure="dense"), ctlssl.LSSL(2, 4, structure="diagonal", bidirectional=True)):
        with pytest.raises(ValueError, match="causal layer of structure 'diagonal'"):
            export_step(layer)


def test_compiled_models_are_the_same():
    draw, problem = torch.Generator().manual_seed(3), PROBLEMS["classification"]
    model = ctlssl.LSSLModel(problem, width=8).eval()
    compiled = torch.compile(model, backend="aot_eager")
    parts = batch(problem, 4, draw)
    found = compiled(ctlssl.TimeSeries(*parts)).logits
    torch.testing.assert_close(found, eager(model, problem, parts)[0], rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
