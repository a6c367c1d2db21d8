"""Where the loss meets a stack: at the read-out, by each layer's own feedback, and in the losses of
activities and states."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import objective, products, seeds, signals
from eprop_jax.engine.adjoint import Part, Reached, Source
from eprop_jax.engine.layers.descend import Meets
from eprop_jax.engine.maybe import each, some, total
from eprop_jax.network import unitwise
from eprop_jax.network.stacks import Run
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Array, Cell, Maybe, PyTree, RuleSpec, by_layer


class Wide(NamedTuple):
    """The read-out as its gradient sees it. With adaptive feedback the layers that it does not read
    stand in it too: B_l moves as w_out would, if layer l were read."""

    hears: dict[str, tuple[int, ...]]
    """the layers that each line hears, in the order of its rows"""
    params: dict
    cell: Cell
    """the read-out as a cell, with these lines"""

    def lines(self, path: Run) -> dict[str, Array]:
        return {line: path.heard(layers) for line, layers in self.hears.items()}


def wide_readout(spec: RuleSpec, params: dict) -> Wide:
    net, p, cell = spec.network, params["readout"], unitwise.as_cell(spec.network.readout)
    unread = tuple(l for l in range(len(net.cells)) if l not in net.reads)
    if spec.feedback != "adaptive" or not unread:
        return Wide({"w_out": net.reads}, p, cell)
    size, n_out = sum(net.cells[l].n_units for l in unread), net.readout.n_out
    more = use.plain(size, n_out)
    return Wide(
        {"w_out": net.reads, "w_unread": unread},
        {**p, "w_unread": jnp.zeros((size, n_out), p["w_out"].dtype)},
        cell._replace(synapses={**cell.synapses, "w_unread": more}),
    )


def feedback_of(spec: RuleSpec, params: dict, path: Run) -> list[Maybe]:
    """B_l [n_l, n_out] of each layer, by which it stands at the read-out; None where it does not."""
    net = spec.network
    if spec.feedback != "symmetric":
        return list(by_layer(net, params["feedback"]))
    w_out = by_size(signals.weights(spec, params), path.sizes(net.reads))
    of = dict(zip(net.reads, w_out))
    return [of.get(l) for l in range(len(net.cells))]


def at_layers(
    spec: RuleSpec, B_l: list[Maybe], path: Run, da_out: Array, data: objective.Data
) -> tuple[Array, Array, tuple[Meets, ...]]:
    """(activity losses [B], state losses [K, B], where the loss meets each layer)."""
    net, (K, B) = spec.network, da_out.shape[:2]
    of_activity, of_state = (
        objective.losses_of(net, x) for x in (spec.activity_loss, spec.state_loss)
    )
    activity, per_step, at = jnp.zeros(B, da_out.dtype), jnp.zeros((K, B), da_out.dtype), []
    for l in range(len(net.cells)):
        more, dL_dh = objective.activity_losses(of_activity[l], spec.units, path.ran[l].h, data)
        activity = activity + more
        by_y = each(lambda w: from_readout(da_out, w), B_l[l])
        by_activity = each(lambda x: seeds.of_activity(x / B), dL_dh)
        of_steps, dL_dc = objective.state_losses(of_state[l], spec.units, path.ran[l].path)
        per_step = total(per_step, each(lambda x: objective.only(data.mask, x), of_steps))
        dL_dc = tuple(objective.only(data.mask, x) / B for x in dL_dc)
        at.append(Meets(tuple(some((by_y, by_activity))), dL_dc))
    return activity, per_step, tuple(at)


def from_readout(da_out: Array, B: Array) -> Source:
    """The learning signal (Eq. 40): B ∂̃a_out^t."""
    return Source(da_out, lambda da: da @ B.T)


def at_readout(spec: RuleSpec, wide: Wide, path: Run, parts: list[Part]) -> list[Reached]:
    """The read-out's own sweep."""
    return seeds.at_readout(spec.network.readout, wide.params, path.path_out, parts)


def readout_gradient(wide: Wide, path: Run, s: Reached) -> list[Array]:
    """Σ_t Σ_batch h^t ⊗ ∂̃a_out^t, one a parameter leaf of the (wide) read-out."""
    return products.gradient(wide.cell, wide.params, s, wide.lines(path))


def split_feedback(
    spec: RuleSpec, params: dict, wide: Wide, grads_out: list[Array]
) -> tuple[dict, PyTree]:
    """The gradient of the read-out, and that of B: of adaptive B_l its rows of the wide w_out's; of
    random B, which is fixed by definition, and in a rule that does not read it, zeros."""
    net = spec.network
    grads: dict[str, Any] = jax.tree.structure(wide.params).unflatten(grads_out)
    own = {k: x for k, x in grads.items() if k != "w_unread"}
    if spec.feedback != "adaptive":
        return own, jax.tree.map(jnp.zeros_like, params.get("feedback", ()))
    of: dict[int, Array] = {}
    for line, layers in wide.hears.items():
        s = wide.cell.synapses[line]
        w = use.matrix(s, use.existing(s, grads[line]))
        of |= dict(zip(layers, by_size(w, [net.cells[l].n_units for l in layers])))
    B = tuple(of[l] for l in range(len(net.cells)))
    return own, B if net.stacked else B[0]


def by_size(w: Array, sizes: list[int]) -> list[Array]:
    stops = [sum(sizes[: k + 1]) for k in range(len(sizes) - 1)]
    return jnp.split(w, stops)
