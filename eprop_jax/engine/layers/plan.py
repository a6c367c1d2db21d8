"""What a rule carries forward on its network: which traces, read off its language.

A trace S_q^l holds ∂c^K/∂(parameters of layer l) over the path prefixes that lead from there to
co-state q. It is needed where an edge in time leaves q. If those prefixes stay inside their unit (i
and s alone) it is an ε, [B, lines, n]; if not an α, which ends at every unit: [B, r, lines, n]. The
read-out's leak is an edge in time too: γ, one for each of its units, or one for all of them where they
filter alike and the layer's paths end where they start (Eq. 39). Without a leak there is none (Eq. 29).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import traces as tr
from eprop_jax.engine.layers import connected, meets
from eprop_jax.engine.layers.descend import Nodes
from eprop_jax.engine.maybe import there
from eprop_jax.engine.paths.automaton import explore, leading_to
from eprop_jax.network import unitwise
from eprop_jax.network.types import Gamma, PyTree, RuleSpec, State, by_layer
from eprop_jax.network.units import compute_dtype


class Plan(NamedTuple):
    """By layer, where it is a tuple."""

    nodes: Nodes
    within: tuple[frozenset[int], ...]
    """co-states that i and s alone lead to, and no other path does"""
    local: tuple[tuple[int, ...], ...]
    """those of them that need a trace: an ε"""
    ends: tuple[tuple[int, ...], ...]
    """others that need one: an α"""
    leaky: bool
    """does y^t depend on y^{t-1}?"""
    to_y: tuple[bool, ...]
    """do its paths lead to the read-out, or to feedback?"""
    filtered: tuple[bool, ...]
    """is one γ enough for all read-out units?"""


def plan(spec: RuleSpec, params: PyTree) -> Plan:
    """Of the structure alone: `params` may be shapes."""
    net, nodes = spec.network, connected.costates(spec, params)
    layers = range(len(net.cells))
    # All edges out of a co-state by name, and those of i and s.
    every = {q: _moves(x, ("i", "e", "s"), True) for q, x in enumerate(nodes)}
    inside = {q: _moves(x, ("i", "s"), False) for q, x in enumerate(nodes)}
    in_time = {q for q, x in enumerate(nodes) if x.onward}
    reach = [set(explore([l], every.__getitem__)) for l in layers]
    within = []
    for l in layers:
        by_unit = set(explore([l], inside.__getitem__))
        out = {r for q in by_unit for name, r in every[q].items() if name not in inside[q]}
        within.append(frozenset(by_unit - set(explore(sorted(out), every.__getitem__))))
    outside = {"read-out", "feedback"}
    heard = [bool(outside & set(x)) for x in connected.heard(spec)]
    ending = {q for q, x in enumerate(nodes) if x.ends and heard[x.layer]}
    readout = unitwise.as_cell(net.readout)
    dtype = compute_dtype(params)
    p = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), params["readout"])
    y = jax.eval_shape(lambda p: readout.initial_state(p, (1,)), p)
    J = there(jac.structure(readout, p, y))
    return Plan(
        nodes,
        tuple(within),
        tuple(tuple(sorted(in_time & within[l])) for l in layers),
        tuple(tuple(sorted(in_time & reach[l] - within[l])) for l in layers),
        J.D[0][0],
        tuple(bool(ending & reach[l]) for l in layers),
        tuple(net.readout.shared and ending & reach[l] <= within[l] for l in layers),
    )


def _moves(node: Any, letters: tuple[str, ...], hops: bool) -> dict:
    own = {x: r for x, r in node.onward.items() if x in letters}
    return own | ({("f", above): r for above, r in node.f} if hops else {})


def leading(p: Plan, q: int) -> frozenset[int]:
    """The co-states from which q can be reached, in layers at or below its own."""
    every = {r: _moves(x, ("i", "e", "s"), True) for r, x in enumerate(p.nodes)}
    return frozenset(leading_to([q], every))


def reached_from(p: Plan, starts: list[int]) -> frozenset[int]:
    every = {r: _moves(x, ("i", "e", "s"), True) for r, x in enumerate(p.nodes)}
    return frozenset(explore(starts, every.__getitem__))


def narrow(p: Plan, spec: RuleSpec, c: PyTree, l: int) -> set[int]:
    """Components whose ε is the same for all postsynaptic units: those that the cell calls shared,
    where i alone leads on (w_jj differs by unit)."""
    alone = p.within[l] == {l} and "s" not in p.nodes[l].onward
    return jac.shared_positions(spec.network.cells[l], c) if alone else set()


class PathsCarry(NamedTuple):
    """What a language of paths threads through time; of traces a tuple, one entry a layer."""

    state: State
    epsilon: tuple
    """of each of `Plan.local` a tree like the layer's parameters, whose leaves are states of the layer
    where the paths end, components [*batch, lines, n]"""
    alpha: tuple
    """of each of `Plan.ends` the same, components [*batch, n_r, lines, n]"""
    gamma: Any
    """γ: the read-out's traces; () where it does not leak"""


