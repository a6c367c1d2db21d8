"""Times in ms to steps, rates in Hz to probabilities, and what a task refuses."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network.types import Array, PyTree

Task = Callable[[Array, int], tuple[Array, PyTree]]
"""(key, batch) -> (xs [T, batch, n_in], ys); pure, and jittable with `static_argnums=1`"""


def number(name: str, value) -> float:
    """One finite number.

    >>> number("dt", 2)
    2.0
    """
    if checks.is_traced(value):
        raise TypeError(
            f"{name}: got a tracer, wanted a number that is known when the task is made"
        )
    if getattr(checks.finite(name, value), "ndim", 0) or isinstance(value, (list, tuple)):
        raise TypeError(f"{name}: got {value!r}, wanted one number")
    return float(value)


def steps(name: str, ms: float, dt: float, least: int = 0) -> int:
    """How many steps of dt a time takes; it must fit.

    >>> steps("cue", 100.0, dt=0.5)
    200
    """
    if number("dt", dt) <= 0:
        raise ValueError(f"dt: got {dt} ms, wanted a positive time")
    n = number(name, ms) / dt
    if n < 0 or abs(n - round(n)) > 1e-6 * max(1.0, n) or round(n) < least:
        enough = f" and >= {least * dt}" if least else " and >= 0"
        raise ValueError(f"{name}: got {ms} ms, wanted a multiple of dt={dt} ms{enough}")
    return round(n)


def spike_probability(name: str, rate: float, dt: float) -> float:
    """Of a spike in one step, at a rate in Hz.

    >>> spike_probability("rate", 40.0, dt=1.0)
    0.04
    """
    if not 0 <= number(name, rate) * dt <= 1000:
        raise ValueError(f"{name}: got {rate} Hz, wanted from 0 to {1000 / dt}, one spike a step")
    return rate * dt / 1000


def between(name: str, value: float, low: float, high: float) -> float:
    """One number in [low, high].

    >>> between("p", 0.7, 0, 1)
    0.7
    """
    if not low <= number(name, value) <= high:
        raise ValueError(f"{name}: got {value}, wanted a number from {low} to {high}")
    return float(value)


def spikes(key: Array, probability: Array, group: int) -> Array:
    """Each group's probability [T, B, groups] -> its units' spikes, 0 or 1, [T, B, groups · group].

    >>> import jax, jax.numpy as jnp
    >>> spikes(jax.random.key(0), jnp.array([[[0.0, 1.0]]]), group=3).tolist()
    [[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]]
    """
    each = jnp.repeat(probability, group, axis=-1)
    return jax.random.bernoulli(key, each).astype(each.dtype)
