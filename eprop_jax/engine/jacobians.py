"""D, B, ψ, Θ, Ξ: the Jacobian blocks of one unit, by `jax.jvp`, for all units at once.

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

from eprop_jax import checks
from eprop_jax.engine import dependence
from eprop_jax.engine.columns import columns
from eprop_jax.engine.maybe import each, there
from eprop_jax.engine.operators import PerUnit
from eprop_jax.network import traced, unitwise
from eprop_jax.network.types import Cell, Maybe, PyTree

__all__ = ["Blocks", "blocks"]


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


class Operators(NamedTuple):
    """The same blocks, to multiply by: `d.dc_dc @ S`, `d.dh_dc.T @ dh`."""

    dc_dc: PerUnit
    """∂c^t/∂c^{t-1}"""
    dc_da: PerUnit
    """∂c^t/∂a^t, a column a gate"""
    dc_dtheta: PerUnit
    """∂c^t/∂θ, a column a name"""
    dh_dc: PerUnit
    dh_dtheta: PerUnit


class OutputOperators(NamedTuple):
    dh_dc: PerUnit
    dh_dtheta: PerUnit


def operators(J: Blocks) -> Operators:
    """Gates and names are in the order of the alphabet."""
    by_name = lambda rows: PerUnit(tuple(tuple(row[k] for k in sorted(row)) for row in rows))
    return Operators(PerUnit(J.D), by_name(J.B), by_name(J.Theta), *output_operators(J.psi, J.Xi))


def output_operators(psi: tuple[Maybe, ...], Xi: dict[str, Maybe]) -> OutputOperators:
    return OutputOperators(PerUnit((psi,)), PerUnit((tuple(Xi[k] for k in sorted(Xi)),)))


def implicit_blocks(cell: Cell, params: dict, c_tm1: PyTree, a_t: PyTree) -> tuple:
    """D, B, Θ (see `blocks`)."""
    z = {"theta": unitwise.theta(cell, params), "c": c_tm1, "a": unitwise.as_gates(a_t)}
    return over_units(_implicit, cell.dynamics, z, tuple(sorted(params.get("theta", {}))))


def output_blocks(cell: Cell, params: dict, c_t: PyTree) -> tuple:
    """ψ, Ξ (see `blocks`)."""
    z = {"theta": unitwise.theta(cell, params), "c": c_t}
    return over_units(_of_output, cell.output, z, tuple(sorted(params.get("theta", {}))))


def over_units(form: Callable, function: Callable, z: dict, names: tuple[str, ...]) -> tuple:
    of_unit, n_lead = traced.once(form, function, (1,)), jax.tree.leaves(z["c"])[0].ndim - 1
    return unitwise.over_units(lambda z_j: of_unit(z_j, names), z, n_lead)


def _implicit(dynamics: Callable, z_j: dict, names: tuple[str, ...]) -> tuple:
    """D, B, Θ of one unit, Θ by `names`."""

    unit = lambda z_j: unitwise.floats(unitwise.of_gated(dynamics, z_j))
    leaf = _leaf_numbers(z_j)
    by_c = [jax.tree.leaves(leaf["c"])[i] for i in unitwise.float_positions(z_j["c"])]
    by_theta = {k: leaf["theta"][k] for k in names}
    column = _columns(unit, z_j, [*by_c, *leaf["a"].values(), *by_theta.values()])
    d = range(len(by_c))
    D = tuple(tuple(column[i][r] for i in by_c) for r in d)
    B = tuple({g: column[i][r] for g, i in leaf["a"].items()} for r in d)
    Theta = tuple({k: column[i][r] for k, i in by_theta.items()} for r in d)
    return D, B, Theta


def _of_output(output: Callable, z_j: dict, names: tuple[str, ...]) -> tuple:
    """ψ, Ξ of one unit, Ξ by `names`."""
    leaf = _leaf_numbers(z_j)
    by_c = [jax.tree.leaves(leaf["c"])[i] for i in unitwise.float_positions(z_j["c"])]
    by_theta = {k: leaf["theta"][k] for k in names}
    unit = lambda z_j: (unitwise.of_state(output, z_j),)
    column = _columns(unit, z_j, [*by_c, *by_theta.values()])
    return tuple(column[i][0] for i in by_c), {k: column[i][0] for k, i in by_theta.items()}


def _leaf_numbers(z: dict) -> dict:
    return jax.tree.unflatten(jax.tree.structure(z), range(len(jax.tree.leaves(z))))


def _columns(unit: Callable, z_j: dict, wanted: list[int]) -> dict[int, list[Maybe]]:
    """{leaf number: ∂(each output of one unit)/∂(that scalar)}; None for a derivative that is zero
    whatever the values are."""
    leaves, treedef = jax.tree.flatten(z_j)

    def of_scalars(scalars):
        filled = list(leaves)
        for i, s in zip(wanted, scalars):
            filled[i] = s
        return unit(treedef.unflatten(filled))

    return dict(zip(wanted, columns(of_scalars, [leaves[i] for i in wanted])))


def structure(cell: Cell, params: dict, c: PyTree) -> Blocks:
    """Which blocks are there at any step: one unit's shapes, by those of what is given."""
    z_j, names = unitwise.one_unit(cell, params, c), tuple(sorted(params.get("theta", {})))
    of = lambda form, function: lambda z_j: traced.once(form, function, (1,))(z_j, names)
    implicit = jax.eval_shape(of(_implicit, cell.dynamics), z_j)
    del z_j["a"]
    return Blocks(*implicit, *jax.eval_shape(of(_of_output, cell.output), z_j))


