"""One step of the network, as the plain recursions of eprop.py, m_order.py and rtrl.py see it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import objective, signals
from eprop_jax.engine import traces as tr
from eprop_jax.engine.adjoint import LOCAL
from eprop_jax.network import unitwise
from eprop_jax.network.types import Array, Carry, Gamma, Maybe, RuleSpec, State


class Moment(NamedTuple):
    """Time t. Batch [B, ...]; traces are lists, one a parameter leaf, of tuples by component."""

    J: jac.Blocks
    """the cell's blocks at t"""
    own: jac.Blocks
    """the same, for paths inside one unit: shared components narrowed"""
    psi_tm1: tuple
    xi_tm1: list[Maybe]
    """∂h^{t-1}/∂c^{t-1}, and ∂h^{t-1}/∂(parameter) a leaf"""
    sources: list[tr.Source]
    own_sources: list[tr.Source]
    w_rec: dict[str, Array]
    readout: jac.Blocks
    readout_sources: list[tr.Source]
    dL_dy: Array
    dL_dh: Maybe
    """direct, from the activity loss"""
    dL_dc: tuple[Array, ...] | None
    """direct, from the state loss, by component"""
    spread: Array
    learning_signal: Array
    """see `signals.signal`"""


def moment(spec: RuleSpec, params: dict, chunk: objective.Chunk) -> Moment:
    """All that the paper's equations name at time t, for a chunk of one step."""
    net, run = spec.network, chunk.run
    now = lambda tree: jax.tree.map(lambda x: x[0], tree)
    p, p_out = params["cell"], params["readout"]
    J = jac.blocks(net.cell, p, run.c_0, now(run.a), run.c_K)
    own = jac.narrow(net.cell, J, run.c_0)
    psi_tm1, Xi_tm1 = jac.output_blocks(net.cell, p, run.c_0)
    paths = [path for path, _ in jax.tree.leaves_with_path(p)]
    xi_tm1 = [Xi_tm1[path[1].key] if path[0].key == "theta" else None for path in paths]
    readout = unitwise.as_cell(net.readout)
    J_out = jac.blocks(readout, p_out, run.y_0, run.a_out[0], run.y[0])
    J_out = jac.narrow(readout, J_out, run.y_0)
    lines = {"w_in": run.x[0], "w_rec": run.heard[0]}
    spread, to_signal = signals.signal(params, spec.feedback, is_filtered(spec))
    return Moment(
        J,
        own,
        psi_tm1,
        xi_tm1,
        tr.sources(p, J, lines),
        tr.sources(p, own, lines),
        unitwise.as_gates(p.get("w_rec", {})),
        J_out,
        tr.sources(p_out, J_out, {"w_out": run.h_K}),
        chunk.dL_dy[0],
        None if chunk.dL_dh is None else chunk.dL_dh[0],
        chunk.dL_dc and tuple(x[0] for x in chunk.dL_dc),
        spread,
        to_signal(chunk.dL_dy[0]),
    )


def is_filtered(spec: RuleSpec) -> bool:
    """Does one filtered trace serve all read-out units (Eq. 39)? Only without explicit paths."""
    return spec.moves == LOCAL and spec.network.readout.shared


# -- carries as lists -----------------------------------------------------------------------------


def zeros(spec: RuleSpec, params: dict, state: State, batch: int) -> Gamma:
    """The read-out's traces before the first step."""
    p, p_out = params["cell"], params["readout"]
    readout = unitwise.as_cell(spec.network.readout)
    own = tr.zeros(readout, p_out, state.y, jac.structure(readout, p_out, state.y), batch)
    ends = 1 if is_filtered(spec) else spec.network.readout.n_out
    cell = jax.tree.map(lambda w: jnp.zeros((batch, ends, *w.shape), state.y.dtype), p)
    return Gamma(own, cell)


def pack(params: dict, carry: Carry, gamma_out: list, gamma: list[Array]) -> Gamma:
    return Gamma(
        tr.pack(params["readout"], carry.state.y, gamma_out),
        jax.tree.structure(params["cell"]).unflatten(gamma),
    )


def unpack(params: dict, carry: Carry) -> tuple[list, list[Array]]:
    own = tr.unpack(params["readout"], carry.state.y, carry.gamma.readout)
    return own, jax.tree.leaves(carry.gamma.cell)


# -- the terms of the equations -------------------------------------------------------------------


def implicit_variable(J: jac.Blocks, epsilon: list, sources: list) -> list:
    """Eq. 8: ε_ij^t = ∂c_j^t/∂c_j^{t-1} ε_ij^{t-1} + ∂c_j^t/∂w_ij."""
    return [
        tuple(
            tr.total(*(tr.scale(D, e) for D, e in zip(row, eps)), tr.direct(source, r))
            for r, row in enumerate(J.D)
        )
        for eps, source in zip(epsilon, sources)
    ]


