"""Two lemmas of the LSSL paper that tie linear layers to gated and to nonlinear recurrent networks."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch

from ctlssl.discretization import METHODS
from ctlssl.layers.lssl import LSSL
from ctlssl.state_matrices import Dense, Quasiseparable
from ctlssl.state_space import StateSpace
from ctlssl.views import State, recurrence
from tests.contracts import generator

ONE = torch.ones(1, dtype=torch.float64)
LEAK = {  # A = -1 in the structures that have a state of size one
    "dense": Dense(-ONE[None]),
    "quasiseparable": Quasiseparable(ONE, 0 * ONE, ONE, ONE[:0], ONE, ONE[:0]),
}


@pytest.mark.parametrize("A", [pytest.param(A, id=name) for name, A in LEAK.items()])
def test_gates_are_step_sizes(A):
    """Backward Euler of x' = -x + u with the step e^z is x_k = (1 - sigma(z)) x_{k-1} + sigma(z) u_k."""
    rng = generator("gate")
    space = StateSpace(A, ONE[None], ONE[None, None], 0 * ONE[None])
    z, u = rng.uniform(-20, 20, 40), rng.standard_normal(40)
    gate = 1 / (1 + np.exp(-z))
    x, expected = 0.5, []
    for k in range(40):
        x = (1 - gate[k]) * x + gate[k] * u[k]
        expected.append(x)
    gaps = torch.from_numpy(np.exp(z))[None]
    start = State(torch.full((1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    found = recurrence(space, METHODS["backward_euler"], torch.from_numpy(u)[None, :, None], gaps, start)
    np.testing.assert_allclose(found.y[0, :, 0], expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("method", ["foh", "trapezoid"])
def test_depth_is_picard_iteration(method):
    """Layers x' = -x + f(x of the layer below) reach x' = -x + f(x), with an error that falls like (KT)^l / l!.

    On an irregular grid. What is left at the end is the discretization, which the fixed point of the same layer shares.
    """
    rng = generator("picard")
    layer = LSSL(1, 1, structure="dense", method=method, step_range=(1.0, 1.0)).double()
    torch.testing.assert_close(layer.system().to_dense()[0], -torch.ones(1, 1, 1, dtype=torch.float64))
    layer.C.data.fill_(1.0)
    layer.D.data.fill_(0.0)
    end, start, lipschitz = 2.0, 0.3, 2.0
    times = np.append(np.sort(rng.uniform(0, end, 799)), end)
    dt = torch.from_numpy(np.diff(times, prepend=0.0))[None]

    def f(x):
        return np.sin(lipschitz * x) + 0.5

    below, outputs = np.full(800, start), []
    first = torch.tensor([[f(start)]])  # the last input of the state is f(x) at time 0
    state = State(torch.full((1, 1, 1), start, dtype=torch.float64), first)
    with torch.no_grad():
        for _ in range(40):
            y, _ = layer(torch.from_numpy(f(below))[None, :, None], dt, state=state)
            below = y[0, :, 0].numpy()
            outputs.append(below)
    truth = scipy.integrate.solve_ivp(
        lambda t, x: -x + f(x), (0, end), [start], t_eval=times, rtol=1e-11, atol=1e-13, method="DOP853"
    ).y[0]
    assert np.abs(outputs[-1] - truth).max() < 1e-5
    errors = np.array([np.abs(y - outputs[-1]).max() for y in outputs[:20]])
    print(errors)
    depths = np.arange(1, 21)
    # The proof's constant: |x_l - x| <= max|x_1 - x_0| sum_{j >= l} (KT)^j / j! <= ... (KT)^l / l! e^{KT}.
    bounds = (lipschitz * end) ** depths / np.array([math.factorial(depth) for depth in depths])
    assert (errors <= np.abs(outputs[0] - start).max() * bounds * math.exp(lipschitz * end)).all()
    # Faster than any geometric rate: the later layers gain more each than the earlier ones.
    assert (errors[19] / errors[12]) ** (1 / 7) < 0.6 * (errors[8] / errors[1]) ** (1 / 7)
