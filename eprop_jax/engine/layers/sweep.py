"""One layer backward over a chunk: its co-states in one scan.

A co-state is ∂̃c of the layer for the paths that lead on from one state q of the rule's automaton
(`engine.paths.costates`); a move q·x that the language lacks is a term that is absent:

    ∂̃h_q^t = Σ_sources + w_rec ∂̃a_{q·e}^{t+1}                  Eq. 2
    ∂̃c_q^t = ψ ∂̃h_q^t + Dᵀ ∂̃c_{q·i}^{t+1}                      Eq. 3
    ∂̃a_q = Bᵀ ∂̃c_q

The sources reach ∂̃h^t within the step: the loss past the read-out, the activity loss, and what the
layers above hear. Where a language tells a unit's synapse to itself (s) from the others (e), w_rec
is cut into its diagonal and the rest.

A scan carries several parts: the loss, and, to advance the traces, parts of the chunk's final state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import traces as tr
from eprop_jax.engine.adjoint import _fill, _settled, _times, cut
from eprop_jax.network import unitwise
from eprop_jax.network.stacks import Path
from eprop_jax.network.types import Array, Cell, Maybe

Which = tuple[int | None, ...]


class Moves(NamedTuple):
    """One co-state's moves to others, by their place in the part; None where there is no move."""

    i: int | None
    e: int | None
    s: int | None


class Source(NamedTuple):
    """What reaches ∂̃h^t within the step."""

    x: Any
    """[K, ...], and"""
    to_dh: Callable[[Any], Array] = lambda x: x
    """one step of it -> ∂̃h^t [*lead, B, n]"""


class Part(NamedTuple):
    """Co-states of a layer, S of them: arrays are [S, *lead, B, n]."""

    moves: tuple[Moves, ...]
    sources: list[Source]
    enters: tuple[tuple[int, ...], ...]
    """of each co-state: which sources reach its ∂̃h"""
    dL_dc: tuple[Array, ...] | None = None
    """what reaches ∂̃c^t by component, [K, B, n], and"""
    ends: tuple[bool, ...] = ()
    """of which co-states"""
    dc_K: tuple[Maybe, ...] | None = None
    """what arrives at c^K, by component"""
    keep: tuple[int, ...] = ()
    """places of the co-states whose ∂̃a is asked for"""
    start: int | None = None
    """place of the co-state from which the layer's own parameters lead: θ meets it"""


class Swept(NamedTuple):
    """What a scan finds of a part."""

    da: dict[int, dict[str, Maybe]]
    """∂̃a by place: {gate: [K, *lead, B, n]}"""
    dtheta: dict[str, Maybe]
    """Σ_t of what reaches θ_j: {name: [*lead, B, n]}"""
    dc_0: tuple[Maybe, ...] = ()
    """what arrives at c⁰, by component: [S, *lead, B, n]"""


def sweep(cell: Cell, p: dict, path: Path, parts: list[Part]) -> list[Swept]:
    """Backward over the chunk, all parts together."""
    jumps = [jumps_of(p, tuple(m.e for m in x.moves), tuple(m.s for m in x.moves)) for x in parts]
    none = (None,) * len(unitwise.floats(path.c_K))

    def blocks(c_tm1, a_t, c_t):
        return jac.narrow(cell, jac.blocks(cell, p, c_tm1, a_t, c_t), c_tm1)

    def back(part, jump, J, carry, entry):
        """Through one step, for one part."""
        (dc_tp1, dh_tp1, dtheta), (xs_t, dL_dc_t) = carry, entry
        S, d = len(part.moves), range(len(J.D))
        dh = widened(tr.total(dh_tp1, entering(part, xs_t)), S)  # Eq. 2
        at_c = direct(part, dL_dc_t) if dL_dc_t is not None else none
        dc = [widened(tr.total(_times(J.psi[z], dh), dc_tp1[z], at_c[z]), S) for z in d]  # Eq. 3
        da = {g: tr.total(*(_times(J.B[r][g], dc[r]) for r in d)) for g in J.B[0]}
        by_i = tuple(m.i for m in part.moves)
        dc_t = tuple(pick(tr.total(*(_times(J.D[r][z], dc[r]) for r in d)), by_i) for z in d)
        if part.start is not None:
            dtheta = to_theta(J, at(dh, part.start), [at(x, part.start) for x in dc], dtheta)
        kept = [{g: at(x, q) for g, x in da.items()} for q in part.keep]
        return _fill((dc_t, jump(da), dtheta), carry), kept

    def through(J, carry, entries):
        each = zip(parts, jumps, carry, entries)
        found = [back(part, jump, J, later, entry) for part, jump, later, entry in each]
        return [x for x, _ in found], [kept for _, kept in found]

    def step(carry, at_t):
        (c_next, carry), (c_tm1, a_t, entries, resets_t, c_t) = carry, at_t
        c_t = c_next if c_t is None else c_t
        carry, kept = through(blocks(c_tm1, a_t, c_t), carry, entries)
        return (c_tm1, cut(cell, p, c_tm1, resets_t, carry, own)), kept

    def own(number, dh):
        """Of a part, what meets θ: the co-state from which the layer's own parameters lead."""
        place = parts[number].start
        return None if place is None else at(dh, place)

    entries = [([s.x for s in part.sources], part.dL_dc) for part in parts]
    xs = (path.c_tm1, path.a, entries, path.resets, path.c_t)
    c_1, a_1, entries, *_ = jax.tree.map(lambda x: x[0], xs)
    nothing = dict.fromkeys(p.get("theta", {}))
    start = [(part.dc_K or none, None, nothing) for part in parts]
    start = _settled(through, jax.eval_shape(blocks, c_1, a_1, path.c_K), start, entries)
    (c_0, carried), kept = jax.lax.scan(step, (path.c_K, start), xs, reverse=True)
    psi_0, Xi_0 = jac.output_blocks(cell, p, c_0)

    def swept(number, part):
        dc_0, dh_0, dtheta = carried[number]  # h^0 → c^1 is a jump too
        dc_0 = tuple(tr.total(dc, _times(x, dh_0)) for dc, x in zip(dc_0, psi_0))
        dh = own(number, dh_0)
        dtheta = {k: tr.total(x, _times(Xi_0[k], dh)) for k, x in dtheta.items()}
        return Swept(dict(zip(part.keep, kept[number])), dtheta, dc_0)

    return [swept(*each) for each in enumerate(parts)]


