"""D, B, ψ, Θ, Ξ: the Jacobian blocks of one unit, by `jax.jacfwd`, for all units at once.

    D = ∂c_j^t/∂c_j^{t-1}   B = ∂c_j^t/∂a_j^t   Θ = ∂c_j^t/∂θ_j   ψ = ∂h_j^t/∂c_j^t   Ξ = ∂h_j^t/∂θ_j

Each is exact and of size d × d at most; an (nd) × (nd) Jacobian is never formed. As the drive is
a_j = Σ_i pre_i w_ij, every ∂c_j^t/∂w_ij is B_j pre_i. One scalar is differentiated at a time, so
that a block is a separate contiguous array [..., n] and nothing has a small trailing axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks, dependence
from eprop_jax.base import Array, Cell, Maybe, PyTree, Readout
from eprop_jax.functions import as_state

__all__ = ["Blocks", "blocks"]

ONE_DRIVE = ""
"""The name that a cell's only drive goes by, inside the library."""


class Blocks(NamedTuple):
    """Blocks at one step, or at many. `None` where a derivative is zero whatever the values are.

    Components r, c count the floating leaves of the state, in order; arrays are [..., n].
    """

    D: tuple[tuple[Maybe, ...], ...]
    """D[r][c] = ∂c_r^t/∂c_c^{t-1}"""
    B: tuple[dict[str, Maybe], ...]
    """B[r][gate] = ∂c_r^t/∂a_gate^t"""
    Theta: tuple[dict[str, Maybe], ...]
    """Θ[r][name] = ∂c_r^t/∂θ_name, by itself"""
    psi: tuple[Maybe, ...]
    """ψ[c] = ∂h^t/∂c_c^t"""
    Xi: dict[str, Maybe]
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

    Raises:
      TypeError: if `cell` is no Cell.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> cell = ej.cells.leaky_rnn(n_in=1, n_units=2, decay=0.9)
    >>> c = jnp.zeros(2)
    >>> ej.jacobians.blocks(cell, cell.init(jax.random.key(0)), c, c, c).D[0][0]
    Array([0.9, 0.9], dtype=float32)
    """
    checks.instance("cell", cell, Cell, "an ej.Cell")
    implicit = implicit_blocks(cell, params, c_tm1, a_t)
    return Blocks(*implicit, *output_blocks(cell, params, c_t))


def implicit_blocks(cell: Cell, params: dict, c_tm1: PyTree, a_t: PyTree) -> tuple:
    """D, B, Θ (see `blocks`)."""
    z = {"theta": theta(cell, params), "c": c_tm1, "a": as_gates(a_t)}

    def dynamics(z_j):
        return floats(_next_state(cell, z_j["theta"], z_j["c"], of_gates(z_j["a"])))

    leaf = _leaf_numbers(z)
    by_c = [jax.tree.leaves(leaf["c"])[i] for i in float_positions(c_tm1)]
    by_theta = {k: leaf["theta"][k] for k in sorted(params.get("theta", {}))}
    column = _columns(dynamics, z, [*by_c, *leaf["a"].values(), *by_theta.values()])
    d = range(len(by_c))
    D = tuple(tuple(column[i][r] for i in by_c) for r in d)
    B = tuple({g: column[i][r] for g, i in leaf["a"].items()} for r in d)
    Theta = tuple({k: column[i][r] for k, i in by_theta.items()} for r in d)
    return D, B, Theta


def output_blocks(cell: Cell, params: dict, c_t: PyTree) -> tuple:
    """ψ, Ξ (see `blocks`)."""
    z = {"theta": theta(cell, params), "c": c_t}
    leaf = _leaf_numbers(z)
    by_c = [jax.tree.leaves(leaf["c"])[i] for i in float_positions(c_t)]
    by_theta = {k: leaf["theta"][k] for k in sorted(params.get("theta", {}))}
    wanted = [*by_c, *by_theta.values()]
    column = _columns(lambda z_j: (cell.output(z_j["theta"], z_j["c"]),), z, wanted)
    psi = tuple(column[i][0] for i in by_c)
    return psi, {k: column[i][0] for k, i in by_theta.items()}


def _leaf_numbers(z: dict) -> dict:
    return jax.tree.unflatten(jax.tree.structure(z), range(len(jax.tree.leaves(z))))


def _columns(unit: Callable, z: dict, wanted: list[int]) -> dict[int, list[Maybe]]:
    """{leaf number: ∂(each output of one unit)/∂(that scalar)}, for all units: jacfwd, then vmap."""
    treedef = jax.tree.structure(z)

    def of_scalars(scalars, leaves):
        leaves = list(leaves)
        for i, s in zip(wanted, scalars):
            leaves[i] = s
        return unit(treedef.unflatten(leaves))

    def jacobian(z_j):
        leaves = jax.tree.leaves(z_j)
        scalars = [leaves[i] for i in wanted]

        def column(k):
            def of_one(s):
                return of_scalars([*scalars[:k], s, *scalars[k + 1 :]], leaves)

            return jax.jacfwd(of_one)(scalars[k])

        return [column(k) for k in range(len(wanted))]

    def tangents(z_j, dots):
        leaves = jax.tree.leaves(z_j)
        scalars = [leaves[i] for i in wanted]
        return jax.jvp(lambda s: of_scalars(s, leaves), (scalars,), (dots,))[1]

    n_lead = jax.tree.leaves(z["c"])[0].ndim - 1
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), z)
    zero = _never_reached(tangents, one, [jax.tree.leaves(one)[i] for i in wanted])
    return {
        i: [None if never else x for never, x in zip(row, column)]
        for i, row, column in zip(wanted, zero, over_units(jacobian, z, n_lead))
    }


def _never_reached(tangents: Callable, z_j: dict, dots: list) -> list[list[bool]]:
    """For each tangent that enters, which of those that leave do not even mention it: derivatives
    that are zero whatever the values are."""
    jaxpr = jax.make_jaxpr(tangents)(z_j, dots).jaxpr
    found, first = dependence.of_results(jaxpr), len(jaxpr.invars) - len(dots)
    return [[first + k not in sources for sources in found] for k in range(len(dots))]


def gate_names(params: dict) -> list[str]:
    """The names of a layer's drives."""
    lines = ("w_in", "w_rec", "bias", "w_out")
    return sorted(set().union(*(as_gates(params[k]) for k in lines if k in params)))


