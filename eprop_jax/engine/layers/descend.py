"""The adjoint of a stack: from the read-out down, layer by layer, each with its own co-states.

    ∂̃h_q^{l,t} = [paths end in q] ∂L/∂h^{l,t} + Σ_e w_rec ∂̃a_{q·e}^{l,t+1} + Σ_f w_in ∂̃a_{q·f}^{l+1,t}

A hop f within the step is one product for all steps, made before the lower layer's scan begins. The
gradient is that of state 0 (Eq. 4): dL/dw = Σ_t pre^t ⊗ ∂̃a_0^t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import forward, rules
from eprop_jax import jacobians as jac
from eprop_jax import traces as tr
from eprop_jax.base import Array, Carry, Maybe, PyTree, RuleSpec, State, StepOutput, by_layer
from eprop_jax.engine import paths
from eprop_jax.engine.layers import connected
from eprop_jax.engine.layers.forward import Run, rows, run
from eprop_jax.engine.layers.sweep import Moves, Source, still, sweep


class Found(NamedTuple):
    """∂̃a of the co-states that are asked for, by number: {gate: [K, B, n]}; and dθ by layer."""

    da: dict[int, dict[str, Maybe]]
    dtheta: dict[int, dict[str, Maybe]]


class Losses(NamedTuple):
    """Where the loss meets one layer."""

    sources: list[Source]
    """∂L/∂h^t"""
    dL_dc: tuple[Array, ...] | None


def gradient(
    nodes_of: Callable, spec: RuleSpec, params: dict, carry: Carry, data: rules.Data, keep: bool
) -> tuple[Carry, StepOutput, Any]:
    """(carry, StepOutput, () -> ∂L/∂xs) of a whole sequence, on one batch axis. `nodes_of(params)`: the
    co-states."""
    net, B = spec.network, data.xs.shape[1]
    path = run(net, params, carry.state, data.xs)
    losses, dL_dy = jax.vmap(jax.vmap(jax.value_and_grad(rules.per_step(spec))))(path.y, data.ys)
    losses, dL_dy = rules.only(data.mask, losses), rules.only(data.mask, dL_dy) / B
    grads_out, da_out = at_readout(spec, params, path, dL_dy)
    activity, per_step, at = at_layers(spec, params, path, da_out, data)
    losses = losses + per_step
    nodes = nodes_of(params)
    found = descend(spec, params, path, nodes, at)
    cells = by_layer(net, params["cell"])
    grads = [of_layer(p, found.da.get(l, {}), found.dtheta.get(l, {}),
                      path.heard(net.inputs[l]), path.ran[l].h_tm1)
             for l, p in enumerate(cells)]  # fmt: skip
    grads = {"cell": tuple(grads) if net.stacked else grads[0], "readout": grads_out}
    grads = rules.masked(net, grads)
    if "feedback" in params:
        grads["feedback"] = of_feedback(spec, params, path, da_out)
    loss = (jnp.sum(losses) + jnp.sum(activity)) / B
    out = StepOutput(loss, grads, path.y, path.h, losses)
    state = State(path.c_K, path.y[-1])
    return carry._replace(state=state), out, lambda: to_inputs(spec, params, path, found)


def at_readout(spec: RuleSpec, params: dict, path: Run, dL_dy: Array) -> tuple[dict, Array]:
    """The read-out's own gradient, and ∂̃a_out. It is a layer of one co-state, which keeps its i."""
    readout, p = jac.as_cell(spec.network.readout), params["readout"]
    swept = sweep(readout, p, path.path_out, (Moves(0, None, None, (0,), False),), [Source(dL_dy)])
    da = swept.da[0][jac.ONE_DRIVE]
    da = jnp.zeros_like(dL_dy) if da is None else da
    read = path.heard(spec.network.reads)
    grads = {"w_out": jnp.concatenate([outer(h, da) for h in read])}
    if "bias" in p:
        grads["bias"] = flat(da).sum(0)
    if "theta" in p:
        grads["theta"] = {
            k: jnp.zeros_like(p["theta"][k]) if x is None else x.sum(0)
            for k, x in swept.dtheta.items()
        }
    return grads, da


