"""The S5 layer with a clock in JAX: discretized with each series' own gaps, run by an associative scan.

x_k = exp(lambda h_k) x_{k-1} + (exp(lambda h_k) - 1) / lambda B u_k,  y_k = 2 Re(C x_k) + D u_k

References: Smith, Warrington, Linderman (2023), S5, arXiv:2208.04933, sections 2.2 and 3.
"""

import math

import numpy as np

from benchmarks.contenders import Contender, Passes, Sizes, drawn


def layer(parameters, u, gaps):
    """Outputs (L, H) of one series, u (L, H) and gaps (L,); n complex states stand for 2 n real ones.

    A complex scan between products of real matrices: faster in XLA than complex products, or real and imaginary parts
    scanned apart.
    """
    import jax
    import jax.numpy as jnp

    step = jnp.exp(parameters["log_step"])  # (n,)
    poles = jax.lax.complex(-jnp.exp(parameters["log_decay"]), parameters["frequency"]) * step
    moved = jnp.exp(gaps[:, None] * poles)  # (L, n)
    B = parameters["B"] * step[:, None]  # (2, n, H)
    driven = (moved - 1) * (1 / poles) * jax.lax.complex(u @ B[0].T, u @ B[1].T)  # (L, n)

    def join(earlier, later):
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    _, states = jax.lax.associative_scan(join, (moved, driven))  # (L, n)
    C = parameters["C"]  # (2, H, n)
    return 2 * (states.real @ C[0].T - states.imag @ C[1].T) + parameters["D"] * u


def start(channels: int, pairs: int) -> dict[str, np.ndarray]:
    """Float32 parameters: the poles -1/2 + i pi k, steps between 0.001 and 0.1."""
    rng = np.random.default_rng(0)
    parameters = {
        "log_step": rng.uniform(math.log(1e-3), math.log(1e-1), pairs),
        "log_decay": np.full(pairs, math.log(0.5)),
        "frequency": math.pi * np.arange(pairs),
        "B": rng.standard_normal((2, pairs, channels)) / channels**0.5,
        "C": rng.standard_normal((2, channels, pairs)) / pairs**0.5,
        "D": rng.standard_normal(channels),
    }
    return {name: value.astype(np.float32) for name, value in parameters.items()}


def build(sizes: Sizes) -> Passes:
    """Compiled for these sizes before anything is timed."""
    import jax
    import jax.numpy as jnp

    u, gaps = (jnp.asarray(tensor.numpy()) for tensor in drawn(sizes))
    parameters = {name: jnp.asarray(value) for name, value in start(sizes.channels, sizes.state // 2).items()}
    batched = jax.vmap(layer, in_axes=(None, 0, 0))

    def both(parameters, u, gaps, slope):
        y, back = jax.vjp(lambda parameters, u: batched(parameters, u, gaps), parameters, u)
        return y, back(slope)

    given = parameters, u, gaps
    slope = jax.random.normal(jax.random.key(1), u.shape) / u.size
    forward = jax.jit(batched).lower(*given).compile()
    backward = jax.jit(both).lower(*given, slope).compile()
    return Passes(
        forward=lambda: jax.block_until_ready(forward(*given)),
        both=lambda: jax.block_until_ready(backward(*given, slope)),
        reset=lambda: None,
        input_bytes=u.nbytes + gaps.nbytes,
    )


SCAN = Contender("JAX associative scan", build, needs=("jax",))
