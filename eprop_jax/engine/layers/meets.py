"""Where the loss meets a stack: at the read-out, by each layer's own feedback, and in the losses of
activities and states."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import objective, products, seeds
from eprop_jax.engine.adjoint import Part, Reached, Source
from eprop_jax.engine.layers.descend import Meets
from eprop_jax.network.stacks import Run, rows
from eprop_jax.network.types import Array, Maybe, PyTree, RuleSpec, by_layer


class Wide(NamedTuple):
    """The read-out as its gradient sees it. With adaptive feedback the layers that it does not read
    stand in it too: B_l moves as w_out would, if layer l were read."""

    names: tuple[int, ...]
    """the layers, in the order of w_out's rows"""
    params: dict


def wide_readout(spec: RuleSpec, params: dict) -> Wide:
    net, p = spec.network, params["readout"]
    if spec.feedback != "adaptive":
        return Wide(net.reads, p)
    unread = tuple(l for l in range(len(net.cells)) if l not in net.reads)
    more = [jnp.zeros_like(by_layer(net, params["feedback"])[l], p["w_out"].dtype) for l in unread]
    return Wide((*net.reads, *unread), {**p, "w_out": jnp.concatenate([p["w_out"], *more])})


def feedback_of(spec: RuleSpec, params: dict, path: Run) -> list[Maybe]:
    """B_l [n_l, n_out] of each layer, by which it stands at the read-out; None where it does not."""
    net = spec.network
    if spec.feedback != "symmetric":
        return list(by_layer(net, params["feedback"]))
    w_out = dict(zip(net.reads, rows(params["readout"]["w_out"], path.heard(net.reads))))
    return [w_out.get(l) for l in range(len(net.cells))]


def at_layers(
    spec: RuleSpec, B_l: list[Maybe], path: Run, da_out: Array, data: objective.Data
) -> tuple[Array, Array, tuple[Meets, ...]]:
    """(activity losses [B], state losses [K, B], where the loss meets each layer)."""
    net, (K, B) = spec.network, da_out.shape[:2]
    of_activity, of_state = (
        objective.losses_of(net, x) for x in (spec.activity_loss, spec.state_loss)
    )
    activity, per_step, at = jnp.zeros(B, da_out.dtype), jnp.zeros((K, B), da_out.dtype), []
    for l, cell in enumerate(net.cells):
        more, dL_dh = objective.activity_losses(of_activity[l], cell.wires, path.ran[l].h, data)
        activity, dL_dc, sources = activity + more, None, []
        if B_l[l] is not None:
            sources.append(Source(da_out, lambda da, w=B_l[l]: da @ w.T))
        if dL_dh is not None and dL_dh.shape[0] == 1 < K:
            # The same at each step, it need not be stored for each.
            sources.append(Source((), lambda _, dh=dL_dh[0] / B: dh))
        elif dL_dh is not None:
            sources.append(Source(dL_dh / B))
        if of_state[l] is not None:
            of_steps, dL_dc = objective.state_losses(of_state[l], cell.wires, path.ran[l].path.c)
            per_step = per_step + objective.only(data.mask, of_steps)
            dL_dc = tuple(objective.only(data.mask, x) / B for x in dL_dc)
        at.append(Meets(tuple(sources), dL_dc))
    return activity, per_step, tuple(at)


def at_readout(spec: RuleSpec, wide: Wide, path: Run, parts: list[Part]) -> list[Reached]:
    """The read-out's own sweep."""
    return seeds.at_readout(spec.network.readout, wide.params, path.path_out, parts)


def readout_gradient(wide: Wide, path: Run, s: Reached) -> list[Array]:
    """Σ_t Σ_batch h^t ⊗ ∂̃a_out^t, one a parameter leaf of the (wide) read-out."""
    lines = {"w_out": jnp.concatenate(path.heard(wide.names), -1)}
    return products.gradient(wide.params, s, lines)


def split_feedback(
    spec: RuleSpec, params: dict, wide: Wide, grads_out: list[Array]
) -> tuple[dict, PyTree]:
    """The gradient of the read-out, and that of B: of adaptive B_l its rows of the wide w_out's; of
    random B, which is fixed by definition, and in a rule that does not read it, zeros."""
    net = spec.network
    grads: dict[str, Any] = jax.tree.structure(wide.params).unflatten(grads_out)
    if spec.feedback != "adaptive":
        return grads, jax.tree.map(jnp.zeros_like, params.get("feedback", ()))
    sizes = [net.cells[l].n_units for l in wide.names]
    of = dict(zip(wide.names, by_size(grads["w_out"], sizes)))
    B = tuple(of[l] for l in range(len(net.cells)))
    n_read = params["readout"]["w_out"].shape[0]
    return {**grads, "w_out": grads["w_out"][:n_read]}, B if net.stacked else B[0]


def by_size(w: Array, sizes: list[int]) -> list[Array]:
    stops = [sum(sizes[: k + 1]) for k in range(len(sizes) - 1)]
    return jnp.split(w, stops)
