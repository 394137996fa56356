"""The fused loops of a diagonal A against their plain torch twin and mpmath: values, gradients, torch's own rules."""

import itertools
import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import torch

from ctlssl.holds import HOLDS
from ctlssl.kernels import plain_torch
from tests.contracts import generator, wide_gaps
from tests.diagonal_cases import FORMS, LEAVES, NAMES, RULES, arguments, assert_close, cast, changed, results, twin
from tests.problems import relative_error

SIZES = (  # length, pairs, channels, heads: around the lanes of a vector and the distance of checkpoints
    (0, 3, 2, 1), (1, 1, 1, 1), (63, 8, 7, 1), (64, 16, 2, 3), (65, 31, 1, 1), (129, 33, 2, 3), (65, 64, 20, 1),
    (64, 1, 20, 3), (129, 3, 7, 3),
)  # fmt: skip


BOTH = pytest.mark.parametrize("form", FORMS)
COMBINATIONS = list(itertools.product(HOLDS, RULES))


@pytest.mark.parametrize(("hold", "rule"), COMBINATIONS)
@BOTH
def test_loops_are_their_twin(form, hold, rule):
    """Values and all gradients in both precisions; every size meets several holds and rules."""
    rng = generator("twin", form, hold, rule)
    place = COMBINATIONS.index((hold, rule))
    for k in range(3):
        length, pairs, channels, heads = SIZES[(2 * place + 3 * k + place // 6) % len(SIZES)]
        given = arguments(rng, form, hold, rule, 2, length, pairs, channels, heads)
        expected = twin(form, given)
        assert_close(results(form, given), expected, 1e-11)
        assert_close(results(form, cast(given, torch.float32)), expected, 1e-5, 1e-4)


@pytest.mark.parametrize(("length", "channels"), [(64, 16), (130, 7), (200, 33)])
@pytest.mark.parametrize("hold", ["next", "previous", "linear"])
@BOTH
def test_whole_records_and_long_silences(form, hold, length, channels):
    """A series without padding; one whose middle is queries alone, past a checkpoint; one that is padding there."""
    rng = generator("whole", form, hold, length, channels)
    given = arguments(rng, form, hold, "exact", 3, length, 5, channels)
    given[3] = torch.ones_like(given[3])
    given[3][1, 20:-20], given[3][2, 20:-20] = 2, 0
    expected = twin(form, given)
    assert_close(results(form, given), expected, 1e-11)
    assert_close(results(form, cast(given, torch.float32)), expected, 1e-5, 1e-4)


@pytest.mark.parametrize("rule", ["exact", "gbt(0.5)"])
@pytest.mark.parametrize("hold", ["next", "linear"])
@BOTH
def test_gaps_of_zero(form, hold, rule):
    """Rows at one time, or nearly so: 1 over such a gap is no number."""
    rng = generator("zero gaps", form, hold, rule)
    given = arguments(rng, form, hold, rule, gaps=rng.choice([0.0, 1e-310, 1e-40, 0.25], (2, 9)))
    given[2][:, 0], given[3][:, 0] = 0.25, 1  # else the input before is all but without effect
    expected = twin(form, given)
    assert_close(results(form, given), expected, 1e-11)
    assert_close(results(form, cast(given, torch.float32)), expected, 1e-5, 1e-4)


@pytest.mark.parametrize("rule", ["exact", "gbt(0.5)", "gbt(0.8)", "gbt(1.0)"])
@pytest.mark.parametrize("hold", HOLDS)
@BOTH
def test_gaps_of_1e_minus_9_to_1e9(form, hold, rule):
    """Line 8 of the clock contract, against the twin in float64 from the same numbers."""
    rng = generator("wide", form, hold, rule)
    given = arguments(rng, form, hold, rule, 1, 40, 5, gaps=wide_gaps(rng, 40)[None], small=False)
    expected = twin(form, given)
    for dtype, tolerances in ((torch.float64, (1e-12, 1e-11)), (torch.float32, (1e-5, 1e-4))):
        found = results(form, cast(given, dtype))
        assert all(torch.isfinite(part).all() for part in found)
        # Of what was handed in a long gap leaves e^z: nothing to measure an error by.
        assert_close(found, expected, *tolerances, without=("start", "x"))


@pytest.mark.parametrize("hold", ["next", "linear"])
@BOTH
def test_phases_of_1e4_keep_their_digits(form, hold):
    """Slow decay and |lambda| h up to 1e4 against the recurrence in mpmath, from the same numbers."""
    rng = generator("phases", form, hold)
    n, L = 6, 24
    given = arguments(rng, form, hold, "exact", 1, L, n, 1, 1, gaps=10.0 ** rng.uniform(-2, 0.0, (1, L)), small=False)
    imag = rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(3, 4, n)
    given[4] = torch.from_numpy(np.concatenate([-(10.0 ** rng.uniform(-3, -1, n)), imag])[None])
    given[3] = torch.ones_like(given[3])
    truth = recurrence_in_mpmath(*(v.numpy().ravel() for v in given[:9]), given[9])
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        y, _ = FORMS[form](*cast(given, dtype))
        assert relative_error(y.ravel(), truth) < tolerance


def recurrence_in_mpmath(u, start, gaps, kinds, poles, B, C, D, x, hold):
    """Outputs of one channel under an exact rule, every row committed."""
    n, before, shown = len(poles) // 2, start[0], []
    with mpmath.workdps(40):
        pairs = [[mpmath.mpc(v[j], v[n + j]) for j in range(n)] for v in (poles, B, C, x)]
        for value, h in zip(u, gaps, strict=True):
            total = mpmath.mpf(D[0]) * value
            held, ramp = hold[0] * before + hold[2] * value, hold[1] * before + hold[3] * value
            for j, (pole, b, c) in enumerate(zip(*pairs[:3], strict=True)):
                z = mpmath.mpf(h) * pole
                grown = mpmath.expm1(z)
                driven = b * (held * grown / pole + ramp * (grown - z) / (z * pole))
                pairs[3][j] += grown * pairs[3][j] + driven
                total += (mpmath.conj(c) * pairs[3][j]).real
            shown.append(float(total))
            before = value
    return np.array(shown)


@pytest.mark.parametrize(("hold", "rule"), [("linear", "exact"), ("impulse", "exact"), ("next", "gbt(0.5)")])
@BOTH
def test_first_derivatives(form, hold, rule):
    rng = generator("derivatives", form, hold, rule)
    given = arguments(rng, form, hold, rule, 2, 5, 2)
    given[2][:, 0], given[2][:, 2] = 1e-3, 4.0

    def run(*leaves):
        return FORMS[form](*changed(given, **{NAMES[k]: leaf for k, leaf in zip(LEAVES, leaves, strict=True)}))

    assert torch.autograd.gradcheck(run, [given[k].clone().requires_grad_() for k in LEAVES])


@BOTH
def test_operators_obey_torch(form):
    """Schema, shapes without numbers, derivatives, and all of it under torch.compile's tracer."""
    given = arguments(generator("opcheck", form), form, "linear", "exact", 2, 3, 2)
    operator = getattr(torch.ops.ctlssl, f"diagonal_{form}").default
    torch.library.opcheck(operator, (*given, False))
    torch.library.opcheck(operator, (*(v.requires_grad_() if k in LEAVES else v for k, v in enumerate(given)), True))


@BOTH
def test_second_derivatives_are_the_twins(form):
    """Keeping the graph of a backward pass takes the twin; the fused adjoint itself refuses."""
    given = arguments(generator("second", form), form, "linear", "exact", 2, 4, 2)

    def through_gradients():
        leaves = [v.clone().requires_grad_() if k in LEAVES else v for k, v in enumerate(given)]
        y, last = FORMS[form](*leaves)
        wanted = [leaves[k] for k in LEAVES]
        slopes = torch.autograd.grad(y.square().sum() + last.sum(), wanted, create_graph=True)
        return torch.autograd.grad(sum(slope.sin().sum() for slope in slopes), wanted)

    with plain_torch():
        expected = through_gradients()
    for ours, theirs in zip(through_gradients(), expected, strict=True):
        assert relative_error(ours, theirs) < 1e-10
    y, last, kept = getattr(torch.ops.ctlssl, f"diagonal_{form}").default(*given, True)
    adjoint = getattr(torch.ops.ctlssl, f"diagonal_{form}_adjoint").default
    found = adjoint(torch.ones_like(y).requires_grad_(), torch.zeros_like(last), kept, *given, False)
    with pytest.raises(RuntimeError, match="plain_torch"):
        found[0].sum().backward()


WITHOUT_COMPILER = """
import sys, torch
from ctlssl.kernels import diagonal_{form}
given = torch.load(sys.argv[1], weights_only=True)
print(diagonal_{form}(*given)[0].sum().item(), "numba" in sys.modules)
"""


@BOTH
def test_without_the_compiler_the_twin_runs(form, tmp_path):
    given = arguments(generator("uncompiled", form), form, "linear", "exact")
    torch.save(given, tmp_path / "given.pt")
    command = [sys.executable, "-c", WITHOUT_COMPILER.format(form=form), str(tmp_path / "given.pt")]
    found = subprocess.run(
        command, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=True
    )
    value, loaded = found.stdout.split()
    assert loaded == "False"
    assert relative_error(float(value), FORMS[form](*given)[0].sum()) < 1e-12
