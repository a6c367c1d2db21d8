"""All layers backward over a chunk, the last first: ∂̃a of every co-state that is asked for.

A descent carries several families of co-states at once: those of the loss, and, to advance the
traces, those of parts of the chunk's final state. What a layer hears of the one below hands ∂̃a down
as w_in ∂̃a, one product for all K·B rows; then the layer below has its own scan.
"""

from __future__ import annotations

from typing import NamedTuple

from eprop_jax.engine import paths
from eprop_jax.engine.adjoint import Onward, Part, Source, Swept, still
from eprop_jax.engine.at_once import sweep
from eprop_jax.engine.layers import connected
from eprop_jax.engine.maybe import filled, split, stacked, those, total
from eprop_jax.engine.products import to_heard
from eprop_jax.network.stacks import Run
from eprop_jax.network.types import Array, Cell, Maybe, RuleSpec, by_layer

Nodes = tuple[paths.CoState, ...]


class Meets(NamedTuple):
    """Where a loss meets one layer."""

    sources: tuple[Source, ...] = ()
    """∂L/∂h^t"""
    dL_dc: tuple[Array, ...] = ()


class Family(NamedTuple):
    """Co-states with one cause."""

    nodes: frozenset[int]
    """those that take part"""
    at: tuple[Meets, ...]
    """a layer: where the cause meets it, at the co-states that end"""
    dc_K: dict[int, tuple[Maybe, ...]]
    """what arrives at c^K, by co-state: [*lead, B, n] a component"""


class Found(NamedTuple):
    """∂̃a^t by co-state, {gate: [K, *lead, B, n]}; Σ_t of what reaches θ_j, and by resets an initial
    state, by layer; and what arrives at c⁰ by co-state."""

    da: dict[int, dict[str, Maybe]]
    dtheta: dict[int, dict[str, Maybe]]
    dinitial: dict[int, dict[str, Maybe]]
    dc_0: dict[int, tuple[Maybe, ...]]


def timed(nodes: Nodes) -> set[int]:
    """The co-states that have, or are the target of, an edge in time: those that need a scan."""
    own = {q for q, x in enumerate(nodes) if x.onward}
    return own | {r for q in own for r in nodes[q].onward.values()}


def descend(
    spec: RuleSpec, params: dict, path: Run, nodes: Nodes, families: list[Family]
) -> list[Found]:
    """All layers, the last first, and all families together."""
    net, cells = spec.network, by_layer(spec.network, params["cell"])
    in_scan, found = timed(nodes), [Found({}, {}, {}, {}) for _ in families]
    for l in reversed(range(len(net.cells))):
        layer, scanned = (net.cells[l], cells[l], path.ran[l].path), []
        for family, of in zip(families, found):
            sources, hops = hopped(spec, params, path, nodes, family, of, l)
            mine = [q for q in sorted(family.nodes) if nodes[q].layer == l]
            swept = [q for q in mine if q in in_scan]
            part = part_of(spec, cells, nodes, family, l, swept, sources, hops)
            if part.reached:
                scanned.append((of, swept, part))
            for q in (q for q in mine if q not in in_scan and q in wanted(nodes, family)):
                one = part_of(spec, cells, nodes, family, l, [q], sources, hops)
                if one.reached:
                    fill(of, [q], one, l, still(*layer, one))
        if scanned:
            for (of, swept, part), result in zip(scanned, sweep(*layer, [x[2] for x in scanned])):
                fill(of, swept, part, l, result)
    return found


def fill(found: Found, swept: list[int], part: Part, l: int, result: Swept) -> None:
    """Put what a layer's scan found among what was found."""
    found.da.update({swept[place]: x for place, x in result.da.items()})
    for place in part.starts:
        found.dtheta[l] = result.dtheta[place]
        found.dinitial[l] = result.dinitial.get(place, {})
    for place, q in enumerate(swept if result.dc_0 else ()):
        found.dc_0[q] = result.at(place).dc_0


