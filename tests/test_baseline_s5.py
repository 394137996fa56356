"""S5 against its equations in numpy: complex states, their own step sizes, blocks, gate and norms."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from scipy.special import expit as sigmoid

from ctlssl.baselines import S5
from ctlssl.hippo import legs
from tests.members import PROBLEMS, Member, answer, batch, close
from tests.test_baseline_attention import layer_norm
from tests.test_baseline_recurrences import weights

RATE = 1.5


def poles_and_maps(layer):
    """lambda, the complex B (P, H) and C (H, P), D and the steps of a layer, read off its dense system."""
    A, B, C, D = (part.detach().numpy() for part in layer.system().to_dense())
    poles, V = np.linalg.eig(A)  # the step sizes are in A and B already
    return poles, np.linalg.solve(V, B.astype(complex)), C @ V, D


def by_hand(model, encoded):
    """The features of every row after the last norm, the rows of one series taken one by one."""
    p, rows = weights(model), encoded.rows
    hidden = [x.detach().numpy() for x in encoded.features[0]]
    gaps, query = encoded.gaps[0].numpy() * RATE, rows.is_query[0].tolist()
    for i, block in enumerate(model.blocks):
        poles, B, C, D = poles_and_maps(block.layer)
        x, after = np.zeros(len(poles), complex), []
        for h, gap, asked in zip(hidden, gaps, query, strict=True):
            u = layer_norm(p, f"blocks.{i}.norm", h) if block.prenorm else h
            moved = np.exp(poles * gap) * x + np.expm1(poles * gap) / poles * (B @ u)
            y = (C @ moved).real + D * u
            x = x if asked else moved
            g = y * (1 + erf(y / np.sqrt(2))) / 2
            h = h + g * sigmoid(p[f"blocks.{i}.gate.weight"] @ g + p[f"blocks.{i}.gate.bias"])
            after.append(h if block.prenorm else layer_norm(p, f"blocks.{i}.norm", h))
        hidden = after
    return np.stack([layer_norm(p, "norm", h) for h in hidden])


@pytest.mark.parametrize("kind", ["classification", "forecasting"])
@pytest.mark.parametrize("prenorm", [False, True])
def test_against_its_equations(kind, prenorm):
    model = Member(S5, {"layers": 2, "state_size": 8, "blocks": 2, "prenorm": prenorm}).model(kind, torch.float64)
    series, asked = batch(lengths=(7, 1, 4), dtype=torch.float64)
    asked = asked.nan_to_num(nan=101.0)
    found = answer(model(series, asked, rate=RATE))
    for b in range(3):
        encoded = model.encoder(series.select([b]), asked[[b]], RATE)
        features = torch.from_numpy(by_hand(model, encoded))[None]
        queries = encoded.rows.at_queries(features)
        assert close(found[b : b + 1], answer(model.head(encoded, features, encoded.rows.committed, queries)), 1e-10)


def test_poles_start_as_blocks_of_hippo_n_with_steps_of_their_own():
    N, J = 16, 2
    model = S5(PROBLEMS["classification"], width=4, state_size=N, blocks=J, layers=1)
    layer = model.blocks[0].layer
    A, B = (part.numpy() for part in legs(N // J))
    normal = A + np.outer(B, B) / 2  # LegS without its low-rank part
    expected = np.linalg.eigvals(normal)
    expected = np.repeat(sorted(expected[expected.imag > 0], key=np.imag), J)
    steps = layer.log_step.detach().double().exp().numpy()
    assert steps.shape == (N // 2,) and len(np.unique(steps)) == N // 2
    real, imag = layer.system().A.real.detach().numpy(), layer.system().A.imag.detach().numpy()
    found = np.array(sorted((real + 1j * np.abs(imag)) / steps, key=np.imag))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_blocks_that_do_not_fit():
    with pytest.raises(ValueError, match="3 blocks"):
        S5(PROBLEMS["classification"], blocks=3)