def at_layers(
    spec: RuleSpec, params: dict, path: Run, da_out: Array, data: rules.Data
) -> tuple[Array, Array, list[Losses]]:
    """(activity losses [B], state losses [K, B], where the loss meets each layer)."""
    net, (K, B) = spec.network, da_out.shape[:2]
    back = feedback_of(spec, params, path)
    of_activity, of_state = (rules.losses_of(net, x) for x in (spec.activity_loss, spec.state_loss))
    activity, per_step, at = jnp.zeros(B, da_out.dtype), jnp.zeros((K, B), da_out.dtype), []
    for l, cell in enumerate(net.cells):
        more, dL_dh = rules.activity_losses(of_activity[l], cell.wires, path.ran[l].h, data)
        activity = activity + more
        always, at_t, dL_dc = None, None, None
        if dL_dh is not None:
            # The same at each step, it need not be stored for each.
            always, at_t = (dL_dh[0] / B, None) if dL_dh.shape[0] == 1 < K else (None, dL_dh / B)
        if of_state[l] is not None:
            layer = path.ran[l].path
            c = jax.tree.map(forward.after, layer.c_tm1, layer.c_K)
            of_steps, dL_dc = rules.state_losses(of_state[l], cell.wires, c)
            per_step = per_step + rules.only(data.mask, of_steps)
            dL_dc = tuple(rules.only(data.mask, x) / B for x in dL_dc)
        sources = []
        if back[l] is not None or always is not None:
            sources.append(Source(None if back[l] is None else da_out, back[l], always))
        if at_t is not None:
            sources.append(Source(at_t))
        at.append(Losses(sources, dL_dc))
    return activity, per_step, at


def feedback_of(spec: RuleSpec, params: dict, path: Run) -> list[Maybe]:
    """B_l [n_l, n_out] of each layer, by which it stands at the read-out; None where it does not."""
    net = spec.network
    if spec.feedback != "symmetric":
        return list(by_layer(net, params["feedback"]))
    w_out = dict(zip(net.reads, rows(params["readout"]["w_out"], path.heard(net.reads))))
    return [w_out.get(l) for l in range(len(net.cells))]


def of_feedback(spec: RuleSpec, params: dict, path: Run, da_out: Array) -> PyTree:
    """Adaptive: Σ_t h_l^t ⊗ ∂̃a_out^t, which is w_out's own gradient for a layer that is read, and what
    it would be for one that is not. Random, or not read by this rule: zeros, by definition."""
    if spec.feedback != "adaptive":
        return jax.tree.map(jnp.zeros_like, params["feedback"])
    found = tuple(outer(ran.h, da_out) for ran in path.ran)
    return found if spec.network.stacked else found[0]


def timed(nodes: tuple[paths.CoState, ...]) -> set[int]:
    """The co-states that have, or are the target of, an edge in time: those that need a scan."""
    own = {q for q, x in enumerate(nodes) if {x.i, x.e, x.s} != {None}}
    return own | {r for q in own for r in (nodes[q].i, nodes[q].e, nodes[q].s) if r is not None}


