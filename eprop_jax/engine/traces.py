"""What the forward recursions share: a trace is a tree like a layer's parameters, and each of its
leaves is a state, one array a floating component. Inside the library both are lists and tuples.

A trace of parameter w_ij has the shape of its lines: [B, i, j] for weights, whose lines i are those of
their synapses (`Synapses.view`), [B, j] for a bias or a per-unit θ_j (its "lines" are absent). A trace
that ends at every unit r is [B, r, i, j], [B, r, j]. A component that a parameter never reaches has no
trace (None; `()` in the carry), and one whose recursion is the same for all units (`Cell.shared`) has
one for all that hear the same unit, held by the unit that is heard: [B, n_pre, 1] (`Heard`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine.heard import Heard, lines_of, outer
from eprop_jax.engine.operators import Local, Parts
from eprop_jax.network import unitwise
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Array, Cell, Maybe, PyTree


class Entry(NamedTuple):
    """Where a parameter leaf enters: ∂c_j^t/∂w_ij = b_j pre_i, ∂h_j^t/∂w_ij = xi_j (θ only), and
    ∂c_j^0/∂w_ij = 1 of one component (an initial state only)."""

    pre: Heard | None
    """None: 1"""
    b: tuple[Maybe, ...]
    """by component, [..., j]"""
    xi: Maybe
    start: int | None = None
    """the component whose initial value it is"""


def entries(cell: Cell, params: dict, c: PyTree, blocks: jac.Blocks, lines: Mapping) -> list[Entry]:
    """One Entry a leaf of a layer's parameters, in the leaves' order. `c`: a state, for its form;
    `lines`: what each line hears, [..., m]."""
    seen = {line: heard(cell, line, x) for line, x in lines.items() if line in params}

    def entry(path, _):
        line = path[0].key
        if line == "theta":
            name = path[1].key
            return Entry(None, tuple(row[name] for row in blocks.Theta), blocks.Xi[name])
        if line == "initial":
            nothing = (None,) * len(blocks.D)
            return Entry(None, nothing, None, unitwise.components(c)[path[1].key])
        gate = gate_of(path)
        return Entry(seen.get(line), tuple(row[gate] for row in blocks.B), None)

    return [entry(path, leaf) for path, leaf in jax.tree.leaves_with_path(params)]


def heard(cell: Cell, line: str, x: Array) -> Heard:
    return Heard(x[..., None], cell.synapses[line].view)


def gate_of(path) -> str:
    return path[1].key if len(path) > 1 else unitwise.ONE_DRIVE


def entering(entries: list[Entry]) -> Local:
    """∂c_j^t/∂w_ij of each leaf, by component."""
    return Local(tuple(tuple(direct(s, r) for r in range(len(s.b))) for s in entries))


def direct(entry: Entry, r: int) -> Any:
    """∂c_r^t/∂w_ij: [B, i, j] or [B, j]."""
    b = entry.b[r]
    return b if b is None or entry.pre is None else outer(b, entry.pre)


def trace_shape(cell: Cell, path, p: Any, narrow: bool = False) -> tuple[int, ...]:
    """Of one component, without the batch: (lines, j). `narrow`: is it the same for all units that hear
    the same? Then it is held by the unit that is heard."""
    line = path[0].key
    if line not in cell.synapses:
        return (*p.shape[:-1], 1 if narrow else p.shape[-1])
    s = cell.synapses[line]
    return (use.heard_size(s), 1) if narrow else use.trace_shape(s)[:2]


def tied(cell: Cell, params: dict, grads: Sequence[Maybe]) -> list[Maybe]:
    """Gradients line by line, as traces give them -> like the parameters."""

    def of_leaf(path, x):
        if x is None or path[0].key not in cell.synapses:
            return x
        return use.tie(cell.synapses[path[0].key], x)

    return [of_leaf(path, x) for (path, _), x in zip(jax.tree.leaves_with_path(params), grads)]


# -- trees as users see them, lists as the recursions do -------------------------------------------


def zeros(
    cell: Cell,
    params: dict,
    c: PyTree,
    blocks: jac.Blocks,
    batch: int,
    ends: np.ndarray | None = None,
    jumps: bool = False,
) -> PyTree:
    """A trace before the first step, where no path has started but those of an initial state: ε, or
    one that ends at several units r, where `ends` [r, j] is 1 at j itself. `jumps`: may its paths leave
    a unit by its output?"""
    dtype = unitwise.floats(c)[0].dtype
    shared = set() if jumps else jac.shared_positions(cell, c)

    def leaf(path, p, entry):
        line = path[0].key
        alive = reached(blocks, entry, "w_rec" in params and jumps)
        narrow = {r: line not in ("theta", "initial") and r in shared for r in alive}
        lead = (batch,) if ends is None else (batch, len(ends))

        def component(r):
            shape = (*lead, *trace_shape(cell, path, p, narrow[r]))
            return at_start(shape, ends, dtype) if r == entry.start else jnp.zeros(shape, dtype)

        return tuple(component(r) if r in alive else None for r in range(len(blocks.D)))

    pairs = zip(jax.tree.leaves_with_path(params), entries(cell, params, c, blocks, {}))
    return pack(params, c, [leaf(path, p, entry) for (path, p), entry in pairs])


def at_start(shape: tuple[int, ...], ends: np.ndarray | None, dtype: Any) -> Array:
    """∂c^0/∂(its own initial value), [B, j], or [B, r, j]: 1 at its own unit."""
    one = np.ones(shape[-1:]) if ends is None else ends
    return jnp.broadcast_to(jnp.asarray(one, dtype), shape)


def reached(blocks: jac.Blocks, entry: Entry, jumps: bool) -> set[int]:
    """The components that a parameter can reach, through D and, with `jumps`, through h."""
    d = range(len(blocks.D))
    alive = {r for r in d if entry.b[r] is not None or r == entry.start}
    for _ in d:
        alive |= {r for r in d if any(blocks.D[r][c] is not None for c in alive)}
        if jumps and (entry.xi is not None or any(blocks.psi[c] is not None for c in alive)):
            alive |= {r for r in d if any(b is not None for b in blocks.B[r].values())}
    return alive


def fitted(x: Any, like: Any) -> Any:
    """A trace held as the old one is, zeros where nothing arrives."""
    if like is None:  # not kept
        return None
    if isinstance(like, Heard):
        return Heard(fitted(x.x if isinstance(x, Heard) else x, like.x), like.view)
    return jnp.zeros_like(like) if x is None else jnp.broadcast_to(lines_of(x), like.shape)


def is_held(x: Any) -> bool:
    """Is it one component's trace, of whatever form, or none?"""
    return x is None or isinstance(x, Heard)


