"""One step of the network, as the plain recursions of eprop.py, m_order.py and rtrl.py see it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import objective, signals
from eprop_jax.engine import traces as tr
from eprop_jax.engine.adjoint import LOCAL
from eprop_jax.engine.operators import Covector, Ends, Gradient, Jump, Local, PerUnit, Synapses
from eprop_jax.network import unitwise
from eprop_jax.network.types import Array, Carry, Gamma, Maybe, RuleSpec, State


class Moment(NamedTuple):
    """Time t: every derivative that the equations name, as an operator."""

    dc_dc: PerUnit
    """∂c^t/∂c^{t-1}"""
    dc_dh: Jump
    """∂c_r^t/∂h_k^{t-1}"""
    dc_dw: Local
    """∂c_j^t/∂w_ij"""
    dh_dc: PerUnit
    """∂h^t/∂c^t"""
    dh_dw: Local
    """∂h_j^t/∂θ_j; of weights, zero"""
    dh_dc_tm1: PerUnit
    dh_dw_tm1: Local
    """the two at t − 1"""
    dy_dy: PerUnit
    """∂y^t/∂y^{t-1}"""
    dy_dh: Jump
    """∂y_k^t/∂h_j^t, by the weights that feedback puts there"""
    dy_dv: Local
    """∂y_k^t/∂v_jk, of the read-out's own parameters"""
    dL_dy: Covector
    L: Any
    """what meets γ: ∂L/∂y_k^t, or where one γ serves all k the learning signal L_j^t (Eq. 40)"""
    dL_dh: Covector
    """direct, from the activity loss"""
    dL_dc: Covector
    """direct, from the state loss"""


def moment(spec: RuleSpec, params: dict, chunk: objective.Chunk) -> Moment:
    """All that the paper's equations name at time t, for a chunk of one step."""
    net, run = spec.network, chunk.run
    now = lambda tree: jax.tree.map(lambda x: x[0], tree)
    p, p_out = params["cell"], params["readout"]
    J = jac.narrow(net.cell, jac.blocks(net.cell, p, run.c_0, now(run.a), run.c_K), run.c_0)
    psi_tm1, Xi_tm1 = jac.output_blocks(net.cell, p, run.c_0)
    paths = [path for path, _ in jax.tree.leaves_with_path(p)]
    xi_tm1 = (Xi_tm1[path[1].key] if path[0].key == "theta" else None for path in paths)
    readout = unitwise.as_cell(net.readout)
    J_out = jac.blocks(readout, p_out, run.y_0, run.a_out[0], run.y[0])
    J_out = jac.narrow(readout, J_out, run.y_0)
    d, d_out = jac.operators(J), jac.operators(J_out)
    w_rec = unitwise.as_gates(p.get("w_rec", {}))
    spread, to_signal = signals.signal(params, spec.feedback, is_filtered(spec))
    sources = tr.sources(p, J, {"w_in": run.x[0], "w_rec": run.heard[0]})
    no_loss: tuple = (None,) * len(J.D)
    return Moment(
        d.dc_dc,
        d.dc_da @ Synapses(tuple(w_rec.get(g) for g in unitwise.gate_names(p))),
        tr.entering(sources),
        d.dh_dc,
        Local(tuple((source.xi,) for source in sources)),
        PerUnit((psi_tm1,)),
        Local(tuple((xi,) for xi in xi_tm1)),
        d_out.dc_dc,
        d_out.dc_da @ Synapses((spread.T,)),
        tr.entering(tr.sources(p_out, J_out, {"w_out": run.h_K})),
        Covector((chunk.dL_dy[0],)),
        to_signal(chunk.dL_dy[0]),
        Covector((None if chunk.dL_dh is None else chunk.dL_dh[0],)),
        Covector(no_loss if chunk.dL_dc is None else now(chunk.dL_dc)),
    )


def is_filtered(spec: RuleSpec) -> bool:
    """Does one filtered trace serve all read-out units (Eq. 39)? Only without explicit paths."""
    return spec.moves == LOCAL and spec.network.readout.shared


# -- carries, as users see them and as operators do ------------------------------------------------


class Traces(NamedTuple):
    """A carry's traces, to be multiplied; `()` where the rule has none."""

    epsilon: Any
    beta: tuple[Ends, ...]
    alpha: Any
    gamma: Ends
    """of the cell's parameters, and"""
    gamma_out: Local
    """of the read-out's own"""


def zeros(spec: RuleSpec, params: dict, state: State, batch: int) -> Gamma:
    """The read-out's traces before the first step."""
    p, p_out = params["cell"], params["readout"]
    readout = unitwise.as_cell(spec.network.readout)
    own = tr.zeros(readout, p_out, state.y, jac.structure(readout, p_out, state.y), batch)
    ends = 1 if is_filtered(spec) else spec.network.readout.n_out
    cell = jax.tree.map(lambda w: jnp.zeros((batch, ends, *w.shape), state.y.dtype), p)
    return Gamma(own, cell)


def opened(spec: RuleSpec, params: dict, carry: Carry) -> Traces:
    p, c, n = params["cell"], carry.state.c, spec.network.cell.n_units
    each_unit = lambda tree: Ends(tuple(tr.unpack(p, c, tree)), n)
    gamma = tuple((g,) for g in jax.tree.leaves(carry.gamma.cell))
    return Traces(
        () if carry.epsilon == () else Local(tuple(tr.unpack(p, c, carry.epsilon))),
        tuple(map(each_unit, carry.beta)),
        () if carry.alpha == () else each_unit(carry.alpha),
        Ends(gamma, gamma[0][0].shape[1]),
        Local(tuple(tr.unpack(params["readout"], carry.state.y, carry.gamma.readout))),
    )


def closed(params: dict, carry: Carry, old: Traces, new: Traces) -> Carry:
    """The carry with new traces, of the old ones' shapes: zeros where nothing arrived."""

    def fitted(like: Array, x: Maybe) -> Array:
        return jnp.zeros_like(like) if x is None else jnp.broadcast_to(x, like.shape)

    new = jax.tree.map(fitted, old, new)
    of_cell = lambda trace: tr.pack(params["cell"], carry.state.c, list(trace.leaves))
    gamma = jax.tree.structure(params["cell"]).unflatten(jax.tree.leaves(new.gamma))
    own = tr.pack(params["readout"], carry.state.y, list(new.gamma_out.leaves))
    return carry._replace(
        epsilon=() if new.epsilon == () else of_cell(new.epsilon),
        beta=tuple(map(of_cell, new.beta)),
        alpha=() if new.alpha == () else of_cell(new.alpha),
        gamma=Gamma(own, gamma),
    )


def leaves(like: dict, found: Gradient) -> list[Array]:
    """One array a parameter, zeros where no path leads to it."""
    pairs = zip(jax.tree.leaves(like), found.leaves)
    return [jnp.zeros_like(w) if x is None else x for w, x in pairs]
