"""Which nodes of a graph become layers, and which become synapses of one.

A neuron is a layer. A chain of maps that leads to it, such as Delay, SumPool2d, Affine, becomes the
synapses of its w_in (or w_rec, where it comes from the neuron itself). A map that cannot, since several
hear it, or others are added to it, or weights follow its weights, is a layer of its own without time.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from eprop_jax.interop.nir import maps
from eprop_jax.interop.nir.graph import DENSE, MAPS, UNITS, WEIGHTED, Graph, refuse


class Term(NamedTuple):
    """What a layer hears of one source."""

    source: str
    """the Input or a layer"""
    chain: tuple[str, ...]
    """the maps on the way"""
    weighted: str | None
    """that of them that has weights"""


class Line(NamedTuple):
    """What w_in, w_rec or w_out is made of."""

    terms: tuple[Term, ...]
    sources: tuple[str, ...]
    """what is heard, in this order"""
    sums: maps.Sums
    """what is heard of them, before weights"""
    biased: str | None
    """the node whose bias is the layer's"""

    @property
    def weighted(self) -> list[str]:
        """The nodes with weights, whose matrices stand one below the other."""
        return [t.weighted for t in self.terms if t.weighted is not None]


class Layer(NamedTuple):
    name: str
    inward: Line
    recurrent: Line | None

    @property
    def gated(self) -> bool:
        """Do both lines have a bias? Then each is a drive of its own."""
        return bool(self.inward.biased and self.recurrent and self.recurrent.biased)


class Plan(NamedTuple):
    graph: Graph
    layers: tuple[Layer, ...]
    """the lowest first"""
    readout: str | None
    """LI or I at the end; None: what leads to the Output is linear"""
    outward: Line


def plan(graph: Graph, dt: float) -> Plan:
    """A layer for each neuron, and for each map that needs one."""
    cut, last = _needed(graph), _last(graph)
    end = last or graph.sink
    while True:
        layers = [k for k in graph.nodes if k != last and (graph.kind(k) in UNITS or k in cut)]
        more = {
            chosen
            for name in (*layers, end)
            for chosen in _apart(graph, name, _terms(graph, name, cut), name == end)
        }
        if not more:
            break
        cut |= more
    found = [_layer(graph, k, cut, dt) for k in layers]
    outward = _line(graph, end, _terms(graph, end, cut), dt)
    return Plan(graph, _ordered(graph, found), last, outward)


def _needed(graph: Graph) -> set[str]:
    """Maps that are layers whatever hears them."""
    found = set()
    for name in graph.nodes:
        if graph.kind(name) not in MAPS:
            continue
        weighted = graph.kind(name) in WEIGHTED
        if len(graph.before[name]) > 1 or (weighted and len(graph.after[name]) > 1):
            found.add(name)
        elif weighted:
            (on,) = graph.after[name]
            while maps.is_plain(graph, on) and len(graph.after[on]) == len(graph.before[on]) == 1:
                (on,) = graph.after[on]
            if graph.kind(on) in MAPS:
                found.add(name)
    return found


def _last(graph: Graph) -> str | None:
    """LI or I that the Output alone hears, and that hears more than the Input itself."""
    (name, *others) = graph.before[graph.sink]
    one = not others and graph.kind(name) in ("LI", "I") and graph.after[name] == [graph.sink]
    return name if one and graph.source not in graph.before[name] else None


def _terms(graph: Graph, name: str, cut: set[str]) -> tuple[Term, ...]:
    found = []
    for source in graph.before[name]:
        chain: tuple[str, ...] = ()
        while graph.kind(source) in MAPS and source not in cut:
            if source in chain:
                raise refuse(source, "a loop of maps", "a neuron in every loop")
            chain, source = (source, *chain), graph.before[source][0]
        weighted = [k for k in chain if graph.kind(k) in WEIGHTED]
        found.append(Term(source, chain, weighted[0] if weighted else None))
    return tuple(found)


def _bias(graph: Graph, name: str | None) -> bool:
    return name is not None and hasattr(graph.nodes[name], "bias")


