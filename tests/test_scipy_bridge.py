"""Systems to and from scipy.signal, and scipy's own discretizations and simulations of the same system."""

import numpy as np
import pytest
import scipy.signal
import torch

from ctlssl.discretization import METHODS, Discretization, exact, gbt
from ctlssl.holds import PREVIOUS
from ctlssl.state_matrices import Dense
from ctlssl.state_space import StateSpace
from ctlssl.views import State, convolution, recurrence
from tests.contracts import KIND_PARAMS, STRUCTURE_PARAMS, generator, random_system
from tests.problems import relative_error

FORMS = {
    "states": scipy.signal.StateSpace([[-1.0, 2.0], [-3.0, -0.5]], [[1.0], [0.5]], [[1.0, -1.0]], [[0.3]]),
    "transfer": scipy.signal.TransferFunction([1.0, 2.0], [1.0, 0.4, 4.0, 0.2]),
    "zeros": scipy.signal.ZerosPolesGain([-1.0], [-0.3 + 2j, -0.3 - 2j], 1.7),
    "lti": scipy.signal.lti([2.0], [1.0, 3.0]),
}
FORM_PARAMS = [pytest.param(form, id=name) for name, form in FORMS.items()]


@pytest.mark.parametrize("form", FORM_PARAMS)
def test_one_input_from_scipy(form):
    space = StateSpace.from_scipy(form)
    assert not space.multi_input and space.channels == 1
    omega = np.logspace(-2, 2, 30)
    _, expected = scipy.signal.freqresp(form, omega)
    found = space.frequency_response(torch.from_numpy(omega))
    assert found.shape == (30, 1, 1, 1)
    np.testing.assert_allclose(found[:, 0, 0, 0], expected, rtol=1e-10)
    times = np.linspace(0, 8, 50)
    _, expected = scipy.signal.impulse(form, T=times)
    found = space.impulse_response(torch.from_numpy(times))
    np.testing.assert_allclose(found[:, 0, 0, 0], expected, atol=1e-10)
    expected = np.sort_complex(form.poles)
    np.testing.assert_allclose(np.sort_complex(space.poles().flatten().numpy()), expected, rtol=1e-10)


def test_several_outputs_become_heads():
    rng = generator("heads")
    A, B = rng.standard_normal((4, 4)) - 3 * np.eye(4), rng.standard_normal((4, 1))
    C, D = rng.standard_normal((3, 4)), rng.standard_normal((3, 1))
    space = StateSpace.from_scipy(scipy.signal.StateSpace(A, B, C, D))
    assert (space.channels, space.heads) == (1, 3)
    times, u = np.linspace(0, 2, 41), rng.standard_normal(41)
    u[0] = 0.0
    _, expected, states = scipy.signal.lsim((A, B, C, D), u, times)
    given, gaps = torch.from_numpy(u)[None, :, None], torch.from_numpy(np.diff(times, prepend=0.0))[None]
    found = recurrence(space, METHODS["foh"], given, gaps)
    np.testing.assert_allclose(found.y[0], expected, atol=1e-12)
    np.testing.assert_allclose(found.state.x[0, 0], states[-1], atol=1e-12)


