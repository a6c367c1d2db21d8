"""Some of all synapses, held as a whole matrix with zeros."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network.synapses.dense import dense
from eprop_jax.network.synapses.value import Kind, Synapses, normal


def masked(mask: Any) -> Kind:
    """Synapses where a mask says so: their weights are drawn by each unit's own number of them, the
    others are zero when drawn, get no gradient, and count as zero whatever an optimiser, weight decay
    or imported values put there.

    Time and memory are those of `dense`; `sparse` pays for the synapses that there are.

    Args:
      mask: bool [n_pre, n_post], which synapses [pre, post] exist.

    Returns:
      A kind, with weights [n_pre, n_post].

    Raises:
      TypeError, ValueError: for what is no mask; where the kind meets its line, for another shape.

    >>> import jax, numpy as np, eprop_jax as ej
    >>> cell = ej.cells.lif(3, 4, w_in=ej.synapses.masked(np.eye(3, 4, dtype=bool)))
    >>> int((cell.init(jax.random.key(0))["w_in"] != 0).sum())
    3
    """
    checks.mask("mask", mask)

    def kind(n_pre: int, n_post: int) -> Synapses:
        there = checks.mask("mask", mask, (n_pre, n_post))

        def init(key, gain):
            return jnp.where(there, normal(key, there.shape, there.sum(0), gain), 0.0)

        every = dense()(n_pre, n_post)

        def part(j, n):
            own = jax.lax.dynamic_slice_in_dim(jnp.asarray(there), j, n, 1)
            return every.part(j, n)._replace(exists=own)

        return every._replace(init=init, exists=there, part=part, name="masked")

    return kind
