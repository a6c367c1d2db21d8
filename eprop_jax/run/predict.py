"""What a trained network says of examples: classes, and the outputs they come from."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.types import Network, PyTree


class Prediction(NamedTuple):
    """What `predict` gives, as NumPy's arrays."""

    classes: np.ndarray
    """int [N], the largest of `logits`"""
    logits: np.ndarray
    """[N, n_out], the outputs' mean over an example's steps, or its last step's outputs"""
    outputs: np.ndarray
    """[N, T, n_out] (of X [T, N, F]: [T, N, n_out]), 0 past an example's end"""


def predict(
    net: Network,
    params: PyTree,
    X: Any,
    lengths: Any = None,
    *,
    batch: int = 128,
    named: str = "throughout",
    batch_major: bool = True,
) -> Prediction:
    """The network on arrays, some examples at a time, all by one compiled program.

    The classes are those that `ej.training.accuracy` compares, for targets of `ej.tasks.sequences`
    with the same `named`. Neither `batch` nor what lies past an example's end changes them.

    Args:
      net, params: as for `net.apply`; "feedback" may stand in params.
      X: [N, T, n_in], real numbers.
      lengths: int [N], 1 … T, the steps of each example; None: all T.
      batch: examples at a time; the last of them are filled up.
      named: "throughout": logits are the mean over an example's steps; "last": of its last step.
      batch_major: False: X is [T, N, n_in].

    Returns:
      A `Prediction`. Its outputs take N·T·n_out numbers of the host's memory.

    Raises:
      TypeError, ValueError: for what does not fit the network, a length outside 1 … T, numbers that
        are not finite within an example, another `named`; each by its name. Within `jax.jit` or
        `jax.vmap` it is refused; `net.apply` stands there.

    >>> import jax, numpy as np, eprop_jax as ej
    >>> net = ej.Network(ej.cells.gru(3, 5), ej.readouts.linear(5, 2))
    >>> X = np.random.default_rng(0).normal(size=(10, 7, 3)).astype("float32")
    >>> found = ej.predict(net, net.init(jax.random.key(0)), X, batch=4)
    >>> found.classes.shape, found.logits.shape, found.outputs.shape
    ((10,), (10, 2), (10, 7, 2))
    """
    checks.instance("net", net, Network, "an ej.Network")
    checks.one_of("named", named, ("throughout", "last"))
    X, lengths = checks.examples(X, lengths, batch_major, net.n_in)
    for name, value in (("X", X), ("lengths", lengths), ("params", params)):
        if checks.is_traced(value):
            raise TypeError(
                f"{name}: got a tracer, wanted values that are known when this is called (net.apply "
                "serves what is traced)"
            )
    X = np.asarray(X)
    N, T = X.shape[:2]
    size = min(checks.size("batch", batch), N)
    ends = np.full(N, T) if lengths is None else np.asarray(lengths)
    mask = np.arange(T) < ends[:, None]
    weight = np.arange(T) == ends[:, None] - 1 if named == "last" else mask / ends[:, None]
    parts = []
    for start in range(0, N, size):
        rows = np.minimum(np.arange(start, start + size), N - 1)  # the last fills up
        counts = mask[rows]
        xs = np.where(counts[..., None], X[rows], np.zeros((), X.dtype))
        outputs, logits = _answers(net, params, xs, counts, weight[rows])
        parts.append((np.asarray(outputs), np.asarray(logits)))
    outputs, logits = (np.concatenate(part)[:N] for part in zip(*parts))
    outputs = outputs if batch_major else outputs.swapaxes(0, 1)
    return Prediction(np.argmax(logits, -1), logits, outputs)


def _answers(net: Network, params: PyTree, xs: Any, mask: Any, weight: Any) -> tuple:
    """(outputs [B, T, n_out], logits [B, n_out])."""
    run = net.apply(params, jnp.asarray(xs.swapaxes(0, 1)), mask=jnp.asarray(mask.T))
    return _weighed(run.outputs, jnp.asarray(weight.T))


@jax.jit
def _weighed(outputs, weight):
    logits = jnp.sum(outputs * weight[..., None].astype(outputs.dtype), 0)
    return jnp.swapaxes(outputs, 0, 1), logits