def still(cell: Cell, p: dict, path: Path, part: Part) -> Swept:
    """A co-state that no edge in time leaves or reaches: all steps at once, no scan."""
    J = jac.blocks(cell, p, path.c_tm1, path.a, path.c)
    d = range(len(J.D))

    def of_step(J, xs_t, dL_dc_t):
        dh = at(entering(part, xs_t), 0)  # Eq. 2
        at_c = dL_dc_t if dL_dc_t is not None and part.ends[0] else (None,) * len(d)
        dc = [tr.total(_times(J.psi[z], dh), at_c[z]) for z in d]  # Eq. 3
        da = {g: tr.total(*(_times(J.B[r][g], dc[r]) for r in d)) for g in J.B[0]}
        return da, to_theta(J, dh, dc, dict.fromkeys(J.Xi))

    da, dtheta = jax.vmap(of_step)(J, [s.x for s in part.sources], part.dL_dc)
    return Swept({0: da}, {k: None if x is None else x.sum(0) for k, x in dtheta.items()})


def to_theta(J: jac.Blocks, dh: Maybe, dc: list[Maybe], dtheta: dict) -> dict:
    """Σ_t Ξ ∂̃h + Θᵀ ∂̃c."""
    d = range(len(dc))
    here = {
        k: tr.total(_times(J.Xi[k], dh), *(_times(J.Theta[r][k], dc[r]) for r in d)) for k in J.Xi
    }
    return {k: tr.total(dtheta[k], x) for k, x in here.items()}


def entering(part: Part, xs_t: list) -> Maybe:
    """Σ of the sources of each co-state: [S or 1, *lead, B, n]."""
    found = [source.to_dh(x_t) for source, x_t in zip(part.sources, xs_t)]
    by = {which: tr.total(*(found[k] for k in which)) for which in part.enters}
    return spread([by[which] for which in part.enters])


def direct(part: Part, dL_dc_t: tuple[Array, ...]) -> tuple[Maybe, ...]:
    return tuple(spread([x if ends else None for ends in part.ends]) for x in dL_dc_t)


def jumps_of(p: dict, by_e: Which, by_s: Which) -> Callable:
    """(∂̃a^{t+1}, all co-states) -> what arrives by recurrent synapses at each one's ∂̃h^t: the product
    is taken only for the co-states that some e leads to, w_jj alone for those that s leads to."""
    w_rec = unitwise.as_gates(p.get("w_rec", {}))
    apart = by_e != by_s
    used_e, place_e = numbered(by_e)
    used_s, place_s = numbered(by_s if apart else ())
    if not w_rec or not (used_e or used_s):
        return lambda da: None
    w_jj = {g: jnp.diagonal(x) for g, x in w_rec.items()}
    others = {g: x - jnp.diag(w_jj[g]) if apart else x for g, x in w_rec.items()}
    w = jnp.concatenate(list(others.values()), 1).T

    def jumps(da):
        there = [x for x in (da[g] for g in w_rec) if x is not None]
        if not there:
            return None
        da = {g: jnp.zeros_like(there[0]) if da[g] is None else da[g] for g in w_rec}
        by_others = by_itself = None
        if used_e:
            x = jnp.concatenate([pick(x, used_e) for x in da.values()], -1)
            by_others = pick(x @ w, place_e)
        if used_s:
            by_itself = tr.total(*(_times(w_jj[g], pick(x, used_s)) for g, x in da.items()))
        return tr.total(by_others, pick(by_itself, place_s) if used_s else None)

    return jumps


# -- along the axis of co-states -------------------------------------------------------------------


def at(x: Maybe, q: int) -> Maybe:
    """Co-state number q of [S, ...], or of [1, ...], which is the same for all."""
    return None if x is None else x[q if x.shape[0] > 1 else 0]


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
