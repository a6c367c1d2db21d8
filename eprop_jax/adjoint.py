"""The engine: a chunk of K steps, for a rule of any order, by one backward sweep (the adjoint).

A rule of order m lets a path take at most m − 1 explicit jumps h_j^{t-1} → c_k^t (order None: any
number). With λ⁽ᵘ⁾ the co-state that allows at most u of them (Eq. 2-3, graded),

    ∂̃h_j⁽ᵘ⁾ᵗ = ∂L/∂h_j^t + Σ_k ∂̃a_k⁽ᵘ⁻¹⁾ᵗ⁺¹ w_jk          ∂̃a = Bᵀ ∂̃c
    ∂̃c⁽ᵘ⁾ᵗ  = ψ ∂̃h⁽ᵘ⁾ᵗ + Dᵀ ∂̃c⁽ᵘ⁾ᵗ⁺¹

the chunk's own gradient is one product over time and batch, Σ_t pre^t ⊗ ∂̃a⁽ᵐ⁻¹⁾ᵗ (Eq. 4), and all
that is older than the chunk enters through the trace, ⟨∂̃c⁰, S⟩. The trace advances by the same
sweep, started from unit vectors at the chunk's end: S ← Φ S + Σ_t pre^t ⊗ (Bᵀ Φ_{t+1…K})ᵗ.

Co-states are [grades, seeds, B, n]; everything else is [K, B, n].
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import jacobians as jac
from eprop_jax import traces as tr
from eprop_jax.base import Array, Cell, PyTree


class Path(NamedTuple):
    """A layer's own trajectory over the chunk."""

    c_0: PyTree
    c_tm1: PyTree
    c: PyTree
    a: PyTree

    @staticmethod
    def of(c_0: PyTree, c: PyTree, a: PyTree) -> Path:
        return Path(c_0, jax.tree.map(shift, c_0, c), c, a)


class Sweep(NamedTuple):
    da: dict[str, Array]
    """∂̃a^t, {gate: [K, grades, seeds, B, n]}"""
    dc_0: tuple[Array, ...]
    """∂̃c⁰, the co-state before the chunk, by component: [grades, seeds, B, n]"""
    dtheta: dict[str, Array]
    """Σ_t over the chunk of what reaches θ_j, {name: [grades, seeds, B, n]}"""


def shift(x_0: Array, x: Array) -> Array:
    """x^0 and x^1 … x^K -> x^0 … x^{K-1}."""
    return jnp.concatenate([x_0[None], x[:-1]])


