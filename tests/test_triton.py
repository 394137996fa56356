"""The Triton kernels: in Triton's interpreter against the plain torch twin, compiled for GPUs, and where there is none.

The interpreter is chosen when Triton is imported, so the numbers are checked in a process of their own, by this same
file with TRITON_INTERPRET=1 in the environment. Without Triton what remains is that nothing asks for it.
"""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ctlssl.holds import HOLDS
from ctlssl.kernels import diagonal_bank, plain_torch, triton_diagonal, triton_launch
from ctlssl.kernels.diagonal_twin import bank_twin, multi_twin
from ctlssl.kernels.triton_diagonal import triton_bank, triton_multi, usable
from ctlssl.kernels.triton_layouts import mode_of, orders_back
from tests.contracts import generator, same_bits, wide_gaps
from tests.problems import relative_error

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = INSTALLED and os.environ.get("TRITON_INTERPRET") == "1"

KERNELS, TWINS = {"bank": triton_bank, "multi": triton_multi}, {"bank": bank_twin, "multi": multi_twin}
WEIGHTS = {name: [*hold.previous, *hold.next, hold.kick] for name, hold in HOLDS.items()}
ALPHAS = (-1.0, 0.5, 0.8)
NAMES = ("u", "start", "gaps", "kinds", "poles", "B", "C", "D", "x")
LEAVES = tuple(k for k, name in enumerate(NAMES) if name != "kinds")


def arguments(form, hold, alpha, batch=2, length=6, pairs=3, channels=2, heads=2, gaps=None, zero=True):
    """Float64 arguments, queries and padding among the rows; the first eigenvalues are 0 and 1e-9."""
    rng = generator("triton", form, hold, alpha, length, pairs)

    def draw(*shape):  # of values that float32 holds exactly, so that one truth serves both precisions
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32).astype(np.float64))

    systems, states = (channels if form == "bank" else 1), 2 * pairs
    real, imag = -rng.uniform(0.1, 2.0, (systems, pairs)), rng.uniform(-9.0, 9.0, (systems, pairs))
    for j, size in enumerate((0.0, 1e-9)[: pairs if zero else 0]):
        real[0, j], imag[0, j] = -size, 2 * size
    gaps = 0.5 * rng.exponential(1.0, (batch, length)) if gaps is None else gaps
    kinds = torch.from_numpy(rng.choice([0, 1, 1, 1, 2], gaps.shape).astype(np.uint8))
    if form == "bank":
        maps = draw(channels, states), draw(channels, heads, states), draw(channels, heads)
    else:
        maps = draw(states, channels), draw(channels, states), draw(channels)
    poles = torch.from_numpy(np.concatenate([real, imag], axis=1))
    inputs, x = (draw(batch, length, channels), draw(batch, channels)), draw(batch, systems, states)
    return [*inputs, torch.from_numpy(gaps), kinds, poles, *maps, x, WEIGHTS[hold], alpha]


def cast(given, dtype):
    """The same in another precision; gaps and eigenvalues stay float64."""
    return [v.to(dtype) if k < 9 and NAMES[k] not in ("gaps", "kinds", "poles") else v for k, v in enumerate(given)]


def results(run, given):
    """Outputs, the last state, and the gradient of every leaf."""
    given = [v.detach().clone().requires_grad_() if k in LEAVES else v for k, v in enumerate(given)]
    y, last = run(*given)
    loss = (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)).sum() + last.square().sum()
    gradients = torch.autograd.grad(loss, [given[k] for k in LEAVES], allow_unused=True, materialize_grads=True)
    return [y.detach(), last.detach(), *gradients]


