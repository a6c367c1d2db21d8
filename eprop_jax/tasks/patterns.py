"""Sequences to produce rather than to classify: sinusoids, and a copy of what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Array
from eprop_jax.tasks.timing import Task, number, spike_probability, steps


def pattern_generation(
    key: Array | None = None,
    *,
    n_in: int = 100,
    n_out: int = 1,
    duration: float = 1000.0,
    periods: Sequence[float] = (1000.0, 500.0, 333.0, 200.0),
    rate: float = 50.0,
    dt: float = 1.0,
) -> Task:
    """Produce a smooth curve, the sum of sinusoids, in answer to a frozen pattern of spikes.

    target(t) = Σ_i a_i sin(2π t/P_i + φ_i) with a_i uniform in [½, 2] and φ_i in [0, 2π], shifted to
    start at 0 and scaled to reach 1 in magnitude. Input and target are drawn once, from this
    `key`: every call of the task returns the same, whatever its own key.

    The parameters are those of the code published with G. Bellec et al., *A solution to the
    learning dilemma for recurrent networks of spiking neurons*, Nature Communications 11:3625,
    2020 (tutorial_pattern_generation.py), but for two details: there each period is stretched a
    little so that a whole number of them fits the sequence, and the members of a batch, which is of
    size 1, would get inputs of their own; here they are copies.

    Args:
      key: of the input and the target, a PRNG key, which may be traced; None: `jax.random.key(0)`.
      n_in: input units.
      n_out: curves, drawn independently.
      duration: in ms.
      periods: P_i, in ms.
      rate: of each input unit, in Hz.
      dt: step in ms.

    Returns:
      (key, batch) -> (xs [T, batch, n_in] of 0 and 1, ys [T, batch, n_out] in [−1, 1]), for
      `losses.squared_error`.

    Raises:
      TypeError, ValueError: for a size < 1, a `duration` that is no multiple of dt, a period ≤ 0,
        a rate above one spike a step, `batch` < 1; each by its name.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> xs, ys = tasks.pattern_generation(jax.random.key(1))(jax.random.key(0), 2)
    >>> xs.shape, ys.shape, float(abs(ys).max())
    ((1000, 2, 100), (1000, 2, 1), 1.0)
    """
    T = steps("duration", duration, dt, least=2)
    checks.size("n_in", n_in)
    checks.size("n_out", n_out)
    times = np.ravel(checks.real("periods", periods))
    if not times.size or min(number("periods", period) for period in times) <= 0:
        raise ValueError(f"periods: got {periods}, wanted positive times in ms")
    p = spike_probability("rate", rate, dt)
    turns = dt * np.arange(T)[None, :, None] / np.asarray(times, float)[:, None, None]
    key = jax.random.key(0) if key is None else checks.key("key", key)
    k_in, k_a, k_phi = jax.random.split(key, 3)

    def sample(key, batch):
        checks.key("key", key)  # not read: the pattern is frozen
        checks.size("batch", batch)
        frozen = jax.random.bernoulli(k_in, p, (T, n_in)).astype(float)
        shape = (len(times), 1, n_out)
        a = jax.random.uniform(k_a, shape, minval=0.5, maxval=2.0)
        phi = jax.random.uniform(k_phi, shape, maxval=2 * jnp.pi)
        waves = jnp.sin(2 * jnp.pi * jnp.asarray(turns, float) + phi)
        curve = jnp.sum(a * waves, 0)
        curve = curve - curve[:1]
        curve = curve / jnp.max(jnp.abs(curve), axis=0, keepdims=True)
        copies = partial(jnp.repeat, repeats=batch, axis=1)
        return copies(frozen[:, None]), copies(curve[:, None])

    return sample


def copy_memory(*, n_symbols: int = 8, length: int = 10, delay: int = 100) -> Task:
    """See a few symbols, wait, and repeat them in order: one symbol a step, no times in ms.

    `length` symbols, delay − 1 blanks, a mark, and `length` blanks while the answer is due, so each
    symbol has to be kept for length + delay steps.

    S. Hochreiter and J. Schmidhuber, *Long short-term memory*, Neural Computation 9, 1997, in the
    form of M. Arjovsky, A. Shah, Y. Bengio, *Unitary evolution recurrent neural networks*, ICML
    2016, with its 8 symbols, 10 at a time. There the loss also counts the blanks to be named before
    the answer is due; here it does not, so that chance is log(n_symbols) nats at every delay.

    Args:
      n_symbols: different symbols, ≥ 2.
      length: symbols to keep.
      delay: memory demand, in steps, ≥ 1.

    Returns:
      (key, batch) -> (xs [T, batch, n_symbols + 2] one-hot: symbols, blank, mark;
      (symbol [T, batch], weight [T, batch])), T = 2 · length + delay, for
      `losses.masked(losses.softmax_cross_entropy)` with n_symbols outputs. The weight is 1/length
      in the last `length` steps and 0 before, where the symbol is 0.

    Raises:
      TypeError, ValueError: for a size below what is said here, each by its name.

    >>> import jax
    >>> from eprop_jax import tasks
    >>> xs, (symbol, weight) = tasks.copy_memory(length=3, delay=5)(jax.random.key(0), 4)
    >>> xs.shape, (symbol[-3:] == xs[:3].argmax(-1)).all().item()
    ((11, 4, 10), True)
    """
    if checks.size("n_symbols", n_symbols) < 2:
        raise ValueError(f"n_symbols: got {n_symbols}, wanted an int >= 2")
    length, delay = checks.size("length", length), checks.size("delay", delay)
    T, blank, mark = 2 * length + delay, n_symbols, n_symbols + 1

    def sample(key, batch):
        checks.key("key", key)
        shown = jax.random.randint(key, (length, checks.size("batch", batch)), 0, n_symbols)
        seen = jnp.concatenate([shown, jnp.full((T - length, batch), blank, shown.dtype)])
        seen = seen.at[length + delay - 1].set(mark)
        symbol = jnp.concatenate([jnp.zeros((T - length, batch), shown.dtype), shown])
        due = (jnp.arange(T) >= T - length).astype(float)[:, None] / length
        return jax.nn.one_hot(seen, n_symbols + 2), (symbol, jnp.broadcast_to(due, (T, batch)))

    return sample
