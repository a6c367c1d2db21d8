"""Which edges of a graph the paths of a language take, walked with the language's automaton.

A path starts at parameters in state 0, moves with each edge that has a letter, and leaves a layer for
the read-out or the loss where its state accepts. Nodes and edges are those of `paper.graph`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eprop_jax.engine import paths
from eprop_jax.engine.paths.automaton import explore, leading_to, out_of, reduced

ENDING = ("readout", "activity", "state")
"""kinds of edge by which a path leaves its layer"""


def after(automaton: paths.Automaton, q: int, edge: Any) -> int | None:
    """The state after an edge; None: the path is dropped there."""
    if edge.letter:
        return out_of(automaton, q).get(edge.letter)
    return q if edge.kind not in ENDING or automaton.accepting[q] else None


def going_on(edges: Iterable, automaton: paths.Automaton) -> dict[Any, set[bool]]:
    """{edge: does a kept path go on along it?}, for every state in which one comes to its source.

    {True}: always; {False}: never; both: in some states only; neither: none comes there.
    """
    edges = tuple(edges)
    leaving = _leaving(edges)
    walked = _walked(edges, automaton)
    found: dict[Any, set[bool]] = {edge: set() for edge in edges}
    for at, moves in walked.items():
        for edge in leaving.get(at[0], ()):
            found[edge].add(edge in moves)
    return found


def most_jumps(edges: Iterable, automaton: paths.Automaton) -> int | None:
    """How many recurrent synapses a kept path may take; None: any number."""
    walked = _walked(tuple(edges), automaton)
    jump = lambda edge: edge.kind == "explicit"
    within = lambda at: {e: r for e, r in walked[at].items() if not jump(e)}
    here = set(explore([at for at in walked if at[0].variable == "w"], within))
    for jumps in range(len(walked) + 1):
        landed = {r for at in here for e, r in walked[at].items() if jump(e)}
        if not landed:
            return jumps
        here = set(explore(landed, within))
    return None


def on_network(automaton: paths.Automaton, wiring: paths.Wiring) -> paths.Automaton:
    """The automaton with the states and moves that kept paths of a network take.

    >>> from eprop_jax.engine import paths
    >>> from eprop_jax.paper import kept
    >>> [len(kept.on_network(paths.compile(paths.order(8)), paths.stack(n, "i")).moves)
    ...  for n in (1, 2, 3)]
    [1, 2, 3]
    """
    live = paths.reachable(automaton, wiring)

    def over(l: int, x: str) -> list[int]:
        """The layers that letter x leads to from layer l."""
        own = [l] if x in wiring.own[l] else []
        return [above for below, above in wiring.hops if below == l] if x == "f" else own

    def moves(q):
        here = [l for l, r in live if r == q]
        to = out_of(automaton, q)
        return {
            x: r for x, r in to.items() if any((k, r) in live for l in here for k in over(l, x))
        }

    def ends(q):
        heard = any(wiring.read[l] for l, r in live if r == q)
        return (heard and automaton.accepting[q],)

    states = reduced([0], explore([0], moves), ends)
    return paths.Automaton(
        tuple(ends for (ends,), _ in states), tuple(paths.Moves(**moves) for _, moves in states)
    )


def _leaving(edges: tuple) -> dict[Any, list]:
    found: dict[Any, list] = {}
    for edge in edges:
        found.setdefault(edge.source, []).append(edge)
    return found


def _walked(edges: tuple, automaton: paths.Automaton) -> dict:
    """{(node, state): {edge: (node, state)}}, those on kept paths from parameters to the loss."""
    leaving = _leaving(edges)

    def moves(at):
        node, q = at
        steps = {edge: after(automaton, q, edge) for edge in leaving.get(node, ())}
        return {edge: (edge.target, r) for edge, r in steps.items() if r is not None}

    every = explore([(e.source, 0) for e in edges if e.source.variable == "w"], moves)
    live = leading_to([at for at in every if at[0].variable == "L"], every)
    return {
        at: {edge: r for edge, r in moves.items() if r in live}
        for at, moves in every.items()
        if at in live
    }
