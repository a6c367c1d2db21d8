"""A sweep without jumps, its parts stacked."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine import at_once
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine.adjoint import LOCAL, Part, Source, Swept
from eprop_jax.engine.maybe import each, filled, joined, some
from eprop_jax.network import unitwise
from eprop_jax.network.stacks import Path
from eprop_jax.network.types import Cell, PyTree


def together(
    cell: Cell, p: dict, path: Path, entering: list[Part], units: list[Part]
) -> list[Swept]:
    """A sweep without jumps, its full-width parts stacked: at small batches, what a step costs is the
    number of its operations. (That of a shared component is [B, 1], and stays by itself.)"""
    states = unitwise.floats(path.c_K)
    batch, n = states[0].shape
    full = [max(x.shape[-1] for x in some(s.dc_K)) == n for s in units]
    wide = [s for s, is_full in zip(units, full) if is_full]
    first = [jax.tree.map(lambda x: x[0], s.sources[0].x) for s in entering]
    leads = [jax.eval_shape(s.sources[0].to_dh, x).shape[:-2] for s, x in zip(entering, first)]
    stops = np.cumsum([math.prod(lead) for lead in leads] + [1] * len(wide))

    dtype, absent = states[0].dtype, (None,) * len(states)
    zeros = [jax.ShapeDtypeStruct((math.prod(lead), batch, n), dtype) for lead in leads]
    beside = jax.ShapeDtypeStruct((len(wide), batch, n), dtype)

    def to_dh(entries):
        dh = [s.sources[0].to_dh(x).reshape(-1, batch, n) for s, x in zip(entering, entries)]
        return jnp.concatenate([*dh, jnp.zeros(beside.shape, dtype)])

    def to_dc(entries):
        def component(c):
            own = [
                each(lambda x, z=z: x.reshape(z.shape), (x or absent)[c])
                for x, z in zip(entries, zeros)
            ]
            return joined([*own, None], [*zeros, beside])

        return tuple(map(component, range(len(states))))

    def at_end(c):
        found = [s.dc_K[c] for s in wide]
        one = jax.ShapeDtypeStruct((1, batch, n), dtype)
        x = joined([*(None for _ in zeros), *found], [*zeros, *(one for _ in found)])
        return each(lambda x: x[None], x)

    leads += [()] * len(wide)

    def cut(x, i):
        x = x[..., stops[i] - math.prod(leads[i]) : stops[i], :, :]
        return x.reshape(*x.shape[:-3], *leads[i], *x.shape[-2:])

    def parts_of(x):
        return [cut(x, i) for i in range(len(leads))]

    source = Source(tuple(s.sources[0].x for s in entering), to_dh)
    stack = Part(LOCAL, (source,), ((0,),), tuple(s.dL_dc for s in entering), (True,), to_dc,
                 tuple(at_end(c) for c in range(len(states))), split=parts_of)  # fmt: skip
    # θ_j, or an initial state, reaches a shared component of its own unit alone.
    if p.get("theta") or p.get("initial"):
        lone = [s for s, is_full in zip(units, full) if not is_full]
        stacked, *alone = at_once.sweep(cell, p, path, [stack, *lone])
    else:
        (stacked,) = at_once.sweep(cell, p, path, [stack])
        alone = [of_shared(cell, p, path, r) for r, is_full in enumerate(full) if not is_full]
    parts = [{g: x and x[i] for g, x in stacked.da[0].items()} for i in range(len(leads))]
    rest_of = zip(parts, *(split_tree(parts_of, tree, len(leads)) for tree in stacked[1:]))
    swept = [Swept({0: da}, *of_state) for da, *of_state in rest_of]
    rest, alone = iter(swept[len(entering) :]), iter(alone)
    return swept[: len(entering)] + [next(rest) if is_full else next(alone) for is_full in full]


def split_tree(parts_of: Callable, tree: PyTree, n: int) -> list[PyTree]:
    """`parts_of` each leaf, as n trees."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [parts_of(x) for x in leaves]
    return [structure.unflatten([x[i] for x in parts]) for i in range(n)]


def of_shared(cell: Cell, p: dict, path: Path, r: int) -> Swept:
    """The seed of a shared component r, whose own factor is all it meets: ∂c^K/∂c^t = Π_{s>t} D^s,
    one number for all units. No sweep is needed."""
    one = lambda x: x[..., :1]
    values = {k: v if np.ndim(v) == 0 else one(v) for k, v in cell.constants.items()}
    unit = cell._replace(n_units=1, constants=values)
    c_tm1, a = jax.tree.map(one, (path.c_tm1, path.a))
    D, B, _ = jac.implicit_blocks(unit, p, c_tm1, a)
    ones = jnp.ones_like(unitwise.floats(c_tm1)[r][:1])
    goes_on = lambda x: x if path.resets is None else jnp.where(path.resets[..., None], 0, x)
    factor = each(goes_on, D[r][r])
    later = filled(each(lambda x: jnp.cumprod(x[::-1], 0)[::-1], factor), ones)
    after_t = jnp.concatenate([jnp.broadcast_to(later, unitwise.floats(c_tm1)[r].shape)[1:], ones])
    da = {g: each(lambda b: b * after_t, b) for g, b in B[r].items()}
    dc_0 = tuple(later[:1] if i == r else None for i in range(len(D)))
    return Swept({0: da}, dc_0, {}, {})
