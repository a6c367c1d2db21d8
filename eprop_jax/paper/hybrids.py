"""Two exact gradients between BPTT and RTRL: traces forward in time, learning signals backward.

    dL/dw_ij = Σ_t dL/dh_j^t e_ij^t                                              Eq. 10
    dL/dw_ij = Σ_t ∂L/∂h_j^t e_ij^t + Σ_k Σ_t dL/dh_k^{t+1} b_ij^{t+1}(k, j)     Eq. 18

with e the implicit eligibility trace (Eq. 9), b(k, j) the explicit one of a single jump j → k
(Eq. 16), dL/dh the total derivative (Eq. 2) and ∂L/∂h the part through the read-out alone. E-prop
is Eq. 10 with ∂L/∂h in place of dL/dh, and Eq. 18 without its second sum (section 4).

Neither is causal, and neither saves anything: they are here because the paper's argument passes
through them. θ_j also reaches h_j directly, also at t = 0, so the sums start at h^0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eprop_jax import checks
from eprop_jax.engine import definition, objective
from eprop_jax.engine import jacobians as jac
from eprop_jax.network import forward, unitwise
from eprop_jax.network.types import Array, Cell, Network, PyTree, RuleSpec
from eprop_jax.run.sequence import value_and_grad

__all__ = ["first_explicit_gradient", "implicit_eligibility_gradient"]


def without_resets(data: objective.Data) -> None:
    if data.resets is not None:
        raise ValueError("resets: got some, wanted None: a hybrid runs one sequence from its start")


def implicit_eligibility_gradient(
    net: Network, loss: Callable[[Array, Any], Array]
) -> Callable[[PyTree, Array, PyTree], tuple[Array, PyTree]]:
    """Eq. 10: the implicit recurrence forward in e, the explicit recurrence backward in dL/dh.

    Args:
      net: the network.
      loss: loss(y [n_out], target) -> [], of one example at one step.

    Returns:
      f(params, xs, ys) -> (loss, grads), for xs [T, *batch, n_in] and ys any pytree of
      [T, *batch, ...]; `grads` is a tree like `params`, and the exact gradient.

    Raises:
      TypeError, ValueError: for a wrong network or loss; and, when it is called, for parameters,
        inputs or targets that do not fit.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> from eprop_jax import hybrids
    >>> net = ej.Network(ej.cells.gru(3, 5), ej.readouts.leaky(5, 2))
    >>> f = hybrids.implicit_eligibility_gradient(net, ej.losses.squared_error)
    >>> loss, grads = f(net.init(jax.random.key(0)), jnp.ones((7, 4, 3)), jnp.ones((7, 4, 2)))
    >>> grads["cell"]["w_rec"]["z"].shape
    (5, 5)
    """
    spec = definition.specify("Eq. 10", "i*", net, loss, None, None)
    checks.matrices("net", checks.one_layer("net", net))

    def gradient(spec, params, carry, data, keep):
        without_resets(data)
        m = meet(spec, params, carry, data)

        def step(traces, at):
            epsilon, grads = traces
            d, dL_dh = at
            epsilon = implicit_variable(d, epsilon)  # Eq. 8
            e = eligibility_trace(d, epsilon)  # Eq. 9
            grads = jax.tree.map(lambda g, e: g + of_own(dL_dh, e), grads, e)  # Eq. 10
            return (epsilon, grads), None

        grads = jax.tree.map(lambda e: of_own(m.dL_dh[0], e), m.e_0)
        traces, _ = jax.lax.scan(step, (m.epsilon_0, grads), (m.d, m.dL_dh[1:]))
        return finish(spec, params, carry, m, traces[-1])

    return value_and_grad(definition.build(spec, definition.without_traces, gradient))


def first_explicit_gradient(
    net: Network, loss: Callable[[Array, Any], Array]
) -> Callable[[PyTree, Array, PyTree], tuple[Array, PyTree]]:
    """Eq. 18: a path's first explicit jump forward too, in b(k, j); those after it in dL/dh_k.

    Args, Returns and Raises as `implicit_eligibility_gradient`.

    >>> import jax, jax.numpy as jnp, eprop_jax as ej
    >>> from eprop_jax import hybrids
    >>> net = ej.Network(ej.cells.rnn(3, 5), ej.readouts.linear(5, 2))
    >>> f = hybrids.first_explicit_gradient(net, ej.losses.squared_error)
    >>> loss, grads = f(net.init(jax.random.key(0)), jnp.ones((7, 4, 3)), jnp.ones((7, 4, 2)))
    >>> grads["cell"]["w_rec"].shape
    (5, 5)
    """
    spec = definition.specify("Eq. 18", "i*(ei*)?", net, loss, None, None)
    checks.matrices("net", checks.one_layer("net", net))

    def gradient(spec, params, carry, data, keep):
        without_resets(data)
        m = meet(spec, params, carry, data)

        def step(traces, at):
            epsilon, e_tm1, beta, grads = traces
            d, dL_dh_direct, dL_dh = at
            epsilon = implicit_variable(d, epsilon)  # Eq. 8
            e = eligibility_trace(d, epsilon)  # Eq. 9
            beta = explicit_variable(d, beta, e_tm1)  # Eq. 15
            b = explicit_eligibility_trace(d, beta)  # Eq. 16
            grads = jax.tree.map(  # Eq. 18
                lambda g, e, b: g + of_own(dL_dh_direct, e) + of_all(dL_dh, b), grads, e, b
            )
            return (epsilon, e, beta, grads), None

        grads = jax.tree.map(jnp.zeros_like, params["cell"])  # h^0 meets the loss by a jump alone
        n = net.cell.n_units
        beta_0 = jax.tree.map(lambda x: jnp.zeros((len(x), n, *x.shape[1:]), x.dtype), m.epsilon_0)
        over_time = (m.d, m.dL_dh_direct[1:], m.dL_dh[1:])
        traces, _ = jax.lax.scan(step, (m.epsilon_0, m.e_0, beta_0, grads), over_time)
        return finish(spec, params, carry, m, traces[-1])

    return value_and_grad(definition.build(spec, definition.without_traces, gradient))


# -- the equations: trees like params["cell"], whose leaves are [B, lines, j, d], b [B, lines, j] --


def implicit_variable(d: Local, epsilon: PyTree) -> PyTree:
    """Eq. 8: ε_ij^t = ∂c_j^t/∂c_j^{t-1} ε_ij^{t-1} + ∂c_j^t/∂w_ij."""
    return jax.tree.map(
        lambda eps, dc_dw: jnp.einsum("bjcz,b...jz->b...jc", d.dc_dc, eps) + dc_dw,
        epsilon, d.dc_dw,
    )  # fmt: skip


def eligibility_trace(d: Local, epsilon: PyTree) -> PyTree:
    """Eq. 9: e_ij^t = ∂h_j^t/∂c_j^t ε_ij^t (+ ∂h_j^t/∂θ_j)."""
    e = jax.tree.map(lambda eps: jnp.einsum("bjc,b...jc->b...j", d.dh_dc, eps), epsilon)
    return plus_direct(e, d.dh_dtheta)


def explicit_variable(d: Local, beta: PyTree, e_tm1: PyTree) -> PyTree:
    """Eq. 15: β_ij^t(k, j) = ∂c_k^t/∂c_k^{t-1} β_ij^{t-1}(k, j) + ∂c_k^t/∂h_j^{t-1} e_ij^{t-1}."""
    return jax.tree.map(
        lambda beta, e: jnp.einsum("bkcz,bk...jz->bk...jc", d.dc_dc, beta)
        + jnp.einsum("bkcj,b...j->bk...jc", d.dc_dh, e),
        beta, e_tm1,
    )  # fmt: skip


def explicit_eligibility_trace(d: Local, beta: PyTree) -> PyTree:
    """Eq. 16: b_ij^t(k, j) = ∂h_k^t/∂c_k^t β_ij^t(k, j)."""
    return jax.tree.map(lambda x: jnp.einsum("bkc,bk...jc->bk...j", d.dh_dc, x), beta)


def plus_direct(e: PyTree, dh_dtheta: dict) -> PyTree:
    theta = {name: x + dh_dtheta[name] for name, x in e.get("theta", {}).items()}
    return {**e, "theta": theta} if theta else e


def of_own(dL_dh: Array, e: Array) -> Array:
    """Σ_batch dL/dh_j e_ij."""
    return jnp.einsum("bj,b...j->...j", dL_dh, e)


def of_all(dL_dh: Array, b: Array) -> Array:
    """Σ_batch Σ_k dL/dh_k b_ij(k, j)."""
    return jnp.einsum("bk,bk...j->...j", dL_dh, b)


# -- what stands in them ---------------------------------------------------------------------------


class Local(NamedTuple):
    """Local derivatives at one step, or at all."""

    dc_dc: Array
    """∂c_j^t/∂c_j^{t-1}, [B, j, d, d]"""
    dc_dh: Array
    """∂c_k^t/∂h_j^{t-1}, [B, k, d, j]"""
    dc_dw: PyTree
    """∂c_j^t/∂w_ij, [B, lines, j, d] a parameter leaf"""
    dh_dc: Array
    """[B, j, d]"""
    dh_dtheta: dict[str, Array]
    """[B, j] each"""


class Meeting(NamedTuple):
    """All that does not depend on the traces. Time is axis 0."""

    chunk: objective.Chunk
    d: Local
    """at 1 … T"""
    dL_dh: Array
    """total, [T+1, B, n]"""
    dL_dh_direct: Array
    """∂L/∂h^t: through the read-out alone, [T+1, B, n]"""
    grads_out: dict
    epsilon_0: PyTree
    e_0: PyTree


def meet(spec: RuleSpec, params: dict, carry: Any, data: objective.Data) -> Meeting:
    """Run the network; differentiate L by what the read-out sees of h, and by all of h."""
    checks.no_initial(params)
    cell, p = spec.network.cell, params["cell"]
    xs, chunk = data.xs, objective.meet(spec, params, carry.state, data)
    run = chunk.run
    h = jnp.concatenate([run.h_0[None], run.h])
    read, unroll = read_out(spec, run.y_0, data), unrolled(cell, p, run.c_0, xs)
    grads_out, dL_dh_direct = jax.grad(read, (0, 1))(params["readout"], h)
    dL_dh = jax.grad(lambda dh: read(params["readout"], unroll(dh)))(jnp.zeros_like(h))

    J = jac.blocks(cell, p, run.c_tm1, run.a, run.c)
    d = local(p, J, {"w_in": xs, "w_rec": h[:-1]})
    _, Xi_0 = jac.output_blocks(cell, p, run.c_0)
    epsilon_0 = jax.tree.map(lambda x: jnp.zeros_like(x[0]), d.dc_dw)
    e_0 = jax.tree.map(lambda x: jnp.zeros_like(x[..., 0]), epsilon_0)
    e_0 = plus_direct(e_0, {k: dense(x, run.h_0) for k, x in Xi_0.items()})
    return Meeting(chunk, d, dL_dh, dL_dh_direct, grads_out, epsilon_0, e_0)


def local(p: dict, J: jac.Blocks, lines: dict[str, Array]) -> Local:
    """The library's blocks as plain arrays."""
    like = lines["w_rec"]

    def column(blocks):
        return jnp.stack([dense(x, like) for x in blocks], -1)

    def dc_dw(path, w):
        line, *gate = (key.key for key in path)
        if line == "theta":
            return column([row[gate[0]] for row in J.Theta])
        dc_da = column([row[gate[0] if gate else unitwise.ONE_DRIVE] for row in J.B])
        return dc_da if line == "bias" else jnp.einsum("tbi,tbjc->tbijc", lines[line], dc_da)

    dc_dc = jnp.stack([column(row) for row in J.D], -2)
    dc_dh = jnp.zeros((*dc_dc.shape[:-1], like.shape[-1]), like.dtype)
    for gate, w in unitwise.as_gates(p.get("w_rec", {})).items():
        dc_dh = dc_dh + jnp.einsum("tbkc,jk->tbkcj", column([row[gate] for row in J.B]), w)
    dh_dtheta = {name: dense(x, like) for name, x in J.Xi.items()}
    dc_dw = jax.tree_util.tree_map_with_path(dc_dw, p)
    return Local(dc_dc, dc_dh, dc_dw, column(J.psi), dh_dtheta)


