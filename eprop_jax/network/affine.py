"""Units that nothing recurrent drives and whose dynamics is affine in their state: all steps at once.

    c^t = D^t c^{t-1} + b^t,    D^t = ∂c^t/∂c^{t-1},    b^t = dynamics(0, a^t)

Two steps are one, (D₂, b₂) after (D₁, b₁) = (D₂ D₁, D₂ b₁ + b₂), and that is associative: log₂ K
rounds over whole arrays take the place of K steps (G. E. Blelloch, *Prefix sums and their
applications*, 1990). That is more arithmetic and less waiting. On CPU the steps are quicker, and are
taken (`benchmarks/affine.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.network import traced, unitwise
from eprop_jax.network.types import Array, Cell, PyTree

Vector = tuple[Array, ...]
"""a unit's components, arrays [K, ..., n]"""
Matrix = tuple[Vector, ...]
"""by row and column"""

FREE, AFFINE, OTHER = range(3)
"""of a value: it does not depend on the state, is affine in it, may be anything"""


def is_affine(cell: Cell, p: dict, c: PyTree) -> bool:
    """Is c^t affine in c^{t-1} whatever the values are, with nothing recurrent to drive the unit?"""
    if "w_rec" in p or len(unitwise.floats(c)) < len(jax.tree.leaves(c)):
        return False
    z_j = unitwise.one_unit(cell, p, c)
    found = jax.make_jaxpr(traced.once(unitwise.of_gated, cell.dynamics))(z_j)
    given = [AFFINE if path[0].key == "c" else FREE for path, _ in jax.tree.leaves_with_path(z_j)]
    return max(_degrees(found.jaxpr, given)) <= AFFINE


def _degrees(jaxpr: Any, given: list[int]) -> list[int]:
    """Of each result of a jaxpr, from those of its arguments."""
    known = dict(zip(jaxpr.invars, given))
    of = lambda v: FREE if hasattr(v, "val") else known.get(v, FREE)
    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, _through(eqn, [of(v) for v in eqn.invars])))
    return [of(v) for v in jaxpr.outvars]


LINEAR = {"add", "sub", "add_any", "neg", "reshape", "squeeze", "broadcast_in_dim", "copy"}
"""primitives that are linear in all their arguments together"""


def _through(eqn: Any, given: list[int]) -> list[int]:
    kind, highest = eqn.primitive.name, max(given, default=FREE)
    if highest == FREE or kind in LINEAR:
        return [highest] * len(eqn.outvars)
    if kind in ("jit", "pjit"):
        return _degrees(eqn.params["jaxpr"].jaxpr, given)
    real = jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating)
    linear = (
        (kind == "mul" and sum(given) == AFFINE)  # the other does not depend on the state
        or (kind == "div" and given[1] == FREE)
        or (kind == "select_n" and given[0] == FREE)
        or (kind == "convert_element_type" and real)
    )
    return [highest if linear else OTHER] * len(eqn.outvars)


def states(
    cell: Cell, p: dict, c_0: PyTree, a: PyTree, resets: Array | None, fresh: PyTree
) -> PyTree:
    """c^1 … c^K, [K, B, n] a component, under the drive a [K, B, n]; of examples that start afresh
    before a step, from `fresh`."""
    K, (x_0, tree) = len(jax.tree.leaves(a)[0]), jax.tree.flatten(c_0)
    along = lambda c: jax.tree.map(lambda x: jnp.broadcast_to(x, (K, *x.shape)), c)
    at = lambda x: tuple(jax.tree.leaves(unitwise.dynamics(cell, p, along(tree.unflatten(x)), a)))
    zero = [jnp.zeros_like(x) for x in x_0]
    unit = lambda r: [jnp.ones_like(x) if i == r else x for i, x in enumerate(zero)]
    D = tuple(zip(*(jax.jvp(at, (zero,), (unit(r),))[1] for r in range(len(zero)))))
    b = at(zero)
    if resets is not None:
        starts = resets[..., None]
        b = tuple(jnp.where(starts, *x) for x in zip(at(jax.tree.leaves(fresh)), b))
        D = jax.tree.map(lambda d: jnp.where(starts, 0, d), D)
    return tree.unflatten(solved(D, b, tuple(x_0)))


def solved(D: Matrix, b: Vector, x_0: Vector) -> Vector:
    """x^t = D^t x^{t-1} + b^t, for t = 1 … K."""
    first = _apply(jax.tree.map(lambda d: d[0], D), x_0)
    b = tuple(x.at[0].add(y) for x, y in zip(b, first))
    return jax.lax.associative_scan(_after, (D, b))[1]


def solved_backward(D: Matrix, u: Vector, x_K: Vector) -> Vector:
    """x^{t-1} = D^t (x^t + u^t), for t = K … 1."""
    last = map(jnp.add, (x[-1] for x in u), x_K)
    u = tuple(x.at[-1].set(y) for x, y in zip(u, last))
    return jax.lax.associative_scan(_after, (D, _apply(D, u)), reverse=True)[1]


def _after(one: tuple[Matrix, Vector], two: tuple[Matrix, Vector]) -> tuple[Matrix, Vector]:
    (D_1, b_1), (D_2, b_2) = one, two
    columns = (_apply(D_2, column) for column in zip(*D_1))
    return tuple(zip(*columns)), tuple(map(jnp.add, _apply(D_2, b_1), b_2))


def _apply(D: Matrix, x: Vector) -> Vector:
    return tuple(functools.reduce(jnp.add, map(jnp.multiply, row, x)) for row in D)


def by_device(steps: Callable, at_once: Callable, *given: Any) -> Any:
    """Two forms of one result: step by step on CPU, at once elsewhere."""
    return jax.lax.platform_dependent(*given, cpu=steps, default=at_once)
