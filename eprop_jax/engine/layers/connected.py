"""Which edges a network has, whatever its values are, and which of its parameters a rule trains."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from eprop_jax.engine import definition, objective, paths
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import traces as tr
from eprop_jax.engine.maybe import there
from eprop_jax.network import unitwise
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Cell, Network, PyTree, RuleSpec, by_layer
from eprop_jax.network.units import compute_dtype

EXACT = "(i|e|f)*"
"""all paths"""


def structures(net: Network, params: PyTree) -> tuple[jac.Blocks, ...]:
    """Of each layer's blocks: is each there, whatever the values are? Of `params` the shapes count."""

    def of_layer(cell, p):
        p = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, compute_dtype(params)), p)
        c = jax.eval_shape(lambda p: cell.initial_state(p, (1,)), p)
        return there(jac.structure(cell, p, c))

    return tuple(map(of_layer, net.cells, by_layer(net, params["cell"])))


class Seen(NamedTuple):
    """What is asked of a network to tell where its paths lead; by layer."""

    J: tuple[jac.Blocks, ...]
    """`structures`"""
    names: tuple[dict[str, int], ...]
    """the place of each component of the state"""


def seen(net: Network, params: PyTree) -> Seen:
    cells = zip(net.cells, by_layer(net, params["cell"]))
    c = (jax.eval_shape(lambda p, s=s: s.initial_state(p, (1,)), p) for s, p in cells)
    return Seen(structures(net, params), tuple(map(unitwise.components, c)))


def recurrent(cell: Cell, p: PyTree) -> str:
    """Of its recurrent synapses: e (between two units), s (of a unit to itself)."""
    if "w_rec" not in p:
        return ""
    to_others, to_itself = use.kinds(cell.synapses["w_rec"])
    return "e" * to_others + "s" * to_itself


def heard(spec: RuleSpec) -> tuple[tuple[str, ...], ...]:
    """Of each layer: what its paths may end at."""
    if spec.ends is not None:
        return spec.ends
    net = spec.network
    activity, state = (objective.losses_of(net, x) for x in (spec.activity_loss, spec.state_loss))

    def of_layer(l):
        out = ("read-out" if l in net.reads else "") if spec.feedback == "symmetric" else "feedback"
        more = ("activity loss" if activity[l] else "", "state loss" if state[l] else "")
        return tuple(x for x in (out, *more) if x)

    return tuple(map(of_layer, range(len(net.cells))))


def wiring(spec: RuleSpec, params: PyTree, J: tuple[jac.Blocks, ...] | None = None) -> paths.Wiring:
    """The kinds of edge between the layers, and where they are heard. `J`: the `structures`."""
    net = spec.network
    cells = by_layer(net, params["cell"])
    J = J or structures(net, params)
    implicit = [any(map(any, of.D)) for of in J]
    own = tuple("i" * has_i + recurrent(*each) for has_i, *each in zip(implicit, net.cells, cells))
    hops = tuple(
        (k, l)
        for l, names in enumerate(net.inputs)
        for k in names
        if k != "x" and "w_in" in cells[l]
    )
    return paths.Wiring(own, hops, tuple(map(bool, heard(spec))))


def costates(
    spec: RuleSpec, params: PyTree, J: tuple[jac.Blocks, ...] | None = None
) -> tuple[paths.CoState, ...]:
    """The co-states of this rule on this network."""
    return paths.costates(paths.compile(definition.language_of(spec)), wiring(spec, params, J))


