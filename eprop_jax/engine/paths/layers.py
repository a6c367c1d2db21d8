"""An automaton on a network of layers: which co-states there are, and which edges are dropped."""

from __future__ import annotations

from typing import NamedTuple

from eprop_jax.engine.paths.automaton import Automaton, explore, leading_to, out_of, reduced, taken

TIME = "ies"


class Wiring(NamedTuple):
    """Which edges a network of layers has."""

    own: tuple[str, ...]
    """of each layer, which of `i e s` it has: "ies" for recurrent units, "i" without recurrent
    synapses, "is" with those of units to themselves alone"""
    hops: tuple[tuple[int, int], ...]
    """(below, above): the layer above hears the one below within the step"""
    read: tuple[bool, ...]
    """of each layer: does the read-out, feedback or a loss of its own hear it?"""


class CoState(NamedTuple):
    """∂̃c of one layer in one state of the automaton, or in several that come to the same there.
    Others are named by their number; None, or absent: the move does not exist."""

    layer: int
    ends: bool
    """does ∂L/∂h^t of this layer enter?"""
    i: int | None
    e: int | None
    s: int | None
    f: tuple[tuple[int, int], ...]
    """(layer above, co-state of that layer)"""

    @property
    def onward(self) -> dict[str, int]:
        """{letter: co-state} for the moves in time that there are."""
        return taken({x: getattr(self, x) for x in TIME})

    @property
    def jumps(self) -> list[int]:
        """Those of them that lead over synapses."""
        return [r for x, r in self.onward.items() if x != "i"]


class Dropped(NamedTuple):
    """An edge that the network has and a rule lacks."""

    start: int
    """the layer whose parameters lose a path"""
    after: str
    """the shortest word that leads there"""
    layer: int
    """where it leads"""
    edge: str
    """a letter; "": a path may not end here, though this layer is heard"""
    to: int
    """the layer that the edge leads to"""

    def __str__(self) -> str:
        """In words.

        >>> from eprop_jax.engine import paths
        >>> print(paths.dropped(paths.compile("i*f*"), paths.stack(2, "i"))[0])
        layer 0: after f no i, in layer 1
        """
        after = f"after {self.after} " if self.after else ""
        at = f", in layer {self.layer}" if self.layer != self.start else ""
        to = f" to layer {self.to}" if self.edge == "f" else ""
        return f"layer {self.start}: {after}no {self.edge or 'end'}{to}{at}"


def stack(n_layers: int, own: str = "ies") -> Wiring:
    """Layers of one kind, each hears the one below, the read-out hears the last.

    >>> from eprop_jax.engine import paths
    >>> paths.stack(2)
    Wiring(own=('ies', 'ies'), hops=((0, 1),), read=(False, True))
    """
    below = range(n_layers - 1)
    return Wiring(
        (own,) * n_layers, tuple((l, l + 1) for l in below), (*(False for _ in below), True)
    )


def reachable(automaton: Automaton, wiring: Wiring) -> tuple[tuple[int, int], ...]:
    """The (layer, state) that some kept path from a parameter to the loss passes.

    Args:
      automaton: from `compile`.
      wiring: the network's edges.

    Returns:
      Pairs in order. A layer l without (l, 0) gets no gradient.

    Raises:
      ValueError: for a wiring that is none.

    >>> from eprop_jax.engine import paths
    >>> paths.reachable(paths.compile("i*"), paths.stack(3))
    ((2, 0),)
    """
    edges = explore(_starts(wiring), lambda node: _moves(automaton, wiring, node))
    return tuple(sorted(leading_to([n for n in edges if _ends(automaton, wiring, n)], edges)))


def costates(automaton: Automaton, wiring: Wiring) -> tuple[CoState, ...]:
    """The co-states of the adjoint sweep, as few as the language allows on this network.

    Args:
      automaton: from `compile`.
      wiring: the network's edges.

    Returns:
      Number l < n_layers is that of layer l in state 0, which gives layer l's gradient (without
      moves and end where there is none). The others follow.

    Raises:
      ValueError: for a wiring that is none.

    >>> from eprop_jax.engine import paths
    >>> for each in paths.costates(paths.compile("(i|e)*f*"), paths.stack(2)): print(*each)
    0 False 0 0 0 ((1, 2),)
    1 True 1 1 1 ()
    1 True None None None ()
    """
    edges = explore(_starts(wiring), lambda node: _moves(automaton, wiring, node))
    label = lambda node: (_ends(automaton, wiring, node), node[0])
    found = reduced(_starts(wiring), edges, label)

    def costate(layer, ends, moves):
        above = tuple(sorted((x[1], q) for x, q in moves.items() if x[0] == "f"))
        return CoState(layer, ends, moves.get("i"), moves.get("e"), moves.get("s"), above)

    return tuple(costate(layer, ends, moves) for (ends, layer), moves in found)


def dropped(automaton: Automaton, wiring: Wiring) -> tuple[Dropped, ...]:
    """What keeps a rule from being exact: each edge towards the loss that paths have in the network
    and lack in the language. The gradient of layer l is exact, for sequences of any length, iff none
    starts at l.

    Args:
      automaton: from `compile`.
      wiring: the network's edges.

    Raises:
      ValueError: for a wiring that is none.

    >>> from eprop_jax.engine import paths
    >>> print(*paths.dropped(paths.compile("(i|e)*f*"), paths.stack(2, "ie")), sep="; ")
    layer 0: after f no i, in layer 1; layer 0: after f no e, in layer 1
    """
    everything = {l: _edges(wiring, l) for l in range(len(wiring.own))}
    heard = leading_to([l for l, read in enumerate(wiring.read) if read], everything)
    live = set(reachable(automaton, wiring))
    found = []
    for start, *_ in _starts(wiring):
        kept = lambda node: {
            x: after for x, after in _moves(automaton, wiring, node).items() if after in live
        }
        words = {(start, 0): ""}
        for node, moves in explore(words, kept).items():
            for x, after in moves.items():
                words.setdefault(after, words[node] + x[0])
            towards = everything[node[0]].items()
            lost = [(x[0], l) for x, l in towards if l in heard and x not in moves]
            if wiring.read[node[0]] and not _ends(automaton, wiring, node):
                lost.append(("", node[0]))
            found += [Dropped(start, words[node], node[0], x, l) for x, l in lost]
    return tuple(found)


def _starts(wiring: Wiring) -> list[tuple[int, int]]:
    n = len(wiring.own)
    if len(wiring.read) != n or not all(set(own) <= set(TIME) for own in wiring.own):
        raise ValueError(f"wiring: got {wiring}, wanted letters of {TIME!r} and a bool a layer")
    if not all(0 <= below < above < n for below, above in wiring.hops):
        raise ValueError(f"wiring: got hops {wiring.hops}, wanted pairs 0 <= below < above < {n}")
    return [(l, 0) for l in range(n)]


def _edges(wiring: Wiring, layer: int) -> dict:
    """{name: layer}: a letter of time, or ("f", layer above)."""
    own = {x: layer for x in TIME if x in wiring.own[layer]}
    return own | {("f", above): above for below, above in wiring.hops if below == layer}


def _moves(automaton: Automaton, wiring: Wiring, node: tuple[int, int]) -> dict:
    layer, q = node
    to = out_of(automaton, q)
    return {x: (l, to[x[0]]) for x, l in _edges(wiring, layer).items() if x[0] in to}


def _ends(automaton: Automaton, wiring: Wiring, node: tuple[int, int]) -> bool:
    return wiring.read[node[0]] and automaton.accepting[node[1]]
