"""One step of the network, as the equations of a rule see it (`Influence.advance`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax.engine import jacobians as jac
from eprop_jax.engine import objective, signals
from eprop_jax.engine import traces as tr
from eprop_jax.engine.maybe import each
from eprop_jax.engine.operators import Covector, Drives, Jump, Local, PerUnit
from eprop_jax.network import unitwise
from eprop_jax.network.synapses import use
from eprop_jax.network.types import Array, Maybe, PyTree, RuleSpec


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


class Instant(NamedTuple):
    """What a step leaves behind, and how the loss meets it; of a chunk, [K, ...]."""

    x: Array
    heard: Array
    """what w_rec hears of h^{t-1}"""
    c_tm1: PyTree
    a: PyTree
    c: PyTree
    h: Array
    y_tm1: Array
    a_out: Array
    y: Array
    dL_dy: Array
    dL_dh: Maybe
    dL_dc: tuple[Array, ...]

    @staticmethod
    def of(chunk: objective.Chunk) -> Instant:
        run, K = chunk.run, chunk.dL_dy.shape[0]
        dL_dh = chunk.dL_dh
        dL_dh = each(lambda x: jnp.broadcast_to(x, (K, *x.shape[1:])), dL_dh)
        return Instant(
            run.x, run.heard, run.c_tm1, run.a, run.c, run.h, run.y_tm1, run.a_out, run.y,
            chunk.dL_dy, dL_dh, chunk.dL_dc,
        )  # fmt: skip


def moment(spec: RuleSpec, params: dict, t: Instant, filtered: bool) -> Moment:
    """All that the equations name at time t. `filtered`: does one γ serve all read-out units?"""
    net, p, p_out = spec.network, params["cell"], params["readout"]
    J = jac.narrow(net.cell, jac.blocks(net.cell, p, t.c_tm1, t.a, t.c), t.c_tm1)
    J = jac.once(J) if len(t.y) == 1 else J
    psi_tm1, Xi_tm1 = jac.output_blocks(net.cell, p, t.c_tm1)
    paths = [path for path, _ in jax.tree.leaves_with_path(p)]
    xi_tm1 = (Xi_tm1[path[1].key] if path[0].key == "theta" else None for path in paths)
    readout = unitwise.as_cell(net.readout)
    J_out = jac.blocks(readout, p_out, t.y_tm1, t.a_out, t.y)
    J_out = jac.narrow(readout, J_out, t.y_tm1)
    d, d_out = jac.operators(J), jac.operators(J_out)
    w_rec = unitwise.as_gates(p.get("w_rec", {}))
    spread, to_signal = signals.signal(spec, params, filtered)
    entries = tr.entries(net.cell, p, t.c, J, {"w_in": t.x, "w_rec": t.heard})
    no_loss: tuple = (None,) * len(J.D)
    return Moment(
        d.dc_dc,
        d.dc_da
        @ Drives(tuple(w_rec.get(g) for g in unitwise.gate_names(p)), net.cell.synapses["w_rec"]),
        tr.entering(entries),
        d.dh_dc,
        Local(tuple((entry.xi,) for entry in entries)),
        PerUnit((psi_tm1,)),
        Local(tuple((xi,) for xi in xi_tm1)),
        d_out.dc_dc,
        d_out.dc_da @ Drives((spread.T,), use.plain(*spread.T.shape), out=True),
        tr.entering(tr.entries(readout, p_out, t.y, J_out, {"w_out": t.h})),
        Covector((t.dL_dy,)),
        to_signal(t.dL_dy),
        Covector((t.dL_dh,)),
        Covector(t.dL_dc or no_loss),
    )
