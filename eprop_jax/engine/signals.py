"""Which weights carry the learning signal L_j = Σ_k B_jk ∂L/∂y_k back to unit j (Eq. 40), and where
they stand in a rule: before the trace, or after it. `ej.feedback` says what the kinds are for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from eprop_jax.engine.maybe import each
from eprop_jax.engine.operators import Covector, Signal
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Array, Maybe, RuleSpec

KINDS = ("symmetric", "random", "adaptive")


def weights(spec: RuleSpec, params: dict) -> Array:
    """B [n, n_out] for this kind of feedback."""
    if spec.feedback != "symmetric":
        return params["feedback"]
    return use.matrix(spec.network.readout.synapses["w_out"], params["readout"]["w_out"])


def to_units(spec: RuleSpec, params: dict) -> Callable[[Array], Array]:
    """∂L/∂a_out [..., n_out] -> what arrives at the units, [..., n]."""
    if spec.feedback != "symmetric":
        return lambda x: x @ params["feedback"].T
    back = use.back(spec.network.readout.synapses["w_out"], {"": params["readout"]["w_out"]})
    return lambda x: back({"": x})


def gradient(spec: RuleSpec, params: dict, grads: dict) -> dict:
    """What B receives: w^out's gradient if adaptive; zeros if random, where B is fixed by
    definition, and in a rule that does not read it."""
    if "feedback" not in params:
        return grads
    if spec.feedback != "adaptive":
        return {**grads, "feedback": jnp.zeros_like(params["feedback"])}
    w_out = spec.network.readout.synapses["w_out"]
    return {**grads, "feedback": use.matrix(w_out, grads["readout"]["w_out"])}


def signal(spec: RuleSpec, params: dict, filtered: bool) -> tuple[Array, Callable[[Maybe], Any]]:
    """How ∂L/∂y_k meets the read-out trace γ of the cell: (spread [s, n], ∂L/∂y [B, n_out] -> what
    γ is multiplied by).

    The general trace holds ∂y_k/∂w_ij, one a read-out unit (s = n_out): B_jk is inside it (Eq. 33)
    and meets ∂L/∂y_k itself. Where all read-out units filter alike, one trace serves them all
    (s = 1): B_jk goes to the other side, into the learning signal L_j (Eq. 39, 40).
    """
    if filtered:
        (n,), back = {cell.n_units for cell in spec.network.cells}, to_units(spec, params)
        one = jnp.ones((1, n), params["readout"]["w_out"].dtype)
        return one, lambda dL_dy: Signal(each(back, dL_dy))
    return weights(spec, params).T, lambda dL_dy: Covector((dL_dy,))