def structure(cell: Cell, params: dict, c: PyTree) -> Blocks:
    """Blocks whose Nones are those of any step (their values mean nothing)."""
    drive = of_gates(dict.fromkeys(gate_names(params), floats(c)[0]))
    return blocks(cell, params, c, drive, c)


def unit_dependence(cell: Cell, params: dict, c: PyTree) -> dict[int, list[str]]:
    """For each component that a cell calls shared: what its own factor, or its drive's, depends on
    that differs by unit (state, drive, trained or unequal values), or which others it reads."""
    z = {"theta": theta(cell, params), "c": c}
    z["a"] = dict.fromkeys(gate_names(params), floats(c)[0])
    equal = {k for k, v in cell.constants.items() if checks.same_for_all(v)}
    leaf = _leaf_numbers(z)
    by_c = [jax.tree.leaves(leaf["c"])[i] for i in float_positions(c)]
    wanted = [*by_c, *leaf["a"].values()]
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), z)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(z)]
    allowed = {f"['theta']['{k}']" for k in equal}

    def rows(z_j):
        leaves = jax.tree.leaves(z_j)

        def column(i):
            def of_one(s):
                filled = [*leaves[:i], s, *leaves[i + 1 :]]
                z_s = jax.tree.unflatten(jax.tree.structure(z), filled)
                return floats(_next_state(cell, z_s["theta"], z_s["c"], of_gates(z_s["a"])))

            return jax.jacfwd(of_one)(leaves[i])

        columns = [column(i) for i in wanted]
        return [[column[r] for column in columns] for r in range(len(by_c))]

    jaxpr = jax.make_jaxpr(rows)(one).jaxpr
    sources, found, per_row = dependence.of_results(jaxpr), {}, len(wanted)
    for r in shared_positions(cell, c):
        needed = frozenset().union(*sources[r * per_row : (r + 1) * per_row])
        found[r] = [name for i, name in enumerate(names) if i in needed and name not in allowed]
        D = structure(cell, params, c).D[r]
        found[r] += [f"component {i}" for i, x in enumerate(D) if i != r and x is not None]
    return found


def narrow(cell: Cell, J: Blocks, c: PyTree) -> Blocks:
    """Rows of D and B that are the same for all units, one number for all: [..., 1]."""
    shared = shared_positions(cell, c)
    one = lambda x: None if x is None else x[..., :1]
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
    return over_units(lambda z: _next_state(cell, z["theta"], z["c"], z["a"]), z, n_lead)


def _next_state(cell: Cell, theta_j: dict, c_j: PyTree, a_j: PyTree) -> PyTree:
    """c_j^t, as arrays also where the user's function returns Python numbers."""
    return jax.tree.map(jnp.asarray, as_state(c_j, cell.dynamics(theta_j, c_j, a_j)))


def output(cell: Cell, params: dict, c_t: PyTree) -> Array:
    """h^t of all units."""
    z = {"theta": theta(cell, params), "c": c_t}
    n_lead = jax.tree.leaves(c_t)[0].ndim - 1
    return over_units(lambda z: cell.output(z["theta"], z["c"]), z, n_lead)


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
        readout.init, readout.initial_state, readout.dynamics, lambda phi, y: y,
        readout.constants, readout.n_units, readout.n_out, shared=("",) if readout.shared else (),
    )  # fmt: skip


def as_gates(a: PyTree) -> dict[str, Array]:
    return a if isinstance(a, dict) else {ONE_DRIVE: a}


def of_gates(gates: dict[str, Any]) -> PyTree:
    return gates[ONE_DRIVE] if set(gates) == {ONE_DRIVE} else gates


def float_positions(c: PyTree) -> list[int]:
    """Positions of the components that carry a gradient, among the state's leaves."""
    leaves = jax.tree.leaves(c)
    return [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def floats(c: PyTree) -> tuple[Array, ...]:
    """The components that carry a gradient."""
    leaves = jax.tree.leaves(c)
    return tuple(leaves[i] for i in float_positions(c))
