"""What a chunk's sweeps start from: the loss, the read-out's final state, and the cell's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import objective, signals
from eprop_jax.engine.adjoint import LOCAL, Onward, Part, Reached, Source, sweep
from eprop_jax.engine.maybe import each, some, total
from eprop_jax.network import unitwise
from eprop_jax.network.stacks import Path
from eprop_jax.network.types import Array, Cell, Maybe, Readout, RuleSpec


def of_loss(dL_dy: Array) -> Part:
    """∂L/∂y^t, [K, B, n_out]: of a read-out, whose output is its own state."""
    return Part(LOCAL, (Source(dL_dy),), ((0,),))


def of_state(c_K: tuple[Maybe, ...]) -> Part:
    """Parts of the final state, by component [*lead, B, n], whose paths stay in their unit."""
    return Part(LOCAL, dc_K=tuple(each(lambda x: x[None], x) for x in c_K))


def at_readout(readout: Readout, p: dict, path: Path, parts: list[Part]) -> list[Reached]:
    """A read-out is a layer of one co-state, which keeps its i."""
    return [s.at(0) for s in sweep(unitwise.as_cell(readout), p, path, parts)]


def loss_part(spec: RuleSpec, params: dict, chunk: objective.Chunk, back: Reached) -> Part:
    """∂L/∂h^t through the read-out (Eq. 28, 30: no explicit recurrence) and from the activity, and
    ∂L/∂c^t from the state loss."""
    to_units = signals.to_units(spec, params)
    at_y = Source(back.da[unitwise.ONE_DRIVE], to_units)
    source = joint(at_y, *some([each(of_activity, chunk.dL_dh)]))
    return everywhere(spec.moves, source)._replace(dL_dc=chunk.dL_dc)


def of_activity(dL_dh: Array) -> Source:
    """Its ∂L/∂h^t, [K, B, n]. The same at each step, [1, B, n], it need not be stored for each."""
    if len(dL_dh) > 1:
        return Source(dL_dh)
    always = dL_dh[0]
    return Source((), lambda _: always)


def joint(*sources: Source) -> Source:
    """Several, as one."""
    to_dh = lambda xs: total(*(s.to_dh(x) for s, x in zip(sources, xs)))
    return Source(tuple(s.x for s in sources), to_dh)


def y_part(spec: RuleSpec, final: Reached, spread: Array) -> Part:
    """∂y^K/∂h^t, one a read-out trace: [s, B, n]."""
    to_dh = lambda dy_da: dy_da.T[:, :, None] * spread[:, None, :]
    return everywhere(spec.moves, Source(final.da[unitwise.ONE_DRIVE], to_dh))


def everywhere(moves: tuple[Onward, ...], source: Source) -> Part:
    """Paths may end after any number of jumps that they may take."""
    return Part(moves, (source,), ((0,),) * len(moves), ends=(True,) * len(moves))


def unit_parts(cell: Cell, c: Any) -> list[Part]:
    """One a component of c^K, at all units at once: paths stay inside their unit."""
    parts, shared = unitwise.floats(c), jac.shared_positions(cell, c)

    def part(r):
        one = jnp.ones_like(parts[r][:, :1] if r in shared else parts[r])
        return of_state(tuple(one if i == r else None for i in range(len(parts))))

    return [part(r) for r in range(len(parts))]


def end_part(moves: tuple[Onward, ...], c: Any) -> Part:
    """Every component of c^K at every unit r, as one leading axis of d · n (components outermost),
    where no further jump may be taken: of a chain of m co-states, number q is of the paths with exactly
    m − 1 − q jumps."""
    parts, places = unitwise.floats(c), tuple(range(len(moves)))
    batch, n = parts[0].shape
    at_r = jnp.broadcast_to(jnp.eye(n, dtype=parts[0].dtype)[:, None], (n, batch, n))
    zero = jnp.zeros_like(at_r)
    d = range(len(parts))
    dc_K = [jnp.concatenate([at_r if r == i else zero for r in d]) for i in d]
    last = lambda x: jnp.zeros((len(moves), *x.shape), x.dtype).at[-1].set(x)
    dc_K = tuple(last(x) if len(moves) > 1 else x[None] for x in dc_K)
    return Part(moves, dc_K=dc_K, keep=places, starts=places)


def first_unit(s: Reached) -> Reached:
    """One read-out unit for all, where all are the same."""
    one = lambda x: x[..., :1]
    return jax.tree.map(one, s)
