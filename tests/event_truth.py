"""Slow, obvious answers for events, in numpy: one event at a time, or every channel integrated on its own grid."""

import numpy as np
import scipy.integrate
import scipy.linalg

from tests.problems import Truth, coefficients


def own_terms(A, B, rule, hold, h, before, value):
    """What an event of a channel adds: B (N,), its own gap h, its own last value, its value."""
    _, previous, following = coefficients(A, B[:, None], Truth(rule, hold, None), h)
    return previous[:, 0] * before + following[:, 0] * value


def literal(A, B, rule, holds, events, queries, first=1.0, tail="zero"):
    """States at queries and the last state of one record, word by word as the event form is defined.

    Each event evolves x by the global gap and adds its own channel's term with the time since that channel's own last
    event; a channel that holds "previous" acts on the clock of all. What the others have held since their own last
    event is summed over the channels.

    Args:
        A: (N, N).
        B: (N, H).
        rule: "exact" or alpha.
        holds: name of each channel's hold.
        events: list of (time, channel, value) in the order of time.
        queries: list of times.
        first: own gap of a channel's first event.
        tail: "held" adds that sum to what is returned.
    """
    N, H = B.shape
    x, clock, last, values, rates = np.zeros(N), None, {}, np.zeros(H), np.zeros(H)

    def moved(gap):
        power, _, held = coefficients(A, B, Truth(rule, "next", None), gap)
        return power @ x + held @ rates

    def read(time):
        state = x if clock is None else moved(time - clock)
        for c, then in last.items() if tail == "held" else ():
            if holds[c] in ("next", "linear"):
                state = state + own_terms(A, B[:, c], rule, "next", time - then, 0.0, values[c])
        return state

    shown, waiting = {}, sorted(set(queries))
    for time, c, value in events:
        while waiting and waiting[0] < time:
            shown[waiting[0]] = read(waiting[0])
            waiting.pop(0)
        x = x if clock is None else moved(time - clock)
        own = first if c not in last else time - last[c]
        if holds[c] == "previous":
            rates[c] = value
        else:
            x = x + own_terms(A, B[:, c], rule, holds[c], own, values[c], value)
        clock, last[c], values[c] = time, time, value
    shown |= {time: read(time) for time in waiting}
    return np.array([shown[query] for query in queries]), x if clock is None else read(clock)


def superposed(A, B, holds, events, query, first=1.0, tail="zero"):
    """The state at a time from every channel alone, its input integrated piece by piece by an ODE solver.

    Shares with the event form no more than the definition of a hold: there is no global gap here.
    """
    x = np.zeros(len(A))
    for c in range(B.shape[1]):
        mine = [(time, value) for time, channel, value in events if channel == c and time <= query]
        for place, (time, value) in enumerate(mine):
            start = mine[place - 1][0] if place else time - first
            before = mine[place - 1][1] if place else 0.0
            stop = mine[place + 1][0] if place + 1 < len(mine) else query
            if holds[c] == "impulse":
                x = x + scipy.linalg.expm(A * (query - time)) @ B[:, c] * value
            elif holds[c] == "previous":
                x = x + pushed(A, B[:, c], query, time, stop, value, value)
            else:
                early = before if holds[c] == "linear" else value
                x = x + pushed(A, B[:, c], query, start, time, early, value)
        if mine and tail == "held" and holds[c] in ("next", "linear"):
            time, value = mine[-1]
            x = x + pushed(A, B[:, c], query, time, query, value, value)
    return x


def pushed(A, b, query, start, stop, early, late):
    """What an input that goes from `early` at `start` to `late` at `stop` leaves in the state at `query`."""
    if stop <= start:
        return np.zeros(len(A))

    def slope(time, x):
        return A @ x + b * (early + (late - early) * (time - start) / (stop - start))

    solved = scipy.integrate.solve_ivp(slope, (start, stop), np.zeros(len(A)), "DOP853", rtol=1e-12, atol=1e-13)
    return scipy.linalg.expm(A * (query - stop)) @ solved.y[:, -1]
