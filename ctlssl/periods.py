"""Periods of irregular samples: the frequencies at which an undamped linear state space is driven the farthest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Rhythm", "power", "rhythms", "strongest_frequency"]

_MOST_BINS = 2**20
_OVERSAMPLING = 3  # frequencies looked at for every one that the span can tell apart
_BINS_A_PERIOD = 4  # of the shortest period
_OUTLIERS = 3.0  # standard deviations
_ROUNDING = 1e-20  # of a variance: what is left of values that a period explains is rounding
_LEAST_AREA = 1e-4  # of what cosine and sine span at the samples, beside a constant; 1/4 where they are at all phases
_RHYTHMIC = 0.5  # modulus of the spectral window from which on samples have a rhythm of their own
_AS_MUCH = 0.85  # of what is strongest


@dataclass(frozen=True)
class Rhythm:
    """One period of a series, and the shape of the oscillation.

    Args:
        frequency: f, cycles per unit of time.
        shape: (K,) complex c_k, such that values are about Re sum_k c_k exp(2 pi i k f (t - t_1)).
        half: amplitude at f / 2 over that at f: an oscillation of twice the period has one.
        left: variance that the K harmonics leave over the variance that they found, 0 to 1.
    """

    frequency: float
    shape: np.ndarray
    half: float
    left: float


def power(times: np.ndarray, values: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    r"""The Lomb-Scargle periodogram with a floating mean: the share of the variance that one sinusoid explains.

    With w_k = exp(-2 pi i f t_k), all that it needs are the sums of v_k w_k, w_k and w_k^2 over the samples: the last
    states of x' = 2 pi i f x, to which each sample is added as an impulse. It is a diagonal linear state space
    without damping, read once, at the end.

    Args:
        times: (n,).
        values: (n,), not all alike.
        frequencies: (F,), cycles per unit of time, positive.

    Returns:
        (F,), 0 to 1.

    References:
        Scargle (1982), Studies in astronomical time series analysis II. Zechmeister, Kuerster (2009), The generalised
        Lomb-Scargle periodogram, arXiv:0901.2573.

    Example:
        >>> times = np.array([0.0, 0.7, 1.1, 3.0, 3.3, 4.9])
        >>> power(times, 3 + np.cos(2 * np.pi * times), np.array([1.0, 0.4])).round(3)
        array([1.   , 0.382])
    """
    waves = np.exp(-2j * np.pi * (np.outer(frequencies, times - times[0]) % 1.0))  # (F, n)
    centred = values - values.mean()
    return _explained(waves @ centred, waves.sum(axis=1), (waves**2).sum(axis=1), centred)


def _explained(driven: np.ndarray, window: np.ndarray, twice: np.ndarray, centred: np.ndarray) -> np.ndarray:
    """The share of the variance of centred values (n,) that is explained, from the sums (F,) of v w, w and w^2."""
    n = len(centred)
    yc, ys = driven.real / n, -driven.imag / n  # (F,)
    c, s = window.real / n, -window.imag / n
    cc, ss = 0.5 * (1 + twice.real / n) - c**2, 0.5 * (1 - twice.real / n) - s**2
    cs = -0.5 * twice.imag / n - c * s
    area = cc * ss - cs**2
    clear = area > _LEAST_AREA  # else cosine, sine and constant are all but one at the samples, and a quotient rounding
    share = (ss * yc**2 + cc * ys**2 - 2 * cs * yc * ys) / (np.where(clear, area, 1.0) * np.mean(centred**2))
    return np.where(clear, np.clip(share, 0.0, 1.0), 0.0)


def strongest_frequency(times: np.ndarray, values: np.ndarray, shortest: float) -> float:
    """The frequency of most power, from one cycle in the span of the samples to one in the shortest period.

    It is found on a grid of times by fast Fourier transforms, and then refined by `power`. The grid has at most 2^20
    bins: of spans longer than some 80,000 shortest periods, the shortest are not looked at. Samples that have a rhythm
    of their own, as those of nights have, show what is slow a second time, near once a day: where the slow frequency
    explains nearly as much, the strongest of the slow ones is taken.

    Args:
        times: (n,), at least two different ones, in order.
        values: (n,), not all alike.
        shortest: the shortest period looked for.

    Example:
        >>> times = np.sort(np.random.default_rng(0).uniform(0, 100, 200))
        >>> round(strongest_frequency(times, np.sin(2 * np.pi * 2.35 * times), shortest=0.2), 3)
        2.35
    """
    since, span = times - times[0], times[-1] - times[0]
    width = max(shortest / _BINS_A_PERIOD, _OVERSAMPLING * span / _MOST_BINS)
    bins = 1 << max(3, int(np.ceil(np.log2(_OVERSAMPLING * span / width))))
    place = np.minimum(np.rint(since / width), bins - 1).astype(np.int64)
    centred, last = values - values.mean(), bins // _BINS_A_PERIOD
    driven = np.fft.rfft(np.bincount(place, weights=centred, minlength=bins))[: last + 1]
    window = np.fft.rfft(np.bincount(place, minlength=bins).astype(np.float64))
    share = _explained(driven, window[: last + 1], window[: 2 * last + 1 : 2], centred)  # (last + 1,)
    step = 1.0 / (bins * width)
    lowest = min(int(np.ceil(1.0 / (span * step))), last)
    best = _without_alias(share, np.abs(window[: last + 1]) / len(values), lowest)
    found = step * best
    for reach in (step, step / 10):
        near = np.maximum(found + reach * np.linspace(-1.0, 1.0, 21), step / 2)
        found = float(near[np.argmax(power(times, values, near))])
    return found


def _without_alias(share: np.ndarray, window: np.ndarray, lowest: int) -> int:
    """The place of the strongest frequency, which is not that of a slow one seen again by the rhythm of the sampling.

    Args:
        share: (F,) explained at 0, 1, .. steps.
        window: (F,) modulus of the mean of exp(-2 pi i f t).
        lowest: the first place that counts.
    """
    best = lowest + int(np.argmax(share[lowest:]))
    beyond = min(2 * lowest, len(window) - 1)  # of the peak at 0
    first = beyond + int(np.argmax(window[beyond:] >= _AS_MUCH * window[beyond:].max()))  # not twice a day, but once
    sampling = first + int(np.argmax(window[first : first + beyond]))
    if window[sampling] < _RHYTHMIC or 2 * best <= sampling:
        return best
    slow = abs(best - round(best / sampling) * sampling)
    around = share[max(0, slow - _OVERSAMPLING) : slow + _OVERSAMPLING + 1]
    if around.max() < _AS_MUCH * share[best] or 2 * lowest >= sampling:
        return best
    return lowest + int(np.argmax(share[lowest : sampling // 2 + 1]))


def rhythms(times: np.ndarray, values: np.ndarray, count: int, harmonics: int, shortest: float) -> list[Rhythm]:
    """The strongest period, that of what it leaves, and so on; values beyond 3 standard deviations are drawn in there.

    Args:
        times: (n,) float64, in order.
        values: (n,).
        count: periods to find; fewer are found where nothing is left to vary.
        harmonics: K, of each period.
        shortest: the shortest period looked for.

    Example:
        >>> times = np.sort(np.random.default_rng(0).uniform(0, 100, 200))
        >>> values = np.cos(2 * np.pi * 0.31 * times) + 0.1 * np.cos(2 * np.pi * 1.7 * times)
        >>> [round(found.frequency, 2) for found in rhythms(times, values, 2, 1, shortest=0.2)]
        [0.31, 1.7]
    """
    found, rest = [], _drawn_in(values)
    rounding = float(np.mean(rest**2)) * _ROUNDING if len(rest) else 0.0
    for _ in range(count):
        before = float(np.mean(rest**2)) if len(rest) else 0.0
        if not (before > rounding and np.isfinite(before) and times[-1] > times[0]):
            break
        frequency = strongest_frequency(times, rest, shortest)
        shape, left = _fitted(times, rest, frequency, harmonics)
        half = abs(_fitted(times, rest, frequency / 2, 2)[0][0]) / max(abs(shape[0]), 1e-12)
        found.append(Rhythm(frequency, shape, float(half), float(np.mean(left**2)) / before))
        rest = left - left.mean()
    return found


def _drawn_in(values: np.ndarray) -> np.ndarray:
    """Values (n,) of mean 0 without their outliers, which would make a period of their own."""
    if not len(values):
        return values
    middle, reach = values.mean(), _OUTLIERS * values.std()
    drawn = np.clip(values, middle - reach, middle + reach)
    return drawn - drawn.mean()


def _fitted(times: np.ndarray, values: np.ndarray, frequency: float, harmonics: int) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of a constant and K harmonics: their complex coefficients (K,), and what they leave (n,)."""
    cycles = np.outer(times - times[0], frequency * np.arange(1, harmonics + 1)) % 1.0  # (n, K)
    waves = np.exp(2j * np.pi * cycles)  # (n, K)
    table = np.concatenate([np.ones((len(times), 1)), waves.real, -waves.imag], axis=1)  # (n, 1 + 2 K)
    weights = np.linalg.lstsq(table, values, rcond=1e-9)[0]
    return weights[1 : harmonics + 1] + 1j * weights[harmonics + 1 :], values - table @ weights
