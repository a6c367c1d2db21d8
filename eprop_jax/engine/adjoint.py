"""The adjoint: one layer backward over a chunk of K steps, its co-states in one scan.

A co-state is ∂̃ of the layer for the paths that lead on from one state q of the rule's automaton
(`engine.paths.costates`); a move q·x that the language lacks is a term that is absent:

    ∂̃h_q^t = Σ_sources + w_rec ∂̃a_{q·e}^{t+1}                  Eq. 2
    ∂̃c_q^t = ψ ∂̃h_q^t + Dᵀ ∂̃c_{q·i}^{t+1}                      Eq. 3
    ∂̃a_q = Bᵀ ∂̃c_q

The sources reach ∂̃h^t within the step: the loss past the read-out, the activity loss, and what the
layers above hear. Where a language tells a unit's synapse to itself (s) from the others (e), w_rec
is cut into its diagonal and the rest. BPTT is one co-state that leads to itself by i and by e, e-prop
one that leads to itself by i alone; order m is a chain of m, each leading to the next by e.

A scan carries several parts: the loss, and, to advance the traces, parts of the chunk's final state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import blocks
from eprop_jax.engine import jacobians as jac
from eprop_jax.engine.heard import along
from eprop_jax.engine.maybe import Which, each, filled, numbered, pick, some, split, stacked, total
from eprop_jax.engine.operators import CoState, Drives, Parts, PerUnit
from eprop_jax.network import unitwise
from eprop_jax.network.stacks import Path
from eprop_jax.network.types import Array, Cell, Maybe, PyTree


class Onward(NamedTuple):
    """The co-states to which one leads, by their place in the part; None: that edge is not taken."""

    i: int | None
    e: int | None
    s: int | None

    @property
    def jumps(self) -> list[int]:
        return some((self.e, self.s))


LOCAL = (Onward(0, None, None),)
"""paths without a jump"""
EVERY = (Onward(0, 0, 0),)
"""all paths"""


def chain(m: int) -> tuple[Onward, ...]:
    """At most m − 1 jumps: co-state q has m − 1 − q of them left."""
    after = lambda q: q + 1 if q + 1 < m else None
    return tuple(Onward(q, after(q), after(q)) for q in range(m))


class Source(NamedTuple):
    """What reaches ∂̃h^t within the step."""

    x: Any
    """[K, ...], and"""
    to_dh: Callable[[Any], Array] = lambda x: x
    """one step of it -> ∂̃h^t [*lead, B, n]"""


class Part(NamedTuple):
    """Co-states of a layer, S of them: arrays are [S, *lead, B, n]."""

    moves: tuple[Onward, ...]
    sources: tuple[Source, ...] = ()
    enters: tuple[tuple[int, ...], ...] = ()
    """of each co-state: which sources reach its ∂̃h (none: left out)"""
    dL_dc: Any = ()
    """what reaches ∂̃c^t, [K, ...] (none: ()), and"""
    ends: tuple[bool, ...] = ()
    """of which co-states, and"""
    to_dc: Callable[[Any], Parts] = lambda x: x
    """one step of it -> ∂̃c^t by component, [*lead, B, n]"""
    dc_K: Parts = ()
    """what arrives at c^K, by component (nothing: ())"""
    keep: tuple[int, ...] = (0,)
    """places of the co-states whose ∂̃a is asked for"""
    split: Callable[[Array], Any] = lambda da: da
    """what is kept of each ∂̃a^t [*lead, B, n]: parts of it, say, which a scan then stacks apart"""
    starts: tuple[int, ...] = (0,)
    """those from which the layer's own parameters lead: θ meets them"""

    @property
    def reached(self) -> bool:
        """Does anything reach its co-states?"""
        return any(self.enters) or bool(self.dL_dc or self.dc_K)


class Reached(NamedTuple):
    """What a sweep finds of one co-state."""

    da: dict[str, Maybe]
    """∂̃a^t, {gate: [K, *lead, B, n]}"""
    dc_0: tuple[Maybe, ...] = ()
    """∂̃c⁰, before the chunk, by component: [*lead, B, n]"""
    dtheta: Any = ()
    """Σ_t of what reaches θ_j, {name: [*lead, B, n]}"""
    dinitial: Any = ()
    """Σ over resets of what reaches a trained initial state, {component: [*lead, B, n]}"""


