"""The examples run, and show what they say."""

from examples import (
    convolutional_models,
    differential_equations,
    hippo_memory,
    oscillators,
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


def test_oscillators():
    found = oscillators.main(60, seeds=1, names=("LinOSS exact", "LinOSS implicit-explicit"))
    ((soon, late),) = found["best"]
    assert 0.02 < soon < 0.07 and 0.02 < late < 0.07
    ((soon, late),) = found["LinOSS exact"]
    assert soon < 0.9 and late < 0.9
    assert not found["LinOSS implicit-explicit"]
