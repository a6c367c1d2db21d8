"""One layer backward over a chunk: all its co-states in one scan.

A co-state is ∂̃c of the layer for the paths that lead on from one state q of the rule's automaton
(`engine.paths.costates`); a move q·x that the language lacks is a term that is absent:

    ∂̃h_q^t = Σ_sources + w_rec ∂̃a_{q·e}^{t+1}                  Eq. 2
    ∂̃c_q^t = ψ ∂̃h_q^t + Dᵀ ∂̃c_{q·i}^{t+1}                      Eq. 3
    ∂̃a_q = Bᵀ ∂̃c_q

The sources reach ∂̃h^t within the step: the loss past the read-out, the activity loss, and what the
layers above hear. Where a language tells a unit's synapse to itself (s) from the others (e), w_rec
is cut into its diagonal and the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import forward
from eprop_jax import jacobians as jac
from eprop_jax import traces as tr
from eprop_jax.adjoint import Path, _fill, _settled, _times
from eprop_jax.base import Array, Cell, Maybe

Which = tuple[int | None, ...]


class Moves(NamedTuple):
    """One co-state as the scan sees it; others by their place in it, None where there is no move."""

    i: int | None
    e: int | None
    s: int | None
    enters: tuple[int, ...]
    """which sources reach its ∂̃h"""
    ends: bool
    """does the state loss reach its ∂̃c?"""


class Source(NamedTuple):
    """What reaches ∂̃h^t within the step."""

    x: Any = None
    """[K, B, m]"""
    w: Any = None
    """[n, m], which x meets inside the scan, as m is small; None: x is ∂̃h itself"""
    always: Any = None
    """[B, n]: what is the same at each step"""

    def at(self, x_t: Maybe) -> Maybe:
        """∂̃h^t [..., B, n], of one step of x or of all."""
        if x_t is None:
            return self.always
        by_x = x_t if self.w is None else x_t @ self.w.T
        if self.always is None:
            return by_x
        return by_x + jnp.broadcast_to(self.always, by_x.shape)


class Swept(NamedTuple):
    """What a layer's scan finds."""

    da: dict[int, dict[str, Maybe]]
    """∂̃a by place of a co-state that was asked for: {gate: [K, B, n]}"""
    dtheta: dict[str, Maybe]
    """Σ_t of what reaches θ_j from the first co-state: {name: [B, n]}"""


def sweep(
    cell: Cell,
    p: dict,
    path: Path,
    moves: tuple[Moves, ...],
    sources: list[Source],
    dL_dc: tuple[Array, ...] | None = None,
    keep: tuple[int, ...] = (0,),
) -> Swept:
    """Backward over the chunk, co-states along the first axis, [S, B, n]."""
    S = len(moves)
    jumps = jumps_of(p, tuple(m.e for m in moves), tuple(m.s for m in moves))
    by_i = tuple(m.i for m in moves)

    def entering(xs_t):
        at = [source.at(x_t) for source, x_t in zip(sources, xs_t)]
        by = {m.enters: tr.total(*(at[k] for k in m.enters)) for m in moves}
        return spread([by[m.enters] for m in moves])

    def direct(dL_dc_t):
        if dL_dc_t is None:
            return (None,) * len(jac.floats(path.c_K))
        return tuple(spread([x if m.ends else None for m in moves]) for x in dL_dc_t)

    def blocks(c_tm1, a_t, c_t):
        return jac.narrow(cell, jac.blocks(cell, p, c_tm1, a_t, c_t), c_tm1)

    def through(J, carry, entry):
        dc_tp1, dh_tp1, dtheta = carry  # what arrives from step t + 1, moved already
        (xs_t, dL_dc_t), d = entry, range(len(J.D))
        dh = widened(tr.total(dh_tp1, entering(xs_t)), S)  # Eq. 2
        at_c = direct(dL_dc_t)
        dc = [widened(tr.total(_times(J.psi[c], dh), dc_tp1[c], at_c[c]), S) for c in d]  # Eq. 3
        da = {g: tr.total(*(_times(J.B[r][g], dc[r]) for r in d)) for g in J.B[0]}
        dc_t = tuple(pick(tr.total(*(_times(J.D[r][c], dc[r]) for r in d)), by_i) for c in d)
        for k in J.Xi:
            of_c = (_times(J.Theta[r][k], first(dc[r])) for r in d)
            dtheta = {**dtheta, k: tr.total(dtheta[k], _times(J.Xi[k], first(dh)), *of_c)}
        kept = [{g: None if x is None else x[q] for g, x in da.items()} for q in keep]
        return _fill((dc_t, jumps(da), dtheta), carry), kept

    def step(carry, at):
        (c_t, carry), (c_tm1, a_t, entry) = carry, at
        carry, kept = through(blocks(c_tm1, a_t, c_t), carry, entry)
        return (c_tm1, carry), kept

    xs = (path.c_tm1, path.a, ([source.x for source in sources], dL_dc))
    c_1, a_1, entry = jax.tree.map(lambda x: x[0], xs)
    start = ((None,) * len(jac.floats(path.c_K)), None, dict.fromkeys(p.get("theta", {})))
    start = _settled(through, jax.eval_shape(blocks, c_1, a_1, path.c_K), start, entry)
    (c_0, (_, dh_0, dtheta)), kept = jax.lax.scan(step, (path.c_K, start), xs, reverse=True)
    _, Xi_0 = jac.output_blocks(cell, p, c_0)  # h^0 → c^1 is a jump too
    dtheta = {k: tr.total(x, _times(Xi_0[k], first(dh_0))) for k, x in dtheta.items()}
    return Swept(dict(zip(keep, kept)), dtheta)