def _apart(graph: Graph, name: str, terms: tuple[Term, ...], last: bool) -> set[str]:
    """Maps on the way to a layer that become layers, since they cannot all be one line of it."""
    forward = [t for t in terms if t.source != name]
    if last:  # a read-out hears layers, and at once
        early = [t for t in forward if t.source == graph.source or _late(graph, t)]
        for t in early:
            if not t.chain:
                raise refuse(name, "the Input itself", "a node between Input and Output")
        if early:
            return {t.weighted or t.chain[-1] for t in early}
    weighted = [t.weighted for t in forward if t.weighted]
    dense = len(weighted) == len(forward) and all(graph.kind(k) in DENSE for k in weighted)
    biases = [k for k in weighted if _bias(graph, k)]
    means = {k for t in forward for k in t.chain if graph.kind(k) == "AvgPool2d"}
    together = (dense or not weighted) and len(biases) <= 1 and not means
    return set() if len(forward) <= 1 or together else set(weighted) or means


def _late(graph: Graph, term: Term) -> bool:
    return any(graph.kind(k) == "Delay" for k in term.chain)


def _layer(graph: Graph, name: str, cut: set[str], dt: float) -> Layer:
    if name in cut:  # what leads to a map is as one chain with it
        return Layer(name, _line(graph, name, _terms(graph, name, cut), dt), None)
    terms = _terms(graph, name, cut)
    back = tuple(t for t in terms if t.source == name)
    if len(back) > 1:
        raise refuse(name, f"{len(back)} ways from itself to itself", "one")
    forward = tuple(t for t in terms if t.source != name)
    if not forward:
        raise refuse(name, "nothing but itself to hear", "edges from the Input or other nodes")
    recurrent = _line(graph, name, back, dt) if back else None
    return Layer(name, _line(graph, name, forward, dt), recurrent)


def _line(graph: Graph, name: str, terms: tuple[Term, ...], dt: float) -> Line:
    """The line of a neuron; or of a map that is a layer, which is the last of what leads to it."""
    sources = tuple(dict.fromkeys(t.source for t in terms))
    starts = np.cumsum([0, *(graph.size(source) for source in sources)])
    at = dict(zip(sources, starts))
    heard = [_sums(graph, t, int(at[t.source]), dt) for t in terms]
    if graph.kind(name) in MAPS:
        weighted, sums = name if graph.kind(name) in WEIGHTED else None, maps.added(heard)
        sums = sums if weighted else maps.weightless(graph, name, sums, dt)
        terms = (Term(name, (name,), weighted),)
    else:
        sums = (maps.below if terms[0].weighted else maps.added)(heard)
    biases = [t.weighted for t in terms if _bias(graph, t.weighted)]
    return Line(terms, sources, sums, biases[0] if biases else None)


def _sums(graph: Graph, term: Term, at: int, dt: float) -> maps.Sums:
    start = maps.plain(graph.size(term.source), at)
    without = (k for k in term.chain if k != term.weighted)
    return functools.reduce(lambda x, k: maps.weightless(graph, k, x, dt), without, start)


def _ordered(graph: Graph, layers: list[Layer]) -> tuple[Layer, ...]:
    """Each after those that it hears."""
    todo, found = {layer.name: layer for layer in layers}, {}
    while todo:
        ready = [
            k for k, layer in todo.items()
            if all(s == graph.source or s in found for s in layer.inward.sources)
        ]  # fmt: skip
        if not ready:
            # Of what is left, some only hear a loop; walk back until a name comes again.
            seen = [next(iter(todo))]
            while seen[-1] not in seen[:-1]:
                seen.append(next(s for s in todo[seen[-1]].inward.sources if s in todo))
            loop = seen[seen.index(seen[-1]) : -1]
            names = ", ".join(map(repr, sorted(loop)))
            raise refuse(
                sorted(loop)[0],
                f"a loop over the layers {names}",
                "loops of one neuron, in which weights come last and are heard there alone",
            )
        found |= {k: todo.pop(k) for k in ready}
    return tuple(found.values())
