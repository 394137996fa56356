"""Free and forced runs of a learned system against naive loops, and training against systems that are known."""

import math

import numpy as np
import pytest
import torch

from ctlssl.dynamics import AlmostLinearDynamics
from ctlssl.training import TeacherForcing, fit_dynamics
from tests.contracts import generator


def make(rng, observed=2, state_size=5, relus=2):
    """A system in float64 with drawn parameters."""
    system = AlmostLinearDynamics(observed, state_size, relus=relus).double()
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.from_numpy(rng.standard_normal(parameter.shape)))
    return system


def naive_step(system, z, gap):
    """One step of one state, z (N,)."""
    layer = system.layer
    step, a = (part.detach().exp().numpy() for part in (layer.log_step, layer.log_decay))
    W, b = layer.W.detach().numpy(), layer.bias.detach().numpy()
    seen = np.array([max(v, 0) if i >= len(z) - layer.relus else v for i, v in enumerate(z)])
    kept = np.exp(-a * step * gap)
    return kept * z + (1 - kept) / a * (W @ seen + b)


@pytest.mark.parametrize("interval", [1, 3, 50])
def test_forced_runs(interval):
    """Row by row: predict, then overwrite what is observed at every interval-th row."""
    rng = generator("forced", interval)
    system, s, dt = make(rng), rng.standard_normal((2, 8, 2)), rng.exponential(1.0, (2, 8))
    found = system.forced(torch.from_numpy(s), torch.from_numpy(dt), interval)
    for b in range(2):
        z = np.concatenate([s[b, 0], system.lift.detach().numpy() @ s[b, 0]])
        for k in range(1, 8):
            z = naive_step(system, z, dt[b, k])
            np.testing.assert_allclose(found[b, k - 1].detach(), z[:2], atol=1e-12)
            if k % interval == 0:
                z[:2] = s[b, k]


def test_gaps_in_every_form():
    rng = generator("gaps")
    system, s = make(rng), torch.from_numpy(rng.standard_normal((2, 6, 2)))
    expected = system.forced(s, torch.full((2, 6), 0.5), 2)
    for dt in (0.5, torch.tensor(0.5), torch.full((6,), 0.5)):
        assert torch.allclose(system.forced(s, dt, 2), expected, atol=1e-14)
    assert torch.allclose(system.forced(s, None, 2), system.forced(s, 1.0, 2))
    assert system.forced(s[:, :1], 1.0, 2).shape == (2, 0, 2)


def test_free_runs_are_those_of_the_layer():
    rng = generator("free")
    system, start = make(rng), torch.from_numpy(rng.standard_normal((2, 2)))
    dt = torch.from_numpy(rng.exponential(1.0, (2, 7)))
    states = system.generate(start, dt)
    for b in range(2):
        z = system.start(start)[b].detach().numpy()
        for k in range(7):
            z = naive_step(system, z, dt[b, k].item())
            np.testing.assert_allclose(states[b, k], z, atol=1e-12)
    layer_state = system.layer.initial_state(2)._replace(x=system.start(start))
    y, _ = system.layer(torch.zeros(2, 7, 2).double(), dt, state=layer_state)
    assert torch.allclose(y, states[..., :2], atol=1e-13)
    again = system.generate(states[:, 2], dt[:, 3:])
    assert torch.allclose(again, states[:, 3:], atol=1e-13)


def test_forcing_bounds_the_gradients_of_an_unstable_system():
    """z' = z: over free rows gradients grow with the length, between times of forcing they do not."""
    system = AlmostLinearDynamics(1, 1, relus=0, step_range=(0.1, 0.1)).double()
    torch.nn.init.constant_(system.layer.W, 2.0)
    s = torch.ones(1, 301, 1).double()
    sizes = {}
    for interval in (10, 300):
        (slope,) = torch.autograd.grad(system.forced(s, 1.0, interval).sum(), system.layer.W)
        sizes[interval] = slope.abs().item()
    assert sizes[10] < 1e3 and sizes[300] > 1e12


@pytest.mark.parametrize("irregular", [False, True])
def test_learns_a_spiral(irregular):
    """A linear system: what is learned has its eigenvalues, from equal gaps and from any."""
    rng = generator("spiral", irregular)
    gaps = rng.uniform(0.02, 0.18, 400) if irregular else np.full(400, 0.1)
    decay, speed = -0.05, 1.0
    t = np.cumsum(gaps)
    path = np.exp(decay * t)[:, None] * np.stack([np.cos(speed * t), np.sin(speed * t)], axis=1)
    torch.manual_seed(0)
    system = AlmostLinearDynamics(2, 2, relus=0, step_range=(0.5, 0.5))
    training = TeacherForcing(interval=10, length=60, batches=400, batch_size=16, learning_rate=0.05, last_rate=1e-3)
    losses = fit_dynamics(system, torch.from_numpy(path), torch.from_numpy(gaps) if irregular else 0.1, training)
    assert losses[-1] < 1e-3 * losses[0] and len(losses) == 400
    found = np.log(system.layer.fixed_points(dt=0.1).multipliers[0].numpy()) / 0.1
    assert found.real == pytest.approx([decay, decay], abs=0.02) and abs(found.imag) == pytest.approx(speed, abs=0.02)
    assert system.layer.fixed_points().state[0].abs().max() < 0.02
    run = system.generate(torch.from_numpy(path[:1]).float(), torch.full((100,), 0.1))[0].numpy()
    assert math.isclose(np.hypot(*run[-1]), np.exp(decay * (gaps[0] + 10)), rel_tol=0.15)


def test_the_same_seed_trains_the_same():
    path = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        training = TeacherForcing(interval=4, length=10, batches=3, batch_size=2, seed=seed)
        found.append(fit_dynamics(AlmostLinearDynamics(2, 6), path, training=training))
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()


def test_doors():
    system, s = AlmostLinearDynamics(2, 5), torch.zeros(1, 4, 2)
    for call, said in (
        (lambda: AlmostLinearDynamics(3, 4, relus=2), r"3 \+ 2; found 4"),
        (lambda: system.forced(s[..., :1], 1.0, 2), "observations need shape"),
        (lambda: system.forced(s, torch.ones(3), 2), "dt needs shape"),
        (lambda: system.forced(s, -1.0, 2), "negative"),
        (lambda: system.forced(s, 1.0, 0), "interval"),
        (lambda: system.generate(s[:, 0]), "steps is None"),
        (lambda: system.generate(torch.zeros(1, 3), 1.0, 5), "start needs shape"),
        (lambda: fit_dynamics(system, s[0]), "at least 200 rows"),
        (lambda: fit_dynamics(system, torch.full((300, 2), torch.nan)), "not finite"),
        (lambda: fit_dynamics(system, torch.zeros(300, 2), torch.ones(299)), "one gap a row"),
        (lambda: TeacherForcing(interval=0), "interval is 0"),
        (lambda: TeacherForcing(clip=0.0), "clip is 0.0"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    with torch.no_grad():
        system.layer.bias.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="batch 0"):
        fit_dynamics(system, torch.zeros(300, 2))