def unit_dependence(cell: Cell, params: dict, c: PyTree) -> dict[int, list[str]]:
    """For each component that a cell calls shared: what its own factor, or its drive's, depends on
    that differs by unit (state, drive, trained or unequal values), or which others it reads."""
    shared = shared_positions(cell, c)
    if not shared:
        return {}
    z_j, unit = unitwise.one_unit(cell, params, c), traced.once(_implicit, cell.dynamics, (1,))
    jaxpr, (D, B, _) = jax.make_jaxpr(unit, static_argnums=1, return_shape=True)(z_j, ())
    places = jax.tree.unflatten(jax.tree.structure((D, B)), dependence.of_results(jaxpr.jaxpr))
    equal = {k for k, v in cell.constants.items() if checks.same_for_all(v)}
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(z_j)]
    allowed, found = {f"['theta']['{k}']" for k in equal}, {}
    for r in shared:
        needed = frozenset().union(*jax.tree.leaves((places[0][r], places[1][r])))
        found[r] = [name for i, name in enumerate(names) if i in needed and name not in allowed]
        found[r] += [f"component {i}" for i, x in enumerate(there(D[r])) if i != r and x]
    return found


def narrow(cell: Cell, J: Blocks, c: PyTree) -> Blocks:
    """Rows of D and B that are the same for all units, one number for all: [..., 1]."""
    shared = shared_positions(cell, c)
    one = lambda x: each(lambda x: x[..., :1], x)
    D = tuple(tuple(map(one, row)) if r in shared else row for r, row in enumerate(J.D))
    B = tuple(
        {g: one(x) for g, x in row.items()} if r in shared else row for r, row in enumerate(J.B)
    )
    return J._replace(D=D, B=B)


def once(J: Blocks) -> Blocks:
    """The same blocks, evaluated once. XLA on CPU puts what is cheap into every loop that reads it, and
    a trace of one example reads a block again at each of its lines: of ALIF, ψ once a synapse and not
    once a unit. It does not take a concatenation apart that stands behind a barrier."""
    leaves, structure = jax.tree.flatten(J)
    wide = [x for x in leaves if x.shape[-1] > 1]
    if not wide:
        return J
    joined = jax.lax.optimization_barrier(jnp.concatenate(wide, -1))
    apart = iter(jnp.split(joined, len(wide), -1))
    return structure.unflatten([next(apart) if x.shape[-1] > 1 else x for x in leaves])


def shared_positions(cell: Cell, c: PyTree) -> set[int]:
    """Which floating components the cell says are shared (see `Cell.shared`)."""
    paths = [path for path, _ in jax.tree.leaves_with_path(c)]
    named = [jax.tree_util.keystr(paths[i], simple=True) for i in unitwise.float_positions(c)]
    return {r for r, name in enumerate(named) if name in cell.shared}
