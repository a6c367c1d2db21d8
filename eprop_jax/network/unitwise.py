"""One unit's functions for all units at once; a state's leaves, and a layer's drives by gate.

A cell's functions are written for scalars. Here they are mapped over units and leading axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.network import traced
from eprop_jax.network.types import Array, Cell, PyTree, Readout

ONE_DRIVE = ""
"""The name that a cell's only drive goes by, inside the library."""


def driven(theta, c_tm1, a):
    """c^t = a^t, without memory; `eprop_jax.interop` knows simple cells and linear read-outs by it."""
    return a


def over_units(unit: Callable, z: dict, n_lead: int):
    """Map a function of one unit's scalars over units and leading axes (theta has only units)."""
    mapped = jax.vmap(unit)
    axes = {group: None if group == "theta" else 0 for group in z}
    for _ in range(n_lead):
        mapped = jax.vmap(mapped, in_axes=(axes,))
    return mapped(z)


def dynamics(cell: Cell, params: dict, c_tm1: PyTree, a_t: PyTree) -> PyTree:
    """c^t of all units."""
    z = {"theta": theta(cell, params), "c": c_tm1, "a": a_t}
    n_lead = jax.tree.leaves(c_tm1)[0].ndim - 1
    return over_units(traced.once(next_state, cell.dynamics), z, n_lead)


def next_state(dynamics: Callable, z_j: dict) -> PyTree:
    """c_j^t, as arrays also where the user's function returns Python numbers."""
    c_j = z_j["c"]
    return jax.tree.map(jnp.asarray, as_state(c_j, dynamics(z_j["theta"], c_j, z_j["a"])))


def as_state(c, out):
    """What the dynamics returned, with Python's numbers in the dtype of their component."""
    if jax.tree.structure(out) != jax.tree.structure(c):
        return out  # which is refused
    plain = lambda x: isinstance(x, (bool, int, float)) and not hasattr(x, "dtype")
    return jax.tree.map(lambda x, was: jnp.asarray(x, was.dtype) if plain(x) else x, out, c)


def of_gated(dynamics: Callable, z_j: dict) -> PyTree:
    """The same, for drives by gate."""
    return next_state(dynamics, {**z_j, "a": of_gates(z_j["a"])})


def one_unit(cell: Cell, params: dict, c: PyTree) -> dict:
    """The shapes of what one unit's functions see, its drives by gate."""
    of_unit = jax.eval_shape(lambda p: theta(cell, p), params)
    gates = dict.fromkeys(gate_names(params), floats(c)[0])
    z = {"theta": of_unit, "c": c, "a": gates}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), z)


def output(cell: Cell, params: dict, c_t: PyTree) -> Array:
    """h^t of all units."""
    z = {"theta": theta(cell, params), "c": c_t}
    n_lead = jax.tree.leaves(c_t)[0].ndim - 1
    return over_units(traced.once(of_state, cell.output), z, n_lead)


def of_state(output: Callable, z_j: dict) -> Array:
    """h_j^t."""
    return output(z_j["theta"], z_j["c"])


def theta(cell: Cell, params: dict) -> dict:
    """Each unit's own values, [n]: the constants, in the parameters' dtype, and the trained ones."""
    dtype = jax.tree.leaves(params)[0].dtype
    constants = {
        k: jnp.asarray(v, dtype if jnp.issubdtype(v.dtype, jnp.floating) else jnp.int32)
        for k, v in cell.constants.items()
    }
    constants = {k: jnp.broadcast_to(v, (cell.n_units,)) for k, v in constants.items()}
    return {**constants, **params.get("theta", {})}


def as_cell(readout: Readout) -> Cell:
    """A read-out is a unit with one component and no explicit recurrence; its output is y."""
    return Cell(
        readout.init, readout.initial_state, readout.dynamics, _y,
        readout.constants, readout.n_units, readout.n_out, readout.synapses,
        ("",) if readout.shared else (),
    )  # fmt: skip


def _y(phi: dict, y: Array) -> Array:
    return y


def gate_names(params: dict) -> list[str]:
    """The names of a layer's drives."""
    lines = ("w_in", "w_rec", "bias", "w_out", "w_unread")
    return sorted(set().union(*(as_gates(params[k]) for k in lines if k in params)))


def as_gates(a: PyTree) -> dict[str, Array]:
    return a if isinstance(a, dict) else {ONE_DRIVE: a}


def of_gates(gates: dict[str, Any]) -> PyTree:
    return gates[ONE_DRIVE] if set(gates) == {ONE_DRIVE} else gates


def components(c: PyTree) -> dict[str, int]:
    """The components that carry a gradient, by name: their places among `floats`. An only one, which
    has no name of its own, is "c"."""
    every = names(c)
    return {every[i] or "c": r for r, i in enumerate(float_positions(c))}


def names(c: PyTree) -> list[str]:
    """Of all components; of an only one, ""."""
    return [jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree.leaves_with_path(c)]


def float_positions(c: PyTree) -> list[int]:
    """Positions of the components that carry a gradient, among the state's leaves."""
    leaves = jax.tree.leaves(c)
    return [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def floats(c: PyTree) -> tuple[Array, ...]:
    """The components that carry a gradient."""
    leaves = jax.tree.leaves(c)
    return tuple(leaves[i] for i in float_positions(c))
