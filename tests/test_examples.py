"""The examples run, and show what they say."""

import pytest

from examples import (
    convolutional_models,
    differential_equations,
    hippo_memory,
    lorenz,
    recurrent_models,
    time_scales,
)


def test_hippo_memory(tmp_path):
    path = tmp_path / "memory.png"
    found = hippo_memory.main(str(path))
    assert path.stat().st_size > 20_000
    assert found["foh-4"] > found["foh-8"] > 5 * found["foh-16"]
    assert found["foh-16"] < found["zoh-16"] / 3 and found["zoh-32"] > 0.9 * found["zoh-16"]
    assert found["window"] < 1e-2


def test_recurrent_models():
    found = recurrent_models.main()
    assert found["gate"] < 1e-14
    assert found["first"] > 0.1 and found["last"] < 1e-7


def test_convolutional_models():
    found = convolutional_models.main()
    assert found["convolution"] < 1e-12 and found["scipy"] < 1e-9 and found["irregular"] < 1e-2
    assert found["average"] < 1e-4 and found["delay"] < 1e-3


def test_differential_equations():
    found = differential_equations.main()
    assert found["solver"] < 1e-7 and found["evaluations"] > 1000
    assert found["resampled"] < 0.2
    assert abs(found["half_life"] - 5) < 0.01


def test_time_scales(tmp_path):
    path = tmp_path / "scales.png"
    found = time_scales.main(str(path), epochs=3)
    assert path.stat().st_size > 10_000
    assert found["log_loss after"] < found["log_loss before"]
    assert 0.1 < found["before"] < 1 and found["after"] != found["before"]


@pytest.mark.parametrize("irregular", [False, True])
def test_lorenz(irregular):
    """A short training is on its way; the slow one below arrives."""
    (found,) = lorenz.main((0,), irregular, rows=2000, batches=500, interval=2, judged=2000)
    assert found["loss"] < 0.05 and found["divergence"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_lorenz_is_reconstructed():
    """Two lobes, both visited for ever, unstable fixed points in their middles, and a run spread as the true one is."""
    (found,) = lorenz.main((1,))
    assert found["divergence"] < 4 and found["spectral distance"] < 0.4
    assert found["regions"] >= 3 and 0.2 < found["right lobe"] < 0.8 and found["distance of the lobes"] < 0.5
