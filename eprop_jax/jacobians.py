"""D, B, ψ, Θ, Ξ: the Jacobian blocks of one unit, by `jax.jacfwd`, for all units at once.

    D = ∂c_j^t/∂c_j^{t-1}   B = ∂c_j^t/∂a_j^t   Θ = ∂c_j^t/∂θ_j   ψ = ∂h_j^t/∂c_j^t   Ξ = ∂h_j^t/∂θ_j

Each is exact and of size d × d at most; an (nd) × (nd) Jacobian is never formed. As the drive is
a_j = Σ_i pre_i w_ij, every ∂c_j^t/∂w_ij is B_j pre_i. One scalar is differentiated at a time, so
that a block is a separate contiguous array [..., n] and nothing has a small trailing axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.base import Array, Cell, PyTree, Readout

ONE_DRIVE = ""
"""The name that a cell's only drive goes by, inside the library."""


class Blocks(NamedTuple):
    """Blocks at one step, or at many. `None` where a derivative is zero whatever the values are.

    Components r, c count the floating leaves of the state, in order; arrays are [..., n].
    """

    D: tuple[tuple[Array | None, ...], ...]
    """D[r][c] = ∂c_r^t/∂c_c^{t-1}"""
    B: tuple[dict[str, Array | None], ...]
    """B[r][gate] = ∂c_r^t/∂a_gate^t"""
    Theta: tuple[dict[str, Array | None], ...]
    """Θ[r][name] = ∂c_r^t/∂θ_name, by itself"""
    psi: tuple[Array | None, ...]
    """ψ[c] = ∂h^t/∂c_c^t"""
    Xi: dict[str, Array | None]
    """Ξ[name] = ∂h^t/∂θ_name, by itself"""


def blocks(cell: Cell, params: dict, c_tm1: PyTree, a_t: PyTree, c_t: PyTree) -> Blocks:
    """The five blocks at c^{t-1} → c^t under the drive a^t.

    Args:
      cell: the cell.
      params: its parameters.
      c_tm1, c_t: states, leaves [..., n].
      a_t: the drive [..., n], or a dict of drives.

    Returns:
      `Blocks` of arrays [..., n].

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> cell = ej.cells.leaky_rnn(n_in=1, n_units=2, decay=0.9)
    >>> c = jnp.zeros(2)
    >>> ej.jacobians.blocks(cell, cell.init(jax.random.key(0)), c, c, c).D[0][0]
    Array([0.9, 0.9], dtype=float32)
    """
    implicit = implicit_blocks(cell, params, c_tm1, a_t)
    return Blocks(*implicit, *output_blocks(cell, params, c_t))


def implicit_blocks(cell: Cell, params: dict, c_tm1: PyTree, a_t: PyTree) -> tuple:
    """D, B, Θ (see `blocks`)."""
    n_lead = jax.tree.leaves(c_tm1)[0].ndim - 1
    trained = set(params.get("theta", {}))
    args = ({"theta": theta(cell, params), "c": c_tm1, "a": as_gates(a_t)}, n_lead)

    def dynamics(z):
        c = cell.dynamics(z["theta"], z["c"], of_gates(z["a"]))
        return floats(c)

    d = len(floats(c_tm1))
    by_c = [_column(dynamics, ("c", i), *args) for i in float_positions(c_tm1)]
    by_a = {g: _column(dynamics, ("a", g), *args) for g in as_gates(a_t)}
    by_theta = {k: _column(dynamics, ("theta", k), *args) for k in sorted(trained)}
    D = tuple(tuple(column[r] for column in by_c) for r in range(d))
    B = tuple({g: column[r] for g, column in by_a.items()} for r in range(d))
    Theta = tuple({k: column[r] for k, column in by_theta.items()} for r in range(d))
    return D, B, Theta


def output_blocks(cell: Cell, params: dict, c_t: PyTree) -> tuple:
    """ψ, Ξ (see `blocks`)."""
    n_lead = jax.tree.leaves(c_t)[0].ndim - 1
    args = ({"theta": theta(cell, params), "c": c_t}, n_lead)

    def output(z):
        return (cell.output(z["theta"], z["c"]),)

    psi = tuple(_column(output, ("c", i), *args)[0] for i in float_positions(c_t))
    Xi = {k: _column(output, ("theta", k), *args)[0] for k in sorted(params.get("theta", {}))}
    return psi, Xi


