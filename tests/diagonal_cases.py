"""Random diagonal systems as the fused loops take them, their values with all gradients, and comparisons."""

import numpy as np
import torch

from ctlssl.holds import HOLDS
from ctlssl.kernels import diagonal_bank, diagonal_multi, plain_torch
from tests.contracts import same_bits
from tests.problems import relative_error

FORMS = {"bank": diagonal_bank, "multi": diagonal_multi}
HOLD_WEIGHTS = {name: [*h.previous, *h.next, h.kick] for name, h in HOLDS.items()}
RULES = {"exact": -1.0, **{f"gbt({alpha})": alpha for alpha in (0.0, 0.3, 0.5, 0.8, 1.0)}}
NAMES = ("u", "start", "gaps", "kinds", "poles", "B", "C", "D", "x")
LEAVES = tuple(k for k, name in enumerate(NAMES) if name != "kinds")
PARTS = ("y", "last", *(NAMES[k] for k in LEAVES))  # of `results`
WIDE = ("gaps", "kinds", "poles")  # whatever the precision of the rest, float64 and whole numbers
SERIES = ("u", "start", "gaps", "kinds", "x")  # what has a batch in front
ROWS = ("u", "gaps", "kinds")  # what has a row in time behind it


def arguments(rng, form, hold, rule, batch=2, length=9, pairs=3, channels=2, heads=2, gaps=None, small=True):
    """Float64 arguments, queries and padding among the rows; the first eigenvalues are 0, 1e-9 and 1e-20."""

    def draw(*shape):  # of values that float32 holds exactly, so that one truth serves both precisions
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32).astype(np.float64))

    systems, states = (channels if form == "bank" else 1), 2 * pairs
    real, imag = -rng.uniform(0.1, 2.0, (systems, pairs)), rng.uniform(-9.0, 9.0, (systems, pairs))
    for j, size in enumerate((0.0, 1e-9, 1e-20)[: pairs if small else 0]):
        real[0, j], imag[0, j] = -size, 2 * size
    scale = 0.01 if 0 <= RULES[rule] < 0.5 else 0.5  # forward Euler and its like grow at large gaps
    gaps = scale * rng.exponential(1.0, (batch, length)) if gaps is None else gaps
    if form == "bank":
        maps = draw(channels, states), draw(channels, heads, states), draw(channels, heads)
    else:
        maps = draw(states, channels), draw(channels, states), draw(channels)
    clock = torch.from_numpy(gaps), torch.from_numpy(rng.choice([0, 1, 1, 1, 2], gaps.shape).astype(np.uint8))
    poles = torch.from_numpy(np.concatenate([real, imag], axis=1))
    inputs = draw(batch, length, channels), draw(batch, channels)
    return [*inputs, *clock, poles, *maps, draw(batch, systems, states), HOLD_WEIGHTS[hold], RULES[rule]]


def cast(given, dtype):
    """The same in another precision; gaps and eigenvalues stay float64."""
    named = zip(NAMES, given[:9], strict=True)
    return [v if name in WIDE else v.to(dtype) for name, v in named] + given[9:]


def changed(given, **parts):
    """Arguments with some of them replaced."""
    return [parts.get(name, v) for name, v in zip((*NAMES, "hold", "alpha"), given, strict=True)]


def mapped(given, names, function):
    """Arguments with a function applied to some of them."""
    return [function(v) if k < 9 and NAMES[k] in names else v for k, v in enumerate(given)]


def results(form, given, shown=None):
    """Outputs, the last state, and the gradient of each leaf, of a loss of `shown` rows and of the last state."""
    given = [v.detach().clone().requires_grad_() if k in LEAVES else v for k, v in enumerate(given)]
    y, last = FORMS[form](*given)
    read = y[:, :shown]
    weights = torch.cos(torch.arange(read[0].numel(), dtype=torch.float64)).reshape(read.shape[1:]).to(y.dtype)
    loss = (read * weights).sum() + last.square().sum()
    gradients = torch.autograd.grad(loss, [given[k] for k in LEAVES], allow_unused=True, materialize_grads=True)
    return [y.detach(), last.detach(), *gradients]


def twin(form, given):
    with plain_torch():
        return results(form, given)


def assert_close(found, expected, *tolerances, without=()):
    """Outputs and last state within the first tolerance, gradients within the last."""
    parts = zip(PARTS, found, expected, strict=True)
    errors = {name: relative_error(ours, theirs) for name, ours, theirs in parts if name not in without}
    wrong = {name: e for name, e in errors.items() if not e <= tolerances[0 if name in ("y", "last") else -1]}
    assert not wrong, f"relative errors beyond {tolerances}: {wrong}"


def assert_same(found, expected):
    names = PARTS[: len(found)]
    other = [name for name, a, b in zip(names, found, expected, strict=True) if not same_bits(a, b)]
    assert not other, f"bits differ in {other}"
