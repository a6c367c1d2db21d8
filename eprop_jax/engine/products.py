"""What co-states and traces give together: gradients, and the traces after a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine import traces as tr
from eprop_jax.engine.adjoint import Reached
from eprop_jax.engine.heard import Heard
from eprop_jax.engine.maybe import each, filled, those, total
from eprop_jax.engine.operators import CoState, Drives, Parts
from eprop_jax.network import unitwise
from eprop_jax.network.synapses import Synapses, use
from eprop_jax.network.types import Array, Cell, Maybe, PyTree


def gradient(cell: Cell, params: dict, s: Reached, lines: dict[str, Array]) -> list[Array]:
    """Σ_t Σ_batch of what reaches each parameter, one a leaf."""
    return with_units(params, s, of_lines(cell, params, s.da, lines))


def of_lines(cell: Cell, params: dict, da: dict[str, Maybe], lines: dict[str, Array]) -> Parts:
    """Σ_t Σ_batch pre^t ⊗ ∂̃a^t (Eq. 4), of the leaves that enter a drive: one product over time and
    batch."""

    def leaf(path, p):
        line = path[0].key
        if line in ("theta", "initial"):
            return None
        by_line = lambda x: use.collect(cell.synapses[line], lines[line], x)
        alone = lambda x: x.reshape(-1, *p.shape).sum(0)
        return each(by_line if line in lines else alone, da[tr.gate_of(path)])

    return tuple(leaf(path, p) for path, p in jax.tree.leaves_with_path(params))


def with_units(params: dict, s: Reached, by_line: Parts) -> list[Array]:
    """And of a unit's own parameters, θ and initial states, what a sweep found."""

    def leaf(path, p, x):
        if path[0].key in ("theta", "initial"):
            x = each(lambda x: x.reshape(-1, *p.shape).sum(0), of_unit(s, path))
        return filled(x, p)

    return [leaf(path, p, x) for (path, p), x in zip(jax.tree.leaves_with_path(params), by_line)]


def of_unit(s: Reached, path: Any) -> Maybe:
    """What reaches a unit's own θ_j, or by the chunk's resets its initial state."""
    found = s.dtheta if path[0].key == "theta" else s.dinitial
    return found.get(path[1].key)


def at_first(params: dict, c: PyTree, dc_0: Parts, first: Array) -> list[Maybe]:
    """What reaches the initial state of the examples that start with the chunk, one a parameter leaf:
    Σ_batch ∂̃c^0."""
    where = unitwise.components(c)

    def leaf(path):
        dc = dc_0[where[path[1].key]] if path[0].key == "initial" and dc_0 else None
        return each(lambda dc: (first[:, None] * dc).sum(0), dc)

    return [leaf(path) for path, _ in jax.tree.leaves_with_path(params)]


def sources(
    cell: Cell, params: dict, swept: list[Reached], lines: dict[str, Array]
) -> list[list[Maybe]]:
    """Σ_t pre^t ⊗ ∂̃a^t an example, [B, *lead, lines, n], for each parameter leaf and seed; where ∂̃a is
    the same for all units, as `Heard`.

    All gates and seeds share one product a line.
    """
    products = {line: _products(cell.synapses[line], x, swept, params[line])
                for line, x in lines.items() if line in params}  # fmt: skip

    def leaf(path, seed, s):
        line = path[0].key
        if line in ("theta", "initial"):
            return each(_examples_first, of_unit(s, path))
        if line in lines:
            return products[line].get((tr.gate_of(path), seed))
        return each(lambda da: _examples_first(da.sum(0)), s.da[tr.gate_of(path)])

    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    return [[leaf(path, i, s) for i, s in enumerate(swept)] for path in paths]


def _products(
    s: Synapses, pre: Array, swept: list[Reached], weights: PyTree
) -> dict[tuple[str, int], Array]:
    gates, out = unitwise.as_gates(weights), {}
    da = {(gate, i): x.da[gate] for gate in gates for i, x in enumerate(swept)}
    columns = {key: _examples_first(x) for key, x in those(da).items()}  # [B, K, *lead, n]
    # Shared components have one column; beside the others it would put every row out of line.
    for narrow in (True, False):
        group = {key: x for key, x in columns.items() if (x.shape[-1] == 1) == narrow}
        if not group:
            continue
        flat = [x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in group.values()]
        stops = np.cumsum([x.shape[2] for x in flat])[:-1]
        da = jnp.concatenate(flat, 2)
        found = use.of_heard(pre, da) if narrow else use.of_examples(s, pre, da)
        for (key, x), part in zip(group.items(), jnp.split(found, stops, axis=1)):
            part = part.reshape(part.shape[0], *x.shape[2:-1], *part.shape[2:])
            out[key] = Heard(part, s.view) if narrow else part
    return out


def _examples_first(x: Array) -> Array:
    """[*lead, B, n] -> [B, *lead, n]."""
    return jnp.moveaxis(x, -2, 0)


def to_heard(cell: Cell, params: dict, da: dict[str, Maybe], resets: Array | None) -> Maybe:
    """Σ_gates w_in ∂̃a^t: what reaches that which w_in hears, [K, *lead, B, m]."""
    gates, w_in = unitwise.gate_names(params), unitwise.as_gates(params.get("w_in", {}))
    da_dx = Drives(tuple(map(w_in.get, gates)), cell.synapses["w_in"])
    (dx,) = (da_dx.T @ CoState(tuple(map(da.get, gates)))).parts
    return each(lambda x: use.unlagged(da_dx.synapses, x, resets), dx)


def add(grads: list[Array], more: Sequence[Maybe]) -> list[Array]:
    return [total(*term) for term in zip(grads, more)]
