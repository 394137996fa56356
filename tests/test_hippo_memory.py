"""HiPPO as a memory: coefficients against quadrature and slow steps, reconstruction against bounds that are proved."""

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.polynomial import legendre

from ctlssl import hippo, remember_history, remember_window
from tests import problems
from tests.contracts import generator
from tests.problems import relative_error

NODES, WEIGHTS = legendre.leggauss(400)


def signal(t):
    """A decaying cosine: smooth, and beyond the reach of a cubic on [0, 1]."""
    return np.exp(-3 * t) * np.cos(3 * np.pi * t)


def slope(t):
    return -np.exp(-3 * t) * (3 * np.cos(3 * np.pi * t) + 3 * np.pi * np.sin(3 * np.pi * t))


def bend(t):
    return np.exp(-3 * t) * ((9 - 9 * np.pi**2) * np.cos(3 * np.pi * t) + 18 * np.pi * np.sin(3 * np.pi * t))


def irregular(rng, count, end=1.0):
    """Samples over two decades of gaps that end at `end`, (count,)."""
    times = np.cumsum(10 ** rng.uniform(-1, 1, count))
    return times * (end / times[-1])


def polynomials(place, N):
    """Normalised Legendre polynomials at places 0 to 1, (N, Q), by numpy."""
    return np.stack([np.sqrt(2 * n + 1) * legendre.legval(2 * place - 1, np.eye(n + 1)[n]) for n in range(N)])


def projected(pieces, N, begin, now):
    """Coefficients (N,) of a function given in pieces (left, right, f), by Gauss quadrature on each."""
    found = np.zeros(N)
    nodes, weights = legendre.leggauss(20)
    for left, right, f in pieces:
        s = left + (right - left) * (nodes + 1) / 2
        found += polynomials((s - begin) / (now - begin), N) @ (weights * f(s)) * (right - left) / 2 / (now - begin)
    return found


def tail(f, N, begin, now):
    """Root mean square of what N polynomials leave of a smooth function on [begin, now]."""
    s = begin + (now - begin) * (NODES + 1) / 2
    basis = polynomials((s - begin) / (now - begin), N)
    rest = f(s) - basis.T @ (basis @ (WEIGHTS / 2 * f(s)))
    return np.sqrt(WEIGHTS / 2 @ rest**2)


def error(memory, f, begin, now):
    """Root mean square error of the reconstruction on [begin, now]."""
    s = begin + (now - begin) * (NODES + 1) / 2
    return np.sqrt(WEIGHTS / 2 @ (memory.reconstruct(torch.from_numpy(s)).numpy() - f(s)) ** 2)


@pytest.mark.parametrize("method", ["zoh", "foh"])
def test_a_history_is_the_projection_of_the_held_signal(method):
    rng = generator("projection", method)
    t, N = irregular(rng, 60), 9
    u = rng.standard_normal(60)
    memory = remember_history(torch.from_numpy(u), torch.from_numpy(t), N, method)
    for last in (0, 1, 7, 59):
        pieces = [(0.0, t[0], lambda s: u[0] + 0 * s)]
        for k in range(1, last + 1):
            held = {
                "zoh": lambda s, k=k: u[k] + 0 * s,
                "foh": lambda s, k=k: np.interp(np.log(s), np.log(t[k - 1 : k + 1]), u[k - 1 : k + 1]),
            }
            # A few parts a gap: a straight line over the logarithm is no polynomial.
            cuts = np.geomspace(t[k - 1], t[k], 9)
            pieces += [(a, b, held[method]) for a, b in zip(cuts, cuts[1:], strict=False)]
        assert relative_error(memory.coefficients[last], projected(pieces, N, 0.0, t[last])) < 1e-12


