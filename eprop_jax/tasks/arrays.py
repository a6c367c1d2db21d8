"""Arrays of one's own as time-major sequences, and as batches in which each example has its turn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network.types import Array


class Epochs(NamedTuple):
    """Batches without replacement: what `ej.train` and `ej.training` take as `data`."""

    draw: Callable[[Array, Any], tuple]
    """(key, u) -> batch u of the order that the key determines; pure, both may be traced"""
    batches: int
    """an epoch: batch u is of epoch u // batches"""


def sequences(
    X: Any,
    y: Any,
    lengths: Any = None,
    *,
    named: str = "throughout",
    batch_major: bool = True,
) -> tuple:
    """Arrays as time-major sequences in which only the steps before an example's end count.

    Args:
      X: [N, T, F], real numbers: NumPy's, JAX's, or what has `__array__`. What lies past an
        example's end may be anything, and is read as 0.
      y: classes as integers ≥ 0, one a sequence [N] or one a step [N, T]; or real targets as
        floats, one a sequence [N, n_out] or one a step [N, T, n_out].
      lengths: int [N], 1 … T, the steps of each example; None: all T.
      named: "throughout": each step of an example has the weight 1/length; "last": its last step
        has 1. Either way the weights of an example sum to 1, and those past its end are 0.
      batch_major: False: X is [T, N, F], and what has a step's axis in y has it first too.

    Returns:
      (xs [T, N, F], ys), and with `lengths` also mask [T, N] bool, the steps before an example's
      end. ys = (target, weight [T, N]) for `ej.losses.masked`: target is int [T, N] for
      `softmax_cross_entropy`, or floating [T, N, n_out] for `squared_error`; what is of a whole
      sequence stands at each of its steps. The dtypes of X and of real targets stay.

    Raises:
      TypeError, ValueError: for what is not real, not finite, of another shape, a class < 0, a
        length outside 1 … T, another `named`; each by its name, its values where not traced.

    >>> import numpy as np, eprop_jax as ej
    >>> X, y = np.ones((3, 5, 2), "float32"), np.array([0, 1, 1])
    >>> xs, (target, weight), mask = ej.tasks.sequences(X, y, lengths=[5, 2, 4])
    >>> xs.shape, target.shape, weight[:, 1].tolist(), mask.sum(0).tolist()
    ((5, 3, 2), (5, 3), [0.5, 0.5, 0.0, 0.0, 0.0], [5, 2, 4])
    """
    checks.one_of("named", named, ("throughout", "last"))
    X, y, lengths, of_steps = _examples(X, y, lengths, batch_major)
    return _present(X, y, lengths, of_steps, named)


def from_arrays(
    X: Any,
    y: Any,
    lengths: Any = None,
    *,
    batch: int,
    named: str = "throughout",
    batch_major: bool = True,
) -> Epochs:
    """Shuffled batches of arrays, without replacement, for `ej.train` and `ej.training.trainer`.

    Update u sees batch u mod `batches` of epoch u // `batches`, whose order follows from the key and
    the number of the epoch. So a run that was cut off goes on with what it would have seen, and runs
    may be compiled whole and `vmap`ped over seeds. In an epoch no example comes twice; the N mod
    `batch` that fill no batch are others in each epoch, and none where `batch` divides N.

    Each update sorts N numbers anew (on a busy CPU 7 ms for N = 8000, 30 ms for 60,000), and the arrays
    are part of the compiled program, beside which they take their memory once more. What does not fit
    goes batch by batch: an iterable of batches (`ej.training.trainer`), made by `ej.tasks.sequences`.

    Args:
      X, y, lengths, named, batch_major: as in `sequences`; values that are known.
      batch: examples a batch, 1 … N.

    Returns:
      `Epochs`: draw, (key, u) -> (xs [T, batch, F], ys) or, with `lengths`, (xs, ys, mask), as
      `sequences` gives them; and batches, N // batch.

    Raises:
      TypeError, ValueError: as `sequences`; for `batch` no int from 1 to N.

    >>> import jax, numpy as np, optax, eprop_jax as ej
    >>> X, y = np.ones((10, 5, 2), "float32"), np.arange(10) % 2
    >>> data = ej.tasks.from_arrays(X, y, batch=4)
    >>> xs, (target, weight) = data.draw(jax.random.key(0), 0)
    >>> xs.shape, target.shape, data.batches
    ((5, 4, 2), (5, 4), 2)
    >>> net = ej.Network(ej.cells.gru(2, 3), ej.readouts.linear(3, 2))
    >>> rule = ej.eprop(net, ej.losses.masked(ej.losses.softmax_cross_entropy))
    >>> state, log = ej.train(rule, optax.sgd(0.1), net.init(jax.random.key(0)), data, steps=3)
    >>> log["loss"].shape
    (3,)
    """
    checks.one_of("named", named, ("throughout", "last"))
    X, y, lengths, of_steps = _examples(X, y, lengths, batch_major)
    for name, value in (("X", X), ("y", y), ("lengths", lengths)):
        if checks.is_traced(value):
            raise TypeError(
                f"{name}: got a tracer, wanted values that are known when this is called"
            )
    N = X.shape[0]
    if checks.size("batch", batch) > N:
        raise ValueError(f"batch: got {batch}, wanted at most N={N}, the examples there are")
    batches = N // batch
    # Copies: the user's own may change.
    stored = tuple(None if x is None else jnp.array(x) for x in (X, y, lengths))

    @jax.jit
    def drawn(key, u, *stored):
        epoch, at = u // batches, u % batches
        order = jax.random.permutation(jax.random.fold_in(key, epoch), N)
        rows = jax.lax.dynamic_slice_in_dim(order, at * batch, batch)
        X, y, lengths = (None if x is None else x[rows] for x in stored)
        return _present(X, y, lengths, of_steps, named)

    def draw(key, u):
        return drawn(checks.key("key", key), u, *stored)

    return Epochs(draw, batches)


def _examples(X, y, lengths, batch_major):
    """All with their examples first, checked."""
    X, lengths = checks.examples(X, lengths, batch_major)
    y, of_steps = checks.targets(y, lengths, *X.shape[:2], batch_major)
    return X, y, lengths, of_steps


@functools.partial(jax.jit, static_argnames=("of_steps", "named"))
def _present(X, y, lengths, of_steps, named):
    """Examples first -> time first."""
    N, T = X.shape[:2]
    ends = jnp.full((N,), T) if lengths is None else jnp.asarray(lengths).astype(int)
    ends = jnp.broadcast_to(ends[None], (T, N))
    t = jnp.broadcast_to(jnp.arange(T, dtype=ends.dtype)[:, None], (T, N))
    mask = t < ends
    xs, y = jnp.swapaxes(jnp.asarray(X), 0, 1), jnp.asarray(y)
    y = y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(int)
    target = jnp.swapaxes(y, 0, 1) if of_steps else jnp.broadcast_to(y[None], (T, *y.shape))
    dtype = xs.dtype if jnp.issubdtype(xs.dtype, jnp.floating) else jnp.zeros(()).dtype
    weight = (
        (t == ends - 1).astype(dtype)
        if named == "last"
        else mask.astype(dtype) / ends.astype(dtype)
    )
    if lengths is None:
        return xs, (target, weight)
    # What pads is no number of theirs: NaN there must reach neither the network nor the loss.
    within = lambda x: jnp.where(mask.reshape(T, N, *[1] * (x.ndim - 2)), x, jnp.zeros_like(x))
    return within(xs), (within(target), weight), mask