def assert_close(found, expected, *tolerances):
    """Outputs and last state within the first tolerance, gradients within the last."""
    errors = [relative_error(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]
    named = dict(zip(("y", "last", *(NAMES[k] for k in LEAVES)), errors, strict=False))
    assert not {name: e for k, (name, e) in enumerate(named.items()) if not e <= tolerances[0 if k < 2 else -1]}


class Interpreted:
    """What runs in the process with the interpreter."""

    @pytest.fixture(autouse=True)
    def near_checkpoints(self, monkeypatch):
        """Checkpoints every 4 rows, so that short series have several."""
        monkeypatch.setattr(triton_launch, "STRIDE", 4)

    @pytest.mark.parametrize("alpha", ALPHAS)
    @pytest.mark.parametrize("hold", HOLDS)
    @pytest.mark.parametrize("form", KERNELS)
    def test_kernels_are_their_twin(self, form, hold, alpha):
        given = arguments(form, hold, alpha)
        expected = results(TWINS[form], given)
        assert_close(results(KERNELS[form], given), expected, 1e-14)
        if alpha != 0.5:  # the same code as another gbt rule
            assert_close(results(KERNELS[form], cast(given, torch.float32)), expected, 2e-6)

    @pytest.mark.parametrize(
        ("form", "length", "pairs", "channels", "heads"),
        [
            ("bank", 0, 1, 1, 1), ("bank", 1, 1, 1, 1), ("bank", 5, 33, 2, 1), ("bank", 3, 3, 10, 3),
            ("bank", 2, 70, 1, 1), ("multi", 0, 1, 1, 1), ("multi", 1, 1, 1, 1), ("multi", 5, 70, 3, 1),
        ],
    )  # fmt: skip
    def test_every_size(self, form, length, pairs, channels, heads):
        """One tile and several, filled and not, with and without rows."""
        given = arguments(form, "linear", -1.0, 2, length, pairs, channels, heads)
        assert_close(results(KERNELS[form], given), results(TWINS[form], given), 1e-14)

    def test_the_checkpoints_of_use(self, monkeypatch):
        monkeypatch.undo()
        given = cast(arguments("bank", "linear", -1.0, 1, 65, 2, 1, 1), torch.float32)
        assert triton_launch.STRIDE == 64
        assert_close(results(triton_bank, given), results(bank_twin, cast(given, torch.float64)), 2e-6)

    @pytest.mark.parametrize(("form", "hold", "alpha"), [("bank", "linear", -1.0), ("multi", "next", 0.5)])
    def test_gaps_of_1e_minus_9_to_1e9(self, form, hold, alpha):
        gaps = wide_gaps(generator("triton gaps"), 19)[None]
        given = arguments(form, hold, alpha, 1, 19, gaps=gaps, zero=False)
        expected = results(TWINS[form], given)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            found = results(KERNELS[form], cast(given, dtype))
            assert_close(found[:2], expected[:2], tolerance)
            assert all(torch.isfinite(part).all() for part in found)
            if alpha >= 0:  # neither do the gradients of gbt lose digits at large gaps
                assert_close(found, expected, tolerance, 1e-3 * (dtype == torch.float32) + 1e-11)

    @pytest.mark.parametrize(("form", "hold", "alpha"), [("bank", "linear", -1.0), ("multi", "impulse", 0.8)])
    def test_first_derivatives(self, form, hold, alpha):
        given = arguments(form, hold, alpha, 1, 5, 2, 2, 1)

        def run(*leaves):
            return KERNELS[form](*leaves[:3], given[3], *leaves[3:], *given[9:])

        assert torch.autograd.gradcheck(run, [given[k].requires_grad_() for k in LEAVES], fast_mode=True)

    @pytest.mark.parametrize("form", KERNELS)
    def test_second_derivatives_are_the_twins(self, form):
        given = arguments(form, "next", -1.0, 1, 3, 1, 1, 1)
        leaves = given[0].requires_grad_(), given[4].requires_grad_()
        seconds = []
        for run in (KERNELS[form], TWINS[form]):
            first = torch.autograd.grad(run(*given)[0].square().sum(), leaves, create_graph=True)
            seconds.append(torch.autograd.grad(sum(part.square().sum() for part in first), leaves))
        for ours, theirs in zip(*seconds, strict=True):
            assert relative_error(ours, theirs) < 1e-13

    def test_no_bit_depends_on_padding_neighbours_or_queries(self):
        given = cast(arguments("bank", "linear", -1.0, 2, 9), torch.float32)
        expected = triton_bank(*given)
        spoiled, gaps, padding = given[0].clone(), given[2].clone(), given[3] == 0
        assert padding.any() and (given[3] == 2).any()
        spoiled[padding], gaps[padding] = float("nan"), 7.0
        found = results(triton_bank, [spoiled, given[1], gaps, *given[3:]])
        for ours, theirs in zip(found, results(triton_bank, given), strict=True):
            assert same_bits(ours, theirs)
        alone = [v[:1] if NAMES[k] in ("u", "start", "gaps", "kinds", "x") else v for k, v in enumerate(given[:9])]
        for ours, theirs in zip(triton_bank(*alone, *given[9:]), expected, strict=True):
            assert same_bits(ours, theirs[:1])
        quiet = torch.where(given[3] == 2, 0, given[3])
        for ours, theirs in zip(triton_bank(*given[:3], quiet, *given[4:]), expected, strict=True):
            rows = quiet > 0 if ours.ndim == 4 else ...
            assert same_bits(ours[rows], theirs[rows])

    @pytest.mark.parametrize("form", KERNELS)
    def test_expanded_and_strided_inputs(self, form):
        given = arguments(form, "linear", -1.0)
        given[0] = given[0][:1].expand(2, -1, -1)
        given[2] = given[2].repeat_interleave(2, dim=1)[:, ::2]
        given[6] = given[6].mT.contiguous().mT
        assert_close(results(KERNELS[form], given), results(TWINS[form], given), 1e-14)

    @pytest.mark.parametrize("form", KERNELS)
    def test_operators_obey_torch(self, form):
        given = arguments(form, "next", 0.5, 2, 3, 2)
        made = {"bank": triton_diagonal._bank, "multi": triton_diagonal._multi}[form]
        torch.library.opcheck(made, (*(v.requires_grad_() if k in LEAVES else v for k, v in enumerate(given)), True))


KINDS = {"L": "i32", "H": "i32", "M": "i32", "n": "i32", "series_count": "i32", "parts": "i32"}
KINDS |= {"kinds": "*u8", "before": "*i32", "turns64": "*fp64"}
KINDS |= dict.fromkeys(("gaps", "ggaps", "sums", "gmaps", "gfeed", "gpoles"), "*fp64")
ONES = dict.fromkeys(("L", "H", "M", "n", "series_count", "parts"), 1)  # of which Triton makes constants
MODES = [(hold, alpha) for hold, alpha in (("next", -1.0), ("linear", -1.0), ("impulse", -1.0), ("linear", 0.5))]


class Compiled:
    """What needs the compiler of Triton, and no GPU."""

    @pytest.mark.parametrize("dtype", ["fp32", "fp64"])
    @pytest.mark.parametrize(("hold", "alpha"), MODES)
    def test_kernels_compile_for_gpus(self, hold, alpha, dtype, tmp_path, monkeypatch):
        """For the oldest GPUs and for later ones: the interpreter accepts what the compiler would not."""
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        from ctlssl.kernels.triton_bank import bank_backward, bank_forward
        from ctlssl.kernels.triton_multi import states_backward, states_forward

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        mode = mode_of(WEIGHTS[hold], alpha)
        fusion, mode["ORDERS"] = mode.pop("enable_fp_fusion"), orders_back(mode)
        single = alpha < 0 and hold == "linear"  # the mode that reads everything, for systems of one number too
        mode |= {"STRIDE": 64, "KEEP": True, "CLOCKED": True, "HB": 2, "MP": 1, "NP": 32}
        mode |= {"HB": 1, "NP": 1} | ONES if single else {}
        for kernel in (bank_forward, bank_backward, states_forward, states_backward):
            given = {name: v for name, v in mode.items() if name in kernel.arg_names}
            signature = {name: KINDS.get(name, f"*{dtype}") for name in kernel.arg_names}
            signature |= dict.fromkeys(given, "constexpr")
            target = GPUTarget("cuda", 80 if dtype == "fp64" else 90, 32)
            options = {"num_warps": 1, "enable_fp_fusion": fusion}
            made = compile(ASTSource(kernel, signature, given), target=target, options=options)
            assert len(made.asm["cubin"]) > 0

    def test_in_the_interpreter(self):
        """The numbers: this file again, in a process where Triton interprets."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "Interpreted", __file__]
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=290)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


if INTERPRETED:
    TestInterpreted = type("TestInterpreted", (Interpreted,), {})
elif INSTALLED:
    TestCompiled = type("TestCompiled", (Compiled,), {})


def on_gpu(dtype=torch.float32):
    return SimpleNamespace(device=torch.device("cuda"), dtype=dtype)


def test_when_the_kernels_run(monkeypatch):
    assert not usable(torch.zeros(1, 2, 3))
    monkeypatch.setattr(triton_diagonal, "_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delenv("CTLSSL_TRITON", raising=False)
    assert not usable(on_gpu())
    monkeypatch.setenv("CTLSSL_TRITON", "1")
    assert usable(on_gpu()) and usable(on_gpu(torch.float64)) and not usable(on_gpu(torch.float16))
    with plain_torch():
        assert not usable(on_gpu())
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not usable(on_gpu())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not usable(on_gpu())
    monkeypatch.setattr(triton_diagonal, "_installed", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert not usable(on_gpu())


def test_where_triton_is_missing():
    """The modules can be imported, no kernel is chosen, and the recurrence runs without them."""
    code = (
        "import sys\n"
        "sys.modules['triton'] = None\n"
        "from types import SimpleNamespace\n"
        "import torch\n"
        "from ctlssl.kernels import plain_torch, triton_bank, triton_multi, triton_rows\n"
        "from ctlssl.kernels.triton_diagonal import usable\n"
        "from ctlssl import LSSL\n"
        "print(usable(SimpleNamespace(device=torch.device('cuda'), dtype=torch.float32)))\n"
        "with plain_torch():\n"
        "    y, _ = LSSL(2, 4, structure='diagonal', method='zoh')(torch.ones(1, 3, 2), view='recurrence')\n"
        "print(tuple(y.shape), bool(y.isfinite().all()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["False", "(1, 3, 2) True"]), done.stderr


def test_a_cpu_has_its_own_loops():
    """On a CPU no Triton is asked, and what it would have done is done there."""
    given = arguments("bank", "linear", -1.0)
    assert_close(results(diagonal_bank, given), results(bank_twin, given), 1e-12)


def test_triton_is_imported_by_the_first_kernel_alone():
    code = "import sys, ctlssl.kernels.triton_diagonal; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
