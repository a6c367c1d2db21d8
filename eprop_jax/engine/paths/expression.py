"""Regular expressions: text → tree, and the tree's derivatives (Brzozowski 1964).

The derivative of a language by a letter x is what may follow x: {w : x w is in the language}. Each
tree that repeated derivatives give is a state of an automaton; there are finitely many of them as
soon as alternatives are a set, joining is associative, and ∅ and the empty word vanish where they
can, which is what `either`, `join` and `repeat` see to.

A recurrent synapse of a unit to itself may be spelt `e` or `s`, one of another unit `e` alone. The
tree's letters do not overlap: its `e` is a synapse between two units, its `s` one of a unit to
itself, so the `e` of an expression becomes (e|s). A path is then kept if one of its spellings is in
the language, and it has exactly one word in the tree's letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LETTERS = "iesf"
Tree = Any


@dataclass(frozen=True)
class Letter:
    letter: str


@dataclass(frozen=True)
class Either:
    parts: frozenset[Tree]


@dataclass(frozen=True)
class Join:
    first: Tree
    rest: Tree


@dataclass(frozen=True)
class Repeat:
    """`body` at least `least` times, at most `most` (None: any number)."""

    body: Tree
    least: int
    most: int | None


@dataclass(frozen=True)
class EmptyWord:
    pass


NOTHING, EMPTY = Either(frozenset()), EmptyWord()


def either(parts: Iterable[Tree]) -> Tree:
    flat = frozenset().union(*(p.parts if isinstance(p, Either) else {p} for p in parts))
    return next(iter(flat)) if len(flat) == 1 else Either(flat)


def join(first: Tree, rest: Tree) -> Tree:
    if NOTHING in (first, rest):
        return NOTHING
    if EMPTY in (first, rest):
        return rest if first == EMPTY else first
    if isinstance(first, Join):
        return join(first.first, join(first.rest, rest))
    return Join(first, rest)


def repeat(body: Tree, least: int, most: int | None) -> Tree:
    if most == 0 or body == EMPTY:
        return EMPTY
    if (least, most) == (1, 1):
        return body
    return Repeat(body, 0 if may_be_empty(body) else least, most)


def may_be_empty(tree: Tree) -> bool:
    """Is the empty word in the language?"""
    match tree:
        case Either(parts):
            return any(map(may_be_empty, parts))
        case Join(first, rest):
            return may_be_empty(first) and may_be_empty(rest)
        case Repeat(body, least, _):
            return least == 0 or may_be_empty(body)
    return tree == EMPTY


def derivative(tree: Tree, x: str) -> Tree:
    """{w : x w is in the language}."""
    match tree:
        case Letter(letter):
            return EMPTY if letter == x else NOTHING
        case Either(parts):
            return either(derivative(part, x) for part in parts)
        case Join(first, rest):
            within = join(derivative(first, x), rest)
            return either([within, derivative(rest, x)]) if may_be_empty(first) else within
        case Repeat(body, least, most):
            fewer = repeat(body, max(least - 1, 0), most and most - 1)
            return join(derivative(body, x), fewer)
    return NOTHING


# -- text → tree -----------------------------------------------------------------------------------

TOKEN = re.compile(r"\{[^}]*\}?|\S")
BOUNDS = re.compile(r"\{\s*(\d+)\s*(,?)\s*(\d*)\s*\}")
BRIEF: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def parse(expression: str) -> Tree:
    """The tree of an expression. Each of the inner functions reads one kind of phrase, from token
    number `at`, and returns its tree and the number of the token after it.

    Raises:
      TypeError, ValueError: for what is no expression, with the place.
    """
    if not isinstance(expression, str):
        raise TypeError(
            f"paths: got {type(expression).__name__}, wanted a regular expression over the letters "
            f"{' '.join(LETTERS)} such as 'i*f*'"
        )
    tokens = [(found.group(), found.start()) for found in TOKEN.finditer(expression)]
    tokens.append(("", len(expression)))

    def refuse(at, wanted):
        token, place = tokens[at]
        raise ValueError(
            f"paths: got {expression!r} with {repr(token) if token else 'its end'} at index {place}, "
            f"wanted {wanted}\n    {expression}\n    {' ' * place}^"
        )

    def alternatives(at):
        tree, at = sequence(at)
        trees = [tree]
        while tokens[at][0] == "|":
            tree, at = sequence(at + 1)
            trees.append(tree)
        return either(trees), at

    def sequence(at):
        tree = EMPTY
        while tokens[at][0] not in ("", "|", ")"):
            part, at = repeated(at)
            tree = join(tree, part)
        return tree, at

    def repeated(at):
        tree, at = atom(at)
        if tokens[at][0] in BRIEF or tokens[at][0].startswith("{"):
            tree, at = repeat(tree, *bounds(at)), at + 1
            if tokens[at][0] in BRIEF or tokens[at][0].startswith("{"):
                refuse(at, "parentheses around what is repeated twice")
        return tree, at

    def bounds(at):
        token = tokens[at][0]
        if token in BRIEF:
            return BRIEF[token]
        found = BOUNDS.fullmatch(token)
        if not found or (found[3] and (not found[2] or int(found[3]) < int(found[1]))):
            refuse(at, "{m}, {m,} or {m,n} with m <= n")
        least, comma, most = found.groups()
        return int(least), int(most) if most else None if comma else int(least)

    def atom(at):
        token = tokens[at][0]
        if token == "(":
            tree, end = alternatives(at + 1)
            if tokens[end][0] != ")":
                refuse(end, f"the ')' of the '(' at index {tokens[at][1]}")
            return tree, end + 1
        if token in BRIEF or token.startswith("{"):
            refuse(at, f"something to repeat before it: a letter of {' '.join(LETTERS)} or a ')'")
        if token not in LETTERS:
            refuse(at, f"the letters {' '.join(LETTERS)} and ( ) | * + ? {{m,n}}")
        return either([Letter("e"), Letter("s")]) if token == "e" else Letter(token), at + 1

    tree, end = alternatives(0)
    if tokens[end][0] == ")":
        refuse(end, "a '(' before it")
    return tree