def as_tree(params: dict, held: Sequence[Maybe]) -> PyTree:
    """One array a parameter leaf -> a tree like the parameters, `()` for what is not kept."""
    return jax.tree.structure(params).unflatten([() if x is None else x for x in held])


def of_tree(params: dict, tree: PyTree) -> list[Maybe]:
    held = jax.tree.structure(params).flatten_up_to(tree)
    return [None if isinstance(x, tuple) else x for x in held]


def pack(params: dict, c: PyTree, traces: list[Parts]) -> PyTree:
    n, positions = len(jax.tree.leaves(c)), unitwise.float_positions(c)

    def as_state(trace):
        held = (x.x if isinstance(x, Heard) else x for x in trace)
        by_position = dict(zip(positions, held))
        leaves = [by_position.get(i) for i in range(n)]
        return jax.tree.structure(c).unflatten([() if x is None else x for x in leaves])

    return jax.tree.structure(params).unflatten([as_state(trace) for trace in traces])


def unpack(
    cell: Cell, params: dict, c: PyTree, tree: PyTree, narrow: Collection[int] = ()
) -> list[Parts]:
    """`narrow`: the components that are the same for all units that hear the same."""
    positions = unitwise.float_positions(c)
    states = jax.tree.structure(params).flatten_up_to(tree)
    flat = [jax.tree.structure(c).flatten_up_to(state) for state in states]

    def of(path, r, x):
        if isinstance(x, tuple):
            return None
        by_heard = r in narrow and path[0].key in cell.synapses
        return Heard(x, cell.synapses[path[0].key].view) if by_heard else x

    pairs = zip(jax.tree.leaves_with_path(params), flat)
    return [tuple(of(p, r, x[i]) for r, i in enumerate(positions)) for (p, _), x in pairs]
