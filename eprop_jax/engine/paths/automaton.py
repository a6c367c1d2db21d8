"""Expression → minimal deterministic automaton: which paths a rule keeps, one step at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, NamedTuple

from eprop_jax.engine.paths.expression import LETTERS, NOTHING, derivative, may_be_empty, parse

LIMIT = 1024
"""States that an automaton may have: each is a sweep of its own."""


class Moves(NamedTuple):
    """The state that each kind of edge leads to; None: the path is dropped there. `e` is a synapse
    between two units, `s` one of a unit to itself."""

    i: int | None = None
    e: int | None = None
    s: int | None = None
    f: int | None = None


class Automaton(NamedTuple):
    """A minimal automaton. A path starts in state 0, moves with each of its edges, and is kept if it
    ends in a state that accepts. States are numbered breadth first, so that automata of one
    language are equal. From every state but 0 some accepting state can be reached."""

    accepting: tuple[bool, ...]
    moves: tuple[Moves, ...]


def compile(expression: str) -> Automaton:
    """The minimal automaton of a language of paths.

    Args:
      expression: a regular expression over `i e s f`: juxtaposition, `|`, `*`, `+`, `?`, `{m}`,
        `{m,}`, `{m,n}` and parentheses; spaces mean nothing, and an alternative may be empty. A
        recurrent synapse of a unit to itself may be spelt `e` or `s`, and a path is kept if one of
        its spellings is in the language: `(i|s)*` keeps w_jj alone, `e` keeps w_jj too.

    Raises:
      TypeError, ValueError: for what is no such expression, with the place, and for one of more
        than 1024 states.

    >>> from eprop_jax.engine import paths
    >>> paths.compile("i*f*").moves
    (Moves(i=0, e=None, s=None, f=1), Moves(i=None, e=None, s=None, f=1))
    >>> paths.compile("(i|e)*") == paths.compile("(i*e?)*")
    True
    """
    if not isinstance(expression, str):
        parse(expression)  # refuses it
    return _compiled(expression)


@functools.cache
def _compiled(expression: str) -> Automaton:
    def moves(tree):
        found = {x: derivative(tree, x) for x in LETTERS}
        return {x: after for x, after in found.items() if after != NOTHING}

    tree = parse(expression)
    return _automaton(tree, explore([tree], moves, LIMIT), may_be_empty)


def prune(automaton: Automaton, letters: Iterable[str]) -> Automaton:
    """The automaton on a network that has these kinds of edge alone.

    Args:
      automaton: from `compile`.
      letters: the kinds that there are, such as "ies" for one recurrent layer. `e` stands for
        synapses between two units, `s` for those of a unit to itself.

    Raises:
      ValueError: for a letter other than `i e s f`.

    >>> from eprop_jax.engine import paths
    >>> one_layer = lambda expression: paths.prune(paths.compile(expression), "ies")
    >>> one_layer("(i|e)*f*") == one_layer("(i|e|f)*")
    True
    """
    unknown = sorted(set(letters) - set(LETTERS))
    if unknown:
        raise ValueError(f"letters: got {unknown}, wanted some of {' '.join(LETTERS)}")
    kept = set(letters)

    def moves(q):
        return {x: after for x, after in out_of(automaton, q).items() if x in kept}

    return _automaton(0, explore([0], moves), automaton.accepting.__getitem__)


def accepts(automaton: Automaton, word: str) -> bool:
    """Is a path with this word kept? (`e`: between two units; `s`: of a unit to itself.)

    >>> from eprop_jax.engine import paths
    >>> [paths.accepts(paths.compile("i*f*"), word) for word in ("iif", "ifi", "")]
    [True, False, True]
    """
    q = 0
    for x in word:
        moves = out_of(automaton, q)
        if x not in moves:
            return False
        q = moves[x]
    return automaton.accepting[q]


def out_of(automaton: Automaton, q: int) -> dict[str, int]:
    """{letter: state} for the moves that there are."""
    return taken(automaton.moves[q]._asdict())


def taken(moves: dict[str, int | None]) -> dict[str, int]:
    return {x: r for x, r in moves.items() if r is not None}


def _automaton(start: Any, edges: dict, accepting: Callable[..., bool]) -> Automaton:
    states = reduced([start], edges, lambda node: (accepting(node),))
    return Automaton(
        tuple(ends for (ends,), _ in states), tuple(Moves(**moves) for _, moves in states)
    )


# -- any graph whose edges have names ---------------------------------------------------------------


def explore(starts: Iterable, moves: Callable[..., dict], limit: float = inf) -> dict:
    """{node: moves(node)} for all that can be reached, breadth first, where `moves(node)` is
    {name of an edge: node}."""
    edges, waiting = {}, list(dict.fromkeys(starts))
    seen = set(waiting)
    for node in waiting:
        edges[node] = moves(node)
        fresh = dict.fromkeys(after for after in edges[node].values() if after not in seen)
        waiting += fresh
        seen.update(fresh)
        if len(waiting) > limit:
            raise ValueError(
                f"paths: the language takes more than {limit} states, wanted fewer; each costs a "
                "sweep over the sequence"
            )
    return edges


def leading_to(ends: Iterable, edges: dict) -> set:
    """The nodes from which one of `ends` can be reached."""
    before = {}
    for node, moves in edges.items():
        for after in moves.values():
            before.setdefault(after, []).append(node)
    return set(explore(ends, lambda node: dict(enumerate(before.get(node, ())))))


def reduced(starts: list, edges: dict, label: Callable[..., tuple]) -> list[tuple[tuple, dict]]:
    """The smallest graph with the same words: [(label, {name of an edge: number of a node})].

    A label says whether paths may end at a node, and then whatever else tells nodes apart. Nodes
    that lead to no end are left out, starts excepted; nodes of one label from which the same words
    lead on become one; they are numbered breadth first.
    """
    live = leading_to([node for node in edges if label(node)[0]], edges)
    kept = {node: {x: r for x, r in moves.items() if r in live} for node, moves in edges.items()}
    group = merged({node: label(node) for node in kept}, kept)
    one_of = {group[node]: node for node in reversed(kept)}
    of_groups = explore(
        [group[start] for start in starts],
        lambda g: {x: group[r] for x, r in kept[one_of[g]].items()},
    )
    number = {g: k for k, g in enumerate(of_groups)}
    return [
        (label(one_of[g]), {x: number[r] for x, r in moves.items()})
        for g, moves in of_groups.items()
    ]


def merged(label: dict, edges: dict) -> dict:
    """{node: its class}: nodes are in one class if they have one label and the same names lead them
    to the same classes. Each class in turn divides the others by who moves into it (Hopcroft 1971;
    of a class that has done so and is then divided, one half tells what the other would)."""
    into, members = {}, {}
    for node, moves in edges.items():
        members.setdefault(label[node], set()).add(node)
        for x, r in moves.items():
            into.setdefault(r, []).append((x, node))
    members = list(members.values())
    group = {node: g for g, nodes in enumerate(members) for node in nodes}
    waiting = set(range(len(members)))
    while waiting:
        movers = {}
        for node in members[waiting.pop()]:
            for x, before in into.get(node, ()):
                movers.setdefault(x, set()).add(before)
        for nodes in movers.values():
            for g in {group[node] for node in nodes}:
                part = nodes & members[g]
                if len(part) < len(members[g]):
                    members.append(part)
                    members[g] -= part
                    new = len(members) - 1
                    group |= dict.fromkeys(part, new)
                    smaller = g if len(members[g]) < len(part) else new
                    waiting.add(new if g in waiting else smaller)
    return group
