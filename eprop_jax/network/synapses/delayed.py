"""Synapses that hear what was sent some steps earlier."""

from __future__ import annotations

import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.network.synapses import use
from eprop_jax.network.synapses.value import Kind, Synapses


def delayed(kind: Kind, by: int) -> Kind:
    """`kind`, `by` steps later: w_rec hears h^{t-1-by}, w_in what stands there at t − by. What was sent
    before the first step is zero. What is on its way stands in the carry, `state.past`.

    A rule that follows paths over such synapses has whole sequences alone, as a trace holds what has
    arrived; one that does not (e-prop over w_rec) has every chunk.

    Args:
      kind: of the synapses; those of `sparse` may have delays of their own beside.
      by: further steps.

    Returns:
      A kind, with the weights of `kind`.

    Raises:
      TypeError, ValueError: for no kind or number of steps.

    >>> import jax, eprop_jax as ej
    >>> cell = ej.cells.lif(3, 4, w_rec=ej.synapses.delayed(ej.synapses.dense(), by=2))
    >>> net = ej.Network(cell, ej.readouts.leaky(4, 2))
    >>> rule = ej.eprop(net, ej.losses.squared_error)
    >>> rule.init(net.init(jax.random.key(0)), batch_shape=(5,)).state.past["w_rec"].shape
    (5, 8)
    """
    checks.is_callable("kind", kind)
    by = checks.steps("by", by)

    def kind_of(n_pre: int, n_post: int) -> Synapses:
        s = use.line("kind", kind, n_pre, n_post)
        late = lambda heard: heard[..., by * n_pre :]
        send, collect = use.transposed(s), use.collected(s)

        def back(w, da):
            dpre = send(w, da)
            return jnp.concatenate([jnp.zeros((*da.shape[:-1], by * n_pre), dpre.dtype), dpre], -1)

        return s._replace(
            drive=lambda w, heard: s.drive(w, late(heard)),
            view=lambda heard: s.view(late(heard)),
            collect=lambda heard, da: collect(late(heard), da),
            back=back,
            delay=s.delay + by,
            part=None,
            name=f"delayed {s.name}",
        )

    return kind_of
