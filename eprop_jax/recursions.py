"""One step of the network, as the plain recursions of eprop.py, m_order.py and rtrl.py see it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import feedback, rules
from eprop_jax import jacobians as jac
from eprop_jax import traces as tr
from eprop_jax.base import Array, Carry, Gamma, RuleSpec, State


class Moment(NamedTuple):
    """Time t. Batch [B, ...]; traces are lists, one a parameter leaf, of tuples by component."""

    J: jac.Blocks
    """the cell's blocks at t"""
    psi_tm1: tuple
    Xi_tm1: dict
    """∂h^{t-1}/∂c^{t-1}, ∂h^{t-1}/∂θ"""
    sources: list[tr.Source]
    w_rec: dict[str, Array]
    readout: jac.Blocks
    readout_sources: list[tr.Source]
    dL_dy: Array
    dL_dh: Array | None
    """direct, from the activity loss"""
    spread: Array
    learning_signal: Array
    """see `feedback.signal`"""


def moment(spec: RuleSpec, params: dict, chunk: rules.Chunk) -> Moment:
    """All that the paper's equations name at time t, for a chunk of one step."""
    net, run = spec.network, chunk.run
    now = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    p_cell, p_out = params["cell"], params["readout"]
    J = jac.blocks(net.cell, p_cell, run.c_0, now(run.a), now(run.c))
    psi_tm1, Xi_tm1 = jac.output_blocks(net.cell, p_cell, run.c_0)
    readout = jac.blocks(jac.as_cell(net.readout), p_out, run.y_0, run.a_out[0], run.y[0])
    if net.readout.shared:  # one number for all read-out units: keep one of them
        readout = jax.tree.map(lambda x: x[:, :1], readout)
    spread, to_signal = feedback.signal(params, spec.feedback, is_filtered(spec))
    return Moment(
        J,
        psi_tm1,
        Xi_tm1,
        tr.sources(p_cell, J, {"w_in": run.x[0], "w_rec": run.h_0}),
        jac.as_gates(p_cell.get("w_rec", {})),
        readout,
        tr.sources(p_out, readout, {"w_out": run.h[0]}),
        chunk.dL_dy[0],
        chunk.dL_dh,
        spread,
        to_signal(chunk.dL_dy[0]),
    )


def is_filtered(spec: RuleSpec) -> bool:
    """Does one filtered trace serve all read-out units (Eq. 39)? Only without explicit paths."""
    return spec.order == 1 and spec.network.readout.shared


def implicit_variable(J: jac.Blocks, epsilon: list, sources: list) -> list:
    """Eq. 8: ε_ij^t = ∂c_j^t/∂c_j^{t-1} ε_ij^{t-1} + ∂c_j^t/∂w_ij."""

    def advance(eps: tr.Trace, source: tr.Source) -> tr.Trace:
        return tuple(
            tr.total([tr.scale(D, e) for D, e in zip(row, eps)], eps[r])
            + tr.direct(source, r, eps[r])
            for r, row in enumerate(J.D)
        )

    return [advance(eps, source) for eps, source in zip(epsilon, sources)]


def readout_gradient(m: Moment, gamma: list) -> tuple[list, list[Array]]:
    """The read-out's own parameters: Eq. 8 again, for a unit whose output is y itself."""
    gamma = implicit_variable(m.readout, gamma, m.readout_sources)
    grads = [jnp.sum(tr.scale(m.dL_dy, g[0]), 0) for g in gamma]
    return gamma, grads


def zeros(spec: RuleSpec, params: dict, state: State, batch: int) -> Gamma:
    """The read-out's traces before the first step."""
    p_cell, p_out = params["cell"], params["readout"]
    own = tr.zeros(p_out, state.y, batch)
    if spec.network.readout.shared:
        own = jax.tree.map(lambda x: x[..., :1], own)
    ends = 1 if is_filtered(spec) else spec.network.readout.n_out
    dtype = state.y.dtype
    cell = jax.tree.map(lambda p: jnp.zeros((batch, ends, *p.shape), dtype), p_cell)
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


def own(psi: tuple, eps: tr.Trace, xi: Array | None) -> Array:
    """∂h_j/∂c_j S_ij (+ ∂h_j/∂θ_j): Eq. 9 for one parameter leaf."""
    return tr.total([*(tr.scale(p, x) for p, x in zip(psi, eps)), xi], eps[0])


def ends(psi: tuple, S: tr.Trace, xi: Array | None) -> Array:
    """∂h_r/∂c_r S_ij^r (+ ∂h_j/∂θ_j at r = j): Eq. 16, 23 for one parameter leaf."""
    direct = None if xi is None else at_own_unit(xi)
    return tr.total([*(tr.scale_ends(p, x) for p, x in zip(psi, S)), direct], S[0])


def at_own_unit(x: Array) -> Array:
    """[B, ..., j] -> [B, r, ..., j], zero where r ≠ j."""
    own = jnp.eye(x.shape[-1], dtype=x.dtype).reshape(
        1, x.shape[-1], *(1,) * (x.ndim - 2), x.shape[-1]
    )
    return own * x[:, None]


def explicit(m: Moment, r: int, b_tm1: Array) -> Array | None:
    """Σ_k ∂c_r^t/∂h_k^{t-1} b_ij^{t-1,k}, where ∂c_r^t/∂h_k^{t-1} = B_r w_kr: the explicit jump."""
    jumps = (
        tr.scale_ends(m.J.B[r][g], jnp.einsum("kr,bk...->br...", w, b_tm1))
        for g, w in m.w_rec.items()
        if m.J.B[r][g] is not None
    )
    return tr.total(list(jumps), b_tm1)


def xi_tm1(m: Moment, params: dict) -> list[Array | None]:
    """∂h_j^{t-1}/∂θ_j, one a parameter leaf."""
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    return [m.Xi_tm1[path[1].key] if path[0].key == "theta" else None for path in paths]


def readout_variable(m: Moment, gamma: Array, e: Array) -> Array:
    """Eq. 34: γ_ij^{t,k} = ∂y_k^t/∂y_k^{t-1} γ_ij^{t-1,k} + ∂y_k^t/∂a_k^t w_jk e_ij^t."""
    spread = m.spread.reshape(1, m.spread.shape[0], *(1,) * (e.ndim - 2), e.shape[-1])
    return _read(m, gamma, spread * e[:, None])


def readout_variable_of_ends(m: Moment, gamma: Array, a: Array) -> Array:
    """Eq. 34, where h_r of every unit depends on w_ij: Σ_r w_rk a_ij^{t,r} in place of w_jk e_ij."""
    return _read(m, gamma, jnp.einsum("kr,br...->bk...", m.spread, a))


def _read(m: Moment, gamma: Array, drive: Array) -> Array:
    implicit = tr.scale_ends(m.readout.D[0][0], gamma)
    return tr.total([implicit, tr.scale_ends(m.readout.B[0][jac.ONE_DRIVE], drive)], gamma)


def meet(signal: Array, gamma: Array) -> Array:
    """Σ_batch Σ_k ∂L/∂y_k γ_ij^k: Eq. 36, 40. The signal is [B, k, n or 1]."""
    signal = signal[:, :, None, :] if gamma.ndim == 4 else signal
    return jnp.sum(signal * gamma, (0, 1))