@pytest.mark.parametrize("name", ["zoh", "foh", "bilinear", "backward_euler", "trapezoid"])
def test_coefficients_against_slow_steps(name):
    """Both memories, one step after the other in numpy, from -A^-1 B u_1."""
    rng = generator("slow", name)
    t, N = 0.3 + irregular(rng, 12), 6
    u = rng.standard_normal(12)
    for measure, gaps, memory in (
        ("legs", np.diff(np.log(t - 0.1)), remember_history(torch.tensor(u), torch.tensor(t), N, name, origin=0.1)),
        ("legt", np.diff(t) / 0.4, remember_window(torch.tensor(u), torch.tensor(t), 0.4, N, name)),
    ):
        A, B = (m.numpy() for m in getattr(hippo, measure)(N))
        start = -np.linalg.solve(A, B) * u[0]
        assert relative_error(memory.coefficients[0], start) < 1e-12
        state, D = (start, u[:1]), np.zeros((N, 1))
        truth = problems.simulate(A, B[:, None], np.eye(N), D, problems.METHODS[name], u[1:, None], gaps, state)
        assert relative_error(memory.coefficients[1:], truth.y) < 1e-11


@pytest.mark.parametrize("N", [4, 8, 16])
@pytest.mark.parametrize("seed", range(3))
def test_history_within_its_bound(N, seed):
    """What the polynomials leave and what the hold does, and no more: a projection enlarges nothing.

    Held values are off by less than (s's gap) max|u'|; lines over tau = ln t by less than (d tau)^2 / 8 max|u''(tau)|.
    """
    t = irregular(generator("bound", seed), 500)
    fine = np.linspace(0, 1, 5001)
    left, gaps = tail(signal, N, 0.0, 1.0), np.diff(t, prepend=0.0)
    begun = gaps[0] ** 3 / 3 * np.abs(slope(fine)).max() ** 2  # the first sample, held since the origin
    curved = t[1:] * np.abs(slope(fine)).max() + t[1:] ** 2 * np.abs(bend(fine)).max()  # d^2 u / d tau^2 up to there
    holds = {
        "zoh": (gaps[1:] ** 3 / 3).sum() * np.abs(slope(fine)).max() ** 2,
        "foh": (gaps[1:] * (np.diff(np.log(t)) ** 2 / 8 * curved) ** 2).sum(),
    }
    for method, held in holds.items():
        memory = remember_history(torch.from_numpy(signal(t)), torch.from_numpy(t), N, method)
        found, bound = error(memory, signal, 0.0, 1.0), left + np.sqrt(begun + held)
        print(method, N, found, bound)
        assert 0.9 * left <= found <= bound


@pytest.mark.parametrize("grid", ["uniform", "irregular"])
def test_history_error_falls_with_its_size_to_the_floor_of_the_hold(grid):
    """2,000 samples of the decaying cosine: root mean square error, relative to the signal's own root mean square."""
    t = np.arange(1, 2001) / 2000 if grid == "uniform" else irregular(generator("table"), 2000)
    size = np.sqrt(WEIGHTS / 2 @ signal((NODES + 1) / 2) ** 2)
    found = {}
    for method in ("zoh", "foh"):
        memories = [remember_history(torch.from_numpy(signal(t)), torch.from_numpy(t), N, method) for N in (4, 8, 16)]
        found[method] = [error(memory, signal, 0.0, 1.0) / size for memory in memories]
    print(grid, found)
    for errors in found.values():
        assert errors[0] > 10 * errors[1] > 20 * errors[2]
    # The holds' own floors: half a gap of delay, and curvature; more polynomials would gain nothing.
    delay = np.sqrt(np.interp(NODES / 2 + 0.5, t, np.diff(t, prepend=0.0)) ** 2 @ (WEIGHTS / 2)) / 2
    assert found["zoh"][2] < 15 * delay
    assert found["foh"][2] < found["zoh"][2] / 20
    assert found["foh"][2] < (1e-4 if grid == "uniform" else 1e-3)


