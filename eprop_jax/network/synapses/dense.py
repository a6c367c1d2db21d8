"""Every unit hears every other: w [n_pre, n_post]."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.network.synapses.value import Kind, Synapses, normal


def dense() -> Kind:
    """All synapses: a_j = Σ_i pre_i w_ij. What a line has if nothing else is said.

    Returns:
      A kind: (n_pre, n_post) -> `Synapses`, with weights [n_pre, n_post].

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.lif(3, 4, w_rec=ej.synapses.dense())
    >>> cell.init(jax.random.key(0))["w_rec"].shape
    (4, 4)
    """

    def kind(n_pre: int, n_post: int) -> Synapses:
        return Synapses(
            n_pre,
            n_post,
            init=lambda key, gain: normal(key, (n_pre, n_post), np.full(n_post, n_pre), gain),
            drive=lambda w, pre: pre @ w,
            back=lambda w, da: da @ w.T,
            view=lambda pre: pre[..., None],
            collect=lambda pre, da: pre.T @ da,
            own=jnp.diagonal,
            part=lambda j, n: dense()(n_pre, n)._replace(
                own=lambda w: jnp.diagonal(jax.lax.dynamic_slice_in_dim(w, j, n, 0))
            ),
            matrix=True,
            name="dense",
        )

    return kind
