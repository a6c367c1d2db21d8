"""Which weights carry the learning signal L_j = Σ_k B_jk ∂L/∂y_k back to unit j (Eq. 40), and where
they stand in a rule: before the trace, or after it. `ej.feedback` says what the kinds are for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from eprop_jax.engine.operators import Covector, Signal, each
from eprop_jax.network.types import Array, Maybe

KINDS = ("symmetric", "random", "adaptive")


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


def signal(params: dict, kind: str, filtered: bool) -> tuple[Array, Callable[[Maybe], Any]]:
    """How ∂L/∂y_k meets the read-out trace γ of the cell: (spread [s, n], ∂L/∂y [B, n_out] -> what
    γ is multiplied by).

    The general trace holds ∂y_k/∂w_ij, one a read-out unit (s = n_out): B_jk is inside it (Eq. 33)
    and meets ∂L/∂y_k itself. Where all read-out units filter alike, one trace serves them all
    (s = 1): B_jk goes to the other side, into the learning signal L_j (Eq. 39, 40).
    """
    B = weights(params, kind)
    if filtered:
        return jnp.ones((1, B.shape[0]), B.dtype), lambda dL_dy: Signal(
            each(lambda x: x @ B.T, dL_dy)
        )
    return B.T, lambda dL_dy: Covector((dL_dy,))