class Swept(NamedTuple):
    """What a scan finds of a part."""

    da: dict[int, dict[str, Maybe]]
    """∂̃a by place: {gate: [K, *lead, B, n]}"""
    dc_0: tuple[Maybe, ...]
    """what arrives at c⁰, by component: [S, *lead, B, n]"""
    dtheta: dict[int, dict[str, Maybe]]
    """Σ_t of what reaches θ_j, by place: {name: [*lead, B, n]}"""
    dinitial: dict[int, dict[str, Maybe]]
    """Σ over resets of what reaches a trained initial state, likewise"""

    def at(self, q: int) -> Reached:
        """What it finds of the co-state at this place."""
        dc_0 = tuple(each(lambda x: x[q], x) for x in self.dc_0)
        of_unit = self.dtheta.get(q, {}), self.dinitial.get(q, {})
        return Reached(self.da.get(q, {}), dc_0, *of_unit)


class Later(NamedTuple):
    """What step t + 1 sends to step t, of one part: [S, *lead, B, n]."""

    dc: tuple[Maybe, ...]
    """∂c^{t+1}/∂c^t.T ∂̃c_{q·i}^{t+1}, by component"""
    dh: tuple[Maybe, ...]
    """∂c^{t+1}/∂h^t.T ∂̃c_{q·e}^{t+1}; and what synapses with delays send to h^{t-1}, h^{t-2}, …"""
    dtheta: tuple[Maybe, ...]
    """Σ over later steps of what reaches θ, one a name: [starts, *lead, B, n]"""
    dinitial: tuple[Maybe, ...]
    """Σ over later resets of what reaches the initial state, one a component: [starts, *lead, B, n]"""


class Direct(NamedTuple):
    """∂L/∂h^t and ∂L/∂c^t within the step, of all co-states of a part."""

    dh: CoState
    dc: CoState


ByPlace = list[dict[str, Maybe]]
"""∂̃a^t of a part, by the places that it keeps: {gate: [K, *lead, B, n]}"""


def sweep(cell: Cell, p: dict, path: Path, parts: list[Part]) -> list[Swept]:
    """Backward over the chunk, all parts together."""
    return sweep_and_meet(cell, p, path, parts, (), None)[0]