def _column(unit: Callable, which: tuple, z: dict, n_lead: int) -> tuple[Array | None, ...]:
    """∂(outputs of one unit)/∂(one of its scalars), for all units: jacfwd, then vmap."""
    group, key = which

    def column(z_j):
        leaves, treedef = jax.tree.flatten(z_j[group])
        i = key if isinstance(key, int) else sorted(z_j[group]).index(key)

        def of_scalar(s):
            return unit({**z_j, group: treedef.unflatten([*leaves[:i], s, *leaves[i + 1 :]])})

        return of_scalar, leaves[i]

    def jacobian(z_j):
        of_scalar, s = column(z_j)
        return jax.jacfwd(of_scalar)(s)

    one_unit = jax.eval_shape(lambda z: jax.tree.map(lambda x: x[(0,) * x.ndim], z), z)
    zero = _always_zero(column, one_unit)
    columns = over_units(jacobian, z, n_lead)
    return tuple(None if is_zero else block for is_zero, block in zip(zero, columns))


def _always_zero(column: Callable, one_unit: dict) -> list[bool]:
    """Which outputs have a derivative that does not even mention the tangent."""

    def tangent(z_j, s_dot):
        of_scalar, s = column(z_j)
        return jax.jvp(of_scalar, (s,), (s_dot,))[1]

    s_dot = jax.eval_shape(lambda z_j: column(z_j)[1], one_unit)
    jaxpr = jax.make_jaxpr(tangent)(one_unit, s_dot).jaxpr
    reached = {jaxpr.invars[-1]}
    for eqn in jaxpr.eqns:
        if any(v in reached for v in eqn.invars if not hasattr(v, "val")):
            reached.update(eqn.outvars)
    return [hasattr(v, "val") or v not in reached for v in jaxpr.outvars]


def narrow(cell: Cell, J: Blocks, c: PyTree) -> Blocks:
    """Rows of D and B that are the same for all units, one number for all: [..., 1]."""
    shared = shared_positions(cell, c)
    one = lambda x: None if x is None else x[..., :1]  # noqa: E731
    D = tuple(tuple(map(one, row)) if r in shared else row for r, row in enumerate(J.D))
    B = tuple(
        {g: one(x) for g, x in row.items()} if r in shared else row for r, row in enumerate(J.B)
    )
    return J._replace(D=D, B=B)


def shared_positions(cell: Cell, c: PyTree) -> set[int]:
    """Which floating components the cell says are shared (see `Cell.shared`)."""
    paths = [path for path, _ in jax.tree.leaves_with_path(c)]
    named = [jax.tree_util.keystr(paths[i], simple=True) for i in float_positions(c)]
    return {r for r, name in enumerate(named) if name in cell.shared}


# -- one unit, all units --------------------------------------------------------------------------


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
    return over_units(lambda z: cell.dynamics(z["theta"], z["c"], z["a"]), z, n_lead)


def output(cell: Cell, params: dict, c_t: PyTree) -> Array:
    """h^t of all units."""
    z = {"theta": theta(cell, params), "c": c_t}
    n_lead = jax.tree.leaves(c_t)[0].ndim - 1
    return over_units(lambda z: cell.output(z["theta"], z["c"]), z, n_lead)


def theta(cell: Cell, params: dict) -> dict:
    """Each unit's own values: the constants, in the parameters' dtype, and the trained ones."""
    dtype = jax.tree.leaves(params)[0].dtype
    constants = {
        k: jnp.asarray(v, dtype if jnp.issubdtype(v.dtype, jnp.floating) else jnp.int32)
        for k, v in cell.constants.items()
    }
    return {**constants, **params.get("theta", {})}


def as_cell(readout: Readout) -> Cell:
    """A read-out is a unit with one component and no explicit recurrence; its output is y."""
    return Cell(
        readout.init, readout.initial_state, readout.dynamics, lambda phi, y: y,
        readout.constants, readout.n_units, readout.n_out, shared=("",) if readout.shared else (),
    )  # fmt: skip


def as_gates(a: PyTree) -> dict[str, Array]:
    return a if isinstance(a, dict) else {ONE_DRIVE: a}


def of_gates(gates: dict[str, Array]) -> PyTree:
    return gates[ONE_DRIVE] if set(gates) == {ONE_DRIVE} else gates


def float_positions(c: PyTree) -> list[int]:
    """Positions of the components that carry a gradient, among the state's leaves."""
    leaves = jax.tree.leaves(c)
    return [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def floats(c: PyTree) -> tuple[Array, ...]:
    """The components that carry a gradient."""
    leaves = jax.tree.leaves(c)
    return tuple(leaves[i] for i in float_positions(c))
