"""The adjoint: one backward sweep over a chunk of K steps, for a rule of any order.

A rule of order m lets a path take at most m − 1 explicit jumps h_j^{t-1} → c_k^t (order None: any
number). With u counting jumps, the co-states obey Eq. 2-3, graded:

    ∂̃h_j⁽ᵘ⁾ᵗ = ∂L/∂h_j^t + Σ_k ∂̃a_k⁽ᵘ⁻¹⁾ᵗ⁺¹ w_jk          ∂̃a = Bᵀ ∂̃c
    ∂̃c⁽ᵘ⁾ᵗ  = ψ ∂̃h⁽ᵘ⁾ᵗ + Dᵀ ∂̃c⁽ᵘ⁾ᵗ⁺¹

What enters with every grade (a loss) gives co-states of *at most* u jumps; what enters with grade 0
alone gives co-states of *exactly* u jumps.

A sweep carries several seeds at once: the loss, and, to advance the traces, parts of the chunk's
final state. A seed's arrays are [*lead, B, n] with leading axes of its own; where there are jumps
to count, the first of them is the grade.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import traces as tr
from eprop_jax.network import unitwise
from eprop_jax.network.stacks import Path
from eprop_jax.network.types import Array, Cell, Maybe, PyTree


class Seed(NamedTuple):
    """What a sweep starts from."""

    entry: PyTree = None
    """what enters at each step, [K, ...], and"""
    to_dh: Callable[[Any], Array] = lambda entry: entry
    """one step of it -> ∂/∂h^t, [*lead, B, n]"""
    dc_K: tuple[Maybe, ...] | None = None
    """what enters at the end, ∂/∂c^K by component: [*lead, B, n]"""
    to_dc: Callable[[Any], tuple[Maybe, ...] | None] = lambda entry: None
    """one step of it -> ∂/∂c^t by component, beside what comes through h: [*lead, B, n]"""
    keep: Callable[[dict], Any] = lambda graded: graded
    """what to keep of ∂̃a (at each step) and of dθ (at the end): `top`, say"""


class Swept(NamedTuple):
    """What a sweep finds, for one seed."""

    da: Any
    """∂̃a^t, {gate: [K, *lead, B, n]}"""
    dc_0: tuple[Maybe, ...]
    """∂̃c⁰, the co-state before the chunk, by component: [*lead, B, n]"""
    dtheta: Any
    """Σ_t over the chunk of what reaches θ_j, {name: [*lead, B, n]}"""


def sweep(
    cell: Cell, params: dict, path: Path, order: int | None, seeds: list[Seed]
) -> list[Swept]:
    """Backward over the chunk (see above), all seeds together."""
    w_rec = unitwise.as_gates(params.get("w_rec", {})) if order != 1 else {}
    w = jnp.concatenate(list(w_rec.values()), 1).T if w_rec else None

    def jump(da):
        """Σ_k ∂̃a_k w_jk, one grade up: what arrives at h^t from step t + 1."""
        found = [da[g] for g in w_rec if da[g] is not None]
        if w is None or not found:
            return None
        nothing = jnp.zeros_like(found[0])
        da = jnp.concatenate([nothing if da[g] is None else da[g] for g in w_rec], -1)
        if order is None:
            return cell.wires.share(da @ w)
        up = cell.wires.share(da[:-1] @ w)
        return jnp.concatenate([jnp.zeros_like(up[:1]), up])

    def back(J, dc_tp1, dh_t, direct, dtheta):
        """Through one step, for one seed."""
        d = range(len(J.D))
        direct = direct or (None,) * len(d)
        dc = [tr.total(_times(J.psi[c], dh_t), dc_tp1[c], direct[c]) for c in d]
        da = {g: tr.total(*(_times(J.B[r][g], dc[r]) for r in d)) for g in J.B[0]}
        dc_t = tuple(tr.total(*(_times(J.D[r][c], dc[r]) for r in d)) for c in d)
        for k in J.Xi:
            here = tr.total(_times(J.Xi[k], dh_t), *(_times(J.Theta[r][k], dc[r]) for r in d))
            dtheta = {**dtheta, k: tr.total(dtheta[k], here)}
        return da, dc_t, dtheta

    def blocks(c_tm1, a_t, c_t):
        return jac.narrow(cell, jac.blocks(cell, params, c_tm1, a_t, c_t), c_tm1)

    def through(J, carry, entries):
        carried, emitted = [], []
        for seed, (dc_tp1, dh_tp1, dtheta), entry in zip(seeds, carry, entries):
            dh_t, dc_t = (None, None) if entry is None else (seed.to_dh(entry), seed.to_dc(entry))
            da, dc_t, dtheta = back(J, dc_tp1, tr.total(dh_t, dh_tp1), dc_t, dtheta)
            carried.append((dc_t, jump(da), dtheta))
            emitted.append(seed.keep(da))
        return _fill(carried, carry), emitted

    def step(carry, at):
        (c_next, carry), (c_tm1, a_t, entries, resets_t, c_t) = carry, at
        c_t = c_next if c_t is None else c_t
        carry, emitted = through(blocks(c_tm1, a_t, c_t), carry, entries)
        return (c_tm1, cut(cell, params, c_tm1, resets_t, carry)), emitted

    xs = (path.c_tm1, path.a, [seed.entry for seed in seeds], path.resets, path.c_t)
    d = len(unitwise.floats(path.c_K))
    start = [
        (seed.dc_K or (None,) * d, None, dict.fromkeys(params.get("theta", {}))) for seed in seeds
    ]
    c_1, a_1, entries, *_ = jax.tree.map(lambda x: x[0], xs)
    start = _settled(through, jax.eval_shape(blocks, c_1, a_1, path.c_K), start, entries)
    (c_0, carried), emitted = jax.lax.scan(step, (path.c_K, start), xs, reverse=True)
    psi_0, Xi_0 = jac.output_blocks(cell, params, c_0)

    def swept(seed, carry, da):
        dc_0, dh_0, dtheta = carry  # h^0 → c^1 is a jump too
        dc_0 = tuple(tr.total(dc, _times(p, dh_0)) for dc, p in zip(dc_0, psi_0))
        dtheta = {k: tr.total(x, _times(Xi_0[k], dh_0)) for k, x in dtheta.items()}
        return Swept(da, dc_0, seed.keep(dtheta))

    return [swept(*each) for each in zip(seeds, carried, emitted)]


def cut(
    cell: Cell,
    params: dict,
    c_tm1: PyTree,
    resets_t: Array | None,
    carry: list[tuple],
    own: Callable[[int, Maybe], Maybe] = lambda number, dh: dh,
) -> list[tuple]:
    """What goes on to step t − 1, of each seed (∂̃c, ∂̃h, dθ): of examples that start afresh at t,
    nothing. But their h^0 may depend on θ by itself: `own(number, ∂̃h)` is what θ meets of a seed."""
    if resets_t is None:
        return carry
    _, Xi_0 = jac.output_blocks(cell, params, c_tm1)
    keep = lambda x, on: None if x is None else jnp.where(_over(resets_t[:, None], x) == on, x, 0)

    def of_seed(number, dc, dh, dtheta):
        fresh = keep(own(number, dh), True)
        dtheta = {k: tr.total(x, _times(Xi_0[k], fresh)) for k, x in dtheta.items()}
        return tuple(keep(x, False) for x in dc), keep(dh, False), dtheta

    return [of_seed(number, *each) for number, each in enumerate(carry)]


def _over(block: Array, x: Array) -> Array:
    """[B, n] -> [1, …, B, n], as many axes as x has."""
    return jnp.expand_dims(block, range(x.ndim - block.ndim))


def _times(block: Maybe, x: Maybe) -> Maybe:
    """A block [B, n] times a co-state [*lead, B, n]."""
    if block is None or x is None:
        return None
    return _over(block, x) * x


def _fill(tree: PyTree, like: PyTree) -> PyTree:
    """Zeros where `tree` has None and `like` an array."""

    def fill(x, other):
        return jnp.zeros(other.shape, other.dtype) if x is None and other is not None else x

    return jax.tree.map(fill, tree, like, is_leaf=lambda x: x is None)


def _settled(through: Callable, J: jac.Blocks, carry: PyTree, entries: PyTree) -> PyTree:
    """The carry with zeros in place of each None that some step would fill. A co-state that is zero
    whatever the values are stays None, and costs nothing."""
    while True:
        after, _ = jax.eval_shape(through, J, carry, entries)
        filled = _fill(carry, after)
        if jax.tree.structure(filled) == jax.tree.structure(carry):
            return jax.tree.map(lambda now, then: jnp.broadcast_to(now, then.shape), carry, after)
        carry = filled


def top(graded: dict[str, Maybe]) -> dict[str, Maybe]:
    """The highest grade."""
    return {k: None if x is None else x[-1] for k, x in graded.items()}


# -- from co-states to gradients and traces --------------------------------------------------------


def gradient(params: dict, s: Swept, lines: dict[str, Array]) -> list[Array]:
    """Σ_t Σ_batch pre^t ⊗ ∂̃a^t (Eq. 4), one a parameter leaf: one product over time and batch."""

    def leaf(path, p):
        line = path[0].key
        x = s.dtheta[path[1].key] if line == "theta" else s.da[tr.gate_of(path)]
        if x is None:
            return jnp.zeros_like(p)
        if line in lines:
            return lines[line].reshape(-1, p.shape[0]).T @ x.reshape(-1, p.shape[1])
        return x.reshape(-1, *p.shape).sum(0)

    return [leaf(path, p) for path, p in jax.tree.leaves_with_path(params)]


def sources(params: dict, swept: list[Swept], lines: dict[str, Array]) -> list[list[Maybe]]:
    """Σ_t pre^t ⊗ ∂̃a^t an example, [B, *lead, lines, n], for each parameter leaf and seed.

    All gates and seeds share one product a line: [B, i, K] @ [B, K, columns].
    """
    products = {line: _products(x, swept, params[line]) for line, x in lines.items()
                if line in params}  # fmt: skip

    def leaf(path, seed, s):
        line = path[0].key
        if line == "theta":
            return _examples_first(s.dtheta[path[1].key])
        if line in lines:
            return products[line].get((tr.gate_of(path), seed))
        da = s.da[tr.gate_of(path)]
        return None if da is None else _examples_first(da.sum(0))

    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    return [[leaf(path, i, s) for i, s in enumerate(swept)] for path in paths]


def _products(pre: Array, swept: list[Swept], weights: PyTree) -> dict[tuple[str, int], Array]:
    columns = {}
    for gate in unitwise.as_gates(weights):
        for i, s in enumerate(swept):
            if s.da[gate] is not None:
                columns[gate, i] = jnp.moveaxis(s.da[gate], -2, 0)  # [B, K, *lead, n]
    lines, out = jnp.moveaxis(pre, 0, -1), {}
    # Shared components have one column; beside the others it would put every row out of line.
    for narrow in (True, False):
        group = {key: x for key, x in columns.items() if (x.shape[-1] == 1) == narrow}
        if not group:
            continue
        flat = [x.reshape(*x.shape[:2], -1) for x in group.values()]
        stops = np.cumsum([x.shape[-1] for x in flat])[:-1]
        parts = jnp.split(lines @ jnp.concatenate(flat, -1), stops, axis=-1)
        for (key, x), part in zip(group.items(), parts):
            out[key] = jnp.moveaxis(part.reshape(*part.shape[:2], *x.shape[2:]), 1, -2)
    return out


def _examples_first(x: Maybe) -> Maybe:
    """[*lead, B, n] -> [B, *lead, n]."""
    return None if x is None else jnp.moveaxis(x, -2, 0)


def reach(dc_0: tuple[Maybe, ...], trace: tr.Trace) -> Maybe:
    """Σ_c ∂̃c_c⁰ S_c for a trace that ends at its own unit: [B, *lead, lines, n]."""

    def term(dc, S):
        if dc is None or S is None:
            return None
        dc, lead = _examples_first(dc), dc.ndim - 2
        S = S.reshape(S.shape[0], *(1,) * lead, *S.shape[1:])
        return jnp.expand_dims(dc, range(1 + lead, S.ndim - 1)) * S

    return tr.total(*(term(dc, S) for dc, S in zip(dc_0, trace)))


def reach_ends(dc_0: tuple[Maybe, ...], trace: tr.Trace) -> Maybe:
    """Σ_c Σ_r ∂̃c_cr⁰ S_cr for a trace that ends at every unit: [B, *lead, lines, n]."""

    def term(dc, S):
        if dc is None or S is None:
            return None
        lead = dc.shape[:-2]
        out = jnp.einsum("sbr,br...->bs...", dc.reshape(-1, *dc.shape[-2:]), S)
        return out.reshape(S.shape[0], *lead, *S.shape[2:])

    return tr.total(*(term(dc, S) for dc, S in zip(dc_0, trace)))


def meet(dc_0: tuple[Maybe, ...], trace: tr.Trace) -> Maybe:
    """Σ_batch of `reach`, in one pass over the trace."""
    return tr.total(
        *(
            jnp.einsum("bj,b...j->...j", dc, S if S.shape[-1] == dc.shape[-1] else _wide(S, dc))
            for dc, S in zip(dc_0, trace)
            if dc is not None and S is not None
        )
    )


def _wide(S: Array, dc: Array) -> Array:
    return jnp.broadcast_to(S, (*S.shape[:-1], dc.shape[-1]))


def meet_ends(dc_0: tuple[Maybe, ...], trace: tr.Trace) -> Maybe:
    """Σ_batch of `reach_ends`, in one pass over the trace."""
    return tr.total(
        *(
            jnp.einsum("br,br...->...", dc, S)
            for dc, S in zip(dc_0, trace)
            if dc is not None and S is not None
        )
    )
