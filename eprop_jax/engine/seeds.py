"""What a chunk's sweeps start from: the loss, the read-out's final state, and the cell's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from eprop_jax.engine import adjoint, objective, signals
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import traces as tr
from eprop_jax.engine.adjoint import Seed, Swept
from eprop_jax.network import unitwise
from eprop_jax.network.types import Array, RuleSpec


def graded(spec: RuleSpec) -> bool:
    """Are jumps counted? (No jump at all, or any number, need no count.)"""
    return spec.order not in (1, None)


def every_grade(spec: RuleSpec, dh: Array) -> Array:
    """Enter with every grade: co-states of at most u jumps."""
    return jnp.broadcast_to(dh, (spec.order, *dh.shape)) if graded(spec) else dh


def kept(spec: RuleSpec) -> Callable:
    """At most m − 1 jumps: of co-states that are cumulative in their grade, the highest."""
    return adjoint.top if graded(spec) else lambda da: da


def loss_seed(spec: RuleSpec, params: dict, chunk: objective.Chunk, back: Swept) -> Seed:
    """∂L/∂h^t through the read-out (Eq. 28, 30: no explicit recurrence) and from the activity, and
    ∂L/∂c^t from the state loss."""
    B = signals.weights(params, spec.feedback)
    # The same at each step, it need not be stored for each.
    always, at_t = (chunk.dL_dh, None) if _is_constant(chunk) else (None, chunk.dL_dh)
    always = None if always is None else always[0]

    def to_dh(entry):
        return every_grade(spec, tr.total(entry[0] @ B.T, always, entry[2]))

    def to_dc(entry):
        return entry[1] and tuple(every_grade(spec, x) for x in entry[1])

    entry = (back.da[unitwise.ONE_DRIVE], chunk.dL_dc, at_t)
    return Seed(entry, to_dh, to_dc=to_dc, keep=kept(spec))


def _is_constant(chunk: objective.Chunk) -> bool:
    return chunk.dL_dh is not None and chunk.dL_dh.shape[0] == 1


def y_seed(spec: RuleSpec, final: Swept, spread: Array) -> Seed:
    """∂y^K/∂h^t, one a read-out trace: [s, B, n]."""

    def to_dh(dy_da):
        return every_grade(spec, dy_da.T[:, :, None] * spread[:, None, :])

    return Seed(final.da[unitwise.ONE_DRIVE], to_dh, keep=kept(spec))


def unit_seeds(cell, c: Any) -> list[Seed]:
    """One seed a component of c^K, at all units at once: paths stay inside their unit."""
    parts, shared = unitwise.floats(c), jac.shared_positions(cell, c)

    def seed(r):
        one = jnp.ones_like(parts[r][:, :1] if r in shared else parts[r])
        return Seed(dc_K=tuple(one if i == r else None for i in range(len(parts))))

    return [seed(r) for r in range(len(parts))]


def end_seed(spec: RuleSpec, c: Any) -> Seed:
    """Every component of c^K at every unit r, as one leading axis of d · n (components outermost);
    they enter with grade 0 alone: co-states of exactly u jumps."""
    parts = unitwise.floats(c)
    batch, n = parts[0].shape
    at_r = jnp.broadcast_to(jnp.eye(n, dtype=parts[0].dtype)[:, None], (n, batch, n))
    zero = jnp.zeros_like(at_r)
    d = range(len(parts))
    dc_K = [jnp.concatenate([at_r if r == i else zero for r in d]) for i in d]
    if graded(spec):
        dc_K = [jnp.zeros((spec.order, *x.shape), x.dtype).at[0].set(x) for x in dc_K]
    return Seed(dc_K=tuple(dc_K))