@pytest.mark.parametrize(("method", "N"), [("zoh", 8), ("foh", 8), ("foh", 12)])
def test_window_within_its_bound(method, N):
    """What the polynomials leave, what the coefficients get wrong of the signal that leaves, and what the hold does.

    The projection p of the true signal obeys p' = A p + B u - b_ e / w, e being its own error at the end where the
    signal leaves: the difference to x is at most the gain of A from there times max|e|, and that from B times the
    largest error of the hold.
    """
    rng, window = generator("window", method, N), 0.8
    t = irregular(rng, 1500, end=3.0)
    t[0] = 0.0

    def u(s):
        return np.cos(4 * np.maximum(s, 0.0))  # held at its first value before the first sample

    memory = remember_window(torch.from_numpy(u(t)), torch.from_numpy(t), window, N, method)
    A, B = (m.numpy() for m in hippo.legt(N))
    leaving = B * (-1.0) ** np.arange(N)
    fine = np.linspace(0, 40, 8001)
    step, turns = scipy.linalg.expm(A * fine[1]), [leaving, B]
    gains = np.zeros(2)
    for _ in fine:
        gains += [np.linalg.norm(v) * fine[1] for v in turns]
        turns = [step @ v for v in turns]
    lost = 0.0
    for end in np.linspace(1e-3, 3.0, 400):
        pieces = [(max(end - window, 0.0), end, u)] + ([(end - window, 0.0, u)] if end < window else [])
        x = projected(pieces, N, end - window, end)
        left = abs((polynomials(np.zeros(1), N).T @ x)[0] - u(end - window))
        lost = max(lost, left)
    gap = np.diff(t).max()
    hold = {"zoh": 4 * gap, "foh": 16 * gap**2 / 8}[method]
    bound = tail(u, N, 3.0 - window, 3.0) + 1.05 * (gains[0] * lost + gains[1] * hold)
    found = error(memory, u, 3.0 - window, 3.0)
    print(method, N, found, bound, gains, lost, hold)
    assert found <= bound < 0.5


def test_constants_are_remembered_to_rounding():
    rng = generator("constants")
    t = torch.from_numpy(irregular(rng, 40, end=5.0))
    for memory in (remember_history(2 + 0 * t, t, 7, "foh"), remember_window(2 + 0 * t, t, 0.5, 7, "zoh")):
        begin, now = memory.span()
        past = begin + (now - begin) * torch.linspace(0, 1, 30, dtype=torch.float64)
        torch.testing.assert_close(memory.reconstruct(past), 2 + 0 * past, rtol=1e-12, atol=1e-12)


def test_units_and_shifts_of_time():
    rng = generator("units")
    t, u = torch.from_numpy(irregular(rng, 50)), torch.from_numpy(rng.standard_normal(50))
    history, window = remember_history(u, t, 10), remember_window(u, t, 0.3, 10)
    for scale, shift in ((3600.0, 0.0), (1.0, 1e5), (1e-3, -7.0)):
        moved = scale * t + shift
        again = remember_history(u, moved, 10, origin=shift), remember_window(u, moved, 0.3 * scale, 10)
        for before, after in zip((history, window), again, strict=True):
            assert relative_error(after.coefficients, before.coefficients) < (1e-6 if shift else 1e-12)


@pytest.mark.parametrize("method", ["zoh", "foh", "trapezoid"])
def test_batches_parts_and_rows(method):
    """A batch is its series one by one; a memory goes on where it stopped; each row is a memory of its own."""
    rng = generator("parts", method)
    t = torch.from_numpy(np.stack([irregular(rng, 30, end) for end in (1.0, 2.0)]))
    u = torch.from_numpy(rng.standard_normal((2, 30)))
    for remember in (
        lambda *given, **rest: remember_history(*given, 8, method, **rest),
        lambda *given, **rest: remember_window(*given, 0.7, 8, method, **rest),
    ):
        whole = remember(u, t)
        for b in range(2):
            assert relative_error(remember(u[b], t[b]).coefficients, whole.coefficients[b]) < 1e-13
        first = remember(u[:, :11], t[:, :11])
        rest = remember(u[:, 11:], t[:, 11:], after=first)
        assert relative_error(rest.coefficients, whole.coefficients[:, 11:]) < 1e-13
        rows = torch.tensor([29, 12])
        begin, now = whole.span(rows)
        past = begin[:, None] + (now - begin)[:, None] * torch.tensor([0.0, 0.5, 1.0])
        found = whole.reconstruct(past, rows)
        assert relative_error(found[1], remember(u[1, :13], t[1, :13]).reconstruct(past[1])) < 1e-13


