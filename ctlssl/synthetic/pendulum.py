"""Images of a pendulum, most of them spoiled, of which the angle is asked."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ctlssl.synthetic.records import as_dataset, check_count, check_numbers, source

__all__ = ["IMAGE", "generate"]

IMAGE = 24
"""Pixels on a side."""
_GRAVITY, _LENGTH = 9.81, 1.0  # m/s^2, m
_INERTIA = _LENGTH**2 / 3  # m^2, of a rod about its end, per unit of mass
_REACH, _HALF_WIDTH = 55 / 128 * IMAGE, 4 / 128 * IMAGE  # of the line, in pixels
_CLEAN = 5  # images at the start that are never spoiled
_SUBSTEPS = 10  # of the classical Runge-Kutta method, within a step


def generate(
    series: int = 500,
    seed: int = 42,
    *,
    steps: int = 100,
    rows: int = 50,
    dt: float = 0.01,
    friction: float = 0.1,
    transition_noise: float = 0.1,
    noise: float = 1e-5,
) -> xr.Dataset:
    r"""A swinging pendulum as 24 x 24 images, spoiled by noise that comes and goes.

        angle'' = -(g l / i) sin(angle) - friction angle',    the velocity gains transition_noise e at each step

    with the weight at the end of a rod of length l and the inertia i = l^2 / 3 of the published code, g l / i = 29.4
    per s^2. Starts are at rest, at angles uniform over all. Of ``steps`` images ``rows`` random ones are kept. An image
    is a line from the middle to the weight, mixed with an image of uniform noise: the share of the true one wanders
    from step to step, by a uniform step within +-0.2 that is kept to 0..1, and is stretched so that what is below a
    first threshold (uniform over 0..0.25, one a series) is noise alone and what is above a second (0.75..1) is clear;
    the first five images of the steps are clear. The published protocol has 2000 series to train on and 1000 to test
    with.

    Args:
        series: how many.
        seed: of all that is drawn.
        steps: of the simulation.
        rows: images kept of each series.
        dt: time of a step, in seconds.
        friction: in 1/s.
        transition_noise: standard deviation of what a step adds to the velocity, in rad/s.
        noise: standard deviation of what the images are off the angle, in rad.

    Returns:
        channels ``pixel_0_0`` to ``pixel_23_23`` in 0..1 (row from the top, then column), float32; ``sine`` and
        ``cosine`` of the angle at every row, the targets; the same at the last row as the labels ``last_sine`` and
        ``last_cosine``.

    Raises:
        ValueError: numbers that cannot be, or more rows than steps.

    References:
        Becker et al. (2019), Recurrent Kalman networks, arXiv:1905.07357; Schirmer et al. (2022), Modeling irregular
        time series with continuous recurrent units, arXiv:2111.11344.

    Example:
        >>> ds = generate(series=2, steps=20, rows=10)
        >>> ds.sizes["obs"], float(ds["pixel_0_0"].max()) <= 1
        (20, True)
    """
    draw = source(series, seed)
    check_count("steps", steps, 1)
    check_count("rows", rows, 1)
    check_numbers(dt=dt)
    check_numbers(zero=True, friction=friction, transition_noise=transition_noise, noise=noise)
    if rows > steps:
        raise ValueError(f"{rows} rows cannot be kept of {steps} steps.")
    angles = _angles(draw, series, steps, dt, friction, transition_noise)  # (series, steps)
    clear = _clear(draw, series, steps)  # (series, steps)
    kept = np.sort(np.argsort(draw.random((series, steps)), axis=1)[:, :rows], axis=1)  # (series, rows)
    angle, share = (np.take_along_axis(part, kept, axis=1).ravel() for part in (angles, clear))  # (obs,)
    images = _lines(angle + noise * draw.standard_normal(len(angle)))  # (obs, pixels)
    images *= share[:, None].astype(np.float32)
    images += (1 - share[:, None]).astype(np.float32) * draw.random(images.shape, dtype=np.float32)
    answers = np.stack([np.sin(angle), np.cos(angle)])  # (2, obs)
    last = answers.reshape(2, series, rows)[..., -1]  # (2, series)
    names = [f"pixel_{i}_{j}" for i in range(IMAGE) for j in range(IMAGE)]
    pixels = dict(zip(names, np.ascontiguousarray(images.T), strict=True))
    return as_dataset(
        title="Images of a pendulum, spoiled by noise that comes and goes",
        references="Becker et al. (2019), arXiv:1905.07357; Schirmer et al. (2022), arXiv:2111.11344",
        truth={
            "gravity": _GRAVITY,
            "length": _LENGTH,
            "inertia": _INERTIA,
            "dt": dt,
            "friction": friction,
            "transition_noise": transition_noise,
            "noise": noise,
        },
        row_size=np.full(series, rows),
        time=(dt * kept).ravel(),
        values={**pixels, "sine": answers[0], "cosine": answers[1]},
        covariates={"last_sine": ("label", last[0]), "last_cosine": ("label", last[1])},
        units={},
    )


def _angles(
    draw: np.random.Generator, series: int, steps: int, dt: float, friction: float, transition_noise: float
) -> np.ndarray:
    """The angle from the lowest point at every step, (series, steps)."""
    state = np.stack([draw.uniform(-np.pi, np.pi, series), np.zeros(series)])  # (2, series)
    angles = np.empty((series, steps))
    for k in range(steps):
        angles[:, k] = state[0]
        for _ in range(_SUBSTEPS):
            state = _runge_kutta(state, dt / _SUBSTEPS, friction)
        state[1] += transition_noise * draw.standard_normal(series)
    return angles


def _runge_kutta(state: np.ndarray, h: float, friction: float) -> np.ndarray:
    def slope(state: np.ndarray) -> np.ndarray:
        angle, velocity = state
        return np.stack([velocity, -_GRAVITY * _LENGTH / _INERTIA * np.sin(angle) - friction * velocity])

    first = slope(state)
    second = slope(state + h / 2 * first)
    third = slope(state + h / 2 * second)
    fourth = slope(state + h * third)
    return state + h / 6 * (first + 2 * second + 2 * third + fourth)


def _clear(draw: np.random.Generator, series: int, steps: int) -> np.ndarray:
    """The share of the true image at every step, (series, steps)."""
    share = np.empty((series, steps))
    now = draw.random(series)
    for k in range(steps):
        share[:, k] = now
        now = np.clip(now + draw.uniform(-0.2, 0.2, series), 0, 1)
    low, high = draw.uniform(0, 0.25, (series, 1)), draw.uniform(0.75, 1, (series, 1))
    stretched = np.clip((share - low) / (high - low), 0, 1)
    stretched[:, :_CLEAN] = 1.0
    return stretched


def _lines(angle: np.ndarray) -> np.ndarray:
    """Lines from the middle towards the weight, with edges a pixel wide, (obs, pixels) float32."""
    middle = (IMAGE - 1) / 2
    row, column = np.meshgrid(np.arange(IMAGE) - middle, np.arange(IMAGE) - middle, indexing="ij")
    right, down = (np.float32(_REACH) * part.astype(np.float32)[:, None] for part in (np.sin(angle), np.cos(angle)))
    x, y = column.ravel().astype(np.float32), row.ravel().astype(np.float32)  # (pixels,)
    along = np.clip((x * right + y * down) / np.float32(_REACH**2), 0, 1)  # (obs, pixels)
    distance = np.hypot(x - along * right, y - along * down)
    return np.clip(np.float32(_HALF_WIDTH + 0.5) - distance, 0, 1)