def own(psi: tuple, eps: tr.Trace, xi: Maybe) -> Maybe:
    """∂h_j/∂c_j ε_ij (+ ∂h_j/∂θ_j): Eq. 9 for one parameter leaf."""
    return tr.total(*(tr.scale(p, x) for p, x in zip(psi, eps)), xi)


def ends(psi: tuple, S: tr.Trace, xi: Maybe) -> Maybe:
    """∂h_r/∂c_r S_ij^r (+ ∂h_j/∂θ_j at r = j): Eq. 16, 23 for one parameter leaf."""
    return tr.total(*(tr.scale_ends(p, x) for p, x in zip(psi, S)), at_own_unit(xi))


def at_own_unit(x: Maybe) -> Maybe:
    """[B, ..., j] -> [B, r, ..., j], zero where r ≠ j."""
    if x is None:
        return None
    n = x.shape[-1]
    return jnp.eye(n, dtype=x.dtype).reshape(1, n, *(1,) * (x.ndim - 2), n) * x[:, None]


def explicit(m: Moment, r: int, b_tm1: Maybe) -> Maybe:
    """Σ_k ∂c_r^t/∂h_k^{t-1} b_ij^{t-1,k}, where ∂c_r^t/∂h_k^{t-1} = B_r w_kr: the explicit jump."""
    if b_tm1 is None:
        return None
    return tr.total(
        *(
            tr.scale_ends(m.J.B[r][g], jnp.einsum("kr,bk...->br...", w, b_tm1))
            for g, w in m.w_rec.items()
            if m.J.B[r][g] is not None
        )
    )


def readout_variable(m: Moment, gamma: Array, e: Maybe) -> Array:
    """Eq. 34: γ_ij^{t,k} = ∂y_k^t/∂y_k^{t-1} γ_ij^{t-1,k} + ∂y_k^t/∂a_k^t w_jk e_ij^t."""
    if e is None:
        return _read(m, gamma, None)
    spread = m.spread.reshape(1, m.spread.shape[0], *(1,) * (e.ndim - 2), -1)
    return _read(m, gamma, spread * e[:, None])


def readout_variable_of_ends(m: Moment, gamma: Array, a: Maybe) -> Array:
    """Eq. 34, where every h_r depends on w_ij: Σ_r w_rk a_ij^{t,r} in place of w_jk e_ij^t."""
    return _read(m, gamma, None if a is None else jnp.einsum("kr,br...->bk...", m.spread, a))


def _read(m: Moment, gamma: Array, drive: Maybe) -> Array:
    implicit = tr.scale_ends(m.readout.D[0][0], gamma)
    out = tr.total(implicit, tr.scale_ends(m.readout.B[0][unitwise.ONE_DRIVE], drive))
    return jnp.zeros_like(gamma) if out is None else jnp.broadcast_to(out, gamma.shape)


def meet(signal: Array, gamma: Array) -> Array:
    """Σ_batch Σ_k ∂L/∂y_k γ_ij^k: Eq. 36, 40. The signal is [B, k, n or 1]."""
    if signal.shape[-1] == 1:
        return jnp.einsum("bk,bk...->...", signal[..., 0], gamma)
    return jnp.einsum("bkj,bk...j->...j", signal, gamma)


def meet_activity(dL_dh: Maybe, grads: list, traces: list, scale) -> list[Array]:
    """The activity loss meets h itself (Eq. 25): Σ_batch ∂L/∂h e, beside the read-out's part."""
    if dL_dh is None:
        return grads
    met = [scale(dL_dh, e) for e in traces]
    return [g if x is None else g + x.reshape(-1, *g.shape).sum(0) for g, x in zip(grads, met)]


def meet_state(dL_dc: Maybe, grads: list, traces: list, scale) -> list[Array]:
    """The state loss meets c itself: Σ_batch Σ_c ∂L/∂c_c ε_c, beside what comes through h."""
    if dL_dc is None:
        return grads
    met = [tr.total(*(scale(d, x) for d, x in zip(dL_dc, trace))) for trace in traces]
    return [g if x is None else g + x.reshape(-1, *g.shape).sum(0) for g, x in zip(grads, met)]


def readout_gradient(m: Moment, gamma: list, like: dict) -> tuple[list, list[Array]]:
    """The read-out's own parameters: Eq. 8 again, for a unit whose output is y itself."""
    gamma = implicit_variable(m.readout, gamma, m.readout_sources)
    return gamma, meet_own(m.dL_dy, gamma, like)


def meet_own(dL_dy: Maybe, gamma: list, like: dict) -> list[Array]:
    """Σ_batch ∂L/∂y_k ∂y_k/∂w_jk, one a parameter of the read-out."""
    met = [tr.scale(dL_dy, trace[0]) for trace in gamma]
    return [
        jnp.zeros_like(p) if x is None else x.sum(0) for p, x in zip(jax.tree.leaves(like), met)
    ]