def still(
    cell: Cell, p: dict, path: Path, moves: Moves, sources: list[Source], dL_dc: Any = None
) -> Swept:
    """A co-state that no edge in time leaves or reaches: all steps at once, no scan."""
    J = jac.blocks(cell, p, path.c_tm1, path.a, jax.tree.map(forward.after, path.c_tm1, path.c_K))
    d, K = range(len(J.D)), len(jac.floats(path.c_tm1)[0])
    dh = tr.total(*(widened(at_all_steps(sources[k]), K) for k in moves.enters))  # Eq. 2
    at_c = dL_dc if dL_dc is not None and moves.ends else (None,) * len(d)
    dc = [tr.total(_times(J.psi[c], dh), at_c[c]) for c in d]  # Eq. 3
    da = {g: tr.total(*(_times(J.B[r][g], dc[r]) for r in d)) for g in J.B[0]}
    theta = {
        k: tr.total(_times(J.Xi[k], dh), *(_times(J.Theta[r][k], dc[r]) for r in d)) for k in J.Xi
    }
    return Swept({0: da}, {k: None if x is None else x.sum(0) for k, x in theta.items()})


def at_all_steps(source: Source) -> Maybe:
    """[K or 1, B, n]"""
    found = source.at(source.x)
    return found[None] if source.x is None and found is not None else found


def jumps_of(p: dict, by_e: Which, by_s: Which):
    """(∂̃a^{t+1}, all co-states) -> what arrives by recurrent synapses at each one's ∂̃h^t: the product
    is taken only for the co-states that some e leads to, w_jj alone for those that s leads to."""
    w_rec = jac.as_gates(p.get("w_rec", {}))
    apart = by_e != by_s
    used_e, place_e = numbered(by_e)
    used_s, place_s = numbered(by_s if apart else ())
    if not w_rec or not (used_e or used_s):
        return lambda da: None
    w_jj = {g: jnp.diagonal(x)[None, None] for g, x in w_rec.items()}
    others = {g: x - jnp.diag(jnp.diagonal(x)) if apart else x for g, x in w_rec.items()}
    w = jnp.concatenate(list(others.values()), 1).T

    def jumps(da):
        there = [x for x in (da[g] for g in w_rec) if x is not None]
        if not there:
            return None
        da = {g: jnp.zeros_like(there[0]) if da[g] is None else da[g] for g in w_rec}
        by_others = by_itself = None
        if used_e:
            by_others = pick(
                jnp.concatenate([pick(x, used_e) for x in da.values()], -1) @ w, place_e
            )
        if used_s:
            by_itself = tr.total(*(pick(x, used_s) * w_jj[g] for g, x in da.items()))
        return tr.total(by_others, pick(by_itself, place_s) if used_s else None)

    return jumps


# -- along the axis of co-states -------------------------------------------------------------------


def pick(x: Maybe, which: Which) -> Maybe:
    """x [S, ...] -> [len(which), ...]: x[q] for each q, zeros for None. Runs of consecutive numbers
    are slices: order m, whose co-states lead each to the next, is one shift."""
    if x is None or all(q is None for q in which):
        return None
    runs: list[list] = []
    for q in which:
        last = runs[-1] if runs else None
        if last is not None and q == (None if last[0] is None else last[0] + last[1]):
            last[1] += 1
        else:
            runs.append([q, 1])
    parts = [
        jnp.zeros((size, *x.shape[1:]), x.dtype) if q is None else x[q : q + size]
        for q, size in runs
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def numbered(which: Which) -> tuple[tuple[int, ...], Which]:
    """The numbers in it, each once, and `which` in terms of places among those."""
    used = tuple(sorted({q for q in which if q is not None}))
    return used, tuple(None if q is None else used.index(q) for q in which)


def spread(each: list[Maybe]) -> Maybe:
    """One array a co-state -> [S, ...], or [1, ...] where it is one and the same for all."""
    there = [x for x in each if x is not None]
    if not there:
        return None
    if all(x is each[0] for x in each):
        return there[0][None]
    return jnp.stack([jnp.zeros_like(there[0]) if x is None else x for x in each])


def widened(x: Maybe, size: int) -> Maybe:
    """[1 or size, ...] -> [size, ...]"""
    return None if x is None else jnp.broadcast_to(x, (size, *x.shape[1:]))


def first(x: Maybe) -> Maybe:
    return None if x is None else x[0]