def wanted(nodes: Nodes, family: Family) -> set[int]:
    """The co-states whose ∂̃a is asked for: those that layers below hop to, and each layer's own."""
    hopped_to = {r for q in family.nodes for _, r in nodes[q].f}
    starts = {q for q in family.nodes if nodes[q].layer == q}
    return (hopped_to | starts) & family.nodes


def hopped(
    spec: RuleSpec, params: dict, path: Run, nodes: Nodes, family: Family, found: Found, l: int
) -> tuple[list[Source], dict[int, int]]:
    """What reaches ∂̃h of layer l from the layers above, after what meets the layer itself; and the
    place of each, by the co-state that it comes from."""
    net, cells = spec.network, by_layer(spec.network, params["cell"])
    own, mine = family.at[l].sources, [q for q in family.nodes if nodes[q].layer == l]
    hops = sorted({hop for q in mine for hop in nodes[q].f if hop[1] in found.da})

    def dh(above, r):
        names = net.inputs[above]
        return by_inputs(net.cells[above], names, cells[above], path, found.da[r])[names.index(l)]

    reached = those({r: dh(above, r) for above, r in hops})
    return [*own, *map(Source, reached.values())], {r: len(own) + k for k, r in enumerate(reached)}


def part_of(
    spec: RuleSpec,
    cells: tuple,
    nodes: Nodes,
    family: Family,
    l: int,
    which: list[int],
    sources: list[Source],
    hops: dict[int, int],
) -> Part:
    """Some co-states of layer l as its scan sees them."""
    place = {q: k for k, q in enumerate(which)}
    has_s = "s" in connected.recurrent(spec.network.cells[l], cells[l])
    n_own = len(family.at[l].sources)

    def moves(q):
        node = nodes[q]
        to = lambda r: place.get(r)
        return Onward(to(node.i), to(node.e), to(node.s if has_s else node.e))

    def enters(q):
        ends = tuple(range(n_own)) if nodes[q].ends else ()
        return (*ends, *(hops[r] for _, r in nodes[q].f if r in hops))

    ends = tuple(nodes[q].ends for q in which)
    asked = wanted(nodes, family)
    return Part(
        tuple(map(moves, which)),
        tuple(sources),
        tuple(map(enters, which)),
        dL_dc=family.at[l].dL_dc if any(ends) else (),
        ends=ends,
        dc_K=at_end(which, family.dc_K),
        keep=tuple(place[q] for q in which if q in asked),
        starts=(place[l],) if l in place else (),
    )


def at_end(which: list[int], dc_K: dict[int, tuple[Maybe, ...]]) -> tuple[Maybe, ...]:
    """What arrives at c^K, by component: [S, *lead, B, n]."""
    sizes = {len(dc_K[q]) for q in which if q in dc_K}
    component = lambda z: stacked([dc_K[q][z] if q in dc_K else None for q in which])
    return tuple(map(component, range(max(sizes, default=0))))


def by_inputs(cell: Cell, names: tuple, p: dict, path: Run, da: dict[str, Maybe]) -> list[Maybe]:
    """Σ_gates w_in ∂̃a by what the layer hears, [K, *lead, B, m] each."""
    sizes = path.sizes(names)
    dpre = to_heard(cell, p, da, path.resets)
    return split(dpre, [sum(sizes[: k + 1]) for k in range(len(sizes) - 1)], -1)


def to_inputs(spec: RuleSpec, params: dict, path: Run, found: Found) -> Array:
    """∂L/∂x^t = Σ_l Σ_gates w_in ∂̃a_l over the layers that hear "x": [K, B, n_in]."""
    net = spec.network
    layers = enumerate(zip(by_layer(net, params["cell"]), net.inputs))
    by_layers = (
        by_inputs(net.cells[l], names, p, path, found.da[l])[names.index("x")]
        for l, (p, names) in layers
        if "x" in names and l in found.da
    )
    return filled(total(*by_layers), path.xs)
