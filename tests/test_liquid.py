"""The liquid layer against a loop in numpy, its own equation, and the expansion in products of inputs."""

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ctlssl.kernels import plain_torch
from ctlssl.kernels.liquid_twin import liquid_factors
from ctlssl.kernels.packing import STRIDE
from ctlssl.layers import LiquidLSSL
from ctlssl.views import Integration
from tests.contracts import generator, layer_batch

FORMS = {
    "bilinear": {"method": "bilinear"},
    "backward Euler": {"method": "backward_euler"},
    "zoh": {"method": "zoh"},
    "exact": {"form": "exact"},
}
EVERY_FORM = [pytest.param(options, id=name) for name, options in FORMS.items()]


def build(seed=0, channels=2, state_size=4, **options):
    torch.default_generator.manual_seed(seed)
    layer = LiquidLSSL(channels, state_size, **{"step_range": (0.2, 1.0), "measure": "lin"} | options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def numbers(layer):
    """Complex eigenvalues, b and c (H, n), D and step sizes (H,)."""
    n = layer.state_size // 2
    B, C = (part.detach().numpy() for part in (layer.B, layer.C))
    decay, frequency = layer.log_decay.detach().numpy(), layer.frequency.detach().numpy()
    steps = layer.log_step.detach().exp().numpy()
    return -np.exp(decay) + 1j * frequency, B[:, :n] + 1j * B[:, n:], C[:, :n] + 1j * C[:, n:], layer.D.detach(), steps


def largest(holds):
    """The largest s in [0, 1] for which `holds`, by bisection."""
    low, high = 0.0, 1.0
    if holds(high):
        return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def row(options, pole, b, h, u, guard):
    """Abar, the liquid part and the drive of one number in one row."""
    z = h * pole
    if options.get("form") == "exact":
        s = largest(lambda s: (pole + s * b * u).real <= 0) if guard else 1.0
        rate = pole + s * b * u
        return np.exp(z), np.exp(h * rate) - np.exp(z), np.expm1(h * rate) / rate * b * u
    alpha = {"bilinear": 0.5, "backward_euler": 1.0}.get(options["method"])
    if alpha is None:
        decay, drive = np.exp(z), np.expm1(z) / pole * b * u
    else:
        decay, drive = (1 + (1 - alpha) * z) / (1 - alpha * z), h * b / (1 - alpha * z) * u
    s = largest(lambda s: abs(decay + s * drive) <= 1) if guard else 1.0
    return decay, s * drive, drive


def naive(layer, options, u, dt, degree=None):
    """Outputs by one loop after another; with a degree, the sum over all sets of at most so many rows."""
    poles, b, c, D, steps = numbers(layer)
    y = np.zeros(u.shape)
    for series, h in itertools.product(range(u.shape[0]), range(u.shape[2])):
        for j in range(poles.shape[1]):
            given = [
                row(options, poles[h, j], b[h, j], steps[h] * float(dt[series, k]), float(u[series, k, h]), layer.guard)
                for k in range(u.shape[1])
            ]
            x = 0.0
            for k, (decay, liquid, drive) in enumerate(given):
                x = (decay + liquid) * x + drive
                shown = x if degree is None else subsets(given[: k + 1], degree)
                y[series, k, h] += (c[h, j].conjugate() * shown).real
    return torch.from_numpy(y) + D * u


def subsets(given, degree):
    """Each set of rows gives a product: the drive of its first, the liquid part of the others, Abar between them."""
    total = 0.0
    for size in range(1, degree + 1):
        for chosen in itertools.combinations(range(len(given)), size):
            product = given[chosen[0]][2]
            for k in range(chosen[0] + 1, len(given)):
                product = product * given[k][1 if k in chosen else 0]
            total += product
    return total


@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("options", EVERY_FORM)
def test_recurrence_is_its_formula(options, scale):
    layer, (u, dt) = build(**options), layer_batch(generator("liquid", options, scale), 2, 7, channels=2)
    expected = naive(layer, options, scale * u, dt)
    assert (layer(scale * u, dt)[0] - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("options", EVERY_FORM)
def test_degree_is_the_expansion(options, guard):
    (u, dt), L = layer_batch(generator("degree", options, guard), 1, 6, channels=2), 6
    whole = build(**options, guard=guard)
    for degree in (1, 2, 3, L, L + 2):
        layer = build(**options, guard=guard, degree=degree)
        expected = naive(layer, options, u, dt, min(degree, L))
        assert (layer(u, dt)[0] - expected).abs().max() <= 1e-12 * expected.abs().max()
        if degree >= L:
            y = whole(u, dt)[0]
            assert (layer(u, dt)[0] - y).abs().max() <= 1e-12 * y.abs().max()


def test_full_degree_of_a_long_record():
    u, dt = layer_batch(generator("long"), 2, 40, channels=2)
    whole, cut = build(), build(degree=40)
    y = whole(u, dt)[0]
    assert (cut(u, dt)[0] - y).abs().max() <= 1e-12 * y.abs().max()
    fewer = build(degree=2)(u, dt)[0]
    assert (fewer - y).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_exact_form_solves_its_equation(scale):
    """Against scipy, and the integration view, with the guard at rest and at work."""
    layer, (u, dt) = build(form="exact"), layer_batch(generator("equation", scale), 2, 5, channels=2)
    u = scale * u
    y, state = layer(u, dt)
    poles, b, c, D, steps = numbers(layer)
    for series, h in itertools.product(range(2), range(2)):
        x = np.zeros(2, complex)
        for k in range(5):
            driven = b[h] * float(u[series, k, h])
            scales = [largest(lambda s, p=p, d=d: (p + s * d).real <= 0) for p, d in zip(poles[h], driven, strict=True)]
            rate = poles[h] + np.array(scales) * driven
            gap = float(dt[series, k]) * steps[h]
            x = solve_ivp(lambda t, x, r=rate, d=driven: r * x + d, (0, gap), x, rtol=1e-11, atol=1e-13).y[:, -1]
            shown = (c[h].conj() * x).real.sum() + D[h] * u[series, k, h]
            assert abs(shown - y[series, k, h]) <= 1e-8 * y.abs().max()
    for view in ("integration", Integration(rtol=1e-10, atol=1e-12)):
        found, after = layer(u, dt, lengths=torch.tensor([5, 3]), view=view)
        expected, before = layer(u, dt, lengths=torch.tensor([5, 3]))
        limit = 1e-5 if view == "integration" else 1e-8
        assert (found - expected).abs().max() <= limit * y.abs().max()
        assert (after.x - before.x).abs().max() <= limit * before.x.abs().max()


def test_paper_form_approaches_the_equation():
    """Errors of the paper's step against the exact one fall with the gaps, to first order."""
    u, dt = layer_batch(generator("order"), 1, 4, channels=2)
    errors = []
    for parts in (16, 32):
        fine = u.repeat_interleave(parts, 1), (0.2 * dt / parts).repeat_interleave(parts, 1)
        found, exact = (build(**options)(*fine)[0] for options in (FORMS["bilinear"], FORMS["exact"]))
        errors.append((found - exact).abs().max().item())
    assert 1.7 < errors[0] / errors[1] < 2.3


@pytest.mark.parametrize("options", EVERY_FORM)
def test_guard(options):
    """It keeps the factor within the unit circle, on it where it is at work, and changes no bit elsewhere."""
    layer, (u, dt) = build(**options), layer_batch(generator("guard", options), 3, 50, channels=2)
    rows = layer.read_rows(20 * u, dt)
    alpha = getattr(layer.method.rule, "alpha", -1.0)
    given = (rows.u, layer._steps(rows), layer._poles(), layer.B, alpha, layer.form == "exact")
    free, kept = (liquid_factors(*given, guard) for guard in (False, True))
    size, before = (kept.decay + kept.liquid).abs(), (free.decay + free.liquid).abs()
    assert size.max() <= 1 + 1e-12
    over = before > 1 + 1e-9
    assert over.any() and (~over).any()
    if layer.form == "paper":
        assert (size[over] - 1).abs().max() <= 1e-12
    assert torch.equal(kept.liquid[before < 1 - 1e-9], free.liquid[before < 1 - 1e-9])
    small = 1e-3 * u
    assert torch.equal(layer(small, dt)[0], build(**options, guard=False)(small, dt)[0])


@pytest.mark.parametrize("options", EVERY_FORM)
def test_gradients_at_any_gap(options):
    rng = generator("gaps", options)
    for dtype in (torch.float32, torch.float64):
        layer = build(**options).to(dtype)
        u = torch.from_numpy(5 * rng.standard_normal((3, 60, 2))).to(dtype).requires_grad_()
        dt = torch.from_numpy(10 ** rng.uniform(-9, 9, (3, 60))).requires_grad_()
        y, state = layer(u, dt)
        (y.square().mean() + state.x.square().mean()).backward()
        for part in (y, u.grad, dt.grad, *(p.grad for p in layer.parameters())):
            assert part.isfinite().all()


@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("options", EVERY_FORM)
def test_fused_loops_are_the_plain_pass(options, scale):
    """Outputs, states and all first derivatives, over checkpoints, queries and padding."""
    rng, L = generator("fused", options, scale), 2 * STRIDE + 5
    for channels, state_size in ((2, 4), (3, 2), (1, 20), (9, 6)):
        layer = build(channels=channels, state_size=state_size, **options)
        u = torch.from_numpy(scale * rng.standard_normal((3, L, channels)))
        dt, asked = torch.from_numpy(rng.exponential(1.0, (3, L))), torch.from_numpy(rng.random((3, L)) < 0.2)
        dt[:, ::9] *= 1e-4
        x = torch.from_numpy(rng.standard_normal((3, channels, state_size)))
        weights = torch.from_numpy(rng.standard_normal(u.shape))

        def run(layer=layer, given=(u, dt, x), asked=asked, weights=weights):
            u, dt, x = (part.clone().requires_grad_() for part in given)
            state = layer.initial_state(3)._replace(x=x)
            y, state = layer(u, dt, torch.tensor([L, STRIDE, 0]), state, asked)
            loss = (weights * y).sum() + state.x.square().sum()
            return [y, state.x, *torch.autograd.grad(loss, [u, dt, x, *layer.parameters()])]

        found = run()
        with plain_torch():
            expected = run()
        for mine, theirs in zip(found, expected, strict=True):
            assert (mine - theirs).abs().max() <= 1e-11 * max(theirs.abs().max().item(), 1e-3)


@pytest.mark.parametrize("options", [*EVERY_FORM, pytest.param({"degree": 2}, id="degree 2")])
def test_gradcheck(options):
    layer, (u, dt) = build(channels=1, **options), layer_batch(generator("gradcheck", options), 1, 4, channels=1)
    given = [part.clone().requires_grad_() for part in (2 * u, dt)]
    parameters = dict(layer.named_parameters())

    def outputs(u, dt, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (u, dt))[0]

    values = [value.detach().clone().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(outputs, (*given, *values), rtol=1e-5, atol=1e-7)
    assert torch.autograd.gradgradcheck(lambda u, dt: layer(u, dt)[0], given, rtol=1e-4, atol=1e-6)


def test_memory_of_the_way_back():
    """What is kept is one state in so many rows, not one a row."""
    layer, sizes = build(channels=4, state_size=8), []
    for L in (STRIDE * 4, STRIDE * 8):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            layer(torch.randn(2, L, 4, dtype=torch.float64), torch.rand(2, L))
        sizes.append(sum(kept))
        assert max(kept) <= 2 * L * 4  # inputs and steps of channels are the largest
    assert sizes[1] < 2.1 * sizes[0]


def test_doors():
    for wrong, said in (
        ({"method": "forward_euler"}, "does not grow; found forward_euler"),
        ({"method": "impulse"}, "holds the input at the end"),
        ({"form": "other"}, "form is one of paper, exact; found 'other'"),
        ({"degree": 0}, "at least 1; found 2, 4 and 0"),
        ({"measure": "none"}, "none"),
        ({"state_size": 3}, "even|odd"),
    ):
        with pytest.raises(ValueError, match=said):
            build(**wrong)
    with pytest.raises(ValueError, match="has the views auto, recurrence; found"):
        build()(torch.zeros(1, 2, 2), view=Integration())
