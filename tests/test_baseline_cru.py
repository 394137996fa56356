"""The continuous recurrent unit against an exact Kalman filter, scipy's exponentials and a plain loop."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm, solve_continuous_lyapunov

from ctlssl.baselines import CRU
from ctlssl.baselines.cru import Dynamics, update
from tests.contracts import generator
from tests.members import PROBLEMS, Member, answer, batch, close
from tests.test_baselines import truth


def dynamics(rng, M, rotated):
    """Random dynamics of one basis, and the same A (2 M, 2 M) and diffusion Q (2 M, 2 M) as dense matrices."""
    E = np.linalg.qr(rng.standard_normal((2 * M, 2 * M)))[0] if rotated else np.eye(2 * M)
    a, w, q = rng.uniform(0.1, 1.0, M), rng.uniform(0.0, 3.0, M), rng.uniform(0.5, 2.0, M)
    L = np.block([[-np.diag(a), np.diag(w)], [-np.diag(w), -np.diag(a)]])
    parts = (torch.from_numpy(part) for part in (E, a[None], w[None], q))
    return Dynamics(*parts, None), E @ L @ E.T, E @ np.diag(np.tile(q, 2)) @ E.T


def gap_by_scipy(A, Q, h):
    """e^{hA}, and the covariance that the noise adds in h: that of rest, less what is left of it after h."""
    F, rest = expm(h * A), solve_continuous_lyapunov(A, -Q)
    return F, rest - F @ rest @ F.T


def test_an_exact_kalman_filter():
    """With 2 x 2 blocks in the basis of the state itself the factorised covariance is all there is."""
    rng, M, steps = generator("kalman"), 3, 12
    sde, A, Q = dynamics(rng, M, rotated=False)
    H = np.eye(M, 2 * M)
    m, P = np.zeros(2 * M), np.diag(rng.uniform(0.5, 2.0, 2 * M))
    belief = torch.from_numpy(np.concatenate([m, np.diag(P), np.zeros(M)])[None])
    for h in rng.exponential(1.0, steps) * 10.0 ** rng.integers(-3, 2, steps):
        y, r = rng.standard_normal(M), rng.uniform(0.01, 1.0, M)
        F, N = gap_by_scipy(A, Q, h)
        m, P = F @ m, F @ P @ F.T + N
        S = H @ P @ H.T + np.diag(r)
        K = P @ H.T @ np.linalg.inv(S)
        m, P = m + K @ (y - H @ m), P - K @ S @ K.T
        belief = sde.carry(belief, torch.tensor([[h]], dtype=torch.float64))
        belief = update(belief, *(torch.from_numpy(part[None]) for part in (y, r)))
        expected = np.concatenate([m, np.diag(P), np.diag(P[:M, M:])])
        assert np.abs(belief[0].numpy() - expected).max() < 1e-11


@pytest.mark.parametrize("h", [0.0, 1e-6, 0.3, 20.0])
def test_a_gap_in_any_basis(h):
    """Mean and covariance of the SDE itself; of the covariance the diagonals of the blocks are kept."""
    rng, M = generator("gap", h), 4
    sde, A, Q = dynamics(rng, M, rotated=True)
    m, pp, vv = rng.standard_normal(2 * M), rng.uniform(0.5, 2.0, M), rng.uniform(0.5, 2.0, M)
    pv = 0.5 * rng.uniform(-1, 1, M)
    P = np.block([[np.diag(pp), np.diag(pv)], [np.diag(pv), np.diag(vv)]])
    F, N = gap_by_scipy(A, Q, h)
    P = F @ P @ F.T + N
    belief = torch.from_numpy(np.concatenate([m, pp, vv, pv])[None])
    found = sde.carry(belief, torch.tensor([[h]], dtype=torch.float64))[0].numpy()
    assert np.abs(found - np.concatenate([F @ m, np.diag(P), np.diag(P[:M, M:])])).max() < 1e-11


def test_a_gap_in_two_parts_is_the_gap():
    """Of the mean; a covariance that is factorised at another time is another approximation."""
    rng, M = generator("parts"), 3
    sde, _, _ = dynamics(rng, M, rotated=True)
    belief = torch.from_numpy(rng.uniform(0.1, 1.0, (1, 5 * M)))
    gaps = torch.tensor([[0.2], [0.5], [0.7]], dtype=torch.float64)
    twice = sde.carry(sde.carry(belief, gaps[:1]), gaps[1:2])
    assert close(twice[:, : 2 * M], sde.carry(belief, gaps[2:])[:, : 2 * M], 1e-13)


def by_hand(model, encoded, committed, before, queries):
    """The walk of `truth`, with scipy's exponentials and a mixture of dense matrices."""
    M = 4
    E = model.basis.weight.numpy()
    decay, turn = model.log_decay.exp().numpy(), model.frequency.numpy()
    q = model.log_noise.exp().numpy()
    Q = E @ np.diag(np.tile(q, 2)) @ np.linalg.inv(E)
    y, raw = model.observation(encoded.features[0]).chunk(2, dim=-1)
    y, raw, gaps = y.numpy(), raw.numpy(), encoded.gaps[0].tolist()

    def carry(m, P, h):
        weights = np.ones(1)
        if model.mixture is not None:
            logits = model.mixture(torch.from_numpy(m)).numpy()
            weights = np.exp(logits) / np.exp(logits).sum()
        a, w = weights @ decay, weights @ turn
        A = E @ np.block([[-np.diag(a), np.diag(w)], [-np.diag(w), -np.diag(a)]]) @ np.linalg.inv(E)
        F = expm(h * A)
        # the stationary covariance of every block is q / (2 a)
        rest = E @ np.diag(np.tile(q / (2 * a), 2)) @ E.T
        P = F @ (P - rest) @ F.T + rest
        assert np.abs(A @ rest + rest @ A.T + Q).max() < 1e-5
        keep = np.kron(np.ones((2, 2)), np.eye(M))
        return F @ m, P * keep

    def correct(m, P, k):
        r = np.where(raw[k] > 0, raw[k] + 1, np.exp(np.minimum(raw[k], 0))) + 1e-4
        K = np.linalg.solve(P[:M, :M] + np.diag(r), P[:M]).T
        return m + K @ (y[k] - m[:M]), P - K @ P[:M]

    def features(m, P):
        belief = np.concatenate([m, np.diag(P), np.diag(P[:M, M:])])
        return model.read(torch.from_numpy(belief))

    start = np.zeros(2 * M), np.diag(model.log_first.exp().numpy())
    belief, beliefs = start, {}
    for k in committed:
        beliefs[k] = belief = correct(*carry(*belief, gaps[k]), k)
    asked = [carry(*(beliefs[s[-1]] if s else start), gaps[q]) for q, s in zip(queries, before, strict=True)]
    return [features(*one) for one in beliefs.values()], [features(*one) for one in asked]


