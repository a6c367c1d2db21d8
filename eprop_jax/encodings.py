"""Signals as spikes: at random (Poisson), by place (population) and by change (level crossing).

Each is a pure function of arrays with any leading axes, so time-major input [T, *batch, d] fits.
Compose them: a population code times a rate in Hz is what `poisson` takes. Spikes that were recorded as
a list of events become arrays by `from_events`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Array


def poisson(key: Array, rate: Any, dt: float = 1.0) -> Array:
    """Independent spikes: one in a step of dt with probability rate · dt, as in Bellec et al. 2020.

    For rate · dt ≪ 1 this is a Poisson process; a step holds at most one spike.

    Args:
      key: a PRNG key.
      rate: in Hz, floating, any shape.
      dt: step in ms.

    Returns:
      0 or 1, with the shape and dtype of `rate`. What lies outside [0, 1000/dt] Hz counts as the
      nearer bound where it is traced, and so cannot be refused.

    Raises:
      TypeError: if `rate` is not real.
      ValueError: if `dt` ≤ 0, or a rate is negative, infinite or above 1000/dt Hz, one spike a step.

    >>> import jax, jax.numpy as jnp, eprop_jax.encodings as encodings
    >>> spikes = encodings.poisson(jax.random.key(0), jnp.full((1000, 4, 100), 50.0))
    >>> spikes.shape, round(float(spikes.mean()), 2)
    ((1000, 4, 100), 0.05)
    """
    checks.key("key", key)
    checks.positive("dt", checks.number("dt", dt))
    rate = checks.real("rate", rate)
    if not checks.is_traced((rate, dt)):
        checks.nonnegative("rate", rate)
        highest = float(np.max(np.asarray(rate), initial=0.0))
        if highest * dt > 1000 * (1 + 1e-6):
            raise ValueError(
                f"rate: got up to {highest} Hz, wanted at most {1000 / dt} Hz, one "
                f"spike a step of dt={dt} ms"
            )
    rate = _floating(rate)
    return jax.random.bernoulli(key, jnp.clip(rate * (dt / 1000), 0, 1)).astype(rate.dtype)


def population(
    x: Any, n_units: int, low: float = 0.0, high: float = 1.0, width: float | None = None
) -> Array:
    """Gaussian tuning curves: unit k of a channel answers exp(−(x − c_k)² / 2σ²).

    The centres c_k stand at equal distances from `low` to `high`, both included.

    Args:
      x: [..., d], in the units of `low` and `high`.
      n_units: units a channel, ≥ 2.
      low, high: the range that is covered, low < high.
      width: σ, in the same units; None: the distance of two neighbouring centres.

    Returns:
      [..., d · n_units], from 0 to 1, channel by channel. Times a rate in Hz it fits `poisson`.

    Raises:
      TypeError: if `x` is not real or `n_units` no int.
      ValueError: if `n_units` < 2, low ≥ high, `width` ≤ 0, or `x` has no axis of channels.

    >>> import jax.numpy as jnp, eprop_jax.encodings as encodings
    >>> encodings.population(jnp.array([0.5]), n_units=3).round(2).tolist()
    [0.6100000143051147, 1.0, 0.6100000143051147]
    """
    x = checks.real("x", x)
    if checks.size("n_units", n_units) < 2:
        raise ValueError(f"n_units: got {n_units}, wanted an int >= 2")
    checks.number("low", low)
    checks.number("high", high)
    if not checks.is_traced((low, high)) and low >= high:
        raise ValueError(f"low: got {low}, wanted less than high={high}")
    if x.ndim < 1:
        raise ValueError("x: got a number, wanted [..., d], the channels last")
    if width is not None:
        checks.positive("width", checks.number("width", width))
    x = _floating(x)
    width = (high - low) / (n_units - 1) if width is None else width
    centres = jnp.linspace(low, high, n_units, dtype=x.dtype)
    distance = x[..., None] - jnp.broadcast_to(centres, (*x.shape, n_units))
    answer = jnp.exp(-0.5 * (distance / width) ** 2)
    return answer.reshape(*x.shape[:-1], x.shape[-1] * n_units)


def level_crossing(
    xs: Any, threshold: float, *, start: float = 0.0, at_most: int | None = None
) -> Array:
    """Delta spikes: an event for each step of `threshold` that the signal has risen or fallen.

    k^t = trunc((x^t − r^{t−1}) / θ), r^t = r^{t−1} + θ k^t: the reference r, which `from_crossings`
    recovers from the events alone, stays within θ of the signal.

    Args:
      xs: [T, ..., d], time first.
      threshold: θ, in the units of the signal.
      start: r before the first step, in the same units.
      at_most: events a channel and step; None: as many as it takes, so that the first step may
        hold many. 1 gives spikes of 0 and 1; the reference then lags behind a signal that moves
        faster than θ a step, and catches up later.

    Returns:
      Event counts [T, ..., 2d]: first how often each channel rose, then how often it fell. No
      gradient flows through them.

    Raises:
      TypeError: if `xs` is not real or `at_most` no int.
      ValueError: if `threshold` ≤ 0, `at_most` < 1, or `xs` is not [T, ..., d].

    >>> import jax.numpy as jnp, eprop_jax.encodings as encodings
    >>> xs = jnp.array([[0.0], [0.6], [1.1], [0.4]])
    >>> encodings.level_crossing(xs, threshold=0.5).tolist()
    [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    xs = checks.real("xs", xs)
    checks.positive("threshold", checks.number("threshold", threshold))
    checks.number("start", start)
    if at_most is not None:
        at_most = checks.fits("at_most", checks.size("at_most", at_most), np.int32)
    if xs.ndim < 2:
        raise ValueError(f"xs: got shape {list(xs.shape)}, wanted [T, ..., d], time first")
    xs = _floating(xs)
    # In units of θ the reference is a whole number, which adds up without rounding.
    levels = jax.lax.stop_gradient((xs - start) / threshold)

    def step(reference, level):
        k = jnp.trunc(level - reference)
        k = k if at_most is None else jnp.clip(k, -at_most, at_most)
        return reference + k, jnp.concatenate([jnp.maximum(k, 0), jnp.maximum(-k, 0)], -1)

    return jax.lax.scan(step, jnp.zeros_like(levels[0]), levels)[1]


def from_crossings(events: Any, threshold: float, *, start: float = 0.0) -> Array:
    """The signal that `level_crossing` events tell of, to within their threshold.

    Args:
      events: [T, ..., 2d], rises first, then falls.
      threshold, start: as they were for `level_crossing`.

    Returns:
      The reference r, [T, ..., d], in the units of the signal.

    Raises:
      TypeError: if `events` is not real.
      ValueError: if `threshold` ≤ 0, or the last axis does not halve.

    >>> import jax.numpy as jnp, eprop_jax.encodings as encodings
    >>> xs = jnp.sin(jnp.arange(100) / 9)[:, None]
    >>> events = encodings.level_crossing(xs, threshold=0.25)
    >>> bool(jnp.all(abs(encodings.from_crossings(events, 0.25) - xs) <= 0.25))
    True
    """
    events = checks.real("events", events)
    checks.positive("threshold", checks.number("threshold", threshold))
    checks.number("start", start)
    if events.ndim < 2 or events.shape[-1] % 2:
        raise ValueError(
            f"events: got shape {list(events.shape)}, wanted [T, ..., 2d], rises and falls"
        )
    up, down = jnp.split(_floating(events), 2, axis=-1)
    return start + threshold * jnp.cumsum(up - down, axis=0)


def from_events(t: Any, unit: Any, n: int, dt: float, T: int | None = None) -> np.ndarray:
    """One recording's events, (time, unit), as counts: entry [k, j] of unit j in [k·dt, (k + 1)·dt).

    Recordings differ in how many events they hold, for each of which JAX would compile anew; so this
    is NumPy's, to be called before training.

    Args:
      t: times [E] ≥ 0, in any unit of time; their order does not matter.
      unit: int [E], 0 … n − 1, which unit (channel, pixel) each event is of.
      n: units.
      dt: a step, in the unit of `t`.
      T: steps; None: up to the last event's.

    Returns:
      Counts [T, n], in JAX's default float. A time that differs from a step's start by the rounding
      of its own dtype belongs to that step.

    Raises:
      TypeError, ValueError: for times that are negative, not finite, or at T·dt or later; units that
        are no ints or outside 0 … n − 1; other shapes than [E]; dt ≤ 0; sizes < 1; no events
        where T is None.

    >>> import eprop_jax.encodings as encodings
    >>> encodings.from_events([0.5, 0.1, 2.0, 2.9], [1, 0, 1, 1], n=2, dt=1.0).tolist()
    [[1.0, 1.0], [0.0, 0.0], [0.0, 2.0]]
    """
    n = checks.size("n", n)
    dt = float(checks.positive("dt", checks.number("dt", dt)))
    if checks.is_traced(t):
        raise TypeError("t: got a tracer, wanted times that are known when this is called")
    times = np.asarray(checks.nonnegative("t", t), float)
    units = checks.indices("unit", unit, 1)
    if times.ndim != 1 or units.shape != times.shape:
        raise ValueError(
            f"t: got shape {list(times.shape)} beside unit {list(units.shape)}, wanted [E], one time "
            "an event"
        )
    checks.within("unit", units, 0, n)
    # 0.3 / 0.1 is less than 3, and 0.3 as a float32 less still: rounding is not a step.
    narrow = np.asarray(t).dtype
    own = np.finfo(narrow).eps / 2 if np.issubdtype(narrow, np.floating) else 0.0
    step = np.floor(times / dt * (1 + float(own) + 4 * np.finfo(float).eps))
    last = step.max(initial=-1)
    if T is None:
        if not times.size:
            raise ValueError("T: got None and no events, wanted how many steps there are")
        T = int(last) + 1
    elif last >= checks.size("T", T):
        raise ValueError(
            f"t: got up to {times.max()}, wanted less than T·dt={T * dt}; to cut: keep = t < {T * dt}"
        )
    at = step.astype(np.int64) * n + units
    counts = np.bincount(at, minlength=T * n).reshape(T, n)
    return counts.astype(jax.dtypes.canonicalize_dtype(float))


def _floating(array: Any) -> Array:
    """Integers and bools become the default float."""
    array = jnp.asarray(array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
