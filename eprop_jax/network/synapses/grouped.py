"""One matrix for every group of units."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from eprop_jax import checks
from eprop_jax.network.synapses.value import Kind, Synapses, normal


def grouped(groups: int) -> Kind:
    """Units in groups, each of which hears its own group alone, all by the same matrix: columns of a
    cortex, or the examples of a batch that are one network.

    Args:
      groups: how many; it divides n_pre and n_post. Units of a group stand together.

    Returns:
      A kind, with weights [n_pre/groups, n_post/groups].

    Raises:
      TypeError, ValueError: for no such number; where the kind meets its line, for sizes that it does
        not divide.

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.gru(6, 12, w_in=ej.synapses.grouped(3), w_rec=ej.synapses.grouped(3))
    >>> cell.init(jax.random.key(0))["w_rec"]["hn"].shape
    (4, 4)
    """
    groups = checks.size("groups", groups)

    def kind(n_pre: int, n_post: int) -> Synapses:
        if n_pre % groups or n_post % groups:
            raise ValueError(
                f"groups: got {groups}, wanted a number that divides {n_pre} and {n_post}, the sizes"
            )
        m, n = n_pre // groups, n_post // groups
        apart = lambda x, size: x.reshape(*x.shape[:-1], groups, size)
        joined = lambda x: x.reshape(*x.shape[:-2], -1)

        def view(pre):
            lines = jnp.swapaxes(apart(pre, m), -1, -2)  # [..., m, groups]
            return jnp.repeat(lines, n, -1)

        return Synapses(
            n_pre,
            n_post,
            init=lambda key, gain: normal(key, (m, n), np.full(n, m), gain),
            drive=lambda w, pre: joined(apart(pre, m) @ w),
            back=lambda w, da: joined(apart(da, n) @ w.T),
            view=view,
            tie=lambda x: apart(x, n).sum(-2),
            name="grouped",
        )

    return kind