def descend(
    spec: RuleSpec, params: dict, path: Run, nodes: tuple[paths.CoState, ...], at: list[Losses]
) -> Found:
    """All layers, the last first."""
    net, cells = spec.network, by_layer(spec.network, params["cell"])
    in_scan = timed(nodes)
    wanted = {q for node in nodes for _, q in node.f} | set(range(len(net.cells)))
    da: dict[int, dict[str, Maybe]] = {}
    dtheta: dict[int, dict[str, Maybe]] = {}
    for l in reversed(range(len(net.cells))):
        mine = [q for q, node in enumerate(nodes) if node.layer == l]
        sources, hops = list(at[l].sources), {}
        for above, r in sorted({hop for q in mine for hop in nodes[q].f}):
            if r in da:
                hops[r] = len(sources)
                sources.append(Source(hop_down(net.inputs[above], cells[above], path, l, da[r])))

        def moves(q, place, l=l, hops=hops):
            node = nodes[q]
            ends = tuple(range(len(at[l].sources))) if node.ends else ()
            enters = (*ends, *(hops[r] for _, r in node.f if r in hops))
            itself = node.s if "s" in connected.recurrent(net.cells[l], cells[l]) else node.e
            to = lambda r: place.get(r)
            return Moves(to(node.i), to(node.e), to(itself), enters, node.ends)

        there = lambda m, l=l: bool(m.enters) or (m.ends and at[l].dL_dc is not None)
        swept = [q for q in mine if q in in_scan]
        place = {q: k for k, q in enumerate(swept)}
        scanned = tuple(moves(q, place) for q in swept)
        layer = net.cells[l], cells[l], path.ran[l].path
        if any(map(there, scanned)):
            keep = tuple(place[q] for q in swept if q in wanted)
            found = sweep(*layer, scanned, sources, at[l].dL_dc, keep)
            da |= {swept[k]: x for k, x in found.da.items()}
            if l in in_scan:
                dtheta[l] = found.dtheta
        for q in sorted((set(mine) & wanted) - in_scan):
            if there(moves(q, {})):
                found = still(*layer, moves(q, {}), sources, at[l].dL_dc)
                da[q] = found.da[0]
                if q == l:
                    dtheta[l] = found.dtheta
    return Found(da, dtheta)


def hop_down(names: tuple, p_above: dict, path: Run, below: int, da: dict[str, Maybe]) -> Array:
    """Σ_gates w_in ∂̃a of the layer above, for all steps at once: ∂̃h [K, B, n] of the one below."""
    return by_inputs(names, p_above, path, da)[names.index(below)]


def by_inputs(names: tuple, p: dict, path: Run, da: dict[str, Maybe]) -> list[Maybe]:
    """Σ_gates w_in ∂̃a by what the layer hears, [K, B, m] each; None where no gate hears it."""
    heard = path.heard(names)
    w_in = {g: rows(w, heard) for g, w in jac.as_gates(p.get("w_in", {})).items()}
    gates = [g for g in w_in if da.get(g) is not None]
    if not gates:
        return [None] * len(heard)
    x = jnp.concatenate([da[g] for g in gates], -1)
    return [x @ jnp.concatenate([w_in[g][k] for g in gates], 1).T for k in range(len(heard))]


def to_inputs(spec: RuleSpec, params: dict, path: Run, found: Found) -> Array:
    """∂L/∂x^t = Σ_l Σ_gates w_in ∂̃a_l over the layers that hear "x": [K, B, n_in]."""
    net, dL_dxs = spec.network, jnp.zeros_like(path.xs)
    for l, (p, names) in enumerate(zip(by_layer(net, params["cell"]), net.inputs)):
        if "x" in names and l in found.da:
            x = by_inputs(names, p, path, found.da[l])[names.index("x")]
            dL_dxs = dL_dxs if x is None else dL_dxs + x
    return dL_dxs


def of_layer(p: dict, da: dict, dtheta: dict, heard: list[Array], h_tm1: Array) -> dict:
    """Σ_t Σ_batch pre^t ⊗ ∂̃a^t (Eq. 4), one a parameter leaf."""

    def leaf(path, w):
        line = path[0].key
        if line == "theta":
            x = dtheta.get(path[1].key)
            return jnp.zeros_like(w) if x is None else x.sum(0)
        x = da.get(tr.gate_of(path))
        if x is None:
            return jnp.zeros_like(w)
        if line == "w_in":
            return jnp.concatenate([outer(pre, x) for pre in heard])
        return outer(h_tm1, x) if line == "w_rec" else flat(x).sum(0)

    return jax.tree_util.tree_map_with_path(leaf, p)


def flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def outer(pre: Array, da: Array) -> Array:
    """Σ_t Σ_batch pre^t ⊗ ∂̃a^t: one product."""
    return flat(pre).T @ flat(da)
