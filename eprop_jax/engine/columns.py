"""The derivatives of one unit's function by each of several scalars, of which it is traced once.

`jax.jvp` tells how tangents go through the function, all of them together. Of that program, what no
tangent reaches is laid down once for all columns; the rest, which is linear in what enters, once a
column, with that column's tangent alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from eprop_jax.engine import dependence
from eprop_jax.engine.maybe import filled, some, there
from eprop_jax.network.types import Array, Maybe


class Tangents(tuple):
    """Those of one value, one a column; None: zero whatever the values are."""


def columns(function: Callable, scalars: list[Array]) -> list[list[Maybe]]:
    """Of each scalar, ∂(each result)/∂(that scalar), where function(scalars) -> results, floats. None:
    a derivative that is zero whatever the values are.

    Raises:
      TypeError: for a function that can be differentiated in reverse alone.

    >>> import jax
    >>> from eprop_jax.engine.columns import columns
    >>> f = lambda x: (2 * x[0], x[0] * x[1])
    >>> jax.tree.map(float, columns(f, [3.0, 4.0]))
    [[2.0, 4.0], [None, 3.0]]
    """
    scalars = [jnp.asarray(x) for x in scalars]
    tangents = lambda scalars, dots: jax.jvp(function, (scalars,), (dots,))[1]
    closed = jax.make_jaxpr(tangents)(scalars, scalars)
    ones, number = [np.ones((), x.dtype) for x in scalars], range(len(scalars))
    dots = [Tangents(one if k == j else None for k in number) for j, one in enumerate(ones)]
    found = _run(closed, [*scalars, *dots])
    return [[x[k] if isinstance(x, Tangents) else None for x in found] for k in number]


def _run(closed: Any, given: Sequence) -> list:
    """A program's results: values that no tangent reaches, or the tangents that do."""
    jaxpr = closed.jaxpr
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *given), strict=True))
    of = lambda v: v.val if is_literal(v) else known[v]
    for eqn in needed(jaxpr):
        known.update(zip(eqn.outvars, _through(jaxpr, eqn, [of(v) for v in eqn.invars])))
    return [of(v) for v in jaxpr.outvars]


def needed(jaxpr: Any) -> list:
    """The equations whose results are read, in their order."""
    read, found = {v for v in jaxpr.outvars if not is_literal(v)}, []
    for eqn in reversed(jaxpr.eqns):
        if not read.isdisjoint(eqn.outvars):
            read.update(v for v in eqn.invars if not is_literal(v))
            found.append(eqn)
    return found[::-1]


def is_literal(v: Any) -> bool:
    return hasattr(v, "val")


def _through(jaxpr: Any, eqn: Any, given: list) -> Sequence:
    dots = {j: x for j, x in enumerate(given) if isinstance(x, Tangents)}
    if not dots:
        return _bound(jaxpr, eqn, given)
    if eqn.primitive.name == "custom_lin":
        raise TypeError("jax.custom_vjp: got a function that has no derivative forward")
    if eqn.primitive.name in ("jit", "pjit"):
        return _run(eqn.params["jaxpr"], given)
    reach = dependence.through(eqn, [frozenset({j} & dots.keys()) for j in range(len(given))])
    is_sum = eqn.primitive.name in ("add", "add_any") and len(dots) == 2

    def column(entering: tuple[Maybe, ...]) -> Sequence:
        """The results, of one column's tangents."""
        arrived = some(entering)
        if all(reach) and not arrived:
            return (None,) * len(reach)
        if is_sum and len(arrived) == 1:
            return arrived
        whole = dict(zip(dots, filled(entering, tuple(eqn.invars[j].aval for j in dots))))
        found = _bound(jaxpr, eqn, [whole.get(j, x) for j, x in enumerate(given)])
        arrives = {j for j, is_there in zip(dots, there(entering)) if is_there}
        # A loop has results that no tangent reaches beside those that one does.
        return [None if of and of.isdisjoint(arrives) else x for x, of in zip(found, reach)]

    found = [column(entering) for entering in zip(*dots.values())]
    return [Tangents(xs) if of else xs[0] for xs, of in zip(zip(*found), reach)]


def _bound(jaxpr: Any, eqn: Any, given: list) -> Sequence:
    """One equation, of these values."""
    values = {v: x for v, x in zip(eqn.invars, given) if not is_literal(v)}
    alone = jaxpr.replace(constvars=[], invars=[*values], outvars=eqn.outvars, eqns=[eqn])
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*values.values())