def test_several_inputs_become_a_multi_input_system():
    rng = generator("inputs")
    A, B = rng.standard_normal((4, 4)) - 3 * np.eye(4), rng.standard_normal((4, 2))
    C, D = rng.standard_normal((2, 4)), np.diag(rng.standard_normal(2))
    original = scipy.signal.StateSpace(A, B, C, D)
    space = StateSpace.from_scipy(original)
    assert space.multi_input and space.channels == 2
    for ours, theirs in zip(space.to_dense(), (A, B, C, np.diag(D)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    back = space.to_scipy()
    for ours, theirs in zip((back.A, back.B, back.C, back.D), (A, B, C, D), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    omega = np.array([0.1, 3.0])
    found = space.frequency_response(torch.from_numpy(omega))
    expected = [C @ np.linalg.solve(1j * w * np.eye(4) - A, B) + D for w in omega]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
@pytest.mark.parametrize("multi_input", KIND_PARAMS)
def test_every_structure_to_scipy(structure, multi_input):
    rng = generator("to scipy", structure.name, multi_input)
    system = random_system(structure, rng, multi_input)
    omega, times = np.logspace(-1, 1, 7), np.linspace(0, 3, 9)
    frequencies = system.space.frequency_response(torch.from_numpy(omega)).numpy()
    impulses = system.space.impulse_response(torch.from_numpy(times)).numpy()
    poles = system.space.poles().reshape(-1, 6).numpy()
    for g, (A, B, C, D) in enumerate(system.groups):
        lti = system.space.to_scipy(None if multi_input else g)
        for ours, theirs in zip((lti.A, lti.B, lti.C, lti.D), (A, B, C, D), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12 * np.abs(theirs).max())
        expected = np.array([C @ np.linalg.solve(1j * w * np.eye(6) - A, B) + D for w in omega])
        assert np.abs(frequencies[:, g] - expected).max() < 1e-11 * np.abs(expected).max()
        expected = np.array([C @ scipy.linalg.expm(A * t) @ B for t in times])
        assert relative_error(impulses[:, g], expected) < 1e-11
        for pole in np.linalg.eigvals(A):
            assert np.abs(poles[g] - pole).min() < 1e-9


@pytest.mark.parametrize("form", FORM_PARAMS)
@pytest.mark.parametrize(
    ("method", "name", "alpha"),
    [
        (METHODS["forward_euler"], "euler", None),
        (METHODS["bilinear"], "bilinear", None),
        (METHODS["backward_euler"], "backward_diff", None),
        (Discretization(gbt(0.3)), "gbt", 0.3),
        (METHODS["zoh"], "zoh", None),
    ],
    ids=["euler", "bilinear", "backward", "gbt", "zoh"],
)
def test_steps_are_scipys(form, method, name, alpha):
    """Abar and Bbar of scipy.signal.cont2discrete; its input is one row early, ours is on the row itself."""
    form = form.to_ss()
    space = StateSpace.from_scipy(form)
    h = 0.07
    A, B, *_ = scipy.signal.cont2discrete((form.A, form.B, form.C, form.D), h, name, alpha=alpha)
    N = len(form.A)
    gap = torch.full((N + 1, 1), h, dtype=torch.float64)
    start = torch.cat([torch.eye(N), torch.zeros(1, N)]).double()[:, None]
    u = torch.zeros(N + 1, 1, 1, dtype=torch.float64)
    u[N] = 1.0
    found = recurrence(space, method, u, gap, State(start, torch.zeros(N + 1, 1, dtype=torch.float64))).state.x[:, 0]
    np.testing.assert_allclose(found[:N].T, A, atol=1e-13)
    np.testing.assert_allclose(found[N], B[:, 0], atol=1e-13)


@pytest.mark.parametrize("form", FORM_PARAMS)
@pytest.mark.parametrize("view", [recurrence, convolution], ids=["recurrence", "convolution"])
def test_simulations_are_scipys(form, view):
    """lsim interpolates linearly (foh) or holds the previous sample; both against our views on a uniform grid."""
    rng = generator("lsim")
    form = form.to_ss()
    space = StateSpace.from_scipy(form)
    times, u = np.linspace(0, 6, 121), rng.standard_normal(121)
    u[0] = 0.0  # lsim starts at rest at times[0], the layer one gap before it
    gaps = torch.full((1, 121), times[1], dtype=torch.float64)
    for method, interp in ((METHODS["foh"], True), (Discretization(exact, PREVIOUS), False)):
        _, expected, _ = scipy.signal.lsim(form, u, times, interp=interp)
        found = view(space, method, torch.from_numpy(u)[None, :, None], gaps).y[0, :, 0]
        np.testing.assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize("structure", STRUCTURE_PARAMS)
def test_a_bank_may_share_its_matrix(structure):
    rng = generator("shared", structure.name)
    A, truth = structure.member(rng, 6)
    B, C, D = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((3, 6), (3, 2, 6), (3, 2)))
    space = StateSpace(A, B, C, D)
    omega, times = torch.tensor([0.3, 2.0]).double(), torch.tensor([0.0, 0.4, 1.5, 2.0]).double()
    frequencies, impulses = space.frequency_response(omega), space.impulse_response(times)
    assert frequencies.shape == (2, 3, 2, 1) and impulses.shape == (4, 3, 2, 1)
    for h in range(3):
        alone = StateSpace(Dense(torch.from_numpy(truth)[None]), B[h : h + 1], C[h : h + 1], D[h : h + 1])
        np.testing.assert_allclose(frequencies[:, h], alone.frequency_response(omega)[:, 0], rtol=1e-9)
        assert relative_error(impulses[:, h], alone.impulse_response(times)[:, 0]) < 1e-11
        u, dt = torch.from_numpy(rng.standard_normal((2, 5, 3))), torch.from_numpy(rng.exponential(0.3, (2, 5)))
        for name in ("bilinear", "foh", "impulse"):
            together = recurrence(space, METHODS[name], u, dt).y[..., 2 * h : 2 * h + 2]
            assert relative_error(together, recurrence(alone, METHODS[name], u[..., h : h + 1], dt).y) < 1e-11
            grid = torch.full_like(dt, 0.3)
            together = convolution(space, METHODS[name], u, grid).y[..., 2 * h : 2 * h + 2]
            assert relative_error(together, recurrence(alone, METHODS[name], u[..., h : h + 1], grid).y) < 1e-11


def test_what_cannot_be_taken_over_is_refused():
    discrete = scipy.signal.StateSpace([[0.5]], [[1.0]], [[1.0]], [[0.0]], dt=0.1)
    with pytest.raises(ValueError, match=r"continuous.*0\.1"):
        StateSpace.from_scipy(discrete)
    square = np.eye(2)
    for C, D in ((np.eye(2), np.ones((2, 2))), (np.ones((1, 2)), np.zeros((1, 2)))):
        with pytest.raises(ValueError, match="diagonal D"):
            StateSpace.from_scipy(scipy.signal.StateSpace(-square, square, C, D))
    bank = random_system(STRUCTURE_PARAMS[0].values[0], generator("bank"), False).space
    for channel in (None, 2, -1):
        with pytest.raises(ValueError, match="0 to 1"):
            bank.to_scipy(channel)


def test_shapes_that_do_not_fit_are_refused():
    A = Dense(-torch.eye(2))
    with pytest.raises(ValueError, match="bank"):
        StateSpace(A, torch.ones(3, 2), torch.ones(3, 2), torch.ones(3, 1))
    with pytest.raises(ValueError, match="multi-input"):
        StateSpace(A, torch.ones(3, 2), torch.ones(3, 2), torch.ones(3), multi_input=True)