def sweep_and_meet(
    cell: Cell,
    p: dict,
    path: Path,
    parts: list[Part],
    beside: Any,
    met: Callable[[Any, list[ByPlace]], Any] | None,
) -> tuple[list[Swept], Any]:
    """The same, and the sum over time of what ∂̃a meets: met(beside, ∂̃a by part) of some steps, `beside`
    [K, ...] whatever else that needs of them. A long chunk is met block by block, so that its ∂̃a, where
    nothing else asks for it, is never there as a whole."""
    jumps = [jumps_of(cell, p, part.moves) for part in parts]

    def local(c_tm1, a_t, c_t):
        return jac.narrow(cell, jac.blocks(cell, p, c_tm1, a_t, c_t), c_tm1)

    def through(J, laters, entries):
        found = [back(jac.operators(J), *each) for each in zip(parts, jumps, laters, entries)]
        return [later for later, _ in found], [da for _, da in found]

    def step(carry, at_t):
        (c_next, laters), (c_tm1, a_t, entries, resets_t, c_t) = carry, at_t
        c_t = c_next if c_t is None else c_t
        laters, da = through(local(c_tm1, a_t, c_t), laters, entries)
        return (c_tm1, cut(cell, p, c_tm1, resets_t, parts, laters)), da

    entries = [([s.x for s in part.sources], part.dL_dc) for part in parts]
    xs = (path.c_tm1, path.a, entries, path.resets, path.c_t)
    c_1, a_1, first, resets_1, _ = jax.tree.map(lambda x: x[0], xs)
    components, names = unitwise.components(path.c_K), sorted(p.get("theta", {}))
    zero = (None,) * len(components)
    nothing = (None,) * (1 + cell.synapses["w_rec"].delay if "w_rec" in p else 1)
    start = [Later(part.dc_K or zero, nothing, (None,) * len(names), zero) for part in parts]

    def once(J, laters, entries):
        return cut(cell, p, path.c_K, resets_1, parts, through(J, laters, entries)[0])

    start = _settled(once, jax.eval_shape(local, c_1, a_1, path.c_K), start, first)
    gates = unitwise.gate_names(p)
    by_place = lambda da: [[named(gates, x) for x in of_part] for of_part in da]

    def block(carry, of_steps):
        xs, beside = of_steps
        carry, da = jax.lax.scan(step, carry, xs, reverse=True)
        return carry, da, met(beside, by_place(da)) if met else ()

    whole = blocks.backward if met else lambda block, *given: block(*given)
    (c_0, laters), da, sums = whole(block, (path.c_K, start), (xs, beside))
    d = jac.output_operators(*jac.output_blocks(cell, p, c_0))

    def swept(part, later, da):
        dh_0 = CoState(later.dh[:1])  # h^0 → c^1 is a jump too
        dc_0 = d.dh_dc.T @ dh_0 + CoState(later.dc)
        dtheta = d.dh_dtheta.T @ at(part.starts, dh_0) + CoState(later.dtheta)
        number = range(len(part.starts))
        starts = (named(names, one(k, dtheta)) for k in number)
        initial = (named(list(components), one(k, CoState(later.dinitial))) for k in number)
        of_unit = (dict(zip(part.starts, x)) for x in (starts, initial))
        return Swept(dict(zip(part.keep, da)), dc_0.parts, *of_unit)

    return [swept(*each) for each in zip(parts, laters, by_place(da))], sums


def back(
    d: jac.Operators, part: Part, jump: Callable, later: Later, entry: tuple
) -> tuple[Later, list[CoState]]:
    """Through one step, for one part. What step t + 1 has sent is the last term of Eq. 2, and of 3."""
    L = entering(d, part, *entry)
    dh = L.dh + CoState(later.dh[:1])  # Eq. 2
    dc = L.dc + d.dh_dc.T @ dh + CoState(later.dc)  # Eq. 3
    da = d.dc_da.T @ dc
    dtheta = CoState(later.dtheta) + to_theta(d, at(part.starts, dh), at(part.starts, dc))
    dc_tm1 = at(tuple(m.i for m in part.moves), d.dc_dc.T @ dc)
    kept = [jax.tree.map(part.split, one(q, da)) for q in part.keep]
    on_its_way = zip((*later.dh[1:], None), jump(da))
    sent = tuple(total(*each) for each in on_its_way)
    found = Later(dc_tm1.parts, sent, dtheta.parts, later.dinitial)
    return filled(found, later), kept


def still(cell: Cell, p: dict, path: Path, part: Part) -> Swept:
    """A co-state that no edge in time leaves or reaches: all steps at once, no scan."""

    def of_step(J, *entry):
        d = jac.operators(J)
        L = entering(d, part, *entry)
        dc = L.dc + d.dh_dc.T @ L.dh
        return one(0, d.dc_da.T @ dc), one(0, to_theta(d, L.dh, dc))

    J = jac.blocks(cell, p, path.c_tm1, path.a, path.c)
    da, dtheta = jax.vmap(of_step)(J, [s.x for s in part.sources], part.dL_dc)
    dtheta = jax.tree.map(lambda x: x.sum(0), dtheta)
    names = sorted(p.get("theta", {}))
    return Swept({0: named(unitwise.gate_names(p), da)}, (), {0: named(names, dtheta)}, {})


def to_theta(d: jac.Operators, dh: CoState, dc: CoState) -> CoState:
    """What reaches θ at one step, one a name: Ξᵀ ∂̃h + Θᵀ ∂̃c."""
    return d.dh_dtheta.T @ dh + d.dc_dtheta.T @ dc