def sizes(carry: PathsCarry) -> tuple[int, list[tuple[int, int]]]:
    """How many numbers the traces within units are; of each of the others (units where its paths end,
    numbers)."""
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    at = carry.state.y.ndim - 1  # the axis after the batch's
    ends = [trace for of_layer in carry.alpha for trace in of_layer]
    local = count((carry.epsilon, getattr(carry.gamma, "cell", ())))
    return local, [(jax.tree.leaves(trace)[0].shape[at], count(trace)) for trace in ends]


def of_each_layer(carry: PathsCarry) -> list[Any]:
    """The traces of each layer's parameters."""
    of_gamma = getattr(carry.gamma, "cell", ((),) * len(carry.epsilon))
    return list(zip(carry.epsilon, carry.alpha, of_gamma))


def traces(p: Plan, spec: RuleSpec, params: PyTree, state: State, batch: int) -> PathsCarry:
    """ε = α = γ = 0: no path has started."""
    net, cells, c = (
        spec.network,
        by_layer(spec.network, params["cell"]),
        by_layer(spec.network, state.c),
    )
    dtype = state.y.dtype

    def zeros(l, q, lead):
        target = p.nodes[q].layer
        size = len(unitwise.floats(c[target]))
        one = narrow(p, spec, c[l], l) if not lead else set()

        def leaf(path, w):
            narrow = lambda z: z in one and path[0].key not in ("theta", "initial")
            start = unitwise.components(c[l])[path[1].key] if path[0].key == "initial" else None

            def component(z):
                shape = (batch, *lead, *tr.trace_shape(net.cells[l], path, w, narrow(z)))
                starts = z == start and q == l  # co-state l is where paths from layer l begin
                ends = np.eye(*lead) if lead else None
                return tr.at_start(shape, ends, dtype) if starts else jnp.zeros(shape, dtype)

            return tuple(component(z) for z in range(size))

        found = [leaf(*x) for x in jax.tree.leaves_with_path(cells[l])]
        return tr.pack(cells[l], c[target], found)

    units = lambda q: (net.cells[p.nodes[q].layer].n_units,)
    layers = range(len(net.cells))
    epsilon = tuple(tuple(zeros(l, q, ()) for q in p.local[l]) for l in layers)
    alpha = tuple(tuple(zeros(l, q, units(q)) for q in p.ends[l]) for l in layers)
    gamma: Any = ()
    if p.leaky:
        _, wide, readout = meets.wide_readout(spec, params)
        own = tr.zeros(readout, wide, state.y, jac.structure(readout, wide, state.y), batch)

        def of_layer(l):
            seeds = 1 if p.filtered[l] else net.readout.n_out
            shape = lambda path, w: (batch, seeds, *tr.trace_shape(net.cells[l], path, w))
            zeros = lambda path, w: jnp.zeros(shape(path, w), dtype)
            return jax.tree_util.tree_map_with_path(zeros, cells[l])

        cell = tuple(of_layer(l) if p.to_y[l] else () for l in layers)
        gamma = Gamma(own, cell)
    return PathsCarry(state, epsilon, alpha, gamma)
