"""What a descent finds, as gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eprop_jax.engine import products
from eprop_jax.engine.adjoint import Reached
from eprop_jax.engine.layers import meets
from eprop_jax.engine.layers.descend import Found
from eprop_jax.network.forward import existing
from eprop_jax.network.stacks import Run
from eprop_jax.network.types import Array, RuleSpec, by_layer


def of_cells(spec: RuleSpec, params: dict, path: Run, found: Found) -> list[list[Array]]:
    """Σ_t Σ_batch pre^t ⊗ ∂̃a^t (Eq. 4), one a parameter leaf, layer by layer."""

    def of_layer(l, cell, p):
        if l not in found.da:
            return [jnp.zeros_like(w) for w in jax.tree.leaves(p)]
        return products.gradient(cell, p, as_reached(found, l), path.ran[l].lines)

    layers = zip(spec.network.cells, by_layer(spec.network, params["cell"]))
    return [of_layer(l, *layer) for l, layer in enumerate(layers)]


def as_reached(found: Found, l: int) -> Reached:
    return Reached(found.da[l], (), found.dtheta[l], found.dinitial[l])


def with_first(
    spec: RuleSpec,
    params: dict,
    path: Run,
    found: Found,
    first: Array,
    grads: list[list[Array]],
) -> list[list[Array]]:
    """And what reaches the initial state of examples that start with the chunk: first [B]."""

    def of_layer(l, p, g):
        if "initial" not in p:
            return g
        c_K = path.ran[l].path.c_K
        return products.add(g, products.at_first(p, c_K, found.dc_0.get(l, ()), first))

    layers = zip(by_layer(spec.network, params["cell"]), grads)
    return [of_layer(l, *layer) for l, layer in enumerate(layers)]


def as_params(
    spec: RuleSpec, params: dict, wide: meets.Wide, grads: list, grads_out: list[Array]
) -> dict:
    """The gradients of all layers and of the (wide) read-out, as a tree like the parameters."""
    net = spec.network
    cells = by_layer(net, params["cell"])
    cell = tuple(jax.tree.structure(p).unflatten(g) for p, g in zip(cells, grads))
    readout, B_l = meets.split_feedback(spec, params, wide, grads_out)
    tree = {"cell": cell if net.stacked else cell[0], "readout": readout}
    return existing(net, tree) | ({"feedback": B_l} if "feedback" in params else {})