def cut(
    cell: Cell,
    p: dict,
    c_tm1: PyTree,
    resets_t: Array | None,
    parts: list[Part],
    laters: list[Later],
) -> list[Later]:
    """What goes on to step t − 1: of examples that start afresh at t, nothing. But their c^0 may be
    trained, and their h^0 may depend on θ by itself."""
    if resets_t is None:
        return laters
    d = jac.output_operators(*jac.output_blocks(cell, p, c_tm1))
    only = lambda x, on: jnp.where(along(resets_t[:, None], x, 0) == on, x, 0)
    keep = lambda tree, on: jax.tree.map(lambda x: only(x, on), tree)

    def of_part(part, later):
        fresh = CoState((keep(later.dh[0], True),))
        dtheta = d.dh_dtheta.T @ at(part.starts, fresh) + CoState(later.dtheta)
        dinitial = CoState(later.dinitial)
        if "initial" in p:
            dc_0 = d.dh_dc.T @ fresh + CoState(keep(later.dc, True))
            dinitial = dinitial + at(part.starts, dc_0)
        return Later(keep(later.dc, False), keep(later.dh, False), dtheta.parts, dinitial.parts)

    return [of_part(*each) for each in zip(parts, laters)]


def jumps_of(cell: Cell, p: dict, moves: tuple[Onward, ...]) -> Callable[[CoState], Parts]:
    """∂̃a^{t+1} of all co-states -> Σ_k w_jk ∂̃a_k^{t+1} of each one's q·e, arriving at ∂̃h^t (and, by
    synapses with delays, at ∂̃h^{t-1}, …). The product is taken only for the co-states that some e
    leads to, w_jj alone for those that s does."""
    w_rec, gates = unitwise.as_gates(p.get("w_rec", {})), unitwise.gate_names(p)
    by_e, by_s = tuple(m.e for m in moves), tuple(m.s for m in moves)
    apart = by_e != by_s
    nothing: Parts = (None,) * (1 + cell.synapses["w_rec"].delay if w_rec else 1)
    used_e, place_e = numbered(by_e)
    used_s, place_s = numbered(by_s if apart else ())
    if not w_rec or not (used_e or used_s):
        return lambda da: nothing
    da_dh = Drives(tuple(map(w_rec.get, gates)), cell.synapses["w_rec"])
    every, itself = da_dh.T, da_dh.own if apart else PerUnit(((None,) * len(gates),))

    def jumps(da):
        e, s = at(used_e, da), at(used_s, da)
        found = at(place_e, every @ e - itself @ e) + at(place_s, itself @ s)
        return tuple(split(found.parts[0], len(nothing), -1))

    return jumps


def entering(d: jac.Operators, part: Part, xs_t: list, dL_dc_t: Any) -> Direct:
    """What reaches each co-state within the step."""
    found = [s.to_dh(x_t) for s, x_t in zip(part.sources, xs_t)]
    by = {which: total(*(found[k] for k in which)) for which in part.enters}
    dh = stacked([by[which] for which in part.enters])
    dc = part.to_dc(dL_dc_t) or (None,) * len(d.dc_dc.rows)
    at_ends = lambda x: stacked([x if ends else None for ends in part.ends])
    return Direct(CoState((dh,)), CoState(tuple(map(at_ends, dc))))


# -- along the axis of co-states -------------------------------------------------------------------


def named(names: list[str], x: CoState) -> dict[str, Maybe]:
    return dict(zip(names, x.parts, strict=True))


def one(q: int, x: CoState) -> CoState:
    """Co-state number q, without the axis."""
    return jax.tree.map(lambda x: x[q], x)


def at(which: Which, x: CoState) -> CoState:
    """Those of these numbers, in this order."""
    return x.by(lambda parts: tuple(pick(x, which) for x in parts))


def _settled(through: Callable, J: jac.Blocks, carry: PyTree, entries: PyTree) -> PyTree:
    """The carry with zeros in place of each None that some step would fill. A co-state that is zero
    whatever the values are stays None, and costs nothing."""
    while True:
        after = jax.eval_shape(through, J, carry, entries)
        full = filled(carry, after)
        if jax.tree.structure(full) == jax.tree.structure(carry):
            return jax.tree.map(lambda now, then: jnp.broadcast_to(now, then.shape), carry, after)
        carry = full
