"""Learning signals: which weights carry ∂L/∂y_k back to unit j (Eq. 40: L_j = Σ_k B_jk ∂L/∂y_k).

symmetric: B is the read-out's own w^out. random: B is fixed (its gradient is zero; an optimiser that
decays weights moves it all the same, unless told not to). adaptive: B starts random and gets the
same updates as w^out (Bellec et al. 2020). B [n, n_out] stands in params["feedback"], where any
optimiser treats it like the rest. Only the cell's gradient sees B; the read-out's own is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.base import Array, Network

__all__ = ["init"]

KINDS = ("symmetric", "random", "adaptive")


def init(key: Array, net: Network, gain: float = 1.0) -> Array:
    """Random feedback weights B [n, n_out], normal with standard deviation gain/√n.

    Args:
      key: a PRNG key.
      net: the network.
      gain: scale.

    Raises:
      TypeError, ValueError: if `key` is no key, `net` no Network, or `gain` negative.

    >>> import jax, eprop_jax as ej
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> params = net.init(jax.random.key(0))
    >>> params["feedback"] = ej.feedback.init(jax.random.key(1), net)
    >>> params["feedback"].shape
    (5, 2)
    """
    checks.instance("net", net, Network, "an ej.Network")
    checks.key("key", key)
    checks.nonnegative("gain", checks.number("gain", gain))
    n, n_out = net.readout.n_units, net.readout.n_out
    return jax.random.normal(key, (n, n_out)) * (gain / n**0.5)


def weights(params: dict, kind: str) -> Array:
    """B for this kind of feedback."""
    return params["readout"]["w_out"] if kind == "symmetric" else params["feedback"]


def gradient(params: dict, kind: str, grads: dict) -> dict:
    """What B receives: w^out's gradient if adaptive; zeros if random, where B is fixed by
    definition, and in a rule that does not read it."""
    if "feedback" not in params:
        return grads
    w_out = grads["readout"]["w_out"]
    return {**grads, "feedback": w_out if kind == "adaptive" else jnp.zeros_like(w_out)}


def signal(params: dict, kind: str, filtered: bool) -> tuple[Array, Callable[[Array], Array]]:
    """How ∂L/∂y_k meets the read-out trace γ of the cell: (spread [s, n], ∂L/∂y -> [..., s, n or 1]).

    The general trace holds ∂y_k/∂w_ij, one a read-out unit (s = n_out): B_jk is inside it (Eq. 33)
    and meets ∂L/∂y_k itself. Where all read-out units filter alike, one trace serves them all
    (s = 1): B_jk goes to the other side, into the learning signal L_j (Eq. 39, 40).
    """
    B = weights(params, kind)
    if filtered:
        return jnp.ones((1, B.shape[0]), B.dtype), lambda dL_dy: (dL_dy @ B.T)[..., None, :]
    return B.T, lambda dL_dy: dL_dy[..., :, None]