def unconnected(
    spec: RuleSpec, params: PyTree, of_net: Seen | None = None
) -> tuple[tuple[int, str], ...]:
    """(layer, path) of the parameters from which no kept path leads to the loss: their gradient would
    be zero, whatever the values are. `of_net`: what is `seen` of it."""
    net = spec.network
    J, names = of_net or seen(net, params)
    nodes = costates(spec, params, J)
    cells, ends = by_layer(net, params["cell"]), heard(spec)
    alive: dict[str, set] = {"c": set(), "h": set()}  # (co-state, component), co-state

    def at_h(q):
        """Does something reach ∂̃h_q?"""
        node = nodes[q]
        by_loss = node.ends and set(ends[node.layer]) - {"state loss"}
        over = [(node.layer, r, "w_rec") for r in node.jumps]
        over += [(above, r, "w_in") for above, r in node.f]
        return bool(by_loss) or any(
            at_drive(l, r, gate)
            for l, r, line in over
            for gate in unitwise.as_gates(cells[l].get(line, {}))
        )

    def at_drive(l, q, gate):
        return any((q, r) in alive["c"] and row[gate] for r, row in enumerate(J[l].B))

    def at_c(q, c):
        """Does something reach component c of ∂̃c_q?"""
        node = nodes[q]
        of = J[node.layer]
        return (
            (node.ends and "state loss" in ends[node.layer])
            or (q in alive["h"] and of.psi[c])
            or any((node.i, r) in alive["c"] and row[c] for r, row in enumerate(of.D))
        )

    size = -1
    while size != (size := len(alive["c"]) + len(alive["h"])):
        alive["h"] |= {q for q in range(len(nodes)) if at_h(q)}
        components = [(q, c) for q, x in enumerate(nodes) for c in range(len(J[x.layer].psi))]
        alive["c"] |= {(q, c) for q, c in components if at_c(q, c)}

    def from_start(l, c):
        """Does an edge of time lead on from c^0?"""
        node, of = nodes[l], J[l]
        by_i = any((node.i, r) in alive["c"] and row[c] for r, row in enumerate(of.D))
        gates = unitwise.as_gates(cells[l].get("w_rec", {}))
        jumps = any(at_drive(l, r, g) for r in node.jumps for g in gates)
        return by_i or (of.psi[c] and jumps)

    def trained(l, path):
        if path[0].key == "initial":
            return from_start(l, names[l][path[1].key])
        if path[0].key != "theta":
            return at_drive(l, l, tr.gate_of(path))
        name = path[1].key
        by_c = any((l, r) in alive["c"] and row[name] for r, row in enumerate(J[l].Theta))
        return by_c or (l in alive["h"] and J[l].Xi[name])

    return tuple(
        (l, jax.tree_util.keystr(path))
        for l, p in enumerate(cells)
        for path, _ in jax.tree.leaves_with_path(p)
        if not trained(l, path)
    )


def refuse_unconnected(
    spec: RuleSpec, params: PyTree, of_net: Seen | None = None, exact: bool = False
) -> None:
    """No gradient is ever silently zero. `exact`: one that BPTT's is too, may be."""
    of_net = of_net or seen(spec.network, params)
    lost = unconnected(spec, params, of_net)
    zero = unconnected(spec._replace(language=EXACT), params, of_net) if exact and lost else ()
    lost = tuple(x for x in lost if x not in zero)
    if not lost:
        return
    net, (l, leaf) = spec.network, lost[0]
    whole = [k for k in range(len(net.cells)) if of(lost, k) == leaves(net, params, k)]
    name = lambda k: f"params['cell'][{k}]" if net.stacked else "params['cell']"
    first = name(l) + ("" if l in whole else leaf)
    others = len(whole) - 1 if l in whole else len(lost) - 1
    also = f" (nor those of {others} more)" if others else ""
    raise ValueError(
        f"{first}: got no path to the loss under {spec.name} ({spec.language}){also}, so that its "
        f"gradient would be a silent zero; wanted {remedies(spec, params, of_net)}"
    )


def of(lost: tuple, l: int) -> set[str]:
    return {leaf for k, leaf in lost if k == l}


def leaves(net: Network, params: PyTree, l: int) -> set[str]:
    p = by_layer(net, params["cell"])[l]
    return {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(p)}


def remedies(spec: RuleSpec, params: PyTree, of_net: Seen) -> str:
    """What would reach every parameter."""
    connects = lambda **change: not unconnected(spec._replace(**change), params, of_net)
    candidates = [
        *(paths.order(m) for m in range(2, len(spec.network.cells) + 1)),
        "i*f*",
        EXACT,
    ]
    reach = [x for x in candidates if connects(language=x)]
    made_by = "ej.by_paths" if spec.ends is None else spec.name
    options: list[Any] = []
    if reach:
        options.append(f"{made_by}(…, paths=…) with {' or '.join(map(repr, reach))}")
    options.append("a read-out that hears the layer (reads)")
    if spec.ends is not None:
        options.append("a use of the layer's activity")
    if spec.feedback == "symmetric" and spec.ends is None and connects(feedback="random"):
        options.append('feedback="random", by which every layer is heard')
    return ", or ".join(options)