def sweep(
    cell: Cell,
    params: dict,
    path: Path,
    order: int | None,
    dh: Array,
    dc_K: tuple[Array, ...] | None = None,
    top_only: bool = False,
) -> Sweep:
    """Backward over the chunk, from what enters at each output (`dh`, [K, 1 or grades, seeds, B, n])
    and at the final state (`dc_K`, by component [grades, seeds, B, n])."""
    w_rec = jac.as_gates(params.get("w_rec", {})) if order != 1 else {}
    w = jnp.concatenate(list(w_rec.values()), 1).T if w_rec else None
    grades = 1 if order is None else order
    d = len(jac.floats(path.c_0))
    shape = (grades, *dh.shape[2:])
    zero = jnp.zeros(shape, dh.dtype)

    def jump(da):
        """Σ_k ∂̃a_k w_jk, one grade up."""
        if w is None:
            return None
        if order is None:
            return jnp.concatenate([da[g] for g in w_rec], -1) @ w
        below = jnp.concatenate([da[g][:-1] for g in w_rec], -1) @ w
        return jnp.concatenate([zero[:1], below])

    def step(carry, at):
        dc_tp1, dh_tp1, dtheta = carry
        c_tm1, c_t, a_t, dh_t = at
        J = jac.blocks(cell, params, c_tm1, a_t, c_t)
        dh_t = dh_t if dh_tp1 is None else dh_t + dh_tp1
        dc = tuple(tr.total([tr.times(J.psi[c], dh_t), dc_tp1[c]], zero) for c in range(d))
        da = {g: tr.total([tr.times(J.B[r][g], dc[r]) for r in range(d)], zero) for g in J.B[0]}
        dc_t = tuple(
            tr.total([tr.times(J.D[r][c], dc[r]) for r in range(d)], zero) for c in range(d)
        )
        dtheta = {
            k: tr.total(
                [acc, tr.times(J.Xi[k], dh_t), *(tr.times(J.Theta[r][k], dc[r]) for r in range(d))],
                zero,
            )
            for k, acc in dtheta.items()
        }
        return (dc_t, jump(da), dtheta), {g: x[-1:] for g, x in da.items()} if top_only else da

    dc_K = (zero,) * d if dc_K is None else dc_K
    dtheta = {k: zero for k in params.get("theta", {})}
    carry = (dc_K, None if w is None else zero, dtheta)
    (dc_0, dh_0, dtheta), da = jax.lax.scan(
        step, carry, (path.c_tm1, path.c, path.a, dh), reverse=True
    )
    if dh_0 is not None:  # h^0 → c^1 is a jump too
        psi_0, Xi_0 = jac.output_blocks(cell, params, path.c_0)
        dc_0 = tuple(tr.total([dc, tr.times(p, dh_0)], zero) for dc, p in zip(dc_0, psi_0))
        dtheta = {k: tr.total([acc, tr.times(Xi_0[k], dh_0)], zero) for k, acc in dtheta.items()}
    return Sweep(da, dc_0, dtheta)


# -- from co-states to gradients and traces --------------------------------------------------------


def gradient(params: dict, s: Sweep, lines: dict[str, Array], grade: int = -1) -> list[Array]:
    """Σ_t Σ_batch pre^t ⊗ ∂̃a^t, one a parameter leaf."""

    def leaf(path, _):
        line = path[0].key
        if line == "theta":
            return s.dtheta[path[1].key][grade, 0].sum(0)
        da = s.da[path[1].key if len(path) > 1 else jac.ONE_DRIVE][:, grade, 0]
        return da.sum((0, 1)) if line == "bias" else jnp.einsum("kbi,kbj->ij", lines[line], da)

    return [leaf(path, p) for path, p in jax.tree.leaves_with_path(params)]


def source(params: dict, s: Sweep, lines: dict[str, Array], grade: int = 0) -> list[Array]:
    """Σ_t pre^t ⊗ ∂̃a^t an example and seed: [B, seeds, lines, n], one a parameter leaf."""

    def leaf(path, _):
        line = path[0].key
        if line == "theta":
            return s.dtheta[path[1].key][grade].swapaxes(0, 1)
        da = s.da[path[1].key if len(path) > 1 else jac.ONE_DRIVE][:, grade]
        if line == "bias":
            return da.sum(0).swapaxes(0, 1)
        return jnp.einsum("kbi,ksbj->bsij", lines[line], da)

    return [leaf(path, p) for path, p in jax.tree.leaves_with_path(params)]


def local(dc_0: tuple[Array, ...], trace: tr.Trace) -> Array:
    """Σ_c ∂̃c_c⁰ S_c for a trace that ends at its own unit: [B, seeds, lines, n]."""

    def term(dc, S):
        dc = dc.swapaxes(0, 1)  # [B, seeds, n]
        dc = dc[:, :, None, :] if S.ndim == 3 else dc
        return dc * S[:, None]

    return sum(term(dc, S) for dc, S in zip(dc_0, trace))


def dense(dc_0: tuple[Array, ...], trace: tr.Trace) -> Array:
    """Σ_c Σ_r ∂̃c_cr⁰ S_cr for a trace that ends at every unit: [B, seeds, lines, n]."""
    return sum(jnp.einsum("sbr,br...->bs...", dc, S) for dc, S in zip(dc_0, trace))