def test_samples_at_one_time_and_single_samples():
    t = torch.tensor([0.5, 1.0, 1.0, 2.0])
    doubled = remember_history(torch.tensor([1.0, 7.0, 3.0, 2.0]), t, 5, "foh").coefficients
    assert doubled.dtype == torch.float64 and doubled.isfinite().all()
    torch.testing.assert_close(doubled[2], doubled[1])  # no time, no weight; the line goes on from the last value
    assert remember_window(torch.tensor([1.0]), torch.tensor([0.5]), 1.0, 1).reconstruct([0.0, 0.5]).tolist() == [1, 1]


def test_gradients_with_respect_to_the_samples():
    t = torch.linspace(0.1, 1, 7, dtype=torch.float64)
    u = torch.from_numpy(generator("gradient").standard_normal(7)).requires_grad_()
    past = torch.linspace(0.3, 0.9, 4, dtype=torch.float64)
    for method in ("foh", "bilinear"):
        assert torch.autograd.gradcheck(lambda v, m=method: remember_history(v, t, 4, m).reconstruct(past), u)
        assert torch.autograd.gradcheck(lambda v, m=method: remember_window(v, t, 0.8, 4, m).reconstruct(past), u)


def test_what_cannot_be_remembered_is_refused():
    t, u = torch.linspace(1, 2, 5, dtype=torch.float64), torch.zeros(5)
    memory = remember_window(u, t, 0.5, 4)
    refused = {
        "not after the origin": lambda: remember_history(u, t, 4, origin=1.0),
        "origin must be finite": lambda: remember_history(u, t + 9, 4, after=remember_history(u, t, 4), origin=0.5),
        "only 1.5 to 2": lambda: memory.reconstruct(torch.tensor([1.7, 1.2])),
        "has no hold": lambda: remember_history(u, t, 4, "impulse"),
        "positive finite length": lambda: remember_window(u, t, 0.0, 4),
        "has window 0.5": lambda: remember_window(u, t + 9, 0.6, 4, after=memory),
        "sort the samples": lambda: remember_window(u, t, 0.5, 4, after=memory),
        "value at \\(2,\\) is not finite": lambda: remember_window(torch.where(t == 1.5, torch.nan, u), t, 0.5, 4),
        "times \\(L,\\) or the same": lambda: remember_history(u[:, None], t, 4),
        "4 coefficients, not 5": lambda: remember_window(u, t + 9, 0.5, 5, after=memory),
        "positive integer": lambda: remember_window(u, t, 0.5, 0),
        "of series \\(\\)": lambda: remember_window(u[None], t + 9, 0.5, 4, after=memory),
    }
    for words, call in refused.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_ticks_that_float64_has_no_numbers_for_are_refused():
    ticks = 1_700_000_000_000_000_000 + 100 * np.arange(5)
    unsigned = ticks.astype(np.uint64), np.full(5, 2**64 - 5, dtype=np.uint64)
    for given in (ticks, torch.from_numpy(ticks), ticks.tolist(), *unsigned):
        for remember in (
            lambda times: remember_window(torch.ones(5), times, window=1000.0, state_size=4),
            lambda times: remember_history(torch.ones(5), times, state_size=4),
        ):
            with pytest.raises(ValueError, match=r"times: integers beyond 2\*\*53"):
                remember(given)
    for kind in (np.int64, np.uint64, np.uint16, np.float32):
        memory = remember_window(torch.ones(5), (ticks - ticks[0]).astype(kind), window=1000.0, state_size=4)
        assert memory.times.tolist() == [0.0, 100.0, 200.0, 300.0, 400.0]