@pytest.mark.parametrize("options", [{}, {"bases": 1}], ids=["four-bases", "one-basis"])
@pytest.mark.parametrize("kind", ["classification", "forecasting"])
def test_against_a_plain_loop(options, kind):
    model = Member(CRU, options).model(kind, torch.float64)
    series, asked = batch(lengths=(6, 1, 4), dtype=torch.float64)
    asked = asked.nan_to_num(nan=101.0)
    series.observed[1, 0] = True
    together = answer(model(series, asked))
    for b in range(3):  # the basis was drawn in float32 and is orthogonal to 1e-7
        assert close(together[b : b + 1], truth(model, series, asked, b, by_hand), 1e-5)


def test_variances_stay_positive_and_grow_with_the_gap():
    model, (series, asked) = Member(CRU).model("forecasting"), batch(lengths=(7, 5, 6))
    belief = model(series, asked).state.layers[0].h.detach()  # (B, 5 M)
    pp, vv, pv = belief[:, 8:].chunk(3, dim=1)
    assert (pp > 0).all() and (vv > 0).all() and (pv.square() <= pp * vv * (1 + 1e-5)).all()
    sde, _, _ = dynamics(generator("growth"), 4, rotated=True)
    certain = torch.zeros(3, 20, dtype=torch.float64)
    found = sde.carry(certain, torch.tensor([[0.1], [1.0], [10.0]], dtype=torch.float64))[:, 8:16]
    assert (found.diff(dim=0) > 0).all()


def test_an_odd_width():
    series, asked = batch()
    torch.default_generator.manual_seed(0)
    assert answer(CRU(PROBLEMS["forecasting"], width=7)(series, asked)).isfinite().all()


def test_the_basis_is_orthogonal():
    E = Member(CRU).model("classification", torch.float64).basis.weight
    assert close(E @ E.T, torch.eye(8, dtype=torch.float64), 1e-6)


def test_a_basis_is_needed():
    with pytest.raises(ValueError, match="bases is 0"):
        CRU(PROBLEMS["classification"], bases=0)