def dense(block: Array | None, like: Array) -> Array:
    return jnp.zeros_like(like) if block is None else block


def read_out(spec: RuleSpec, y_0: Array, data: objective.Data) -> Callable[[dict, Array], Array]:
    """(read-out parameters, h^0 … h^T) -> L, which does not see h^0."""
    readout = unitwise.as_cell(spec.network.readout)

    def loss(p_out, h):
        a = h[1:] @ p_out["w_out"]
        a = a + forward.along(p_out["bias"], a) if "bias" in p_out else a

        def step(y_tm1, a_t):
            y_t = unitwise.dynamics(readout, p_out, y_tm1, a_t)
            return y_t, y_t

        _, y = jax.lax.scan(step, y_0, a)
        losses = jax.vmap(jax.vmap(objective.per_step(spec)))(y, data.ys)
        return jnp.sum(objective.only(data.mask, losses)) / y.shape[1]

    return loss


def unrolled(cell: Cell, p: dict, c_0: PyTree, xs: Array) -> Callable[[Array], Array]:
    """A perturbation of each h^t -> h^0 … h^T: whose gradient is that of *all* that h^t reaches."""
    recur, inward = (forward.drive(cell, p, line) for line in ("w_rec", "w_in"))
    drive = forward.driven(cell, p, inward(xs), xs)

    def outputs(dh):
        def step(carry, at):
            c_tm1, h_tm1 = carry
            a_in, dh_t = at
            a_t = forward.both(a_in, recur(h_tm1))
            c_t = unitwise.dynamics(cell, p, c_tm1, a_t)
            h_t = unitwise.output(cell, p, c_t) + dh_t
            return (c_t, h_t), h_t

        h_0 = unitwise.output(cell, p, c_0) + dh[0]
        _, h = jax.lax.scan(step, (c_0, h_0), (drive, dh[1:]))
        return jnp.concatenate([h_0[None], h])

    return outputs


def finish(spec: RuleSpec, params: dict, carry: Any, m: Meeting, grads: dict):
    grads = {"cell": grads, "readout": m.grads_out}
    return carry, objective.finish(spec, params, m.chunk, grads), None
