"""The adjoint of units that nothing recurrent drives: all steps at once.

Without jumps a co-state leads back to itself, by i, or to nothing. What step t sends back, s^{t-1},
is then linear in what it was sent:

    s^{t-1} = Dᵀ ∂̃c^t,    ∂̃c^t = ψ ∂̃h^t + s^t          Eq. 3

and all else that enters is known before. It is solved as `network.affine` solves the way forward.
`adjoint.sweep` gives the same step by step, and is what runs on CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.engine import adjoint
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine.adjoint import Later, Part, Swept, at, named, one
from eprop_jax.engine.maybe import as_like, filled, some, there
from eprop_jax.engine.operators import CoState
from eprop_jax.network import affine, unitwise
from eprop_jax.network.forward import after
from eprop_jax.network.stacks import Path
from eprop_jax.network.types import Cell


def sweep(cell: Cell, p: dict, path: Path, parts: list[Part]) -> list[Swept]:
    """Backward over the chunk, all parts together: at once where the device gains by it."""
    return sweep_and_meet(cell, p, path, parts, (), None)[0]


def sweep_and_meet(
    cell: Cell, p: dict, path: Path, parts: list[Part], beside: Any, met: Callable | None
) -> tuple[list[Swept], Any]:
    """The same, and what ∂̃a meets (`adjoint.sweep_and_meet`)."""
    steps = lambda: adjoint.sweep_and_meet(cell, p, path, parts, beside, met)
    if cell.shared or not affine.is_affine(cell, p, path.c_K) or not all(map(_stays, parts)):
        return steps()
    like, _ = jax.eval_shape(steps)

    def found():
        s = [swept(cell, p, path, *each) for each in zip(parts, like)]
        da = [[x.da[q] for q in part.keep] for part, x in zip(parts, s)]
        return s, met(beside, da) if met else ()

    return affine.by_device(steps, found)


def _stays(part: Part) -> bool:
    """Does something reach its co-states, and each lead to itself or to nothing?"""
    return part.reached and all(m.i in (q, None) for q, m in enumerate(part.moves))


def swept(cell: Cell, p: dict, path: Path, part: Part, like: Swept) -> Swept:
    """What `adjoint.sweep` finds of a part, whose form is `like`."""
    J = jac.blocks(cell, p, path.c_tm1, path.a, path.c)
    entries = [s.x for s in part.sources], part.dL_dc
    K, names = len(jax.tree.leaves(path.a)[0]), sorted(p.get("theta", {}))
    here = some(like.dc_0)[0]  # [S, *lead, B, n]
    zero = (None,) * len(like.dc_0)

    def whole(parts, *K):
        shape = jax.ShapeDtypeStruct((*K, *here.shape), here.dtype)
        return tuple(jnp.broadcast_to(x, shape.shape) for x in filled(parts, (shape,) * len(zero)))

    def entered(J, entries):
        d = jac.operators(J)
        L = adjoint.entering(d, part, *entries)
        return (L.dc + d.dh_dc.T @ L.dh).parts

    def through(J, dc, entries):
        later = Later(dc, (None,), (None,) * len(names), zero)
        return adjoint.back(jac.operators(J), part, lambda _: (None,), later, entries)

    D_T = _transposed(J, part, path.resets, here)
    u, s_K = whole(jax.vmap(entered)(J, entries), K), whole(part.dc_K or zero)
    s_tm1 = affine.solved_backward(D_T, u, s_K)
    s = tuple(map(after, s_tm1, s_K))
    sent, da = jax.vmap(through)(J, s, entries)
    gates, components = unitwise.gate_names(p), [*unitwise.components(path.c_K)]
    dtheta = jax.tree.map(lambda x: x.sum(0), CoState(sent.dtheta))
    dinitial = at(part.starts, CoState(_to_fresh(sent.dc, path.resets, here)))
    starts = range(len(part.starts))
    found = Swept(
        {q: named(gates, x) for q, x in zip(part.keep, da)},
        tuple(x[0] for x in s_tm1),
        {q: named(names, one(k, dtheta)) for q, k in zip(part.starts, starts)},
        {q: named(components, one(k, dinitial)) for q, k in zip(part.starts, starts)},
    )
    return as_like(found, like)


def _transposed(J: jac.Blocks, part: Part, resets: Any, here: Any) -> affine.Matrix:
    """Dᵀ of each step and co-state, [K, S, 1, …, B, n]: nothing where a co-state has no i, or where an
    example starts afresh."""
    goes_on = jnp.array(there([m.i for m in part.moves]))
    goes_on = goes_on.reshape(1, -1, *(1,) * (len(here.shape) - 1))
    if resets is not None:
        goes_on = goes_on & ~_beside(resets[..., None], here)
    block = lambda x: jnp.where(goes_on, _beside(x, here), 0)
    like = jax.ShapeDtypeStruct(jax.tree.leaves(J.D)[0].shape, here.dtype)
    D = filled(J.D, tuple((like,) * len(row) for row in J.D))
    return tuple(tuple(map(block, column)) for column in zip(*D))


def _beside(x: Any, here: Any) -> Any:
    """[K, B, n] -> [K, 1, …, B, n], beside [S, *lead, B, n]."""
    return x.reshape(x.shape[0], *(1,) * (len(here.shape) - 2), *x.shape[1:])


def _to_fresh(sent: tuple, resets: Any, here: Any) -> tuple:
    """Of what is sent back by examples that have just started: Σ_t, by component."""
    if resets is None:
        return (None,) * len(sent)
    starts = _beside(resets[..., None], here)
    return jax.tree.map(lambda x: jnp.where(starts, x, 0).sum(0), sent)
