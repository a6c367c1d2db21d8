"""Arrays that may be structurally zero: zero whatever the values are, and then None (`Maybe`).

What is absent costs nothing, and stays absent: zeros take its place only where it is stacked with
others that are there. This file, the operators and the traces, which are made of such arrays, know
None; all others say what is to be done with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.network.types import Maybe, PyTree

Which = tuple[int | None, ...]
"""Places along an axis; None: what is zero"""


def total(*terms: Maybe) -> Maybe:
    """The sum of the terms that are not None; None if all are."""
    kept = some(terms)
    return sum(kept[1:], kept[0]) if kept else None


def minus(x: Maybe, y: Maybe) -> Maybe:
    return each(jnp.negative, y) if x is None else x if y is None else x - y


def each(f: Callable[..., Any], *xs: Maybe) -> Maybe:
    """f of them; None if one of them is."""
    return None if any(x is None for x in xs) else f(*xs)


def there(tree: PyTree) -> PyTree:
    """The same tree, of booleans: is it there?"""
    return jax.tree.map(lambda x: x is not None, tree, is_leaf=lambda x: x is None)


def some(xs: Iterable[Maybe]) -> list:
    """Those that are there."""
    return [x for x in xs if x is not None]


def first(*xs: Any) -> Any:
    """The first that is there."""
    return some(xs)[0]


def those(named: Mapping) -> dict:
    """The entries that are there."""
    return {name: x for name, x in named.items() if x is not None}


def as_in(old: Iterable[Maybe], new: Iterable[Maybe]) -> tuple[Maybe, ...]:
    """Of the new ones those that are there in the old."""
    return tuple(None if x is None else y for x, y in zip(old, new, strict=True))


def filled(tree: PyTree, like: PyTree) -> PyTree:
    """Zeros where `tree` has None and `like` an array (or its shape)."""

    def fill(x, other):
        return jnp.zeros(other.shape, other.dtype) if x is None and other is not None else x

    return jax.tree.map(fill, tree, like, is_leaf=lambda x: x is None)


def as_like(tree: PyTree, like: PyTree) -> PyTree:
    """The same, and None where `like` has it."""

    def leave(x, other):
        return None if other is None else x

    return jax.tree.map(leave, filled(tree, like), like, is_leaf=lambda x: x is None)


def split(x: Maybe, at: int | Sequence[int], axis: int) -> list[Maybe]:
    """In so many parts, or at these places."""
    n = at if isinstance(at, int) else len(at) + 1
    return [None] * n if x is None else jnp.split(x, at, axis)


def joined(found: Sequence[Maybe], likes: Sequence[Any]) -> Maybe:
    """One after the other along the first axis, each of the shape of its like: zeros for those that are
    None; None if all are."""
    return jnp.concatenate(filled(list(found), list(likes))) if some(found) else None


def stacked(found: Sequence[Maybe]) -> Maybe:
    """[S, ...] of S arrays of one shape, zeros for those that are None; None if all are."""
    if not some(found):
        return None
    like = some(found)[0]
    if all(x is like for x in found):
        return jnp.broadcast_to(like, (len(found), *like.shape))
    return jnp.stack([jnp.zeros_like(like) if x is None else x for x in found])


def pick(x: Maybe, which: Which) -> Maybe:
    """x [S, ...] -> [len(which), ...]: x[q] for each q, zeros for None. Runs of consecutive numbers
    are slices: order m, whose co-states lead each to the next, is one shift."""
    if x is None or not some(which):
        return None
    runs: list[list] = []
    for q in which:
        last = runs[-1] if runs else None
        if last is not None and q == (None if last[0] is None else last[0] + last[1]):
            last[1] += 1
        else:
            runs.append([q, 1])
    parts = [
        jnp.zeros((size, *x.shape[1:]), x.dtype) if q is None else x[q : q + size]
        for q, size in runs
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def numbered(which: Which) -> tuple[tuple[int, ...], Which]:
    """The numbers in it, each once, and `which` in terms of places among those."""
    used = tuple(sorted(set(some(which))))
    return used, tuple(each(used.index, q) for q in which)
