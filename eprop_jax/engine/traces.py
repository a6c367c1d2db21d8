"""What the forward recursions share: a trace is a tree like a layer's parameters, and each of its
leaves is a state, one array a floating component. Inside the library both are lists and tuples.

A trace of parameter w_ij has the shape of its lines: [B, i, j] for weights, [B, j] for a bias or a
per-unit θ_j (its "lines" are absent). A trace that ends at every unit r is [B, r, i, j], [B, r, j].
A component that a parameter never reaches has no trace (None; `()` in the carry), and one whose
recursion is the same for all units (`Cell.shared`) has one for all: j = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine.operators import Local, Parts
from eprop_jax.network import unitwise
from eprop_jax.network.types import Cell, Maybe, PyTree


class Entry(NamedTuple):
    """Where a parameter leaf enters: ∂c_j^t/∂w_ij = b_j pre_i, and ∂h_j^t/∂w_ij = xi_j (θ only)."""

    pre: Maybe
    """[..., i]; None: 1"""
    b: tuple[Maybe, ...]
    """by component, [..., j]"""
    xi: Maybe


def entries(params: dict, blocks: jac.Blocks, lines: Mapping) -> list[Entry]:
    """One Entry a leaf of a layer's parameters, in the leaves' order."""

    def entry(path, _):
        line = path[0].key
        if line == "theta":
            name = path[1].key
            return Entry(None, tuple(row[name] for row in blocks.Theta), blocks.Xi[name])
        gate = gate_of(path)
        return Entry(lines.get(line), tuple(row[gate] for row in blocks.B), None)

    return [entry(path, leaf) for path, leaf in jax.tree.leaves_with_path(params)]


def gate_of(path) -> str:
    return path[1].key if len(path) > 1 else unitwise.ONE_DRIVE


def entering(entries: list[Entry]) -> Local:
    """∂c_j^t/∂w_ij of each leaf, by component."""
    return Local(tuple(tuple(direct(s, r) for r in range(len(s.b))) for s in entries))


def direct(entry: Entry, r: int) -> Maybe:
    """∂c_r^t/∂w_ij: [B, i, j] or [B, j]."""
    b = entry.b[r]
    return b if b is None or entry.pre is None else entry.pre[..., :, None] * b[..., None, :]


# -- trees as users see them, lists as the recursions do -------------------------------------------


def zeros(
    cell: Cell,
    params: dict,
    c: PyTree,
    blocks: jac.Blocks,
    batch: int,
    ends: int | None = None,
    jumps: bool = False,
) -> PyTree:
    """A trace of zeros, before any path has started: ε, or (with `ends` = n) one that ends at every
    unit. `jumps`: may its paths leave a unit by its output?"""
    dtype = unitwise.floats(c)[0].dtype
    shared = set() if jumps else jac.shared_positions(cell, c)

    def leaf(path, p, entry):
        line = path[0].key
        alive = reached(blocks, entry, "w_rec" in params and jumps)
        narrow = {r: line != "theta" and r in shared for r in alive}
        lead = (batch,) if ends is None else (batch, ends)
        return tuple(
            jnp.zeros((*lead, *p.shape[:-1], 1 if narrow[r] else p.shape[-1]), dtype)
            if r in alive
            else None
            for r in range(len(blocks.D))
        )

    pairs = zip(jax.tree.leaves_with_path(params), entries(params, blocks, {}))
    return pack(params, c, [leaf(path, p, entry) for (path, p), entry in pairs])


def reached(blocks: jac.Blocks, entry: Entry, jumps: bool) -> set[int]:
    """The components that a parameter can reach, through D and, with `jumps`, through h."""
    d = range(len(blocks.D))
    alive = {r for r in d if entry.b[r] is not None}
    for _ in d:
        alive |= {r for r in d if any(blocks.D[r][c] is not None for c in alive)}
        if jumps and (entry.xi is not None or any(blocks.psi[c] is not None for c in alive)):
            alive |= {r for r in d if any(b is not None for b in blocks.B[r].values())}
    return alive


def pack(params: dict, c: PyTree, traces: list[Parts]) -> PyTree:
    n, positions = len(jax.tree.leaves(c)), unitwise.float_positions(c)

    def as_state(trace):
        by_position = dict(zip(positions, trace))
        leaves = [by_position.get(i) for i in range(n)]
        return jax.tree.structure(c).unflatten([() if x is None else x for x in leaves])

    return jax.tree.structure(params).unflatten([as_state(trace) for trace in traces])


def unpack(params: dict, c: PyTree, tree: PyTree) -> list[Parts]:
    positions = unitwise.float_positions(c)
    states = jax.tree.structure(params).flatten_up_to(tree)
    flat = [jax.tree.structure(c).flatten_up_to(state) for state in states]
    absent = lambda leaf: isinstance(leaf, tuple)
    return [tuple(None if absent(x[i]) else x[i] for i in positions) for x in flat]
